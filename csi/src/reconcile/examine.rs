//! Examining one source: probe it, compare with what its status says, write what is new.

use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::Value;
use tonnage_cache::clock::Clock;
use tonnage_cache::error::chain;

use super::agenda::{Facts, Outcome, Task};
use super::trust::{Finding, Trust};
use super::{condition, facts_of, probe};
use crate::crd::SourceCondition;
use crate::leader::timestamp;
use crate::sources::Sources;

/// Who writes a status.
const MANAGER: &str = "tonnage-controller";
/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Examines sources.
#[derive(Debug)]
pub(super) struct Examiner {
    /// Sources whatever they look like: also one that cannot be understood has a status.
    pub(super) objects: Api<DynamicObject>,
    pub(super) sources: Sources,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) trust: Trust,
}

impl Examiner {
    /// Examines one source; its name comes back with what came of it.
    pub(super) async fn examine(&self, task: Task) -> (String, Outcome) {
        let Task {
            name,
            facts,
            written,
        } = task;
        let outcome = self.look(&name, &facts, written.as_ref()).await;
        (name, outcome)
    }

    async fn look(&self, name: &str, facts: &Facts, written: Option<&SourceCondition>) -> Outcome {
        let object = self.sources.spec(name).ok();
        let verdict = probe::probe(&self.sources, name, object.as_deref()).await;
        let trust = match &object {
            Some(object) => self.trust.look(&self.sources, object, facts).await,
            None => Finding::Unknown,
        };
        if facts_of(&self.sources, name) != *facts {
            return Outcome::Outdated;
        }
        // What others have written meanwhile is in the newest object.
        let object = self.sources.spec(name).ok();
        let status = object.as_ref().and_then(|object| object.status.as_ref());
        let known = |kind| status.and_then(|status| condition::find(status, kind));
        let before = match &object {
            Some(_) => known(condition::READY),
            None => written,
        };
        let now = timestamp(&*self.clock);
        let generation = facts.generation;
        let ready = condition::next(before, verdict, generation, now);
        let said = known(condition::TRUST);
        let (trust, gone) = match trust {
            Finding::Found(verdict) => (condition::next(said, verdict, generation, now), None),
            Finding::Inapplicable => (None, said),
            Finding::Unknown => (None, None),
        };
        let new: Vec<&SourceCondition> = ready.iter().chain(&trust).collect();
        if new.is_empty() && gone.is_none() {
            return Outcome::Said(None);
        }
        let patch = condition::patch(status, generation, &new, gone);
        if !self.write(name, patch).await {
            return Outcome::Failed;
        }
        for condition in new {
            tracing::info!(
                source = name,
                condition = condition.kind,
                status = condition.status,
                reason = condition.reason,
                why = condition.message,
                "a source was examined"
            );
        }
        if let Some(condition) = gone {
            let condition = &condition.kind;
            tracing::info!(source = name, condition, "a condition no longer applies");
        }
        Outcome::Said(ready.map(Box::new))
    }

    /// Whether a status was written.
    async fn write(&self, name: &str, patch: Value) -> bool {
        let patch = Patch::Merge(patch);
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let answer = self.objects.patch_status(name, &params, &patch);
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                let error = chain(&error);
                tracing::warn!(source = name, error, "a source's status cannot be written");
                false
            }
            Err(_) => {
                tracing::warn!(source = name, "a source's status was not written in time");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Labels of the namespaces that loads run for. A pod brings its namespace's labels when it comes; while it waits they are asked for
//! again ([`run`]), so that a label that is given or taken away counts in the middle of a load, and not only for the next pod.
//!
//! Only namespaces with waiting pods are asked about, only while some policy selects by labels, and each as often as the strictest
//! policy needs: a node without loads asks for nothing, and nobody watches all namespaces. While the API server does not answer,
//! what was known last holds, as it does for the policies; a namespace that is gone keeps its labels until its pods are gone, too,
//! because one without labels could be one that no policy selects.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio_util::sync::CancellationToken;
use tonnage_cache::error::chain;

use super::Rulebook;
use crate::egress::compiled::Compiled;

/// How old the labels may be that a pod brings (`access/namespaces.rs`).
const BROUGHT: Duration = Duration::from_mins(1);
/// How often it is looked whose labels are due.
const LOOK: Duration = Duration::from_secs(10);
/// Longest wait for one answer, and the pause after one that did not come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Shortest and longest time between two questions about one namespace.
const AGE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_mins(5));

/// Labels of one namespace.
pub(super) type Labels = Arc<BTreeMap<String, String>>;

/// Labels of the namespaces that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// As they are now; snapshots share them.
    now: Arc<BTreeMap<String, Labels>>,
    kept: HashMap<String, Kept>,
}

#[derive(Debug)]
struct Kept {
    /// How many wait.
    interests: usize,
    /// When the labels were asked for, on the monotonic clock.
    asked: Duration,
}

impl Known {
    /// Labels by namespace.
    pub(super) fn now(&self) -> Arc<BTreeMap<String, Labels>> {
        Arc::clone(&self.now)
    }

    /// Somebody waits, and brings labels. They are taken unless newer ones are known.
    pub(super) fn meet(&mut self, namespace: &str, brought: &Labels, now: Duration) {
        let since = now.saturating_sub(BROUGHT);
        let is_newer = if let Some(kept) = self.kept.get_mut(namespace) {
            let is_newer = kept.asked < since;
            kept.interests = kept.interests.saturating_add(1);
            kept.asked = kept.asked.max(since);
            is_newer
        } else {
            let kept = Kept {
                interests: 1,
                asked: since,
            };
            self.kept.insert(namespace.to_owned(), kept);
            true
        };
        if is_newer {
            self.put(namespace, brought);
        }
    }

    /// Somebody waits no more.
    pub(super) fn part(&mut self, namespace: &str) {
        let Some(kept) = self.kept.get_mut(namespace) else {
            return;
        };
        kept.interests = kept.interests.saturating_sub(1);
        if kept.interests == 0 {
            self.kept.remove(namespace);
            Arc::make_mut(&mut self.now).remove(namespace);
        }
    }

    /// Namespaces whose labels are as old as that, by name.
    pub(super) fn due(&self, age: Duration, now: Duration) -> Vec<String> {
        let is_due = |kept: &Kept| now.saturating_sub(kept.asked) >= age;
        let due = self.kept.iter().filter(|(_, kept)| is_due(kept));
        let mut due: Vec<String> = due.map(|(namespace, _)| namespace.clone()).collect();
        due.sort();
        due
    }

    /// The API server has answered what was asked at `asked`; `None`: the namespace is gone.
    pub(super) fn learn(&mut self, namespace: &str, labels: Option<&Labels>, asked: Duration) {
        let Some(kept) = self.kept.get_mut(namespace) else {
            return;
        };
        let is_newer = kept.asked <= asked;
        kept.asked = kept.asked.max(asked);
        if let Some(labels) = labels
            && is_newer
        {
            self.put(namespace, labels);
        }
    }

    /// Equal labels stay the same ones, so that whoever has them sees at a glance that nothing is new.
    fn put(&mut self, namespace: &str, labels: &Labels) {
        if self.now.get(namespace) != Some(labels) {
            Arc::make_mut(&mut self.now).insert(namespace.to_owned(), Arc::clone(labels));
        }
    }
}

/// How often the labels of a namespace are asked for; `None`: no policy selects by labels.
fn age<'a>(policies: impl Iterator<Item = &'a Compiled> + Clone) -> Option<Duration> {
    let (least, most) = AGE;
    if !policies.clone().any(Compiled::needs_labels) {
        return None;
    }
    let staleness = policies.filter_map(|policy| Some(policy.rules().ok()?.max_staleness_seconds));
    let third = staleness.min().map(|strictest| strictest / 3);
    Some(third.map_or(most, |third| Duration::from_secs(third).clamp(least, most)))
}

/// Keeps the labels up to date until `stop`.
pub(super) async fn run(client: kube::Client, rulebook: Rulebook, stop: CancellationToken) {
    let api = Api::<Namespace>::all(client);
    loop {
        let pause = tokio::select! {
            () = stop.cancelled() => return,
            pause = look(&api, &rulebook) => pause,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Asks for all labels that are due, and says when to look again. A namespace that cannot be read keeps nobody else waiting.
async fn look(api: &Api<Namespace>, rulebook: &Rulebook) -> Duration {
    let Some(age) = age(rulebook.snapshot().policies.iter()) else {
        return LOOK;
    };
    let mut pause = LOOK;
    for namespace in rulebook.labels_due(age) {
        let asked = rulebook.moment();
        let answer = tokio::time::timeout(PATIENCE, api.get_metadata_opt(&namespace)).await;
        match answer {
            Ok(Ok(object)) => {
                let labels = object.map(|object| object.metadata.labels.unwrap_or_default());
                let labels = labels.map(Arc::new);
                rulebook.learn_labels(&namespace, labels.as_ref(), asked);
                continue;
            }
            Ok(Err(error)) => tracing::warn!(
                namespace,
                error = chain(&error),
                "the labels of a namespace cannot be read, and its loads go on by those that are known: see whether the API server can be reached, and whether the driver's ClusterRole has the verb get for namespaces"
            ),
            Err(_) => tracing::warn!(
                namespace,
                "the API server does not say the labels of a namespace, and its loads go on by those that are known"
            ),
        }
        pause = PATIENCE;
    }
    pause
}

#[cfg(test)]
mod tests;

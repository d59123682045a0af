//! What a probe found, as the condition `Ready` of a Source. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::crd::{SourceCondition, SourceStatus};

const READY: &str = "Ready";

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) reason: Reason,
    /// One sentence for why, and what to do.
    pub(super) message: String,
}

/// One word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It answers.
    Reachable,
    /// It does not.
    Unreachable,
    /// It refuses the keys, or the address is not allowed.
    Denied,
    /// Bucket or prefix are not there.
    NotFound,
    /// Somebody must mend the object or its Secret.
    Misconfigured,
    /// It cannot be said from here.
    NotProbed,
}

impl Reason {
    const fn word(self) -> &'static str {
        match self {
            Self::Reachable => "Reachable",
            Self::Unreachable => "Unreachable",
            Self::Denied => "Denied",
            Self::NotFound => "NotFound",
            Self::Misconfigured => "Misconfigured",
            Self::NotProbed => "NotProbed",
        }
    }

    /// `status` of the condition.
    const fn status(self) -> &'static str {
        match self {
            Self::Reachable => "True",
            Self::Unreachable | Self::Denied | Self::NotFound | Self::Misconfigured => "False",
            Self::NotProbed => "Unknown",
        }
    }
}

impl Verdict {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// The condition that a status has.
pub(super) fn ready(status: &SourceStatus) -> Option<&SourceCondition> {
    status.conditions.iter().find(|it| it.kind == READY)
}

/// The condition to be written; nothing if `before` says the same. The time stays while the status does.
pub(super) fn next(
    before: Option<&SourceCondition>,
    verdict: Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Option<SourceCondition> {
    let status = verdict.reason.status();
    let since = before
        .filter(|before| before.status == status)
        .map_or(Time(now), |before| before.last_transition_time.clone());
    let condition = SourceCondition {
        kind: READY.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.word().to_owned(),
        message: verdict.message,
        last_transition_time: since,
        observed_generation: generation,
    };
    (before != Some(&condition)).then_some(condition)
}

/// The merge patch that puts the condition into a status, beside those of others.
pub(super) fn patch(status: Option<&SourceStatus>, condition: &SourceCondition) -> Value {
    let others = status
        .into_iter()
        .flat_map(|status| &status.conditions)
        .filter(|other| other.kind != condition.kind);
    let conditions: Vec<&SourceCondition> = others.chain([condition]).collect();
    json!({
        "status": {
            "observedGeneration": condition.observed_generation,
            "conditions": conditions,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn found(reason: Reason, message: &str) -> Verdict {
        Verdict::new(reason, message)
    }

    #[test]
    fn a_condition_is_written_when_it_says_something_new() {
        let first = next(None, found(Reason::Reachable, "ok"), Some(1), at(10)).unwrap();
        assert_eq!(first.status, "True");
        assert_eq!(first.reason, "Reachable");
        let same = found(Reason::Reachable, "ok");
        assert_eq!(next(Some(&first), same, Some(1), at(20)), None);
        let down = found(Reason::Unreachable, "refused");
        let second = next(Some(&first), down, Some(1), at(30)).unwrap();
        assert_eq!(second.last_transition_time, Time(at(30)));
        let other = found(Reason::Denied, "403");
        let third = next(Some(&second), other, Some(2), at(40)).unwrap();
        assert_eq!(third.last_transition_time, Time(at(30)));
        assert_eq!(third.reason, "Denied");
        assert_eq!(third.observed_generation, Some(2));
    }

    #[test]
    fn only_ready_sources_are_true_and_those_not_probed_are_unknown() {
        for (reason, status) in [
            (Reason::Reachable, "True"),
            (Reason::Unreachable, "False"),
            (Reason::Denied, "False"),
            (Reason::NotFound, "False"),
            (Reason::Misconfigured, "False"),
            (Reason::NotProbed, "Unknown"),
        ] {
            let condition = next(None, found(reason, "x"), None, at(1)).unwrap();
            assert_eq!(condition.status, status);
        }
    }

    #[test]
    fn the_patch_leaves_the_conditions_of_others() {
        let condition = next(None, found(Reason::Reachable, "ok"), Some(4), at(10)).unwrap();
        let other = SourceCondition {
            kind: "Other".to_owned(),
            ..condition.clone()
        };
        let status = SourceStatus {
            observed_generation: Some(3),
            conditions: vec![condition.clone(), other.clone()],
        };
        assert_eq!(ready(&status), Some(&condition));
        let patch = patch(Some(&status), &condition);
        assert_eq!(
            patch,
            json!({"status": {"observedGeneration": 4, "conditions": [other, condition]}})
        );
        assert_eq!(
            patch["status"]["conditions"][1]["lastTransitionTime"],
            "1970-01-01T00:00:10Z"
        );
    }
}

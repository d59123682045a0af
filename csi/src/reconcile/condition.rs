//! What was found out about a Source, as its conditions: `Ready`, and `TrustNotRestricted`, which is a warning where it is true
//! and is taken away where it no longer applies. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::crd::{SourceCondition, SourceStatus};

/// Whether it can be read.
pub(super) const READY: &str = "Ready";
/// Whether every service account of the cluster can read it, with or without Tonnage.
pub(super) const TRUST: &str = "TrustNotRestricted";

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
    /// Whoever the cluster vouches for may.
    AnyServiceAccount,
    /// A service account that is no consumer may not.
    Restricted,
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
            Self::AnyServiceAccount => "AnyServiceAccount",
            Self::Restricted => "Restricted",
        }
    }

    /// The condition that it is a reason for.
    const fn kind(self) -> &'static str {
        match self {
            Self::Reachable
            | Self::Unreachable
            | Self::Denied
            | Self::NotFound
            | Self::Misconfigured
            | Self::NotProbed => READY,
            Self::AnyServiceAccount | Self::Restricted => TRUST,
        }
    }

    /// `status` of the condition.
    const fn status(self) -> &'static str {
        match self {
            Self::Reachable | Self::AnyServiceAccount => "True",
            Self::Unreachable
            | Self::Denied
            | Self::NotFound
            | Self::Misconfigured
            | Self::Restricted => "False",
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

/// The condition of a kind that a status has.
pub(super) fn find<'a>(status: &'a SourceStatus, kind: &str) -> Option<&'a SourceCondition> {
    status.conditions.iter().find(|it| it.kind == kind)
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
        kind: verdict.reason.kind().to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.word().to_owned(),
        message: verdict.message,
        last_transition_time: since,
        observed_generation: generation,
    };
    (before != Some(&condition)).then_some(condition)
}

/// The merge patch that puts conditions into a status, beside those of others, and takes out what no longer applies.
pub(super) fn patch(
    status: Option<&SourceStatus>,
    generation: Option<i64>,
    new: &[&SourceCondition],
    gone: Option<&SourceCondition>,
) -> Value {
    let replaced = new.iter().copied().chain(gone);
    let kinds: Vec<&str> = replaced.map(|one| one.kind.as_str()).collect();
    let is_kept = |other: &&SourceCondition| !kinds.contains(&other.kind.as_str());
    let others = status.into_iter().flat_map(|status| &status.conditions);
    let others = others.filter(is_kept);
    let conditions: Vec<&SourceCondition> = others.chain(new.iter().copied()).collect();
    json!({
        "status": {
            "observedGeneration": generation,
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
            assert_eq!(condition.kind, "Ready");
        }
    }

    #[test]
    fn a_trust_that_is_not_restricted_is_a_condition_of_its_own() {
        for (reason, status) in [
            (Reason::AnyServiceAccount, "True"),
            (Reason::Restricted, "False"),
        ] {
            let condition = next(None, found(reason, "x"), None, at(1)).unwrap();
            assert_eq!(condition.status, status);
            assert_eq!(condition.kind, "TrustNotRestricted");
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
        assert_eq!(find(&status, READY), Some(&condition));
        let patch = patch(Some(&status), Some(4), &[&condition], None);
        assert_eq!(
            patch,
            json!({"status": {"observedGeneration": 4, "conditions": [other, condition]}})
        );
        assert_eq!(
            patch["status"]["conditions"][1]["lastTransitionTime"],
            "1970-01-01T00:00:10Z"
        );
    }

    #[test]
    fn what_no_longer_applies_is_taken_out_alone() {
        let ready = next(None, found(Reason::Reachable, "ok"), Some(4), at(10)).unwrap();
        let trust = next(None, found(Reason::AnyServiceAccount, "x"), Some(3), at(9)).unwrap();
        let status = SourceStatus {
            observed_generation: Some(3),
            conditions: vec![trust.clone(), ready.clone()],
        };
        let patch = patch(Some(&status), Some(4), &[], Some(&trust));
        assert_eq!(
            patch,
            json!({"status": {"observedGeneration": 4, "conditions": [ready]}})
        );
    }
}

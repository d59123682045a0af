//! Whether a policy is in force, as its condition `Ready`. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::crd::{Mode, SourceCondition};
use crate::egress::compiled::Compiled;
use crate::egress::overrule::{Overrule, UNTIL};

/// The condition's type.
const READY: &str = "Ready";
/// Reason of a policy that decides, or watches as it is told to.
const IN_FORCE: &str = "InForce";
/// Reason of one that cannot be read.
const MALFORMED: &str = "Malformed";
/// Reason of one that only watches, in an emergency.
pub(crate) const OVERRULED: &str = "Overruled";

/// The condition at a time; since when it has its status follows from what was said `before`.
pub(crate) fn ready(
    policy: &Compiled,
    before: &[SourceCondition],
    now_unix: i64,
) -> SourceCondition {
    let (status, reason, message) = verdict(policy, now_unix);
    let known = before.iter().find(|it| it.kind == READY);
    let same = known.filter(|known| known.status == status);
    let now = Timestamp::from_second(now_unix).unwrap_or(Timestamp::UNIX_EPOCH);
    SourceCondition {
        kind: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: same.map_or(Time(now), |known| known.last_transition_time.clone()),
        observed_generation: policy.generation,
    }
}

fn verdict(policy: &Compiled, now: i64) -> (&'static str, &'static str, String) {
    match (policy.rules(), policy.overruled(now)) {
        (Err(why), None) => {
            let effect = match policy.mode(now) {
                Mode::Enforce => "it denies everything in the namespaces that it selects",
                Mode::Audit => "it has no effect",
            };
            let message = format!("{effect} until it is mended: {why}");
            let message = with_problem(message, policy, now);
            ("False", MALFORMED, message)
        }
        (Err(why), Some(overrule)) => {
            let message = format!("it is malformed: {why}; {}", watches(overrule));
            ("False", OVERRULED, message)
        }
        (Ok(_), Some(overrule)) => ("False", OVERRULED, watches(overrule)),
        (Ok(_), None) => {
            let message = match policy.mode(now) {
                Mode::Enforce => "it decides what may be loaded",
                Mode::Audit => "it records what it would deny, and denies nothing",
            };
            let message = with_problem(message.to_owned(), policy, now);
            ("True", IN_FORCE, message)
        }
    }
}

/// What is said, and why annotations that should overrule the policy do not, or do not yet.
fn with_problem(message: String, policy: &Compiled, now: i64) -> String {
    let problem = match (policy.overrule_problem(), policy.overruled_too_long(now)) {
        (Some(problem), _) => problem.to_owned(),
        (None, Some(overrule)) => format!(
            "annotation {UNTIL} has no effect before {}: take it away or name an earlier time, as an override lasts 7 days at most",
            shown(overrule.begins_unix())
        ),
        (None, None) => return message,
    };
    format!("{message}; {problem}")
}

fn watches(overrule: &Overrule) -> String {
    let until = shown(overrule.until_unix);
    let reason = overrule.reason.escape_debug();
    format!("it only watches until {until}: {reason}")
}

fn shown(unix: i64) -> String {
    let moment = Timestamp::from_second(unix);
    moment.map_or_else(|_| "a time far off".to_owned(), |moment| moment.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(annotations: &Value, spec: &Value) -> Compiled {
        Compiled::from_json(&json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": "p", "uid": "u", "generation": 3, "annotations": annotations},
            "spec": spec,
        }))
    }

    /// Status, reason and message at a time.
    fn said(policy: &Compiled, now: i64) -> (String, String, String) {
        let condition = ready(policy, &[], now);
        assert_eq!(condition.observed_generation, Some(3));
        (condition.status, condition.reason, condition.message)
    }

    fn of(status: &str, reason: &str, message: &str) -> (String, String, String) {
        (status.to_owned(), reason.to_owned(), message.to_owned())
    }

    const BAD: &str = "rate.connectionsPerNode must be above 0";

    #[test]
    fn a_policy_is_ready_unless_it_is_malformed_or_overruled() {
        let good = json!({"namespaces": {}});
        let bad = json!({"namespaces": {}, "rate": {"connectionsPerNode": 0}});
        let audited = json!({"namespaces": {}, "mode": "Audit", "rate": {"connectionsPerNode": 0}});
        let none = json!({});
        assert_eq!(
            said(&policy(&none, &good), 0),
            of("True", "InForce", "it decides what may be loaded")
        );
        assert_eq!(
            said(&policy(&none, &bad), 0),
            of(
                "False",
                "Malformed",
                &format!(
                    "it denies everything in the namespaces that it selects until it is mended: {BAD}"
                )
            )
        );
        assert_eq!(
            said(&policy(&none, &audited), 0),
            of(
                "False",
                "Malformed",
                &format!("it has no effect until it is mended: {BAD}")
            )
        );
    }

    #[test]
    fn one_that_is_overruled_says_until_when_and_why() {
        let overruled = json!({
            "tonnage.dev/override-until": "1970-01-01T00:01:00Z",
            "tonnage.dev/override-reason": "incident 4711\n",
        });
        let policy = policy(&overruled, &json!({"namespaces": {}}));
        assert_eq!(
            said(&policy, 59),
            of(
                "False",
                "Overruled",
                "it only watches until 1970-01-01T00:01:00Z: incident 4711"
            )
        );
        assert_eq!(said(&policy, 60).1, "InForce");
    }

    #[test]
    fn one_that_is_overruled_for_too_long_says_when_that_begins_to_hold() {
        let overruled = json!({
            "tonnage.dev/override-until": "1970-01-09T00:00:00Z",
            "tonnage.dev/override-reason": "incident 4711",
        });
        let problem = "annotation tonnage.dev/override-until has no effect before 1970-01-02T00:00:00Z: take it away or name an earlier time, as an override lasts 7 days at most";
        let good = policy(&overruled, &json!({"namespaces": {}}));
        assert_eq!(good.mode(86_399), Mode::Enforce);
        let message = format!("it decides what may be loaded; {problem}");
        assert_eq!(said(&good, 86_399), of("True", "InForce", &message));
        assert_eq!(said(&good, 86_400).1, "Overruled");
        let bad = json!({"namespaces": {}, "rate": {"connectionsPerNode": 0}});
        let bad = policy(&overruled, &bad);
        let message = format!(
            "it denies everything in the namespaces that it selects until it is mended: {BAD}; {problem}"
        );
        assert_eq!(said(&bad, 86_399), of("False", "Malformed", &message));
        assert_eq!(said(&bad, 86_400).1, "Overruled");
    }

    #[test]
    fn annotations_that_do_not_overrule_are_told() {
        let half = json!({"tonnage.dev/override-until": "1970-01-01T00:01:00Z"});
        assert_eq!(
            said(
                &policy(&half, &json!({"namespaces": {}, "mode": "Audit"})),
                0
            )
            .2,
            "it records what it would deny, and denies nothing; annotation tonnage.dev/override-until has no effect without tonnage.dev/override-reason: say why"
        );
    }

    #[test]
    fn the_time_stays_while_the_status_does() {
        let overruled = json!({
            "tonnage.dev/override-until": "1970-01-01T00:01:00Z",
            "tonnage.dev/override-reason": "x",
        });
        let policy = policy(&overruled, &json!({"namespaces": {}}));
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        let first = ready(&policy, &[], 10);
        assert_eq!(first.last_transition_time, at(10));
        let second = ready(&policy, std::slice::from_ref(&first), 20);
        assert_eq!(second, first);
        let third = ready(&policy, &[second], 70);
        assert_eq!(third.last_transition_time, at(70));
    }
}

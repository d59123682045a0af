//! What is said of logs and policies beside what came of them.

use serde_json::json;
use tonnage_csi::egress::simulate;

use super::*;
use crate::command::cluster::scripted::documented;

#[test]
fn a_result_is_json_whose_fields_the_document_has() {
    let change = Change {
        change: Difference::WouldDeny,
        namespace: "team-a".to_owned(),
        source: "models".to_owned(),
        by: "p".to_owned(),
        decisions: 1,
        pods: 1,
        bytes: 7,
        reason: "no".to_owned(),
    };
    let outcome = Outcome {
        changes: vec![change],
        ..Outcome::default()
    };
    let log = Log::default();
    let answer = Answer::of(&outcome, &log, (DefaultEgress::Deny, 3));
    let json = serde_json::to_value(answer).unwrap();
    documented(&json);
    assert_eq!(json["changes"][0]["change"], "wouldDeny");
    assert_eq!(json["defaultEgress"], "Deny");
    assert_eq!(json["replayed"], 3);
}

#[test]
fn what_makes_an_outcome_less_sure_is_told() {
    let log = Log {
        dropped: 4,
        unclear: 2,
        repeated: 3,
        foreign: (2, 7),
        malformed: 5,
        named: vec![(9, "it is not JSON".to_owned())],
        is_cut: true,
        ..Log::default()
    };
    assert_eq!(
        about_log(&log),
        [
            "4 decisions are missing in the log, because they were more than could be written",
            "2 decisions are passed over, because their lines do not say all of who asked for what",
            "counted once, although they stand in the log again: 3 lines",
            "passed over, because they are none of an audit log: 2 lines, of which line 7 is the first",
            "passed over, because the log is cut there: the last line",
        ]
    );
    let failures: Vec<String> = malformed(&log, "audit.log")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        failures,
        [
            "tonnage: read the audit log audit.log: line 9 is malformed: it is not JSON",
            "tonnage: read the audit log audit.log: 4 more lines are malformed",
        ]
    );
    assert_eq!(about_log(&Log::default()), [""; 0]);
}

/// Of a namespace, at a time.
fn record(namespace: &str, unix_millis: u64) -> Record {
    Record {
        unix_millis,
        event: simulate::Event::Denied,
        namespace: namespace.to_owned(),
        labels: std::collections::BTreeMap::new(),
        service_account: "default".to_owned(),
        pod: None,
        source: "models".to_owned(),
        host: "s3.example.com".to_owned(),
        bucket: "weights".to_owned(),
        path: "llama".to_owned(),
        has_digest: false,
        bytes: 0,
    }
}

#[test]
fn a_policy_that_nobody_is_asked_by_or_that_is_malformed_is_named() {
    let policy = |spec: serde_json::Value| {
        Compiled::from_json(&json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": "p", "annotations": {
                "tonnage.dev/override-until": "1970-01-01T00:01:00Z",
                "tonnage.dev/override-reason": "incident 4711",
            }},
            "spec": spec,
        }))
    };
    let of_it = [record("team-b", 0), record("team-a", 60_000)];
    let before = [record("team-a", 59_999)];
    let names = json!({"names": ["team-a"]});
    let good = policy(json!({"namespaces": names}));
    assert_eq!(about_policy(&good, &of_it, 99), None);
    assert_eq!(
        about_policy(&good, &of_it[..1], 99).unwrap(),
        "EgressPolicy p selects no namespace of the log, and changes nothing"
    );
    let rate = json!({"connectionsPerNode": 0});
    let bad = policy(json!({"namespaces": names, "rate": rate}));
    let audited = policy(json!({"namespaces": names, "rate": rate, "mode": "Audit"}));
    let overruled = "denies nothing while it is overruled";
    for (policy, records, effect) in [
        (&bad, &of_it[..], "denies all that it selects"),
        (&bad, &before, overruled),
        (&audited, &of_it, "denies nothing, as its mode is Audit"),
        (&bad, &[], "denies all that it selects"),
    ] {
        assert_eq!(
            about_policy(policy, records, 99).unwrap(),
            format!(
                "EgressPolicy p is malformed, and {effect}: rate.connectionsPerNode must be above 0"
            )
        );
    }
    assert!(about_policy(&bad, &[], 59).unwrap().contains(overruled));
    let unread = policy(json!({"namespaces": {}, "mode": "Nap"}));
    let words = "EgressPolicy p is malformed, and denies all that it selects: it cannot be read";
    let said = about_policy(&unread, &of_it[1..], 99).unwrap();
    assert!(said.starts_with(words), "{said}");
}

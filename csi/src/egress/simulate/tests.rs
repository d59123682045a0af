//! Logs made again beside other policies.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// 2026-11-27T00:00:00Z, the beginning of a day.
const DAY: u64 = 1_795_737_600_000;
const HOUR: u64 = 3_600_000;
const GIB: u64 = 1 << 30;

fn policy(name: &str, spec: &Value) -> Compiled {
    let policy = Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }));
    assert_eq!(policy.rules().err(), None);
    policy
}

fn record(event: Event, unix_millis: u64, path: &str, bytes: u64) -> Record {
    Record {
        unix_millis,
        event,
        namespace: "team-a".to_owned(),
        labels: [("tier".to_owned(), "research".to_owned())].into(),
        service_account: "default".to_owned(),
        pod: Some(format!("pod of {path}")),
        source: "models".to_owned(),
        host: "s3.example.com".to_owned(),
        bucket: "weights".to_owned(),
        path: path.to_owned(),
        has_digest: false,
        bytes,
    }
}

fn replay(policies: &[Compiled], records: Vec<Record>) -> Outcome {
    simulate(policies, DefaultEgress::Allow, records)
}

/// The changes as `difference by: decisions, pods, bytes`.
fn lines(outcome: &Outcome) -> Vec<String> {
    let line = |change: &Change| {
        let Change {
            change,
            by,
            decisions,
            pods,
            bytes,
            ..
        } = change;
        format!("{change:?} {by}: {decisions}, {pods}, {bytes}")
    };
    outcome.changes.iter().map(line).collect()
}

#[test]
fn an_allow_list_that_is_narrower_denies_loads_and_their_bytes() {
    let narrower = policy(
        "research",
        &json!({"namespaces": {"matchLabels": {"tier": "research"}}, "allow": [{"prefixes": ["public"]}]}),
    );
    let outcome = replay(
        &[narrower],
        vec![
            record(Event::Allowed, DAY, "public/qwen", 0),
            record(Event::Spent, DAY + 1, "public/qwen", 5 * GIB),
            record(Event::Allowed, DAY + 2, "licensed/llama", 0),
            record(Event::Allowed, DAY + 3, "licensed/llama", 0),
            record(Event::Spent, DAY + 4, "licensed/llama", 7 * GIB),
        ],
    );
    assert_eq!(
        (outcome.allowed, outcome.denied, outcome.spent_bytes),
        (3, 0, 12 * GIB)
    );
    assert_eq!(
        lines(&outcome),
        [format!("WouldDeny research: 2, 1, {}", 7 * GIB)]
    );
    assert_eq!(
        outcome.changes[0].reason,
        "service account team-a/default may not load this from source \"models\": no entry of spec.allow of EgressPolicy \
         research names it (allow[0] of research comes closest and does not name path \"licensed/llama\"); ask an \
         administrator to add it"
    );
}

#[test]
fn an_allow_list_that_is_wider_allows_what_was_denied() {
    let denied = vec![
        record(Event::Denied, DAY, "licensed/llama", 3 * GIB),
        record(Event::Denied, DAY + 1, "licensed/llama", 3 * GIB),
        record(Event::Denied, DAY + 2, "secret", 0),
    ];
    let wider = policy(
        "research",
        &json!({"namespaces": {}, "allow": [{"prefixes": ["public"]}, {"prefixes": ["licensed"]}]}),
    );
    let outcome = replay(&[wider], denied.clone());
    assert_eq!((outcome.allowed, outcome.denied), (0, 3));
    assert_eq!(
        lines(&outcome),
        [format!("WouldAllow research allow[1]: 2, 1, {}", 6 * GIB)]
    );
    let without = replay(&[], denied.clone());
    assert_eq!(
        lines(&without),
        [format!("WouldAllow defaultEgress: 3, 2, {}", 6 * GIB)]
    );
    let strict = simulate(&[], DefaultEgress::Deny, denied);
    assert_eq!(lines(&strict), [""; 0]);
}

#[test]
fn a_budget_stops_what_does_not_fit_and_begins_anew_with_its_window() {
    let budget = policy(
        "research",
        &json!({"namespaces": {}, "allow": [{}], "budgets": [{"name": "daily", "bytes": "10Gi", "window": {"calendar": "Daily"}}]}),
    );
    let outcome = replay(
        &[budget],
        vec![
            // Out of order, as lines of several nodes are.
            record(Event::Spent, DAY + 20 * HOUR, "b", 6 * GIB),
            record(Event::Spent, DAY + HOUR, "a", 6 * GIB),
            record(Event::Denied, DAY + 21 * HOUR, "c", 1),
            record(Event::Spent, DAY + 24 * HOUR, "d", 10 * GIB),
        ],
    );
    assert_eq!(
        lines(&outcome),
        [format!(
            "WouldDeny budget research/daily: 1, 1, {}",
            2 * GIB
        )]
    );
    assert_eq!(
        outcome.changes[0].reason,
        "budget research/daily would have been used up in its window (Daily)"
    );
}

#[test]
fn a_rolling_window_gives_bytes_back_and_the_tightest_budget_stops() {
    let policies = [
        policy(
            "all",
            &json!({"namespaces": {}, "allow": [{}], "budgets": [{"name": "month", "bytes": "100Gi", "window": {"rolling": "30d"}, "scope": "Shared"}]}),
        ),
        policy(
            "own",
            &json!({"namespaces": {"names": ["team-a"]}, "budgets": [{"name": "day", "bytes": "10Gi", "window": {"rolling": "24h"}}]}),
        ),
    ];
    let outcome = replay(
        &policies,
        vec![
            record(Event::Spent, DAY, "a", 10 * GIB),
            record(Event::Spent, DAY + 23 * HOUR, "b", GIB),
            record(Event::Spent, DAY + 25 * HOUR, "c", 10 * GIB),
        ],
    );
    assert_eq!(
        lines(&outcome),
        [format!("WouldDeny budget own/day: 1, 1, {GIB}")]
    );
}

#[test]
fn the_most_bytes_come_first_and_what_the_default_decides_is_counted() {
    let narrow = policy(
        "narrow",
        &json!({"namespaces": {"names": ["team-a"]}, "allow": [{"prefixes": ["public"]}]}),
    );
    let of = |namespace: &str, source: &str, bytes: u64| Record {
        namespace: namespace.to_owned(),
        source: source.to_owned(),
        ..record(Event::Spent, DAY, "secret", bytes)
    };
    let denied = Record {
        namespace: "team-z".to_owned(),
        ..record(Event::Denied, DAY, "secret", 0)
    };
    let records = vec![
        of("team-a", "a", 1),
        of("team-a", "b", 9),
        of("team-b", "a", 7),
        denied,
    ];
    let outcome = replay(&[narrow], records);
    let told: Vec<(Difference, &str, u64)> = outcome
        .changes
        .iter()
        .map(|it| (it.change, it.source.as_str(), it.bytes))
        .collect();
    assert_eq!(
        told,
        [
            (Difference::WouldDeny, "b", 9),
            (Difference::WouldDeny, "a", 1),
            (Difference::WouldAllow, "models", 0),
        ]
    );
    assert_eq!(outcome.by_default, 1);
}

#[test]
fn a_policy_that_only_watches_changes_nothing() {
    let audit = policy(
        "trial",
        &json!({"namespaces": {}, "mode": "Audit", "budgets": [{"name": "day", "bytes": 0, "window": {"rolling": "24h"}}]}),
    );
    let outcome = replay(
        &[audit],
        vec![
            record(Event::Allowed, DAY, "a", 0),
            record(Event::Spent, DAY, "a", GIB),
        ],
    );
    assert_eq!(lines(&outcome), [""; 0]);
}

#[test]
fn an_outcome_is_json_in_the_words_of_kubernetes() {
    let outcome = simulate(
        &[],
        DefaultEgress::Deny,
        vec![record(Event::Allowed, DAY, "a", 0)],
    );
    let json = serde_json::to_value(&outcome).unwrap();
    assert_eq!(json["allowed"], 1);
    assert_eq!(json["spentBytes"], 0);
    assert_eq!(json["byDefault"], 1);
    assert_eq!(json["changes"][0]["change"], "wouldDeny");
    assert_eq!(json["changes"][0]["by"], "defaultEgress");
}

fn any_record() -> impl Strategy<Value = Record> {
    let event = proptest::sample::select(vec![Event::Allowed, Event::Denied, Event::Spent]);
    let millis = prop_oneof![DAY..DAY + 60 * 24 * HOUR, any::<u64>()];
    let path = proptest::sample::select(vec!["public/a", "secret", "", "..", "\u{1b}"]);
    (event, millis, path, any::<u64>())
        .prop_map(|(event, millis, path, bytes)| record(event, millis, path, bytes))
}

proptest! {
    #[test]
    fn no_log_panics_and_no_more_is_denied_than_was_spent(
        records in proptest::collection::vec(any_record(), 0..40),
        limit in 0..1_u64 << 40,
    ) {
        let policies = [policy("p", &json!({
            "namespaces": {},
            "allow": [{"prefixes": ["public"]}],
            "budgets": [
                {"name": "day", "bytes": limit.to_string(), "window": {"rolling": "24h"}},
                {"name": "month", "bytes": limit.to_string(), "window": {"calendar": "Monthly"}, "scope": "Shared"},
            ],
        }))];
        let outcome = replay(&policies, records.clone());
        let denied = outcome.changes.iter().filter(|it| it.change == Difference::WouldDeny);
        let denied = denied.fold(0, |sum: u64, it| sum.saturating_add(it.bytes));
        prop_assert!(denied <= outcome.spent_bytes);
        let mut sorted = records;
        sorted.sort_by_key(|it| it.unix_millis);
        prop_assert_eq!(replay(&policies, sorted), outcome);
    }
}

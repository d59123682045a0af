//! What a status says of ledgers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::crd::{Denials, EgressBudgetSpec, NamespaceUse};
use crate::egress::compiled::Compiled;
use crate::egress::lease::Incarnation;
use crate::egress::ledger::{Ledger, Row};
use crate::govern::ledgers::{BudgetObject, time};

const GIB: u64 = 1 << 30;
/// 2026-11-27T03:44:23Z.
const NOW: i64 = 1_795_751_063;

fn policy(budgets: &Value) -> Compiled {
    Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "research", "uid": "u", "generation": 4},
        "spec": {"namespaces": {}, "budgets": budgets, "pricePerGiB": {"amount": "1", "currency": "EUR"}},
    }))
}

/// A monthly budget for each namespace and a daily one for all.
fn two() -> Compiled {
    policy(&json!([
        {"name": "month", "bytes": "100Gi", "window": {"calendar": "Monthly"}},
        {"name": "day", "bytes": "20Gi", "window": {"calendar": "Daily"}, "scope": "Shared"},
    ]))
}

/// The ledger of an account of which so much is settled and granted.
fn ledger(
    policy: &Compiled,
    (budget, namespace): (&str, Option<&str>),
    (settled, held): (u64, u64),
) -> BudgetObject {
    let budgets = &policy.rules().unwrap().budgets;
    let allowance = budgets.iter().find(|it| it.name == budget).unwrap();
    let row = Row {
        incarnation: Incarnation(1),
        seq: 1,
        held,
        seconds: 900,
        until: NOW + 900,
    };
    BudgetObject {
        name: "any".to_owned(),
        uid: "b".to_owned(),
        version: "1".to_owned(),
        spec: EgressBudgetSpec {
            policy: policy.name.clone(),
            policy_uid: policy.uid.0.clone(),
            budget: budget.to_owned(),
            namespace: namespace.map(str::to_owned),
        },
        ledger: Ledger {
            limit: allowance.limit_bytes,
            as_of: NOW,
            window: Some(allowance.window),
            settled: BTreeMap::from([(allowance.window.key(NOW), settled)]),
            rows: BTreeMap::from([("n".to_owned(), row)]),
            crowd: Vec::new(),
        },
        users: Vec::new(),
    }
}

fn uses(pairs: &[(&str, u64)]) -> Vec<NamespaceUse> {
    let uses = pairs.iter().map(|(namespace, bytes)| NamespaceUse {
        namespace: (*namespace).to_owned(),
        bytes: i64::try_from(*bytes).unwrap(),
    });
    uses.collect()
}

fn status(policy: &Compiled, budgets: &[BudgetObject], now: i64) -> EgressPolicyStatus {
    roll_up(Picture {
        policy,
        has_rival: false,
        changed_by: Some("ada"),
        before: None,
        budgets: budgets.iter().collect(),
        denied: None,
        now,
    })
}

#[test]
fn each_budget_tells_of_the_account_that_used_most_and_the_scarcest_is_in_words() {
    let policy = two();
    let mut shared = ledger(&policy, ("day", None), (12 * GIB, 3 * GIB));
    shared.users = uses(&[("team-b", 8 * GIB), ("team-a", 4 * GIB)]);
    let budgets = [
        ledger(&policy, ("month", Some("team-a")), (30 * GIB, 0)),
        ledger(&policy, ("month", Some("team-b")), (20 * GIB, 20 * GIB)),
        shared,
    ];
    let status = status(&policy, &budgets, NOW);
    assert_eq!(status.observed_generation, Some(4));
    let scarcest = status.scarcest.unwrap();
    assert_eq!(scarcest.budget, "day");
    assert_eq!(scarcest.used, "15.0 GiB of 20.0 GiB");
    assert_eq!(scarcest.left, "5.0 GiB");
    // 2026-11-28T00:00:00Z.
    assert_eq!(scarcest.window_end, time(1_795_824_000));
    let [month, day] = status.budgets.as_slice() else {
        panic!("{:?}", status.budgets);
    };
    assert_eq!(month.used_bytes, i64::try_from(40 * GIB).unwrap());
    assert_eq!(
        month.top_users,
        uses(&[("team-b", 40 * GIB), ("team-a", 30 * GIB)])
    );
    assert_eq!(
        day.top_users,
        uses(&[("team-b", 8 * GIB), ("team-a", 4 * GIB)])
    );
    // The month has most in it: 30 and 20 GiB.
    assert_eq!(status.cost.as_deref(), Some("50.00 EUR"));
}

#[test]
fn a_cost_that_another_policys_price_may_take_away_is_at_most_that() {
    let policy = two();
    let budgets = [ledger(&policy, ("month", Some("team-a")), (30 * GIB, 0))];
    let status = roll_up(Picture {
        policy: &policy,
        has_rival: true,
        changed_by: None,
        before: None,
        budgets: budgets.iter().collect(),
        denied: None,
        now: NOW,
    });
    assert_eq!(status.cost.as_deref(), Some("at most 30.00 EUR"));
}

#[test]
fn a_window_that_has_passed_is_empty_though_its_ledger_is_not_written() {
    let policy = two();
    let mut shared = ledger(&policy, ("day", None), (12 * GIB, 0));
    shared.users = uses(&[("team-b", 12 * GIB)]);
    let status = status(&policy, &[shared], NOW + 86_400);
    let day = status.budgets.last().unwrap();
    assert_eq!((day.used_bytes, day.left_bytes), (0, day.limit_bytes));
    assert!(day.top_users.is_empty());
    assert_eq!(status.cost.as_deref(), Some("0.00 EUR"));
}

#[test]
fn a_budget_that_nobody_asked_of_is_all_left() {
    let policy = two();
    let status = status(&policy, &[], NOW);
    let used: Vec<i64> = status.budgets.iter().map(|it| it.used_bytes).collect();
    assert_eq!(used, [0, 0]);
    assert_eq!(status.scarcest.unwrap().used, "0 B of 100.0 GiB");
}

#[test]
fn a_malformed_policy_has_a_sentence_and_no_figures() {
    let policy =
        policy(&json!([{"name": "day", "bytes": "20GB", "window": {"calendar": "Daily"}}]));
    let status = status(&policy, &[], NOW);
    assert_eq!(status.conditions[0].reason, "Malformed");
    assert!(status.conditions[0].message.contains("20GB"));
    assert_eq!((status.scarcest, status.cost), (None, None));
    assert!(status.budgets.is_empty());
}

#[test]
fn the_largest_status_is_small() {
    let budgets: Vec<Value> = (0..6)
        .map(|it| json!({"name": format!("{}{it}", "b".repeat(31)), "bytes": "8Pi", "window": {"calendar": "Daily"}}))
        .collect();
    let policy = policy(&json!(budgets));
    let names: Vec<String> = (0..9).map(|it| format!("{}{it}", "n".repeat(62))).collect();
    let mut ledgers = Vec::new();
    for allowance in &policy.rules().unwrap().budgets {
        for name in &names {
            let who = (allowance.name.as_str(), Some(name.as_str()));
            ledgers.push(ledger(&policy, who, (1 << 50, 1 << 50)));
        }
    }
    let denied = Denials {
        count: i64::MAX,
        last_reason: Some("r".repeat(1024)),
        last_namespace: Some("n".repeat(63)),
        last_time: time(NOW),
    };
    let status = roll_up(Picture {
        policy: &policy,
        has_rival: false,
        changed_by: Some("system:serviceaccount:argocd:argocd-application-controller"),
        before: None,
        budgets: ledgers.iter().collect(),
        denied: Some(denied),
        now: NOW,
    });
    let length = serde_json::to_vec(&status).unwrap().len();
    assert!(length < 8 << 10, "{length}");
}

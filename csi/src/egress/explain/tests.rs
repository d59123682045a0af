//! Explanations, word for word.

use serde_json::{Value, json};

use super::*;
use crate::egress::compiled::Compiled;
use crate::egress::policy::{Setting, What, Who, decide};

/// 2026-11-27T03:44:23Z.
const NOW: i64 = 1_795_751_063;

fn decided(specs: &[Value], source: &str) -> Decision {
    let policies: Vec<Compiled> = specs
        .iter()
        .enumerate()
        .map(|(index, spec)| {
            Compiled::from_json(&json!({
                "apiVersion": "tonnage.dev/v1alpha1",
                "kind": "EgressPolicy",
                "metadata": {"name": format!("p{index}")},
                "spec": spec,
            }))
        })
        .collect();
    let labels = BTreeMap::new();
    let who = Who {
        namespace: "team-a",
        labels: &labels,
        service_account: "default",
    };
    let what = What {
        source,
        host: "s3.example.com",
        bucket: "weights",
        path: "llama",
        has_digest: false,
    };
    decide(&policies, &Setting::default(), &who, &what)
}

fn explained(decision: &Decision, used: &[u64], bytes: Option<u64>) -> Explanation {
    let accounts = decision.charges.iter().map(|it| it.account.clone());
    let used = accounts.zip(used.iter().copied().map(Ok)).collect();
    let known = Known {
        used: &used,
        bytes,
        now_unix: NOW,
    };
    explain(decision, &known)
}

fn two() -> Vec<Value> {
    vec![
        json!({
            "namespaces": {},
            "allow": [{"sources": ["models"]}],
            "budgets": [
                {"name": "daily", "bytes": "2Ti", "window": {"calendar": "Daily"}},
                {"name": "month", "bytes": "10Ti", "window": {"rolling": "30d"}, "scope": "Shared"},
            ],
            "rate": {"bytesPerSecondPerNode": "500M", "connectionsPerNamespace": 16},
            "pricePerGiB": {"amount": "0.09", "currency": "EUR"},
        }),
        json!({
            "namespaces": {"names": ["team-a"]},
            "mode": "Audit",
            "budgets": [{"name": "trial", "bytes": "1Gi", "window": {"calendar": "Weekly"}}],
        }),
    ]
}

#[test]
fn an_allowed_download_is_explained_with_what_is_left_and_what_it_costs() {
    let decision = decided(&two(), "models");
    let explanation = explained(&decision, &[1 << 40, 0, 1 << 30], Some(16_000_000_000));
    assert!(explanation.allowed);
    assert_eq!(
        explanation.to_string(),
        "\
allowed  EgressPolicy p0, spec.allow[0]
budget   p0/daily: 1.0 TiB of 2.0 TiB left in Daily until 2026-11-28T00:00:00Z, namespace team-a
budget   p0/month: 10.0 TiB of 10.0 TiB left in 30d, shared
budget   p1/trial: 0 B of 1.0 GiB left in Weekly until 2026-11-30T00:00:00Z, namespace team-a, counted only, would not be enough
rate     at most 500.0 MB/s on a node (p0)
rate     at most 16 connections of the namespace on a node (p0)
download 14.9 GiB
cost     1.34 EUR at 0.09 EUR/GiB"
    );
}

#[test]
fn a_budget_that_is_too_small_denies_and_says_when_bytes_come_back() {
    let decision = decided(&two(), "models");
    let explanation = explained(&decision, &[2 << 40], None);
    assert!(!explanation.allowed);
    assert_eq!(
        explanation.reason,
        "budget p0/daily has 0 B left: the window ends at 2026-11-28T00:00:00Z; it can be raised in spec.budgets"
    );
    assert_eq!(explanation.cost.as_deref(), Some("0.09 EUR/GiB"));
    let explanation = explained(&decision, &[0, (10 << 40) - 1], Some(2 << 30));
    assert_eq!(
        explanation.reason,
        "budget p0/month has 1 B left of the 2.0 GiB that the download has: bytes come back as they leave the window; it can be raised in spec.budgets"
    );
}

#[test]
fn a_denial_is_its_sentence_and_charges_nobody() {
    let decision = decided(&two(), "other");
    let explanation = explained(&decision, &[], Some(1));
    assert_eq!(
        explanation.reason,
        r#"service account team-a/default may not load this from source "other": no entry of spec.allow of EgressPolicy p0 names it (allow[0] of p0 comes closest and does not name source "other"); ask an administrator to add it"#
    );
    assert!(explanation.budgets.is_empty());
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["allowed"], false);
    assert_eq!(json["budgets"], json!([]));
}

#[test]
fn what_an_audit_would_deny_is_told_beside() {
    let audit = json!({"namespaces": {}, "mode": "Audit"});
    let explanation = explained(&decided(&[audit], "models"), &[], None);
    assert!(explanation.allowed);
    assert_eq!(
        explanation.to_string(),
        "\
allowed  no EgressPolicy decides on the namespace, and defaultEgress is Allow
audit    would deny: service account team-a/default may not load this from source \"models\": no entry of spec.allow of EgressPolicy p0 names it (spec.allow is empty); ask an administrator to add it"
    );
}

#[test]
fn a_ledger_that_cannot_be_read_is_said_to_be_and_leaves_nothing() {
    let decision = decided(&two(), "models");
    let accounts: Vec<Account> = decision
        .charges
        .iter()
        .map(|it| it.account.clone())
        .collect();
    let used = BTreeMap::from([
        (accounts[0].clone(), Err("you may not list them".to_owned())),
        (accounts[2].clone(), Err("it is broken".to_owned())),
    ]);
    let known = Known {
        used: &used,
        bytes: None,
        now_unix: NOW,
    };
    let explanation = explain(&decision, &known);
    assert!(explanation.allowed);
    assert!(!explanation.is_sure());
    let text = explanation.to_string();
    let lines: Vec<&str> = text.lines().take(4).collect();
    assert_eq!(
        lines,
        [
            "allowed  EgressPolicy p0, spec.allow[0], if budget p0/daily has enough left, which could not be read",
            "budget   p0/daily: 2.0 TiB in Daily until 2026-11-28T00:00:00Z, namespace team-a; what is left is not known: you may not list them",
            "budget   p0/month: 10.0 TiB of 10.0 TiB left in 30d, shared",
            "budget   p1/trial: 1.0 GiB in Weekly until 2026-11-30T00:00:00Z, namespace team-a, counted only; what is left is not known: it is broken",
        ]
    );
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["budgets"][0].get("leftBytes"), None);
    assert_eq!(json["budgets"][0].get("suffices"), None);
    assert_eq!(json["budgets"][0]["unread"], "you may not list them");

    // What only watches is not needed for an answer, and a budget that is known to be empty is one.
    let used = BTreeMap::from([
        (accounts[0].clone(), Err("you may not list them".to_owned())),
        (accounts[1].clone(), Ok(10 << 40)),
    ]);
    let known = Known {
        used: &used,
        ..known
    };
    assert!(!explain(&decision, &known).allowed);
    let used = BTreeMap::from([(accounts[2].clone(), Err("it is broken".to_owned()))]);
    let known = Known {
        used: &used,
        ..known
    };
    assert!(explain(&decision, &known).is_sure());
}

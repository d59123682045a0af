//! Policies with one piece broken: whatever stands there, they deny where they cannot be read.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tonnage_csi::crd::Mode;
use tonnage_csi::egress::compiled::Compiled;
use tonnage_csi::egress::overrule::{Overrule, REASON, UNTIL};
use tonnage_csi::egress::policy::{Decision, DefaultEgress, Setting, What, Who, decide};

use super::values::value;
use super::words::{is_sentence, settings, text};

/// 2026-11-27T03:44:23Z.
const NOW: i64 = 1_795_751_063;
const PIECES: &[&str] = &[
    "/metadata",
    "/metadata/annotations",
    "/metadata/annotations/tonnage.dev~1override-until",
    "/metadata/labels",
    "/spec",
    "/spec/namespaces",
    "/spec/namespaces/names",
    "/spec/namespaces/matchLabels",
    "/spec/serviceAccounts",
    "/spec/allow",
    "/spec/allow/0",
    "/spec/allow/0/sources",
    "/spec/allow/0/hosts",
    "/spec/allow/0/hosts/0",
    "/spec/allow/0/buckets/0",
    "/spec/allow/0/prefixes",
    "/spec/allow/0/prefixes/0",
    "/spec/budgets",
    "/spec/budgets/0",
    "/spec/budgets/0/name",
    "/spec/budgets/0/bytes",
    "/spec/budgets/0/window",
    "/spec/budgets/0/window/rolling",
    "/spec/budgets/0/scope",
    "/spec/rate/bytesPerSecondPerNode",
    "/spec/rate/connectionsPerNode",
    "/spec/pricePerGiB",
    "/spec/pricePerGiB/amount",
    "/spec/pricePerGiB/currency",
    "/spec/mode",
    "/spec/whenControllerUnreachable",
    "/spec/maxStalenessSeconds",
    "/spec/requireDigest",
];

/// A policy that allows one thing to one namespace, and has every field.
fn whole() -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {
            "name": "p",
            "uid": "u",
            "generation": 3,
            "labels": {"x": "y"},
            "annotations": {UNTIL: "1999-01-01T00:00:00Z", REASON: "long ago"},
        },
        "spec": {
            "namespaces": {"names": ["team-a"], "matchLabels": {"tier": "gold"}},
            "serviceAccounts": ["trainer"],
            "allow": [{"sources": ["models"], "hosts": ["*.example"], "buckets": ["b"], "prefixes": ["llama"]}],
            "budgets": [{"name": "daily", "bytes": "1Gi", "window": {"rolling": "24h"}, "scope": "Shared"}],
            "rate": {"bytesPerSecondPerNode": "1M", "connectionsPerNode": 8},
            "pricePerGiB": {"amount": "0.09", "currency": "EUR"},
            "mode": "Enforce",
            "whenControllerUnreachable": "Deny",
            "maxStalenessSeconds": 60,
            "requireDigest": true,
        },
    })
}

fn asked(policies: &[Compiled], account: &str, path: &str) -> Decision {
    let labels = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
    let who = Who {
        namespace: "team-a",
        labels: &labels,
        service_account: account,
    };
    let what = What {
        source: "models",
        host: "s3.example",
        bucket: "b",
        path,
        has_digest: true,
    };
    let setting = Setting {
        default_egress: DefaultEgress::Allow,
        now_unix: NOW,
    };
    decide(policies, &setting, &who, &what)
}

fn piece() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => value(),
        2 => text().prop_map(Value::from),
        1 => select(vec![json!(null), json!(-1), json!(0), json!(1e300), json!([]), json!({}), json!("audit"), json!("*")]),
    ]
}

proptest! {
    #![proptest_config(settings(768))]

    #[test]
    fn a_policy_with_a_broken_piece_denies_or_says_what_it_means(
        at in select(PIECES),
        piece in piece(),
        account in select(vec!["trainer", "default"]),
        path in select(vec!["llama/8b", "qwen", ""]),
    ) {
        let mut object = whole();
        *object.pointer_mut(at).unwrap() = piece;
        let policy = Compiled::from_json(&object);
        let decision = asked(std::slice::from_ref(&policy), account, path);
        if let Err(why) = policy.rules() {
            prop_assert!(is_sentence(why), "{}", why);
            // Nothing here makes it watch only, and what cannot be read selects all.
            prop_assert_eq!(policy.mode(NOW), Mode::Enforce);
            prop_assert!(decision.verdict.is_err(), "{}", object);
        } else {
            // Another namespace than this one, or another account, is what it may mean now.
            let is_whole = asked(&[Compiled::from_json(&whole())], account, path).verdict.is_ok();
            let is_named = at.starts_with("/spec/allow") || at.starts_with("/spec/namespaces");
            let is_more = is_named || matches!(at, "/spec" | "/spec/serviceAccounts" | "/spec/mode");
            prop_assert!(is_whole || is_more || decision.verdict.is_err(), "{}", object);
        }
        if let Err(denial) = decision.verdict {
            prop_assert!(is_sentence(&denial.message), "{}", denial);
            prop_assert!(decision.charges.is_empty());
        }
    }

    #[test]
    fn a_policy_more_that_cannot_be_read_takes_leave_away_and_gives_none(
        at in select(PIECES),
        piece in piece(),
        path in select(vec!["llama/8b", "qwen"]),
    ) {
        let open = Compiled::from_json(&json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": "open", "uid": "o"},
            "spec": {"namespaces": {}, "allow": [{"prefixes": ["llama"]}]},
        }));
        let mut object = whole();
        *object.pointer_mut(at).unwrap() = piece;
        let broken = Compiled::from_json(&object);
        prop_assume!(broken.rules().is_err());
        let alone = asked(std::slice::from_ref(&open), "trainer", path);
        let both = asked(&[open, broken], "trainer", path);
        prop_assert_eq!(alone.verdict.is_ok(), path == "llama/8b");
        prop_assert!(both.verdict.is_err(), "{}", object);
    }

    #[test]
    fn any_value_is_a_policy_that_denies_everyone_everything(value in value()) {
        let policy = Compiled::from_json(&value);
        prop_assert!(policy.rules().is_err());
        prop_assert!(policy.selects("team-a", &BTreeMap::new()));
        let decision = asked(&[policy], "trainer", "llama/8b");
        prop_assert!(decision.verdict.is_err());
    }

    #[test]
    fn an_override_needs_a_time_and_a_reason_and_ends(
        until in prop_oneof![
            Just("2026-11-27T06:00:00Z".to_owned()),
            "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{1,12})?(Z|[+-][0-2][0-9]:[0-5][0-9])",
            text(),
        ],
        reason in prop_oneof![text(), "\\PC{0,400}"],
        has in any::<(bool, bool)>(),
    ) {
        let mut annotations = BTreeMap::new();
        if has.0 {
            annotations.insert(UNTIL.to_owned(), until);
        }
        if has.1 {
            annotations.insert(REASON.to_owned(), reason.clone());
        }
        match Overrule::find(&annotations) {
            Ok(None) => prop_assert_eq!(has, (false, false)),
            Ok(Some(overrule)) => {
                prop_assert_eq!(has, (true, true));
                prop_assert!(!overrule.reason.is_empty() && overrule.reason.chars().count() <= 256);
                prop_assert!(reason.contains(&overrule.reason));
                let mut object = whole();
                *object.pointer_mut("/metadata/annotations").unwrap() = json!(annotations);
                let policy = Compiled::from_json(&object);
                prop_assert_eq!(policy.mode(overrule.until_unix), Mode::Enforce);
                prop_assert_eq!(policy.mode(overrule.until_unix.saturating_sub(1)), Mode::Audit);
            }
            Err(sentence) => prop_assert!(is_sentence(&sentence), "{}", sentence),
        }
    }
}

#[test]
fn an_entry_of_which_not_all_is_understood_allows_nothing() {
    let policy = Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "p"},
        "spec": {"namespaces": {}, "allow": [{"prefix": ["llama"]}]},
    }));
    let labels = BTreeMap::new();
    let who = Who {
        namespace: "team-a",
        labels: &labels,
        service_account: "default",
    };
    let what = What {
        source: "any",
        host: "any.example",
        path: "anything",
        ..What::default()
    };
    let decision = decide(&[policy], &Setting::default(), &who, &what);
    assert!(decision.verdict.is_err(), "{:?}", decision.verdict);
}

#[test]
fn a_selector_of_which_not_all_is_understood_selects_all() {
    let policy = Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "p"},
        "spec": {"namespaces": {"names": ["team-b"], "matchExpressions": []}, "allow": [{}]},
    }));
    assert!(policy.selects("team-a", &BTreeMap::new()));
    assert!(policy.rules().is_err());
}

#[test]
fn a_policy_is_named_in_a_sentence_without_the_characters_that_it_has() {
    let policy = Compiled::from_json(&json!({
        "metadata": {"name": "p\u{1b}[2J"},
        "spec": {"namespaces": {}},
    }));
    let labels = BTreeMap::new();
    let who = Who {
        namespace: "team-a",
        labels: &labels,
        service_account: "default",
    };
    let decision = decide(&[policy], &Setting::default(), &who, &What::default());
    let sentence = decision.verdict.unwrap_err().message;
    assert!(is_sentence(&sentence), "{sentence}");
}

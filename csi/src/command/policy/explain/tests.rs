//! Answers beside a scripted API server, word for word.

use serde_json::{Value, json};

use super::*;
use crate::command::cluster::scripted::{beside, list, refusal};
use crate::command::policy::files::Objects;

/// 2026-11-27T03:44:23Z.
const NOW: i64 = 1_795_751_063;

const ABOUT: About<'static> = About {
    namespace: "team-a",
    source: "models",
    labels: None,
    host: None,
    bucket: None,
};

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "uid": format!("uid-of-{name}")},
        "spec": spec,
    })
}

fn source() -> (u16, Value) {
    let spec = json!({
        "url": "s3://weights/prod",
        "endpoint": "http://s3.example.com:9000",
        "consumers": [{"namespaces": {"names": ["team-a"]}, "paths": ["llama", "qwen"]}],
    });
    (200, object("Source", "models", &spec))
}

fn namespace() -> (u16, Value) {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "team-a", "labels": {"tier": "research"}},
    });
    (200, namespace)
}

fn research(prefix: &str) -> Value {
    let spec = json!({
        "namespaces": {"matchLabels": {"tier": "research"}},
        "allow": [{"sources": ["models"], "prefixes": [prefix]}],
        "budgets": [{"name": "daily", "bytes": "2Ti", "window": {"calendar": "Daily"}}],
        "rate": {"bytesPerSecondPerNode": "500M"},
        "pricePerGiB": {"amount": "0.09", "currency": "EUR"},
    });
    object("EgressPolicy", "research", &spec)
}

fn budgets() -> Value {
    let ledger = |namespace: &str| {
        let spec = json!({"policy": "research", "policyUid": "uid-of-research", "budget": "daily", "namespace": namespace});
        let mut budget = object("EgressBudget", namespace, &spec);
        budget["status"] =
            json!({"asOf": NOW, "settled": [{"start": NOW - 13_463, "bytes": 1_i64 << 40}]});
        budget
    };
    json!([ledger("team-a"), ledger("team-b"), {"spec": 7}])
}

async fn asked(objects: Objects, path: &str) -> (Answer, Vec<String>) {
    let answers = vec![
        source(),
        namespace(),
        list(&json!([research("prod")])),
        list(&budgets()),
    ];
    let (facts, questions) = beside(answers, async |cluster| {
        facts::of_cluster(&cluster, objects, &ABOUT).await
    })
    .await;
    (answer(&facts.unwrap(), path), questions)
}

fn answer(facts: &Facts, path: &str) -> Answer {
    let question = Question {
        namespace: "team-a",
        service_account: "default",
        source: "models",
        path,
        has_digest: false,
        bytes: Some(16_000_000_000),
    };
    let setting = Setting {
        now_unix: NOW,
        ..Setting::default()
    };
    answered(&question, facts, &setting)
}

#[tokio::test(start_paused = true)]
async fn a_cluster_s_rules_ledgers_and_labels_answer() {
    let (answer, questions) = asked(Objects::default(), "llama").await;
    assert_eq!(
        questions,
        [
            "GET /apis/tonnage.dev/v1alpha1/sources/models",
            "GET /api/v1/namespaces/team-a",
            "GET /apis/tonnage.dev/v1alpha1/egresspolicies?&limit=500",
            "GET /apis/tonnage.dev/v1alpha1/egressbudgets?&limit=500",
        ]
    );
    assert_eq!(
        answer.to_string(),
        "\
allowed  EgressPolicy research, spec.allow[0]
budget   research/daily: 1.0 TiB of 2.0 TiB left in Daily until 2026-11-28T00:00:00Z, namespace team-a
rate     at most 500.0 MB/s on a node (research)
download 14.9 GiB
cost     1.34 EUR at 0.09 EUR/GiB
asked    models: \"s3.example.com/weights/prod/llama\""
    );
    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(json["allowed"], true);
    assert_eq!(json["host"], "s3.example.com");
    assert_eq!(json["path"], "prod/llama");
    assert_eq!(json["budgets"][0]["leftBytes"], 1_i64 << 40);
}

#[tokio::test(start_paused = true)]
async fn whom_the_source_does_not_let_is_denied_although_a_policy_allows_it() {
    let (answer, _) = asked(Objects::default(), "secret").await;
    assert!(!answer.explanation.allowed);
    assert_eq!(
        answer.explanation.reason,
        "service account team-a/default may read source models only below \"llama\", \"qwen\", and not \"secret\"; ask an \
         administrator to add the path to spec.consumers"
    );
    assert!(
        answer
            .to_string()
            .starts_with("denied   service account team-a/default may read")
    );
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_a_file_takes_the_place_of_the_cluster_s_and_has_spent_what_that_has() {
    let mut changed = research("prod/qwen");
    changed["metadata"] = json!({"name": "research"});
    let objects = Objects {
        policies: [("research".to_owned(), changed)].into(),
        ..Objects::default()
    };
    let (answer, _) = asked(objects, "llama").await;
    assert!(!answer.explanation.allowed);
    assert!(
        answer
            .explanation
            .reason
            .contains("allow[0] of research comes closest and does not name path \"prod/llama\""),
        "{}",
        answer.explanation.reason
    );

    let mut changed = research("prod/qwen");
    changed["metadata"] = json!({"name": "research"});
    let objects = Objects {
        policies: [("research".to_owned(), changed)].into(),
        ..Objects::default()
    };
    let (answer, _) = asked(objects, "qwen").await;
    assert!(answer.explanation.allowed);
    assert_eq!(answer.explanation.budgets[0].left_bytes, 1 << 40);
}

#[tokio::test(start_paused = true)]
async fn a_source_or_namespace_that_is_not_there_is_named() {
    let (facts, _) = beside(vec![refusal(404, "NotFound")], async |cluster| {
        facts::of_cluster(&cluster, Objects::default(), &ABOUT).await
    })
    .await;
    let failure = facts.unwrap_err();
    assert_eq!(failure.code, Code::Missing);
    assert_eq!(
        failure.to_string(),
        "tonnage: find Source \"models\": the cluster has none of that name; `kubectl get sources` lists them"
    );
    let answers = vec![source(), refusal(404, "NotFound")];
    let (facts, _) = beside(answers, async |cluster| {
        facts::of_cluster(&cluster, Objects::default(), &ABOUT).await
    })
    .await;
    assert_eq!(
        facts.unwrap_err().to_string(),
        "tonnage: find Namespace \"team-a\": the cluster has none of that name; name its labels with --labels"
    );
}

//! Answers beside a scripted API server, word for word.

use serde_json::{Value, json};

use super::*;
use crate::command::cluster::scripted::{beside, documented, list, refusal};
use crate::command::policy::files::Objects;
use crate::command::policy::installation::Installed;

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

fn nodes(default_egress: &str) -> (u16, Value) {
    let container = json!({"args": ["node", format!("--default-egress={default_egress}")]});
    list(&json!([{
        "metadata": {"namespace": "tonnage", "name": "node"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }]))
}

async fn asked(objects: Objects, path: &str) -> (Answer, Vec<String>) {
    let answers = vec![
        source(),
        namespace(),
        list(&json!([research("prod")])),
        list(&budgets()),
        nodes("allow"),
    ];
    let (facts, questions) = beside(answers, async |cluster| {
        facts::of_cluster(&cluster, objects, &ABOUT).await
    })
    .await;
    (answer(&facts.unwrap(), path), questions)
}

/// What is found out beside these policies, ledgers and nodes.
async fn facts_beside(policies: &Value, more: [(u16, Value); 2]) -> Facts {
    let [budgets, nodes] = more;
    let answers = vec![source(), namespace(), list(policies), budgets, nodes];
    let (facts, _) = beside(answers, async |cluster| {
        facts::of_cluster(&cluster, Objects::default(), &ABOUT).await
    })
    .await;
    facts.unwrap()
}

fn answer(facts: &Facts, path: &str) -> Answer {
    answer_by(facts, path, None)
}

fn answer_by(facts: &Facts, path: &str, given: Option<DefaultEgress>) -> Answer {
    let question = Question {
        namespace: "team-a",
        service_account: "default",
        source: "models",
        path,
        has_digest: false,
        bytes: Some(16_000_000_000),
    };
    answered(&question, facts, (given, NOW))
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
            questions[4].as_str(),
        ]
    );
    assert!(questions[4].starts_with("GET /apis/apps/v1/daemonsets?"));
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
    documented(&json);
    assert_eq!(json["allowed"], true);
    assert_eq!(json["host"], "s3.example.com");
    assert_eq!(json["path"], "prod/llama");
    assert_eq!(json["budgets"][0]["leftBytes"], 1_i64 << 40);
    assert_eq!(json["ledgersAsked"], true);
    assert_eq!(json["defaultEgress"], "Allow");
    assert_eq!(json["defaultEgressFrom"], "says DaemonSet tonnage/node");
    assert_eq!(json["byDefault"], false);
    assert_eq!(answer.code(), Code::Done);
}

#[tokio::test(start_paused = true)]
async fn what_the_installation_says_holds_where_no_policy_does() {
    let facts = facts_beside(&json!([]), [list(&json!([])), nodes("deny")]).await;
    let denied = answer(&facts, "llama");
    assert_eq!(
        denied.to_string(),
        "\
denied   no EgressPolicy in mode Enforce selects namespace team-a, and defaultEgress is Deny; ask an administrator for one that does
download 14.9 GiB
default  Deny, says DaemonSet tonnage/node
asked    models: \"s3.example.com/weights/prod/llama\""
    );
    assert_eq!(denied.code(), Code::Denied);
    let given = answer_by(&facts, "llama", Some(DefaultEgress::Allow));
    assert!(given.explanation.allowed);
    assert!(
        given
            .to_string()
            .contains("\ndefault  Allow, by --default-egress; DaemonSet tonnage/node says Deny\n"),
        "{given}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_default_that_is_only_assumed_is_no_yes_where_it_decides() {
    let denied = || refusal(403, "Forbidden");
    let facts = facts_beside(&json!([]), [list(&json!([])), denied()]).await;
    let assumed = answer(&facts, "llama");
    let text = assumed.to_string();
    assert!(
        text.starts_with(
            "allowed  no EgressPolicy decides on the namespace, if defaultEgress is Allow, which could not be read\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("\ndefault  Allow, which is assumed: list daemonsets of the cluster: "),
        "{text}"
    );
    assert_eq!(assumed.code(), Code::Data);
    let json = serde_json::to_value(&assumed).unwrap();
    documented(&json);
    assert_eq!(
        (&json["defaultAssumed"], &json["byDefault"]),
        (&json!(true), &json!(true))
    );
    // What the source does not let is denied by whatever default.
    assert_eq!(answer(&facts, "secret").code(), Code::Denied);
    for (given, code) in [
        (DefaultEgress::Allow, Code::Done),
        (DefaultEgress::Deny, Code::Denied),
    ] {
        let given = answer_by(&facts, "llama", Some(given));
        assert_eq!((given.code(), given.default_assumed), (code, false));
    }
    // Where a policy decides, nothing is missing.
    let policies = json!([research("prod")]);
    let facts = facts_beside(&policies, [list(&json!([])), denied()]).await;
    let decided = answer(&facts, "llama");
    assert!(decided.default_assumed && !decided.by_default);
    assert_eq!(decided.code(), Code::Done);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_cannot_be_read_leaves_nobody_knows_what() {
    let broken = json!([{"metadata": {"name": "research.daily.team-a"}, "spec": 7}]);
    let policies = json!([research("prod")]);
    let facts = facts_beside(&policies, [list(&broken), nodes("allow")]).await;
    let unsure = answer(&facts, "llama");
    let text = unsure.to_string();
    let lines: Vec<&str> = text.lines().take(2).collect();
    assert_eq!(
        lines[0],
        "allowed  EgressPolicy research, spec.allow[0], if budget research/daily has enough left, which could not be read"
    );
    assert!(
        lines[1].contains(
            "; what is left is not known: EgressBudget research.daily.team-a cannot be read: "
        ),
        "{text}"
    );
    assert_eq!(unsure.code(), Code::Data);

    let forbidden = refusal(403, "Forbidden");
    let facts = facts_beside(&policies, [forbidden, nodes("allow")]).await;
    let unsure = answer(&facts, "llama");
    assert_eq!(
        unsure.explanation.budgets[0].unread.as_deref(),
        Some(
            "list egressbudgets of the cluster: so it is; ask an administrator for the verb list on egressbudgets"
        )
    );
    assert_eq!(unsure.code(), Code::Data);
    documented(&serde_json::to_value(&unsure).unwrap());
    // What the source does not let is denied, whatever is left.
    let denied = answer(&facts, "secret");
    assert_eq!(denied.code(), Code::Denied);
    documented(&serde_json::to_value(&denied).unwrap());
}

#[test]
fn a_policy_that_is_tried_where_it_says_nothing_is_named() {
    let elsewhere = json!({"namespaces": {"names": ["team-b"]}, "allow": [{}]});
    let typo = json!({"namespaces": {"names": ["team-b"]}, "budgets": [{"name": "d", "bytes": "5GB", "window": {"rolling": "24h"}}]});
    let audited = json!({"namespaces": {"names": ["team-b"]}, "mode": "Audit", "rate": {"connectionsPerNode": 0}});
    let here = json!({"namespaces": {}, "allow": [{}]});
    let policies = [
        ("audited", &audited),
        ("elsewhere", &elsewhere),
        ("here", &here),
        ("overruled", &typo),
        ("typo", &typo),
    ];
    let policies =
        policies.map(|(name, spec)| (name.to_owned(), object("EgressPolicy", name, spec)));
    let mut objects = Objects {
        policies: policies.into(),
        ..Objects::default()
    };
    let overruled = objects.policies.get_mut("overruled").unwrap();
    overruled["metadata"]["annotations"] = json!({
        "tonnage.dev/override-until": "2026-11-27T06:00:00Z",
        "tonnage.dev/override-reason": "incident 4711",
    });
    let tried: Vec<String> = objects.policies.keys().cloned().collect();
    let about = About {
        host: Some("s3.example.com"),
        ..ABOUT
    };
    let facts = facts::of_files(objects, &about).unwrap();
    assert_eq!(
        silent(&tried, &facts, ("team-a", NOW)),
        [
            "EgressPolicy audited does not select namespace team-a, and says nothing here; it is malformed, and denies nothing, as its mode \
             is Audit: rate.connectionsPerNode must be above 0",
            "EgressPolicy elsewhere does not select namespace team-a, and says nothing here",
            "EgressPolicy overruled does not select namespace team-a, and says nothing here; it is malformed, and denies nothing while it is \
             overruled: budgets[0].bytes: \"5GB\" is not a number of bytes: write 500Gi, 1.5T or 1000000",
            "EgressPolicy typo does not select namespace team-a, and says nothing here; it is malformed, and denies all that it selects: \
             budgets[0].bytes: \"5GB\" is not a number of bytes: write 500Gi, 1.5T or 1000000",
        ]
    );
    assert_eq!(silent(&[], &facts, ("team-a", NOW)), [""; 0]);
    assert_eq!(
        facts.installed,
        Installed::Untold("nothing of a cluster is read".to_owned())
    );
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
    assert_eq!(answer.explanation.budgets[0].left_bytes, Some(1 << 40));
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

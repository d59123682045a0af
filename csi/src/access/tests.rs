//! Decisions against a scripted API server, which remembers what it was asked.

use std::collections::HashMap;
use std::time::SystemTime;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tonnage_cache::clock::ManualClock;
use tonnage_cache::digest::Digest;
use tonnage_cache::gate::OpenGate;
use tonnage_cache::source::config::{SourceConfig, build};
use tower_test::mock::pair;

use super::*;
use crate::egress::compiled::Compiled;
use crate::egress::policy::DefaultEgress;
use crate::identity::{Credentials, Secrets, TOKENS};
use crate::volume::PodInfo;

const REVIEWS: &str = "POST /apis/authentication.k8s.io/v1/tokenreviews";
const NAMESPACE: &str = "GET /api/v1/namespaces/team-a";
/// The token; it must show nowhere but in the question.
const CANARY: &str = "canary-token";
/// Uid of the pod that all of it is about.
const POD: &str = "3f2a";

/// What the API server does about a request.
enum Answer {
    Json(u16, Value),
    Text(u16, &'static str),
    /// The connection breaks.
    Broken,
    /// Nothing comes.
    Silence,
}

/// Runs `story` beside an API server that answers so, in turn, and says what it was asked.
async fn beside<T>(
    answers: Vec<Answer>,
    story: impl AsyncFnOnce(kube::Client) -> T,
) -> (T, Vec<(String, Value)>) {
    let (service, mut server) = pair::<Request<Body>, Response<Body>>();
    let client = kube::Client::new(service, "tonnage");
    let mut asked = Vec::new();
    let mut answers = answers.into_iter();
    let serve = async {
        let mut unanswered = Vec::new();
        while let Some((request, respond)) = server.next_request().await {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            asked.push((
                format!("{} {}", parts.method, parts.uri.path()),
                serde_json::from_slice(&body).unwrap_or_default(),
            ));
            let (status, body) = match answers.next().expect("one question too many") {
                Answer::Json(status, body) => (status, body.to_string()),
                Answer::Text(status, body) => (status, body.to_owned()),
                Answer::Broken => {
                    respond.send_error("connection reset");
                    continue;
                }
                Answer::Silence => {
                    unanswered.push(respond);
                    continue;
                }
            };
            let body = Body::from(body.into_bytes());
            respond.send_response(Response::builder().status(status).body(body).unwrap());
        }
        std::future::pending::<()>().await;
    };
    let told = tokio::select! {
        told = story(client) => told,
        () = serve => unreachable!(),
    };
    assert_eq!(answers.len(), 0, "not everything was asked");
    (told, asked)
}

/// The API server's verdict on a token of team-a/default's pod on this node.
fn verdict() -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "metadata": {},
        "spec": {"token": CANARY, "audiences": [AUDIENCE]},
        "status": {
            "authenticated": true,
            "audiences": [AUDIENCE],
            "user": {
                "username": "system:serviceaccount:team-a:default",
                "uid": "sa-uid",
                "groups": ["system:serviceaccounts"],
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["web"],
                    "authentication.kubernetes.io/pod-uid": [POD],
                    "authentication.kubernetes.io/node-name": ["node-1"],
                },
            },
        },
    })
}

fn accepted() -> Answer {
    Answer::Json(201, verdict())
}

/// A verdict with a part of its status replaced.
fn accepted_but(part: &str, value: Value) -> Answer {
    let mut verdict = verdict();
    *verdict["status"].pointer_mut(part).unwrap() = value;
    Answer::Json(201, verdict)
}

fn failure(code: u16, reason: &str, message: &str) -> Answer {
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code});
    Answer::Json(code, status)
}

fn namespace(labels: &Value) -> Answer {
    let object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "team-a", "labels": labels}});
    Answer::Json(200, object)
}

/// Sources of which `models` has this specification besides its URL.
fn sources(spec: Value) -> Sources {
    let mut object: crd::Source = serde_json::from_value(json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "Source",
        "metadata": {"name": "models"},
        "spec": {"url": "s3://bucket"},
    }))
    .unwrap();
    let Value::Object(mut all) = serde_json::to_value(&object.spec).unwrap() else {
        panic!("no object");
    };
    let Value::Object(more) = spec else {
        panic!("no object");
    };
    all.extend(more);
    object.spec = serde_json::from_value(Value::Object(all)).unwrap();
    let config = SourceConfig {
        name: "models".to_owned(),
        url: "s3://bucket".to_owned(),
        ..SourceConfig::default()
    };
    let sources = Sources::default();
    sources.put(
        Arc::new(object),
        build(&config, OpenGate::shared()).unwrap(),
    );
    sources
}

/// Sources of which everyone may read everything.
fn open_sources() -> Sources {
    sources(json!({"consumers": [{"namespaces": {}}]}))
}

/// Sources of which namespaces with a label may read everything.
fn gold_sources() -> Sources {
    sources(json!({"consumers": [{"namespaces": {"matchLabels": {"tier": "gold"}}}]}))
}

/// What kubelet says, and what a user made of it: another namespace and a service account with more rights.
fn credentials(tokens: &Value) -> Credentials {
    Credentials {
        pod: Some(PodInfo {
            name: "web".to_owned(),
            namespace: "kube-system".to_owned(),
            uid: "77".to_owned(),
            service_account: "admin".to_owned(),
        }),
        secrets: Secrets::new(HashMap::from([(TOKENS.to_owned(), tokens.to_string())])),
    }
}

fn tokens() -> Value {
    json!({AUDIENCE: {"token": CANARY, "expirationTimestamp": "2030-01-01T00:00:00Z"}})
}

fn wanted() -> Attributes {
    Attributes {
        source: "models".to_owned(),
        path: "llama".to_owned(),
        ..Attributes::default()
    }
}

fn authorizer(client: kube::Client, sources: &Sources) -> KubernetesAuthorizer {
    let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
    KubernetesAuthorizer::new(client, sources.clone(), "node-1".to_owned(), clock)
}

/// A decision about a pod's volume, and what the API server was asked for it.
async fn decided(
    answers: Vec<Answer>,
    sources: &Sources,
    attributes: &Attributes,
) -> (Result<Principal, Refusal>, Vec<(String, Value)>) {
    let credentials = credentials(&tokens());
    let question = Question {
        credentials: &credentials,
        attributes,
        pod_uid: Some(POD),
    };
    let (decision, asked) = beside(answers, async |client| {
        let authorized = authorizer(client, sources).authorize(&question).await;
        authorized.map(|authorized| authorized.principal)
    })
    .await;
    let shown = format!("{decision:?}");
    assert!(!shown.contains(CANARY), "{shown}");
    (decision, asked)
}

fn paths(asked: &[(String, Value)]) -> Vec<&str> {
    asked.iter().map(|(path, _)| path.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn whoever_the_api_server_vouches_for_and_a_rule_names_is_a_principal() {
    let sources = sources(json!({"consumers": [
        {"namespaces": {"names": ["team-a"]}, "serviceAccounts": ["default"], "paths": ["llama"]},
    ]}));
    let (decision, asked) = decided(vec![accepted()], &sources, &wanted()).await;
    assert_eq!(
        decision,
        Ok(Principal {
            name: "system:serviceaccount:team-a:default".to_owned(),
            namespace: "team-a".to_owned(),
            service_account: "default".to_owned(),
            labels: Arc::default(),
        })
    );
    assert_eq!(paths(&asked), [REVIEWS]);
    let question = &asked[0].1;
    assert_eq!(question["kind"], "TokenReview");
    assert_eq!(question["apiVersion"], "authentication.k8s.io/v1");
    assert_eq!(
        question["spec"],
        json!({"audiences": ["csi.tonnage.dev"], "token": CANARY})
    );
}

#[tokio::test(start_paused = true)]
async fn labels_are_carried_where_a_rule_of_egress_may_ask_for_them() {
    let (sources, attributes, credentials) = (open_sources(), wanted(), credentials(&tokens()));
    let question = Question {
        credentials: &credentials,
        attributes: &attributes,
        pod_uid: Some(POD),
    };
    let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
    let rulebook = Rulebook::new(DefaultEgress::Allow, clock);
    let policy = Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"namespaces": {"matchLabels": {"tier": "gold"}}},
    }));
    rulebook.replace(vec![policy], Duration::ZERO);
    let answers = vec![accepted(), namespace(&json!({"tier": "gold"}))];
    let (authorized, asked) = beside(answers, async |client| {
        let authorizer = authorizer(client, &sources).governed_by(rulebook.clone());
        authorizer.authorize(&question).await
    })
    .await;
    let Authorized { principal, object } = authorized.unwrap();
    assert_eq!(
        principal.labels.get("tier").map(String::as_str),
        Some("gold")
    );
    assert_eq!(object, sources.spec("models").ok());
    assert_eq!(paths(&asked), [REVIEWS, NAMESPACE]);
}

#[tokio::test(start_paused = true)]
async fn what_a_volume_s_attributes_say_about_the_pod_has_no_effect() {
    let sources = sources(json!({"consumers": [
        {"namespaces": {"names": ["kube-system"]}},
        {"namespaces": {}, "serviceAccounts": ["admin"]},
    ]}));
    let (decision, _) = decided(vec![accepted()], &sources, &wanted()).await;
    let Err(Refusal::Denied(sentence)) = decision else {
        panic!("{decision:?}");
    };
    assert!(
        sentence.starts_with("service account team-a/default may not read source models: "),
        "{sentence}"
    );
}

#[tokio::test(start_paused = true)]
async fn tokens_of_other_pods_nodes_and_audiences_are_refused() {
    let extra = "/user/extra/authentication.kubernetes.io~1";
    for (answer, words) in [
        (
            accepted_but(&format!("{extra}pod-uid"), json!(["77"])),
            "with uid \"77\"",
        ),
        (
            accepted_but(&format!("{extra}node-name"), json!(["node-2"])),
            "on node \"node-2\", but this is node \"node-1\"",
        ),
        (accepted_but("/user/extra", json!({})), "is bound to no pod"),
        (
            accepted_but("/audiences", json!(["https://kubernetes.default.svc"])),
            "is not for audience csi.tonnage.dev",
        ),
        (
            accepted_but("/authenticated", json!(false)),
            "does not accept the pod's token",
        ),
        (
            Answer::Json(
                201,
                json!({"status": {"error": format!("[invalid bearer token {CANARY}]")}}),
            ),
            "does not accept the pod's token",
        ),
        (
            accepted_but("/user/username", json!("system:node:node-1")),
            "is not that of a service account",
        ),
    ] {
        let (decision, asked) = decided(vec![answer], &open_sources(), &wanted()).await;
        let Err(Refusal::Unauthenticated(sentence)) = decision else {
            panic!("{words}: {decision:?}");
        };
        assert!(sentence.contains(words), "{sentence}");
        assert_eq!(paths(&asked), [REVIEWS]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_cannot_tell_refuses_nobody_for_good() {
    let echo = json!({"status": {"authenticated": CANARY}});
    for (answer, words) in [
        (
            failure(403, "Forbidden", CANARY),
            "its ClusterRole needs the verb create for tokenreviews in API group authentication.k8s.io",
        ),
        (
            failure(401, "Unauthorized", "Unauthorized"),
            "does not know the driver's own token",
        ),
        (failure(500, "InternalError", CANARY), "it answers 500"),
        (Answer::Text(404, "page not found"), "it answers 404"),
        (Answer::Text(201, CANARY), "its answer is no TokenReview"),
        (Answer::Json(201, echo), "its answer is no TokenReview"),
        (Answer::Json(201, json!({})), "its answer is no TokenReview"),
        (Answer::Broken, "it cannot be reached"),
        (Answer::Silence, "it does not answer"),
    ] {
        let (decision, _) = decided(vec![answer], &open_sources(), &wanted()).await;
        let Err(Refusal::Unavailable(sentence)) = decision else {
            panic!("{words}: {decision:?}");
        };
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_end_is_not_read() {
    let endless = Answer::Text(201, Box::leak(" ".repeat((1 << 20) + 1).into_boxed_str()));
    let (decision, _) = decided(vec![endless], &open_sources(), &wanted()).await;
    let Err(Refusal::Unavailable(sentence)) = decision else {
        panic!("{decision:?}");
    };
    assert!(sentence.contains("its answer broke off"), "{sentence}");
}

#[tokio::test(start_paused = true)]
async fn what_can_be_decided_here_costs_no_question() {
    let (open, pinned) = (
        open_sources(),
        sources(json!({"consumers": [{"namespaces": {}}], "revisionPolicy": "Required"})),
    );
    let old = json!({AUDIENCE: {"token": CANARY, "expirationTimestamp": "1969-12-31T23:58:00Z"}});
    let elsewhere = Attributes {
        source: "gone".to_owned(),
        ..wanted()
    };
    for (tokens, pod_uid, sources, attributes, refusal) in [
        (
            json!({}),
            Some(POD),
            &open,
            wanted(),
            Refusal::Unauthenticated(
                "kubelet sends no token of the pod's service account: the CSIDriver object needs spec.tokenRequests with audience csi.tonnage.dev, and spec.serviceAccountTokenInSecrets: true".to_owned(),
            ),
        ),
        (
            old,
            Some(POD),
            &open,
            wanted(),
            Refusal::Unauthenticated(
                "the pod's token has expired; kubelet brings a new one when it tries again".to_owned(),
            ),
        ),
        (
            tokens(),
            None,
            &open,
            wanted(),
            Refusal::Unauthenticated(
                "the target path is not one that kubelet makes for a pod, so that no token can belong to it".to_owned(),
            ),
        ),
        (
            tokens(),
            Some(POD),
            &open,
            elsewhere,
            Refusal::Unavailable(
                "source gone is gone; if it comes back, this goes on by itself".to_owned(),
            ),
        ),
        (
            tokens(),
            Some(POD),
            &pinned,
            wanted(),
            Refusal::Denied(
                "source models takes pinned volumes only (its spec.revisionPolicy is Required): add the attribute revision, which `tonnage resolve` prints, or digest, which `tonnage pull --json` prints".to_owned(),
            ),
        ),
    ] {
        let credentials = credentials(&tokens);
        let question = Question {
            credentials: &credentials,
            attributes: &attributes,
            pod_uid,
        };
        let (decision, _) = beside(Vec::new(), async |client| {
            authorizer(client, sources).authorize(&question).await
        })
        .await;
        assert_eq!(decision, Err(refusal));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pinned_volume_is_taken_where_only_those_are() {
    let sources = sources(json!({"consumers": [{"namespaces": {}}], "revisionPolicy": "Required"}));
    let by_revision = Attributes {
        revision: Some(Digest::of(b"r")),
        ..wanted()
    };
    let by_digest = Attributes {
        digest: Some(Digest::of(b"d")),
        ..wanted()
    };
    for attributes in [by_revision, by_digest] {
        let (decision, _) = decided(vec![accepted()], &sources, &attributes).await;
        assert_eq!(decision.unwrap().namespace, "team-a");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_of_the_configuration_is_nobody_s() {
    let mut sources = Sources::default();
    let config = SourceConfig {
        name: "models".to_owned(),
        url: "s3://bucket".to_owned(),
        ..SourceConfig::default()
    };
    let source = build(&config, OpenGate::shared()).unwrap();
    sources.add("models", source).unwrap();
    let (decision, _) = decided(Vec::new(), &sources, &wanted()).await;
    assert_eq!(
        decision,
        Err(Refusal::Denied(
            "source \"models\" is not a Source of the API server, so that nothing says who may use it"
                .to_owned()
        ))
    );
}

#[tokio::test(start_paused = true)]
async fn labels_of_the_token_s_namespace_decide_where_a_rule_asks_for_them() {
    let gold = namespace(&json!({"tier": "gold"}));
    let (decision, asked) = decided(vec![accepted(), gold], &gold_sources(), &wanted()).await;
    assert_eq!(decision.unwrap().namespace, "team-a");
    assert_eq!(paths(&asked), [REVIEWS, NAMESPACE]);
    let bare = namespace(&Value::Null);
    let (decision, _) = decided(vec![accepted(), bare], &gold_sources(), &wanted()).await;
    assert!(matches!(decision, Err(Refusal::Denied(_))), "{decision:?}");
}

#[tokio::test(start_paused = true)]
async fn labels_that_cannot_change_the_answer_are_not_asked_for() {
    let sources = sources(json!({"consumers": [
        {"namespaces": {"matchLabels": {"tier": "gold"}}},
        {"namespaces": {"names": ["team-a"]}},
    ]}));
    let (decision, asked) = decided(vec![accepted()], &sources, &wanted()).await;
    assert_eq!(decision.unwrap().namespace, "team-a");
    assert_eq!(paths(&asked), [REVIEWS]);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_cannot_be_read_is_told_by_its_cause() {
    let gone = failure(404, "NotFound", "namespaces \"team-a\" not found");
    let (decision, _) = decided(vec![accepted(), gone], &gold_sources(), &wanted()).await;
    assert_eq!(
        decision,
        Err(Refusal::Denied(
            "namespace \"team-a\" does not exist any more".to_owned()
        ))
    );
    for (answer, words) in [
        (
            failure(403, "Forbidden", "no"),
            "its ClusterRole needs the verb get for namespaces",
        ),
        (
            failure(500, "InternalError", "no"),
            "the API server answers 500",
        ),
        (Answer::Broken, "the API server cannot be reached"),
        (Answer::Silence, "the API server does not answer"),
    ] {
        let answers = vec![accepted(), answer];
        let (decision, _) = decided(answers, &gold_sources(), &wanted()).await;
        let Err(Refusal::Unavailable(sentence)) = decision else {
            panic!("{words}: {decision:?}");
        };
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[tokio::test(start_paused = true)]
async fn labels_are_remembered_for_a_minute_and_not_longer() {
    let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
    let answers = vec![
        namespace(&json!({"tier": "gold"})),
        namespace(&json!({"tier": "silver"})),
        Answer::Broken,
    ];
    let ((), asked) = beside(answers, async |client| {
        let namespaces = Namespaces::new(client, Arc::clone(&clock) as Arc<dyn Clock>);
        let tier = async || {
            let labels = namespaces.labels("team-a").await?;
            Ok::<_, Refusal>(labels.get("tier").cloned().unwrap_or_default())
        };
        assert_eq!(tier().await.unwrap(), "gold");
        clock.advance(Duration::from_secs(59));
        assert_eq!(tier().await.unwrap(), "gold");
        clock.advance(Duration::from_secs(1));
        assert_eq!(tier().await.unwrap(), "silver");
        clock.advance(Duration::from_mins(1));
        assert!(matches!(tier().await, Err(Refusal::Unavailable(_))));
    })
    .await;
    assert_eq!(paths(&asked), [NAMESPACE, NAMESPACE, NAMESPACE]);
}

//! The watch against a scripted API server.

use std::cell::Cell;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tonnage_cache::clock::SystemClock;
use tonnage_cache::error::Kind;
use tonnage_cache::gate::OpenGate;
use tonnage_cache::source::Source;
use tower_test::mock::{Handle, SendResponse};

use super::*;
use crate::identity::Principal;

mod closed;

type Server = Handle<Request<Body>, Response<Body>>;

const SOURCES: &str = "/apis/tonnage.dev/v1alpha1/sources";
const SECRET: &str = "/api/v1/namespaces/tonnage/secrets/keys";

fn object(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "Source",
        "metadata": {"name": name, "resourceVersion": "5", "uid": "u", "generation": 1},
        "spec": spec,
    })
}

fn list(items: &[Value]) -> (u16, Value) {
    let list = json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "SourceList",
        "metadata": {"resourceVersion": "7"},
        "items": items,
    });
    (200, list)
}

/// A Secret with the keys `id` and `secret`, the latter in base64.
fn secret(secret: &str) -> (u16, Value) {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "keys"},
        "data": {"accessKeyId": "aWQ=", "secretAccessKey": secret},
    });
    (200, secret)
}

fn failure(code: u16, message: &str) -> (u16, Value) {
    let reason = if code == 404 { "NotFound" } else { "Forbidden" };
    let status = json!({
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    });
    (code, status)
}

fn shared() -> Value {
    json!({"url": "s3://bucket", "auth": {"mode": "SharedSecret", "secretName": "keys"}})
}

/// Answers requests by their path for ever; watches stay open without an event.
async fn serve(mut server: Server, answer: impl Fn(&str) -> (u16, Value)) {
    let mut open: Vec<SendResponse<Response<Body>>> = Vec::new();
    while let Some((request, respond)) = server.next_request().await {
        assert_eq!(request.method(), "GET");
        if request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch=true"))
        {
            open.push(respond);
            continue;
        }
        let (status, body) = answer(request.uri().path());
        let body = Body::from(serde_json::to_vec(&body).unwrap());
        respond.send_response(Response::builder().status(status).body(body).unwrap());
    }
    drop(open);
}

/// Runs `story` beside a watch of a server with these answers.
async fn beside(answer: impl Fn(&str) -> (u16, Value), story: impl AsyncFnOnce(&Sources)) {
    let (service, server) = tower_test::mock::pair();
    let client = kube::Client::new(service, "tonnage");
    let (sources, stop) = (Sources::awaited(), CancellationToken::new());
    let parts = Parts {
        client,
        namespace: "tonnage".to_owned(),
        sources: sources.clone(),
        gate: OpenGate::shared(),
        cluster_cidrs: Vec::new(),
        clock: Arc::new(SystemClock::new()),
    };
    let watching = run(parts, stop.clone());
    let told = async {
        story(&sources).await;
        stop.cancel();
    };
    let all = futures::future::join(watching, told);
    tokio::select! {
        _ = all => {}
        () = serve(server, answer) => panic!("the server ended"),
    }
}

/// Waits for something that the watch brings about, not for ever.
async fn eventually<T>(look: impl Fn() -> Option<T>) -> T {
    for _ in 0..1_000_000 {
        if let Some(found) = look() {
            return found;
        }
        tokio::task::yield_now().await;
    }
    panic!("the watch does not bring it about");
}

/// Lets everything that has been answered be taken in, while time stands still.
async fn quiet() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn usable(sources: &Sources, name: &str) -> Arc<dyn Source> {
    eventually(|| sources.get(name).ok()).await
}

async fn says(sources: &Sources, name: &str, words: &str) {
    eventually(|| {
        let error = sources.get(name).err()?;
        (error.kind() == Kind::Transient && error.to_string().contains(words)).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn listed_sources_are_known_with_their_objects_and_the_keys_of_their_secrets() {
    let answer = |path: &str| match path {
        SOURCES => list(&[
            object("open", &json!({"url": "s3://public"})),
            object("shared", &shared()),
            object(
                "pods",
                &json!({"url": "s3://private", "auth": {"mode": "PodSecret"}}),
            ),
        ]),
        SECRET => secret("c2VjcmV0"),
        _ => panic!("{path}"),
    };
    beside(answer, async |sources| {
        assert!(matches!(
            sources.get("open"),
            Err(crate::sources::Error::Unread)
        ));
        sources.until_read().await;
        assert_eq!(sources.names(), ["open", "pods", "shared"]);
        assert_eq!(usable(sources, "open").await.name(), "open");
        assert_eq!(usable(sources, "shared").await.name(), "shared");
        let spec = sources.spec("pods").unwrap();
        assert_eq!(spec.metadata.uid.as_deref(), Some("u"));
        assert_eq!(
            sources.get("pods").unwrap_err().kind(),
            Kind::Unauthenticated
        );
        assert_eq!(sources.get("none").unwrap_err().kind(), Kind::NotFound);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_understood_leaves_the_others_usable() {
    let consumer = |entry: &Value| json!({"url": "s3://public", "consumers": [entry]});
    let answer = |path: &str| match path {
        SOURCES => list(&[
            object("bad", &json!({"url": 7})),
            object(
                "more",
                &consumer(&json!({"namespaces": {"matchExpressions": []}})),
            ),
            object(
                "less",
                &consumer(&json!({"namespaces": {}, "path": ["llama"]})),
            ),
            object("file", &json!({"url": "file:///etc"})),
            object("good", &json!({"url": "s3://public"})),
        ]),
        _ => panic!("{path}"),
    };
    beside(answer, async |sources| {
        sources.until_read().await;
        assert!(sources.get("good").is_ok());
        says(sources, "bad", "its object cannot be understood").await;
        // Without what is not understood, its consumers would be all.
        says(sources, "more", "Unknown field matchExpressions").await;
        says(sources, "less", "Unknown field path").await;
        says(sources, "file", "its url begins with none of").await;
        assert_eq!(sources.spec("bad").unwrap_err().kind(), Kind::Transient);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_is_named_and_looked_for_again_soon() {
    let exists = Cell::new(false);
    let answer = |path: &str| match path {
        SOURCES => list(&[object("shared", &shared())]),
        SECRET if exists.get() => secret("c2VjcmV0"),
        SECRET => failure(404, "secrets \"keys\" not found"),
        _ => panic!("{path}"),
    };
    beside(answer, async |sources| {
        let words = "Secret \"keys\" in namespace tonnage does not exist: create it with accessKeyId and secretAccessKey";
        says(sources, "shared", words).await;
        exists.set(true);
        tokio::time::advance(RETRY).await;
        assert_eq!(usable(sources, "shared").await.name(), "shared");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn changed_keys_rebuild_a_source_and_unchanged_ones_keep_its_connections() {
    let keys = Cell::new("b25l");
    let reads = Cell::new(0);
    let answer = |path: &str| match path {
        SOURCES => list(&[object("shared", &shared())]),
        SECRET => {
            reads.set(reads.get() + 1);
            secret(keys.get())
        }
        _ => panic!("{path}"),
    };
    beside(answer, async |sources| {
        let first = usable(sources, "shared").await;
        tokio::time::advance(REFRESH).await;
        eventually(|| (reads.get() == 2).then_some(())).await;
        quiet().await;
        keys.set("dHdv");
        tokio::time::advance(REFRESH).await;
        let second = eventually(|| {
            let now = sources.get("shared").ok()?;
            (!Arc::ptr_eq(&now, &first)).then_some(now)
        })
        .await;
        assert_eq!(reads.get(), 3);
        assert_eq!(second.uid(), first.uid());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_known_outlives_a_server_that_refuses() {
    let refuses = Cell::new(false);
    let reads = Cell::new(0);
    let answer = |path: &str| match path {
        SOURCES => list(&[object("shared", &shared())]),
        SECRET => {
            reads.set(reads.get() + 1);
            if refuses.get() {
                failure(403, "secrets \"keys\" is forbidden")
            } else {
                secret("b25l")
            }
        }
        _ => panic!("{path}"),
    };
    beside(answer, async |sources| {
        let first = usable(sources, "shared").await;
        refuses.set(true);
        tokio::time::advance(REFRESH).await;
        eventually(|| (reads.get() == 2).then_some(())).await;
        quiet().await;
        tokio::time::advance(RETRY).await;
        eventually(|| (reads.get() == 3).then_some(())).await;
        quiet().await;
        assert!(Arc::ptr_eq(&sources.get("shared").unwrap(), &first));
    })
    .await;
}

/// A keeper in a cluster with these ranges.
fn keeper(cluster: &[&str]) -> Keeper {
    Keeper {
        sources: Sources::awaited(),
        gate: OpenGate::shared(),
        cluster_cidrs: cluster.iter().map(|range| range.parse().unwrap()).collect(),
        clock: Arc::new(SystemClock::new()),
        namespace: "tonnage".to_owned(),
        built: BTreeMap::new(),
        listed: BTreeSet::new(),
        secrets: BTreeMap::new(),
    }
}

fn parsed(name: &str, spec: &Value) -> DeserializeGuard<crd::Source> {
    serde_json::from_value(object(name, spec)).unwrap()
}

#[test]
fn a_later_list_drops_what_it_does_not_name() {
    let mut keeper = keeper(&[]);
    let open = json!({"url": "s3://public"});
    keeper.take(Event::Init);
    keeper.take(Event::InitApply(parsed("a", &open)));
    keeper.take(Event::InitApply(parsed("b", &open)));
    keeper.take(Event::InitDone);
    let before = keeper.sources.get("b").unwrap();
    keeper.take(Event::Init);
    let consumers = json!({"url": "s3://public", "consumers": [{"namespaces": {}}]});
    keeper.take(Event::InitApply(parsed("b", &consumers)));
    assert_eq!(keeper.sources.names(), ["a", "b"]);
    keeper.take(Event::InitDone);
    assert_eq!(keeper.sources.names(), ["b"]);
    // Who may use it changed, and nothing that its connections depend on.
    assert!(Arc::ptr_eq(&keeper.sources.get("b").unwrap(), &before));
    assert_eq!(keeper.sources.spec("b").unwrap().spec.consumers.len(), 1);
    keeper.take(Event::Delete(parsed("b", &open)));
    assert_eq!(keeper.sources.get("b").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn another_proxy_rebuilds_a_source_and_the_same_one_keeps_its_connections() {
    let mut keeper = keeper(&[]);
    keeper.take(Event::Init);
    keeper.take(Event::InitDone);
    let mut through = |proxy: Option<&str>| {
        let spec = json!({"url": "s3://public", "proxy": proxy});
        keeper.take(Event::Apply(parsed("a", &spec)));
        keeper.sources.get("a").unwrap()
    };
    let direct = through(None);
    let first = through(Some("http://one.example:3128"));
    let same = through(Some("http://one.example:3128"));
    let second = through(Some("http://two.example:3128"));
    assert!(Arc::ptr_eq(&first, &same));
    assert!(!Arc::ptr_eq(&direct, &first) && !Arc::ptr_eq(&first, &second));
}

/// The tokens of a pod as kubelet sends them, for these audiences.
fn tokens(audiences: &[&str]) -> Secrets {
    let token = json!({"token": "canary", "expirationTimestamp": "2099-01-01T00:00:00Z"});
    let tokens: serde_json::Map<String, Value> = audiences
        .iter()
        .map(|audience| ((*audience).to_owned(), token.clone()))
        .collect();
    let tokens = Value::Object(tokens).to_string();
    Secrets::new(std::collections::HashMap::from([(
        crate::identity::TOKENS.to_owned(),
        tokens,
    )]))
}

fn principal(account: &str) -> Principal {
    Principal {
        name: format!("system:serviceaccount:team-a:{account}"),
        namespace: "team-a".to_owned(),
        service_account: account.to_owned(),
        labels: Arc::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_of_workload_identity_is_each_service_account_s_own_and_takes_a_token_for_the_cloud()
 {
    let spec = json!({
        "url": "s3://private",
        "region": "eu-central-1",
        "auth": {"mode": "WorkloadIdentity", "workloadIdentity": {"aws": {"roleArn": "arn:aws:iam::1:role/r"}}},
    });
    let answer = |path: &str| match path {
        SOURCES => list(&[object("cloud", &spec)]),
        _ => panic!("{path}"),
    };
    beside(answer, async |sources| {
        sources.until_read().await;
        let error = sources.get("cloud").unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated);
        assert_eq!(
            error.to_string(),
            "source \"cloud\" is read with the identity of each pod's service account"
        );
        let error = sources.check("cloud", &tokens(&["csi.tonnage.dev"])).unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated);
        assert_eq!(
            error.to_string(),
            "source \"cloud\" is read with the identity of the pod's service account: kubelet sends its tokens for \"csi.tonnage.dev\" but not for audience \"sts.amazonaws.com\"; add \"sts.amazonaws.com\" to the chart's csiDriver.tokenAudiences"
        );
        let both = tokens(&["csi.tonnage.dev", "sts.amazonaws.com"]);
        assert!(sources.check("cloud", &both).is_ok());
        let of = |account: &str| sources.get_for("cloud", &principal(account), &both).unwrap();
        assert!(Arc::ptr_eq(&of("trainer"), &of("trainer")));
        assert_ne!(of("trainer").uid(), of("default").uid());
        assert!(!format!("{sources:?}").contains("canary"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_source_of_the_node_s_identity_is_everybody_s() {
    let answer = |path: &str| match path {
        SOURCES => list(&[
            object(
                "node",
                &json!({"url": "s3://private", "auth": {"mode": "Node"}}),
            ),
            object(
                "web",
                &json!({"url": "https://h", "auth": {"mode": "Node"}}),
            ),
        ]),
        _ => panic!("{path}"),
    };
    beside(answer, async |sources| {
        sources.until_read().await;
        assert_eq!(sources.get("node").unwrap().name(), "node");
        says(sources, "web", "requests to a web server are not signed").await;
    })
    .await;
}

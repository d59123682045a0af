//! The loop against a scripted API server and sources that answer what they are told to.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonnage_cache::clock::ManualClock;
use tonnage_cache::source::{self, Entry, Limits, Listing, Source};
use tower_test::mock::Handle;

use super::condition::{Reason, Verdict};
use super::*;

type Server = Handle<Request<Body>, Response<Body>>;

const SOURCES: &str = "/apis/tonnage.dev/v1alpha1/sources";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/tonnage/leases";

/// How a fake source answers.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Fine,
    Many,
    Absent,
    Refuses,
    BadKeys,
    Down,
    Untrusted,
    Silent,
    /// Ends with its own limit of time.
    Slow(Duration),
}

/// A source that is listed and never read.
#[derive(Debug)]
struct Shelf {
    mood: Mutex<Mood>,
    listings: AtomicU64,
}

impl Shelf {
    fn new(mood: Mood) -> Arc<Self> {
        Arc::new(Self {
            mood: Mutex::new(mood),
            listings: AtomicU64::new(0),
        })
    }

    fn turn(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn listings(&self) -> u64 {
        self.listings.load(Ordering::Relaxed)
    }
}

impl Source for Shelf {
    fn name(&self) -> &'static str {
        "shelf"
    }

    fn uid(&self) -> &'static str {
        "memory://shelf"
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Listing, source::Error>> {
        assert_eq!((prefix, limits.objects, limits.pages), ("", 1, 1));
        self.listings.fetch_add(1, Ordering::Relaxed);
        let mood = *self.mood.lock().unwrap();
        let subject = "bucket \"b\"".to_owned();
        Box::pin(async move {
            Err(match mood {
                Mood::Fine => {
                    return Ok(Listing {
                        entries: Vec::new(),
                        markers: 1,
                    });
                }
                Mood::Many => source::Error::Limit("more than 1 objects".to_owned()),
                Mood::Absent => source::Error::NotFound(subject),
                Mood::Refuses => source::Error::Denied {
                    subject,
                    code: "AccessDenied".to_owned(),
                },
                Mood::BadKeys => source::Error::Unauthenticated {
                    subject,
                    code: "InvalidAccessKeyId".to_owned(),
                },
                Mood::Down => source::Error::Unavailable {
                    subject,
                    what: "connection refused".to_owned(),
                },
                Mood::Untrusted => source::Error::Untrusted {
                    host: "s3:443".to_owned(),
                    what: "its certificate is not known".to_owned(),
                },
                Mood::Silent => std::future::pending().await,
                Mood::Slow(time) => {
                    tokio::time::sleep(time).await;
                    source::Error::Limit("takes longer".to_owned())
                }
            })
        })
    }

    fn open<'a>(
        &'a self,
        _entry: &'a Entry,
        _range: Range<u64>,
    ) -> BoxFuture<'a, Result<source::Body, source::Error>> {
        panic!("nothing is read here")
    }
}

fn object(name: &str, generation: i64, spec: &Value) -> crd::Source {
    let object = json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "Source",
        "metadata": {"name": name, "uid": "u", "generation": generation},
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

fn put(sources: &Sources, object: crd::Source, shelf: &Arc<Shelf>) {
    let source = Arc::clone(shelf);
    sources.put(Arc::new(object), source);
}

fn s3() -> Value {
    json!({"url": "s3://b"})
}

/// Answers the election and every patch of a status; says what was patched.
async fn serve(mut server: Server, patches: UnboundedSender<(String, Value)>) {
    while let Some((request, respond)) = server.next_request().await {
        let (parts, body) = request.into_parts();
        let sent = body.collect_bytes().await.unwrap();
        let path = parts.uri.path().to_owned();
        let mut answer: Value = serde_json::from_slice(&sent).unwrap_or(Value::Null);
        let mut status = 200;
        match parts.method.as_str() {
            "PATCH" => {
                let kind = parts.headers.get("content-type").unwrap();
                assert_eq!(kind, "application/merge-patch+json");
                patches.send((path, answer.clone())).unwrap();
                answer["metadata"] = json!({"name": "any"});
            }
            "GET" => {
                assert!(path.starts_with(LEASE));
                status = 404;
                answer = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
            }
            "POST" => assert_eq!(path, LEASE),
            other => panic!("{other} {path}"),
        }
        let body = Body::from(serde_json::to_vec(&answer).unwrap());
        respond.send_response(Response::builder().status(status).body(body).unwrap());
    }
}

/// Runs the loop beside `story`, which gets the patches.
async fn beside(
    sources: &Sources,
    story: impl AsyncFnOnce(&mut UnboundedReceiver<(String, Value)>),
) {
    let (service, server) = tower_test::mock::pair();
    let (sender, mut patches) = unbounded_channel();
    let stop = CancellationToken::new();
    let parts = Parts {
        client: kube::Client::new(service, "tonnage"),
        namespace: "tonnage".to_owned(),
        sources: sources.clone(),
        identity: "one".to_owned(),
        leads: Sender::new(false),
        clock: Arc::new(ManualClock::at(UNIX_EPOCH + Duration::from_secs(7))),
    };
    let told = async {
        story(&mut patches).await;
        stop.cancel();
    };
    let all = futures::future::join(Box::pin(run(parts, stop.clone())), told);
    tokio::select! {
        _ = all => {}
        () = serve(server, sender) => panic!("the server ended"),
    }
}

/// The condition that a patch sets.
fn set(patch: &Value) -> &Value {
    &patch["status"]["conditions"][0]
}

#[tokio::test(start_paused = true)]
async fn a_source_that_can_be_reached_is_ready_and_that_is_said_once() {
    let (sources, shelf) = (Sources::default(), Shelf::new(Mood::Many));
    put(&sources, object("models", 3, &s3()), &shelf);
    beside(&sources, async |patches| {
        let (path, written) = patches.recv().await.unwrap();
        assert_eq!(path, format!("{SOURCES}/models/status"));
        let expected = json!({
            "status": {
                "observedGeneration": 3,
                "conditions": [{
                    "type": "Ready",
                    "status": "True",
                    "reason": "Reachable",
                    "message": "It answers and can be listed.",
                    "lastTransitionTime": "1970-01-01T00:00:07Z",
                    "observedGeneration": 3,
                }],
            },
        });
        assert_eq!(written, expected);
        // The watch brings back what was written.
        let mut object = object("models", 3, &s3());
        object.status = serde_json::from_value(written["status"].clone()).unwrap();
        put(&sources, object, &shelf);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(patches.try_recv().is_err());
        assert_eq!(shelf.listings(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_object_is_looked_at_within_seconds() {
    let (sources, shelf) = (Sources::default(), Shelf::new(Mood::Fine));
    put(&sources, object("models", 1, &s3()), &shelf);
    beside(&sources, async |patches| {
        patches.recv().await.unwrap();
        shelf.turn(Mood::Refuses);
        put(&sources, object("models", 2, &s3()), &shelf);
        let began = Instant::now();
        let (_, patch) = patches.recv().await.unwrap();
        assert!(began.elapsed() <= LOOK + Duration::from_millis(10));
        assert_eq!(set(&patch)["reason"], "Denied");
        assert_eq!(set(&patch)["observedGeneration"], 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn conditions_of_others_stay() {
    let (sources, shelf) = (Sources::default(), Shelf::new(Mood::Down));
    let mut marked = object("models", 1, &s3());
    let other = json!({"conditions": [
        {"type": "Audited", "status": "True", "reason": "Yes", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"},
    ]});
    marked.status = serde_json::from_value(other).unwrap();
    put(&sources, marked, &shelf);
    beside(&sources, async |patches| {
        let (_, patch) = patches.recv().await.unwrap();
        assert_eq!(set(&patch)["type"], "Audited");
        assert_eq!(patch["status"]["conditions"][1]["reason"], "Unreachable");
    })
    .await;
}

async fn verdict(sources: &Sources, name: &str) -> Verdict {
    let object = sources.spec(name).ok();
    probe::probe(sources, name, object.as_deref()).await
}

#[tokio::test(start_paused = true)]
async fn what_a_source_says_becomes_a_reason_and_a_sentence() {
    let ready = (Reason::Reachable, "It answers and can be listed.");
    for (mood, (reason, message)) in [
        (Mood::Fine, ready),
        (Mood::Many, ready),
        (
            Mood::Absent,
            (
                Reason::NotFound,
                "Bucket \"b\" does not exist; check the bucket and the base path in spec.url, or upload something.",
            ),
        ),
        (
            Mood::Refuses,
            (
                Reason::Denied,
                "Bucket \"b\": the store refuses access (AccessDenied); give its keys, or everyone if it has none, the right to list and read there.",
            ),
        ),
        (
            Mood::BadKeys,
            (
                Reason::Denied,
                "Bucket \"b\": the store does not accept the credentials (InvalidAccessKeyId); put keys that are valid into the Secret of spec.auth.secretName.",
            ),
        ),
        (
            Mood::Down,
            (
                Reason::Unreachable,
                "Bucket \"b\": connection refused; check spec.endpoint, the name service, the network policies and the firewall.",
            ),
        ),
        (
            Mood::Untrusted,
            (
                Reason::Unreachable,
                "S3:443: its certificate is not known; put the certificate of its authority into spec.caBundle.",
            ),
        ),
        (
            Mood::Silent,
            (
                Reason::Unreachable,
                "It did not answer within 10 s; check its endpoint, the network policies and the firewall.",
            ),
        ),
        (
            Mood::Slow(Duration::from_secs(3)),
            (
                Reason::Unreachable,
                "It did not answer within 3 s; check its endpoint, the network policies and the firewall.",
            ),
        ),
    ] {
        let sources = Sources::default();
        let spec = json!({"url": "s3://b", "limits": {"listingSeconds": 3}});
        put(&sources, object("models", 1, &spec), &Shelf::new(mood));
        let found = verdict(&sources, "models").await;
        assert_eq!(found, Verdict::new(reason, message), "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_source_has_a_proxy_that_is_among_what_to_look_at() {
    for (mood, message) in [
        (
            Mood::Down,
            "Bucket \"b\": connection refused; check spec.proxy and what the proxy allows, spec.endpoint, the name service, the network policies and the firewall.",
        ),
        (
            Mood::Silent,
            "It did not answer within 10 s; check spec.proxy and what the proxy allows, its endpoint, the network policies and the firewall.",
        ),
    ] {
        let sources = Sources::default();
        let spec = json!({"url": "s3://b", "proxy": "http://proxy.example:3128"});
        put(&sources, object("models", 1, &spec), &Shelf::new(mood));
        let found = verdict(&sources, "models").await;
        assert_eq!(
            found,
            Verdict::new(Reason::Unreachable, message),
            "{mood:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_web_server_without_files_and_a_source_that_nobody_knows_are_not_listed() {
    let (sources, shelf) = (Sources::default(), Shelf::new(Mood::Fine));
    let web = |files: &Value| object("web", 1, &json!({"url": "https://h/b", "files": files}));
    put(&sources, web(&json!([])), &shelf);
    assert_eq!(verdict(&sources, "web").await.reason, Reason::NotProbed);
    assert_eq!(shelf.listings(), 0);
    put(&sources, web(&json!(["a.bin"])), &shelf);
    assert_eq!(verdict(&sources, "web").await.reason, Reason::Reachable);
    let unknown = verdict(&sources, "none").await;
    assert_eq!(unknown.reason, Reason::Misconfigured);
}

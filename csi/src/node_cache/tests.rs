//! The loop against a scripted API server and a real store: what is written, when, and what happens when that fails.

use std::time::SystemTime;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonnage_cache::clock::ManualClock;
use tonnage_cache::digest::Digest;
use tonnage_cache::disk::OsDisk;
use tonnage_cache::manifest::Manifest;
use tonnage_cache::report::Report;
use tonnage_cache::store::{Config, Env};
use tower_test::mock::Handle;

use super::*;
use crate::loads::{Load, Observer as _};

mod urgent;

type Server = Handle<Request<Body>, Response<Body>>;

const NODE: &str = "GET /api/v1/nodes/node-1";
const OBJECT: &str = "PATCH /apis/tonnage.dev/v1alpha1/nodecaches/node-1";
const STATUS: &str = "PATCH /apis/tonnage.dev/v1alpha1/nodecaches/node-1/status";

/// One request that the API server was sent.
#[derive(Debug)]
struct Asked {
    what: String,
    query: String,
    body: Value,
    at: Instant,
}

/// What the API server does about requests that are not answered as usual.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Fine,
    /// The connection breaks.
    Away,
    /// Nothing comes.
    Silent,
    /// The next request of this kind fails like this; all others are fine.
    Fails(&'static str, u16),
}

/// A store, and what reports it.
struct Site {
    store: Arc<Store>,
    clock: Arc<ManualClock>,
    notes: Arc<Notes>,
    quotas: Arc<Quotas>,
    mood: tokio::sync::watch::Sender<Mood>,
    /// What the object says when it is taken over.
    before: Value,
    root: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let clock = Arc::new(ManualClock::at(now));
        let env = Env {
            disk: Arc::new(OsDisk::new()),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            boot_id: "boot".to_owned(),
        };
        Self {
            store: Store::open(Config::new(root.path()), env).unwrap(),
            root,
            clock,
            notes: Arc::default(),
            quotas: Quotas::none(),
            mood: tokio::sync::watch::Sender::new(Mood::Fine),
            before: Value::Null,
        }
    }

    /// Runs the reporter beside `story`, which gets the requests.
    async fn tell(&self, story: impl AsyncFnOnce(&mut UnboundedReceiver<Asked>)) {
        let (service, server) = tower_test::mock::pair();
        let (sender, mut asked) = unbounded_channel();
        let stop = CancellationToken::new();
        let parts = Parts {
            client: kube::Client::new(service, "tonnage"),
            node: "node-1".to_owned(),
            store: Arc::clone(&self.store),
            notes: Arc::clone(&self.notes),
            quotas: Arc::clone(&self.quotas),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
        };
        let told = async {
            story(&mut asked).await;
            stop.cancel();
        };
        let all = futures::future::join(Box::pin(run(parts, stop.clone())), told);
        tokio::select! {
            _ = all => {}
            () = self.serve(server, sender) => panic!("the server ended"),
        }
    }

    /// Answers like an API server that has the Node and the kind.
    async fn serve(&self, mut server: Server, asked: UnboundedSender<Asked>) {
        let mut unanswered = Vec::new();
        while let Some((request, respond)) = server.next_request().await {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let what = format!("{} {}", parts.method, parts.uri.path());
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            if parts.method == "PATCH" {
                let kind = parts.headers.get("content-type").unwrap();
                assert_eq!(kind, "application/apply-patch+yaml");
            }
            asked
                .send(Asked {
                    what: what.clone(),
                    query: parts.uri.query().unwrap_or_default().to_owned(),
                    body: body.clone(),
                    at: Instant::now(),
                })
                .unwrap();
            let mood = *self.mood.borrow();
            let (code, answer) = match mood {
                Mood::Away => {
                    respond.send_error("connection refused");
                    continue;
                }
                Mood::Silent => {
                    unanswered.push(respond);
                    continue;
                }
                Mood::Fails(which, code) if what == which => {
                    self.mood.send_replace(Mood::Fine);
                    (code, refusal(code))
                }
                Mood::Fine | Mood::Fails(..) => (200, self.answer(&what, body)),
            };
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            respond.send_response(Response::builder().status(code).body(body).unwrap());
        }
    }

    fn answer(&self, what: &str, mut body: Value) -> Value {
        match what {
            NODE => json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": "node-1", "uid": "node-uid"},
            }),
            OBJECT => {
                body["status"] = self.before.clone();
                body
            }
            STATUS => body,
            other => panic!("{other}"),
        }
    }

    /// A load is told, as the publisher does.
    fn load(&self, second: u64) {
        self.notes.load_ended(&Load {
            ended_millis: second * 1_000,
            volume: format!("csi-{second}"),
            pod: None,
            source: "models".to_owned(),
            path: "llama".to_owned(),
            revision: Digest::of(b"r"),
            digest: Digest::of(b"m"),
            report: Report::default(),
        });
    }
}

fn refusal(code: u16) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "No",
        "code": code,
    })
}

/// The next requests, which must be these.
async fn expect<const N: usize>(
    asked: &mut UnboundedReceiver<Asked>,
    whats: [&str; N],
) -> [Asked; N] {
    let mut found = Vec::new();
    for what in whats {
        let next = asked.recv().await.unwrap();
        assert_eq!(next.what, what);
        found.push(next);
    }
    found.try_into().unwrap()
}

fn ready(status: &Asked) -> &Value {
    &status.body["status"]["conditions"][0]
}

#[tokio::test(start_paused = true)]
async fn the_object_is_made_with_the_node_as_its_owner_and_says_what_is_stored() {
    let site = Site::new();
    let manifest = Manifest::new(Vec::new()).unwrap();
    let digest = site.store.put_manifest(&manifest).await.unwrap();
    site.load(900);
    site.notes.published(2);
    site.tell(async |asked| {
        let [_, object, status] = expect(asked, [NODE, OBJECT, STATUS]).await;
        assert_eq!(
            object.body,
            json!({
                "apiVersion": "tonnage.dev/v1alpha1",
                "kind": "NodeCache",
                "metadata": {
                    "name": "node-1",
                    "ownerReferences": [
                        {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-uid"},
                    ],
                },
                "spec": {},
            })
        );
        for request in [&object, &status] {
            assert!(request.query.contains("force=true"), "{request:?}");
            assert!(
                request.query.contains("fieldManager=tonnage-node"),
                "{request:?}"
            );
        }
        let said = &status.body["status"];
        assert_eq!(said["observedAt"], "1970-01-01T00:16:40Z");
        assert_eq!(said["manifests"][0]["digest"], digest.to_hex());
        assert_eq!(said["loads"][0]["path"], "llama");
        assert_eq!(said["publishedVolumes"], 2);
        assert_eq!(said["objects"], 0);
        assert_eq!(ready(&status)["status"], "True");
        assert!(status.body["spec"].is_null());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn news_is_written_at_once_but_not_more_than_once_a_minute() {
    let site = Site::new();
    site.tell(async |asked| {
        let [_, _, first] = expect(asked, [NODE, OBJECT, STATUS]).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        for second in 1..=5 {
            site.load(second);
        }
        let [second] = expect(asked, [STATUS]).await;
        let between = second.at - first.at;
        assert!((60..=75).contains(&between.as_secs()), "{between:?}");
        assert_eq!(second.body["status"]["loads"].as_array().unwrap().len(), 5);
        // After a quiet time the next news is there within seconds.
        tokio::time::sleep(Duration::from_secs(200)).await;
        let told = Instant::now();
        site.load(6);
        let [third] = expect(asked, [STATUS]).await;
        assert!(
            third.at - told <= Duration::from_secs(13),
            "{:?}",
            third.at - told
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_has_not_changed_is_written_once_an_hour() {
    let site = Site::new();
    site.tell(async |asked| {
        let [_, _, first] = expect(asked, [NODE, OBJECT, STATUS]).await;
        let [second] = expect(asked, [STATUS]).await;
        let between = second.at - first.at;
        let minutes = between.as_secs() / 60;
        assert!((60..=62).contains(&minutes), "{between:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_was_deleted_is_made_again_and_a_conflict_is_solved_once() {
    for code in [404, 409] {
        let site = Site::new();
        site.tell(async |asked| {
            expect(asked, [NODE, OBJECT, STATUS]).await;
            site.mood.send_replace(Mood::Fails(STATUS, code));
            site.load(1);
            let [failed, .., status] = expect(asked, [STATUS, NODE, OBJECT, STATUS]).await;
            assert_eq!(failed.body, status.body);
            // In the same attempt.
            assert!(status.at - failed.at < Duration::from_secs(1));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_it_is_asked_ever_more_seldom_and_then_told_the_newest() {
    for mood in [Mood::Away, Mood::Silent] {
        let site = Site::new();
        site.mood.send_replace(mood);
        site.tell(async |asked| {
            let mut last = expect(asked, [NODE]).await[0].at;
            for least in [10, 20, 40, 80, 160, 300, 300] {
                let [next] = expect(asked, [NODE]).await;
                let pause = (next.at - last).as_secs();
                // The attempt itself may have waited for 10 s.
                assert!(
                    (least..=least * 6 / 5 + 11).contains(&pause),
                    "{mood:?} {pause}"
                );
                last = next.at;
            }
            site.load(7);
            site.mood.send_replace(Mood::Fine);
            let [.., status] = expect(asked, [NODE, OBJECT, STATUS]).await;
            assert_eq!(
                status.body["status"]["loads"][0]["time"],
                "1970-01-01T00:00:07Z"
            );
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_end_the_reporter() {
    let whole = [NODE, OBJECT, STATUS];
    for (which, code, first) in [
        (NODE, 403, &[NODE][..]),
        (NODE, 404, &[NODE]),
        (OBJECT, 403, &[NODE, OBJECT]),
        (OBJECT, 404, &[NODE, OBJECT]),
    ] {
        let site = Site::new();
        site.mood.send_replace(Mood::Fails(which, code));
        site.tell(async |asked| {
            for what in first.iter().chain(&whole) {
                expect(asked, [*what]).await;
            }
        })
        .await;
    }
    let site = Site::new();
    site.mood.send_replace(Mood::Fails(STATUS, 422));
    site.tell(async |asked| {
        // The object is there already.
        expect(asked, [NODE, OBJECT, STATUS, STATUS]).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_condition_keeps_the_time_that_an_earlier_service_gave_it() {
    let mut site = Site::new();
    site.before = json!({"conditions": [
        {"type": "Ready", "status": "True", "reason": "Serving", "message": "m", "lastTransitionTime": "1970-01-01T00:00:05Z"},
        {"type": "Damaged", "status": "True", "reason": "FilesDamaged", "message": "m", "lastTransitionTime": "1970-01-01T00:00:06Z"},
    ]});
    site.tell(async |asked| {
        let [.., status] = expect(asked, [NODE, OBJECT, STATUS]).await;
        let conditions = &status.body["status"]["conditions"];
        assert_eq!(conditions[0]["lastTransitionTime"], "1970-01-01T00:00:05Z");
        assert_eq!(conditions[2]["status"], "False");
        assert_eq!(conditions[2]["lastTransitionTime"], "1970-01-01T00:16:40Z");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_listed_is_said_not_to_be_ready_and_ready_again_later() {
    let site = Site::new();
    let (views, aside) = (
        site.root.path().join("views"),
        site.root.path().join("aside"),
    );
    std::fs::rename(&views, &aside).unwrap();
    site.tell(async |asked| {
        let [.., status] = expect(asked, [NODE, OBJECT, STATUS]).await;
        assert_eq!(ready(&status)["reason"], "Unreadable");
        let message = ready(&status)["message"].as_str().unwrap();
        assert!(
            message.contains("views: No such file or directory"),
            "{message}"
        );
        assert!(status.body["status"]["usedBytes"].is_null());
        std::fs::rename(&aside, &views).unwrap();
        let [status] = expect(asked, [STATUS]).await;
        assert_eq!(ready(&status)["reason"], "Serving");
    })
    .await;
}

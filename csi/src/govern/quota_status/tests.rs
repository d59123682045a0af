//! The loop against a scripted API server.

use std::time::SystemTime;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch::Sender;
use tonnage_cache::clock::ManualClock;
use tower_test::mock::Handle;

use super::*;

mod scale;

type Server = Handle<Request<Body>, Response<Body>>;

const CACHES: &str = "/apis/tonnage.dev/v1alpha1/nodecaches";
const QUOTAS: &str = "/apis/tonnage.dev/v1alpha1/cachequotas";
const STATUS: &str = "/apis/tonnage.dev/v1alpha1/namespaces/team-a/cachequotas/q/status";

fn cache(node: &str, bytes: i64) -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "NodeCache",
        "metadata": {"name": node, "resourceVersion": "5"},
        "spec": {},
        "status": {"namespaces": [{"namespace": "team-a", "logicalBytes": bytes, "volumes": 1}]},
    })
}

fn quota(spec: &Value) -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "CacheQuota",
        "metadata": {"name": "q", "namespace": "team-a", "resourceVersion": "6", "generation": 1},
        "spec": spec,
    })
}

fn list(kind: &str, items: &[Value]) -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": kind,
        "metadata": {"resourceVersion": "7"},
        "items": items,
    })
}

/// A status that was written.
#[derive(Debug)]
struct Written {
    body: Value,
    at: Instant,
}

/// An API server with these objects; a `NodeCache` may come after `later`.
struct World {
    quota: Value,
    later: Option<(Duration, Value)>,
    /// Answers to writes, and 200 after them.
    answers: Vec<u16>,
}

impl World {
    /// With a quota of this specification, which takes every write.
    fn with(spec: &Value, later: Option<(Duration, Value)>) -> Self {
        Self {
            quota: quota(spec),
            later,
            answers: Vec::new(),
        }
    }

    async fn serve(mut self, mut server: Server, told: UnboundedSender<Written>) {
        let mut open = Vec::new();
        while let Some((request, respond)) = server.next_request().await {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let path = parts.uri.path().to_owned();
            let query = parts.uri.query().unwrap_or_default().to_owned();
            let (code, answer) = if parts.method == "PATCH" {
                assert_eq!(path, STATUS);
                let body: Value = serde_json::from_slice(&body).unwrap();
                let at = Instant::now();
                told.send(Written {
                    body: body.clone(),
                    at,
                })
                .unwrap();
                let code = if self.answers.is_empty() {
                    200
                } else {
                    self.answers.remove(0)
                };
                (code, self.patched(code, &body))
            } else if query.contains("watch=true") {
                let Some((after, object)) = self.later.take_if(|_| path == CACHES) else {
                    open.push(respond);
                    continue;
                };
                tokio::time::sleep(after).await;
                (200, json!({"type": "ADDED", "object": object}))
            } else if path == CACHES {
                (200, list("NodeCacheList", &[cache("gpu-1", 10 << 30)]))
            } else {
                assert_eq!(path, QUOTAS);
                (
                    200,
                    list("CacheQuotaList", std::slice::from_ref(&self.quota)),
                )
            };
            let body = Body::from(format!("{answer}\n").into_bytes());
            respond.send_response(Response::builder().status(code).body(body).unwrap());
        }
    }

    fn patched(&self, code: u16, patch: &Value) -> Value {
        if code != 200 {
            return json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no",
                "reason": "No", "code": code,
            });
        }
        let mut object = self.quota.clone();
        object["metadata"]["resourceVersion"] = json!("8");
        object["status"] = patch["status"].clone();
        object
    }

    /// Runs the loop of a leader beside `story`.
    async fn tell(self, story: impl AsyncFnOnce(&mut UnboundedReceiver<Written>)) {
        let (service, server) = tower_test::mock::pair();
        let (sender, mut told) = unbounded_channel();
        let leads = Sender::new(true);
        let parts = Parts {
            client: kube::Client::new(service, "tonnage"),
            leading: leads.subscribe(),
            clock: Arc::new(ManualClock::at(
                SystemTime::UNIX_EPOCH + Duration::from_secs(100),
            )),
        };
        tokio::select! {
            () = run(parts, CancellationToken::new()) => panic!("the loop ended"),
            () = self.serve(server, sender) => panic!("the server ended"),
            () = story(&mut told) => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_quota_without_a_status_gets_one_and_only_one() {
    let world = World::with(&json!({"perNode": {"logicalBytes": "50Gi"}}), None);
    world
        .tell(async |told| {
            let first = told.recv().await.unwrap();
            assert_eq!(
                first.body,
                json!({
                    "metadata": {"resourceVersion": "6"},
                    "status": {
                        "observedGeneration": 1,
                        "conditions": [{
                            "type": "Ready", "status": "True", "reason": "InForce",
                            "message": "it decides which new volumes are published",
                            "lastTransitionTime": "1970-01-01T00:01:40Z", "observedGeneration": 1,
                        }],
                        "used": "10.0 GiB on 1 node",
                        "reserved": null,
                        "reservedAbove": null,
                        "fullest": "gpu-1 10.0 GiB of 50.0 GiB",
                        "logicalBytes": 10_737_418_240_i64,
                        "volumes": 1,
                        "nodes": [{
                            "node": "gpu-1", "logicalBytes": 10_737_418_240_i64, "volumes": 1,
                            "physicalBytes": 0, "sharedBytes": 0,
                        }],
                    },
                })
            );
            let silence = tokio::time::timeout(Duration::from_mins(10), told.recv()).await;
            assert!(silence.is_err());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn news_is_written_in_seconds_where_nodes_wait_for_it_and_in_a_minute_elsewhere() {
    for (spec, least) in [
        (json!({"cluster": {"logicalBytes": "1Ti"}}), 4),
        (json!({"perNode": {"logicalBytes": "1Ti"}}), 60),
    ] {
        let world = World::with(
            &spec,
            Some((Duration::from_secs(3), cache("gpu-2", 1 << 30))),
        );
        world
            .tell(async |told| {
                let first = told.recv().await.unwrap();
                let second = told.recv().await.unwrap();
                let between = (second.at - first.at).as_secs();
                assert!((least..=least + 3).contains(&between), "{between}");
                let status = &second.body["status"];
                assert_eq!(status["used"], "11.0 GiB on 2 nodes");
                assert_eq!(second.body["metadata"]["resourceVersion"], "8");
            })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_be_understood_counts_as_before_and_the_quota_says_so() {
    let mut rubbish = cache("gpu-1", 0);
    rubbish["status"]["namespaces"] = json!("many");
    let world = World::with(
        &json!({"cluster": {"logicalBytes": "1Ti"}}),
        Some((Duration::from_secs(3), rubbish)),
    );
    world
        .tell(async |told| {
            told.recv().await.unwrap();
            let second = told.recv().await.unwrap();
            let status = &second.body["status"];
            assert_eq!(status["used"], "10.0 GiB on 1 node");
            assert_eq!(
                status["conditions"][0]["message"],
                "it decides which new volumes are published; what NodeCache gpu-1 says of namespaces cannot be understood, and what was known before counts: let the controller and the nodes run the same version"
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_set_aside_before_nodes_can_have_said_what_they_have() {
    let mut asking = cache("gpu-1", 10 << 30);
    let line = &mut asking["status"]["namespaces"][0];
    line["wantedBytes"] = json!(30_i64 << 30);
    line["seq"] = json!(7);
    let world = World::with(
        &json!({"cluster": {"logicalBytes": "1Ti"}}),
        Some((Duration::from_secs(3), asking)),
    );
    world
        .tell(async |told| {
            let first = told.recv().await.unwrap();
            let rows = |written: &Written| written.body["status"]["reserved"].clone();
            let row = |bytes: i64, seq: i64| json!([{"node": "gpu-1", "bytes": bytes, "volumes": 1, "seq": seq}]);
            assert!(rows(&first).is_null(), "not everybody has said what it has");
            let second = told.recv().await.unwrap();
            assert_eq!(rows(&second), row(30 << 30, 7));
            let between = (second.at - first.at).as_secs();
            assert!((4..=9).contains(&between), "{between}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_tried_again() {
    for (code, least) in [(409, 1), (403, 10), (500, 10)] {
        let world = World {
            answers: vec![code],
            ..World::with(&json!({"perNode": {"volumes": 1}}), None)
        };
        world
            .tell(async |told| {
                let first = told.recv().await.unwrap();
                let second = told.recv().await.unwrap();
                assert_eq!(first.body, second.body);
                let between = (second.at - first.at).as_secs();
                assert!((least..=least + 3).contains(&between), "{code} {between}");
            })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_cannot_be_understood_says_so_once() {
    let world = World::with(&json!({"perNode": {"volumes": "many"}}), None);
    world
        .tell(async |told| {
            let first = told.recv().await.unwrap();
            let ready = &first.body["status"]["conditions"][0];
            assert_eq!(ready["reason"], "Malformed");
            let message = ready["message"].as_str().unwrap();
            assert!(
                message.contains("its object cannot be understood"),
                "{message}"
            );
            let silence = tokio::time::timeout(Duration::from_mins(10), told.recv()).await;
            assert!(silence.is_err());
        })
        .await;
}

//! An API server that has one Node and its `EgressLease`: it compares versions as the real one does, and tells watches.

use std::convert::Infallible;

use futures::StreamExt as _;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use serde_json::{Value, json};

pub(super) type Answer = UnsyncBoxBody<Bytes, Infallible>;

const LEASES: &str = "/apis/tonnage.dev/v1alpha1/egressleases";

/// What there is.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) object: Option<Value>,
    /// The version of what was written last.
    version: u64,
    /// How often the object was made.
    made: u64,
    /// Events, with their versions.
    log: Vec<(u64, Value)>,
    watches: Vec<UnboundedSender<Value>>,
    /// While the watch lags: events that it has not told yet.
    held: Option<Vec<Value>>,
}

impl Cluster {
    /// One without an object.
    pub(super) fn new() -> Self {
        Self {
            object: None,
            version: 100,
            made: 0,
            log: Vec::new(),
            watches: Vec::new(),
            held: None,
        }
    }

    /// Something writes the object.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Value)) {
        let mut object = self.object.take().unwrap();
        change(&mut object);
        self.store("MODIFIED", object);
    }

    /// The controller answers: budgets, numbers, bytes.
    pub(super) fn grant(&mut self, grants: &[(&str, u64, u64)]) {
        let line = |(budget, seq, bytes): &(&str, u64, u64)| {
            json!({
                "policyUid": "p", "budget": budget, "incarnation": "0000000000000007", "seq": seq,
                "bytes": bytes, "durationSeconds": 900,
            })
        };
        let grants: Vec<Value> = grants.iter().map(line).collect();
        self.change(|object| object["status"] = json!({"grants": grants}));
    }

    /// Somebody makes the object, or an earlier start has made it.
    pub(super) fn make(&mut self, mut object: Value) {
        self.made += 1;
        object["metadata"]["uid"] = json!(format!("uid-{}", self.made));
        self.store("ADDED", object);
    }

    pub(super) fn delete(&mut self) {
        let object = self.object.take().unwrap();
        self.version += 1;
        self.tell("DELETED", object);
    }

    /// The watch tells nothing from now on.
    pub(super) fn hold(&mut self) {
        self.held = Some(Vec::new());
    }

    /// The watch tells what it has not told.
    pub(super) fn release(&mut self) {
        for event in self.held.take().unwrap() {
            self.send(&event);
        }
    }

    fn store(&mut self, what: &str, object: Value) {
        self.version += 1;
        self.object = Some(object.clone());
        self.tell(what, object);
    }

    fn tell(&mut self, what: &str, mut object: Value) {
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if let Some(stored) = &mut self.object {
            *stored = object.clone();
        }
        let event = json!({"type": what, "object": object});
        self.log.push((self.version, event.clone()));
        match &mut self.held {
            Some(held) => held.push(event),
            None => self.send(&event),
        }
    }

    fn send(&mut self, event: &Value) {
        self.watches
            .retain(|watch| watch.unbounded_send(event.clone()).is_ok());
    }

    /// Answers a request to change or read something.
    pub(super) fn answer(&mut self, what: &str, body: Value) -> (u16, Value) {
        match what {
            super::NODE => {
                let node = json!({
                    "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                    "metadata": {"name": "node-1", "uid": "node-uid"},
                });
                (200, node)
            }
            super::GET => self
                .object
                .clone()
                .map_or_else(|| (404, refusal(404)), |object| (200, object)),
            super::POST if self.object.is_some() => (409, refusal(409)),
            super::POST => {
                self.make(body);
                (201, self.object.clone().unwrap())
            }
            super::PUT => self.replace(body),
            other => panic!("{other}"),
        }
    }

    fn replace(&mut self, mut body: Value) -> (u16, Value) {
        let Some(object) = self.object.clone() else {
            return (404, refusal(404));
        };
        let (new, old) = (&body["metadata"], &object["metadata"]);
        assert!(new["resourceVersion"].is_string(), "{new}");
        assert!(new["managedFields"].is_null(), "{new}");
        if new["resourceVersion"] != old["resourceVersion"] || new["uid"] != old["uid"] {
            return (409, refusal(409));
        }
        body["status"] = object["status"].clone();
        self.store("MODIFIED", body);
        (200, self.object.clone().unwrap())
    }

    /// Answers a list or a watch, if it is one.
    pub(super) fn look(&mut self, request: &Request<Body>) -> Option<Response<Answer>> {
        let query = request.uri().query().unwrap_or_default();
        if request.method() != Method::GET || request.uri().path() != LEASES {
            return None;
        }
        assert!(
            query.contains("fieldSelector=metadata.name%3Dnode-1"),
            "{query}"
        );
        if !query.contains("watch=true") {
            let list = json!({
                "apiVersion": "tonnage.dev/v1alpha1", "kind": "EgressLeaseList",
                "metadata": {"resourceVersion": self.version.to_string()},
                "items": self.object.iter().collect::<Vec<_>>(),
            });
            return Some(answered(200, &list));
        }
        let since = query.split('&').find_map(|part| {
            let version = part.strip_prefix("resourceVersion=")?;
            version.parse::<u64>().ok()
        });
        let (sender, receiver) = unbounded();
        for (version, event) in &self.log {
            if *version > since.unwrap() {
                sender.unbounded_send(event.clone()).unwrap();
            }
        }
        self.watches.push(sender);
        let lines = receiver.map(|event: Value| {
            let line = Bytes::from(format!("{event}\n"));
            Ok::<_, Infallible>(Frame::data(line))
        });
        Some(Response::new(StreamBody::new(lines).boxed_unsync()))
    }
}

pub(super) fn answered(code: u16, body: &Value) -> Response<Answer> {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

pub(super) fn refusal(code: u16) -> Value {
    let reason = if code == 404 { "NotFound" } else { "No" };
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason,
        "code": code,
    })
}

/// The name of a request: its method and path.
pub(super) fn name(request: &Request<Body>) -> String {
    format!("{} {}", request.method(), request.uri().path())
}

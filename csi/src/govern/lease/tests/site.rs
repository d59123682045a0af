//! The loop beside a scripted API server, in time that stands still unless somebody waits.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::Clock;
use tower_test::mock::Handle;

use super::super::{Parts, run};
use super::cluster::{Answer, Cluster, answered, name, refusal};
use crate::egress::lease::{Incarnation, Receipt};
use crate::egress::terms::{Account, PolicyUid};
use crate::govern::denials::Denials;
use crate::govern::spend::Spender;

/// Follows tokio's time, which stands still in these tests unless somebody waits.
#[derive(Debug)]
struct Stopped(Instant);

impl Clock for Stopped {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000) + self.0.elapsed()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn thread_cpu(&self) -> Duration {
        Duration::ZERO
    }
}

/// One request that the API server was sent, apart from lists and watches.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) what: String,
    pub(super) body: Value,
    pub(super) at: Instant,
}

/// What the API server does about requests that are not answered as usual; lists and watches always are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mood {
    Fine,
    /// The connection breaks.
    Away,
    /// Nothing comes.
    Silent,
    /// The next request of this kind fails like this.
    Fails(&'static str, u16),
    /// The next request of this kind is obeyed, and its answer is lost.
    Loses(&'static str),
}

/// A node's loop, what it is made of, and the API server.
pub(super) struct Site {
    pub(super) spender: Arc<Spender>,
    denials: Arc<Denials>,
    clock: Arc<dyn Clock>,
    pub(super) cluster: RefCell<Cluster>,
    mood: RefCell<Mood>,
}

pub(super) type Requests = UnboundedReceiver<Asked>;

impl Site {
    pub(super) fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(Stopped(Instant::now()));
        Self {
            spender: Spender::new(Incarnation(7), Arc::clone(&clock)),
            denials: Arc::default(),
            clock,
            cluster: RefCell::new(Cluster::new()),
            mood: RefCell::new(Mood::Fine),
        }
    }

    /// Runs the loop beside `story`, which gets the requests, and to its end.
    pub(super) async fn tell(&self, story: impl AsyncFnOnce(&mut Requests)) {
        let (service, server) = tower_test::mock::pair();
        let (sender, mut asked) = unbounded_channel();
        let stop = CancellationToken::new();
        let parts = Parts {
            client: kube::Client::new(service, "tonnage"),
            node: "node-1".to_owned(),
            spender: Arc::clone(&self.spender),
            denials: Arc::clone(&self.denials),
            clock: Arc::clone(&self.clock),
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

    async fn serve(
        &self,
        mut server: Handle<Request<Body>, Response<Answer>>,
        asked: UnboundedSender<Asked>,
    ) {
        let mut unanswered = Vec::new();
        while let Some((request, respond)) = server.next_request().await {
            let looked = self.cluster.borrow_mut().look(&request);
            if let Some(answer) = looked {
                respond.send_response(answer);
                continue;
            }
            let what = name(&request);
            let body = request.into_body().collect_bytes().await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let request = Asked {
                what: what.clone(),
                body: body.clone(),
                at: Instant::now(),
            };
            // The story may have ended.
            asked.send(request).ok();
            let mood = *self.mood.borrow();
            match mood {
                Mood::Away => respond.send_error("connection refused"),
                Mood::Silent => unanswered.push(respond),
                Mood::Fails(which, code) if what == which => {
                    self.set(Mood::Fine);
                    respond.send_response(answered(code, &refusal(code)));
                }
                Mood::Loses(which) if what == which => {
                    self.set(Mood::Fine);
                    self.cluster.borrow_mut().answer(&what, body);
                    respond.send_error("connection reset");
                }
                Mood::Fine | Mood::Fails(..) | Mood::Loses(_) => {
                    let (code, answer) = self.cluster.borrow_mut().answer(&what, body);
                    respond.send_response(answered(code, &answer));
                }
            }
        }
    }

    /// A load misses bytes of a budget.
    pub(super) fn miss(&self, budget: &str, bytes: u64) {
        let accounts = [account(budget)];
        assert!(self.spender.charge(&accounts, 1, bytes, 0).is_err());
    }

    /// A load waits for bytes of a budget.
    pub(super) async fn take(&self, budget: &str, bytes: u64) -> Receipt {
        let (accounts, patience) = ([account(budget)], Duration::from_mins(1));
        let taken = self.spender.take(&accounts, 1, bytes, 0, patience).await;
        taken.unwrap()
    }

    pub(super) fn set(&self, mood: Mood) {
        *self.mood.borrow_mut() = mood;
    }

    pub(super) fn deny(&self) {
        let policy = PolicyUid("p".to_owned());
        self.denials.note(&policy, "team-a", "not this", 1_000);
    }
}

pub(super) fn account(budget: &str) -> Account {
    Account {
        policy: PolicyUid("p".to_owned()),
        budget: budget.to_owned(),
        namespace: None,
    }
}

pub(super) fn demand(budget: &str, seq: u64, wanted: u64, spent: u64) -> Value {
    json!({"policyUid": "p", "budget": budget, "seq": seq, "wantedBytes": wanted, "spentBytes": spent})
}

pub(super) fn owners() -> Value {
    json!([{"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-uid"}])
}

/// What an earlier start has left.
pub(super) fn left_behind(demands: &Value) -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressLease",
        "metadata": {
            "name": "node-1", "labels": {"a": "b"}, "ownerReferences": owners(),
            "managedFields": [{"manager": "tonnage-node"}],
        },
        "spec": {"incarnation": "0000000000000006", "demands": demands},
    })
}

/// The next requests, which must be these.
pub(super) async fn expect<const N: usize>(asked: &mut Requests, whats: [&str; N]) -> [Asked; N] {
    let mut found = Vec::new();
    for what in whats {
        let next = asked.recv().await.unwrap();
        assert_eq!(next.what, what);
        found.push(next);
    }
    found.try_into().unwrap()
}

/// Nothing is asked for that many seconds.
pub(super) async fn silence(asked: &mut Requests, seconds: u64) {
    let next = tokio::time::timeout(Duration::from_secs(seconds), asked.recv());
    assert!(next.await.is_err());
}

//! Elections against a scripted API server, with time standing still but for what the election waits for.

use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonnage_cache::clock::ManualClock;
use tower_test::mock::Handle;

use super::*;

type Server = Handle<Request<Body>, Response<Body>>;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/tonnage/leases";

/// One lease, with versions; down while it is told so.
#[derive(Debug, Default)]
struct Leases {
    state: Mutex<(Option<Value>, u64, bool)>,
}

impl Leases {
    fn spec(&self) -> Value {
        let state = self.state.lock().unwrap();
        state
            .0
            .as_ref()
            .map_or(Value::Null, |it| it["spec"].clone())
    }

    fn hold(&self, holder: &str) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        let version = state.1.to_string();
        state.0 = Some(json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": LEASE, "namespace": "tonnage", "resourceVersion": version},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3},
        }));
    }

    fn go_down(&self, down: bool) {
        self.state.lock().unwrap().2 = down;
    }

    fn answer(&self, method: &Method, path: &str, sent: &[u8]) -> (u16, Value) {
        let refusal = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": code});
            (code, status)
        };
        let mut state = self.state.lock().unwrap();
        if state.2 {
            return refusal(503, "ServiceUnavailable");
        }
        let known = state.0.clone();
        if *method == Method::GET {
            assert_eq!(path, format!("{PATH}/{LEASE}"));
            return known.map_or_else(|| refusal(404, "NotFound"), |lease| (200, lease));
        }
        let mut sent: Value = serde_json::from_slice(sent).unwrap();
        match (method.as_str(), known) {
            ("POST", Some(_)) => return refusal(409, "AlreadyExists"),
            ("POST", None) => assert_eq!(path, PATH),
            ("PUT", Some(known)) => {
                let versions = (
                    &sent["metadata"]["resourceVersion"],
                    &known["metadata"]["resourceVersion"],
                );
                assert!(versions.0.is_string(), "a write without a condition");
                if versions.0 != versions.1 {
                    return refusal(409, "Conflict");
                }
            }
            other => panic!("{other:?}"),
        }
        state.1 += 1;
        sent["metadata"]["resourceVersion"] = json!(state.1.to_string());
        state.0 = Some(sent.clone());
        (200, sent)
    }
}

async fn serve(mut server: Server, leases: &Leases) {
    while let Some((request, respond)) = server.next_request().await {
        let (parts, body) = request.into_parts();
        let sent = body.collect_bytes().await.unwrap();
        let (status, answer) = leases.answer(&parts.method, parts.uri.path(), &sent);
        let body = Body::from(serde_json::to_vec(&answer).unwrap());
        respond.send_response(Response::builder().status(status).body(body).unwrap());
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(
        UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    ))
}

/// Runs a replica called `identity` beside `story`, which sees whether it leads; ends the replica after it.
async fn beside(leases: &Leases, identity: &str, story: impl AsyncFnOnce(&mut Receiver<bool>)) {
    let (service, server) = tower_test::mock::pair();
    let client = kube::Client::new(service, "tonnage");
    let (leads, mut leading) = watch::channel(false);
    let stop = CancellationToken::new();
    let election = Election::new(client, "tonnage", identity, clock());
    let told = async {
        story(&mut leading).await;
        stop.cancel();
    };
    let all = futures::future::join(election.run(leads, stop.clone()), told);
    tokio::select! {
        _ = all => {}
        () = serve(server, leases) => panic!("the server ended"),
    }
}

#[test]
fn what_is_done_follows_from_the_holder_and_its_silence() {
    let spec = |holder: Option<&str>| LeaseSpec {
        holder_identity: holder.map(str::to_owned),
        lease_duration_seconds: Some(15),
        ..LeaseSpec::default()
    };
    let seconds = Duration::from_secs;
    for (spec, silent, expected) in [
        (spec(Some("me")), seconds(0), Move::Renew),
        (spec(Some("me")), seconds(99), Move::Renew),
        (spec(Some("other")), seconds(0), Move::Wait(seconds(15))),
        (spec(Some("other")), seconds(14), Move::Wait(seconds(1))),
        (spec(Some("other")), seconds(15), Move::Take),
        (spec(Some("")), seconds(0), Move::Take),
        (spec(None), seconds(0), Move::Take),
    ] {
        assert_eq!(
            decide(true, Some(&spec), "me", silent),
            expected,
            "{spec:?}"
        );
    }
    assert_eq!(decide(true, None, "me", seconds(0)), Move::Take);
    assert_eq!(decide(false, None, "me", seconds(0)), Move::Create);
    assert!(TERM < seconds(15) && RENEWAL + PATIENCE < TERM);
}

#[tokio::test(start_paused = true)]
async fn a_free_lease_is_made_renewed_and_given_back() {
    let leases = Leases::default();
    beside(&leases, "one", async |leading| {
        leading.wait_for(|leads| *leads).await.unwrap();
        let spec = leases.spec();
        assert_eq!(spec["holderIdentity"], "one");
        assert_eq!(spec["leaseDurationSeconds"], 15);
        assert_eq!(spec["leaseTransitions"], 0);
        assert_eq!(spec["renewTime"], "2023-11-14T22:13:20.000000Z");
        tokio::time::sleep(Duration::from_secs(62)).await;
        assert!(*leading.borrow());
        assert_eq!(leases.state.lock().unwrap().1, 13, "one write in 5 s");
    })
    .await;
    let spec = leases.spec();
    assert_eq!(spec["holderIdentity"], Value::Null);
    assert_eq!(spec["leaseDurationSeconds"], 1);
}

#[tokio::test(start_paused = true)]
async fn what_only_the_leader_does_begins_with_each_term_and_ends_with_it() {
    let (leads, mut leading) = watch::channel(false);
    let begun = Mutex::new(0);
    let work = || async {
        *begun.lock().unwrap() += 1;
        std::future::pending::<()>().await;
    };
    for round in 1..3 {
        leads.send_replace(false);
        let told = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(*begun.lock().unwrap(), round - 1);
            leads.send_replace(true);
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(*begun.lock().unwrap(), round);
            leads.send_replace(false);
        };
        let ((), again) = futures::future::join(told, term(&mut leading, work)).await;
        assert!(again);
    }
    drop(leads);
    assert!(!term(&mut leading, work).await);
}

#[tokio::test(start_paused = true)]
async fn a_term_is_the_last_if_nobody_says_any_more_that_it_goes_on() {
    let (leads, mut leading) = watch::channel(true);
    let told = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(leads);
    };
    let during = term(&mut leading, std::future::pending::<()>);
    let ((), again) = futures::future::join(told, during).await;
    assert!(!again);
    // The last word was that this replica leads.
    assert!(*leading.borrow());
    assert!(!term(&mut leading, std::future::pending::<()>).await);
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_dead_holder_is_taken_when_it_has_been_silent_for_its_duration() {
    let leases = Leases::default();
    leases.hold("dead");
    beside(&leases, "two", async |leading| {
        let began = Instant::now();
        leading.wait_for(|leads| *leads).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(15) + aside("two"));
        let spec = leases.spec();
        assert_eq!(spec["holderIdentity"], "two");
        assert_eq!(spec["leaseTransitions"], 4);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_dies_right_after_a_look_is_replaced_one_look_and_its_duration_later() {
    let leases = Leases::default();
    leases.hold("dead");
    beside(&leases, "two", async |leading| {
        tokio::time::sleep(Duration::from_millis(1)).await;
        leases.hold("dead");
        let began = Instant::now();
        leading.wait_for(|leads| *leads).await.unwrap();
        let silent = RETRY + Duration::from_secs(15);
        assert_eq!(
            began.elapsed() + Duration::from_millis(1),
            silent + aside("two")
        );
        // What is left of 20 s is for what is read and written before the first grant.
        assert!(began.elapsed() < Duration::from_millis(17_100));
    })
    .await;
}

#[test]
fn replicas_look_some_milliseconds_apart() {
    let names: Vec<String> = (0..100).map(|it| format!("controller-{it}_1")).collect();
    let apart: std::collections::BTreeSet<Duration> =
        names.iter().map(|name| aside(name)).collect();
    let millis = Duration::from_millis;
    assert!(apart.len() > 10, "{apart:?}");
    assert!(apart.iter().all(|it| (millis(1)..=millis(20)).contains(it)));
}

#[tokio::test(start_paused = true)]
async fn a_living_holder_is_never_disturbed() {
    let leases = Leases::default();
    leases.hold("other");
    beside(&leases, "two", async |leading| {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            leases.hold("other");
            assert!(!*leading.borrow());
        }
    })
    .await;
    assert_eq!(leases.spec()["holderIdentity"], "other");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_before_others_may_begin() {
    let leases = Leases::default();
    beside(&leases, "one", async |leading| {
        leading.wait_for(|leads| *leads).await.unwrap();
        leases.go_down(true);
        let began = Instant::now();
        leading.wait_for(|leads| !*leads).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 10);
        leases.go_down(false);
        leading.wait_for(|leads| *leads).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_else_has_taken_is_lost_at_the_next_look() {
    let leases = Leases::default();
    beside(&leases, "one", async |leading| {
        leading.wait_for(|leads| *leads).await.unwrap();
        leases.hold("other");
        let began = Instant::now();
        leading.wait_for(|leads| !*leads).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 5);
    })
    .await;
    assert_eq!(leases.spec()["holderIdentity"], "other");
}

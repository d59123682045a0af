//! Which labels are known, and whom the API server is asked about.

use std::time::SystemTime;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tonnage_cache::clock::ManualClock;
use tower_test::mock::{Handle, pair};

use super::*;
use crate::egress::policy::DefaultEgress;

type Server = Handle<Request<Body>, Response<Body>>;

fn labels(tier: &str) -> Labels {
    Arc::new(BTreeMap::from([("tier".to_owned(), tier.to_owned())]))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn policy(namespaces: &Value, staleness: u64) -> Compiled {
    Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"namespaces": namespaces, "maxStalenessSeconds": staleness},
    }))
}

#[test]
fn the_labels_that_were_asked_for_last_hold_as_long_as_somebody_waits() {
    let mut known = Known::default();
    known.meet("a", &labels("gold"), seconds(100));
    assert_eq!(known.now().get("a"), Some(&labels("gold")));
    known.learn("a", Some(&labels("iron")), seconds(110));
    // What another pod brings may be a minute old.
    known.meet("a", &labels("gold"), seconds(120));
    assert_eq!(known.now().get("a"), Some(&labels("iron")));
    known.meet("a", &labels("tin"), seconds(200));
    assert_eq!(known.now().get("a"), Some(&labels("tin")));
    // An answer to an older question.
    known.learn("a", Some(&labels("iron")), seconds(130));
    assert_eq!(known.now().get("a"), Some(&labels("tin")));
    for _ in 0..2 {
        known.part("a");
        assert!(known.now().contains_key("a"));
    }
    known.part("a");
    assert!(known.now().is_empty());
    known.learn("a", Some(&labels("gold")), seconds(300));
    assert!(known.now().is_empty());
}

#[test]
fn equal_labels_stay_the_same_ones() {
    let mut known = Known::default();
    let first = labels("gold");
    known.meet("a", &first, seconds(100));
    known.learn("a", Some(&labels("gold")), seconds(200));
    assert!(
        known
            .now()
            .get("a")
            .is_some_and(|it| Arc::ptr_eq(it, &first))
    );
}

#[test]
fn whoever_brought_labels_a_minute_old_is_asked_about_that_much_sooner() {
    let mut known = Known::default();
    known.meet("b", &labels("gold"), seconds(1_000));
    known.meet("a", &labels("gold"), seconds(1_010));
    let due = |known: &Known, now| known.due(seconds(100), seconds(now));
    assert!(due(&known, 1_039).is_empty());
    assert_eq!(due(&known, 1_040), ["b"]);
    assert_eq!(due(&known, 1_050), ["a", "b"]);
    known.learn("b", None, seconds(1_050));
    assert_eq!(due(&known, 1_149), ["a"]);
}

#[test]
fn labels_are_asked_for_as_often_as_the_strictest_policy_needs_and_only_if_one_selects_by_them() {
    let named = json!({"names": ["a"]});
    let labelled = json!({"matchLabels": {"tier": "gold"}});
    let of = |policies: &[Compiled]| age(policies.iter());
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[policy(&named, 60)]), None);
    assert_eq!(of(&[policy(&labelled, 1_800)]), Some(seconds(300)));
    assert_eq!(
        of(&[policy(&labelled, 1_800), policy(&named, 240)]),
        Some(seconds(80))
    );
    assert_eq!(of(&[policy(&labelled, 1)]), Some(seconds(20)));
}

/// A node whose rules select by labels, ten minutes after its start, and its API server.
struct Site {
    client: kube::Client,
    server: Server,
    clock: Arc<ManualClock>,
    rulebook: Rulebook,
}

impl Site {
    fn new() -> Self {
        let (service, server) = pair();
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
        let rulebook = Rulebook::new(DefaultEgress::Allow, Arc::clone(&clock) as _);
        let labelled = json!({"matchLabels": {"tier": "gold"}});
        rulebook.replace(vec![policy(&labelled, 60)], Duration::ZERO);
        clock.advance(seconds(600));
        Self {
            client: kube::Client::new(service, "tonnage"),
            server,
            clock,
            rulebook,
        }
    }
}

/// Answers the next request, and says what it was.
async fn answer(server: &mut Server, status: u16, body: &Value) -> String {
    let (request, respond) = server.next_request().await.unwrap();
    let response = Response::builder().status(status);
    let body = Body::from(body.to_string().into_bytes());
    respond.send_response(response.body(body).unwrap());
    request.uri().path().to_owned()
}

fn namespace(tier: &str) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": {"name": "a", "labels": {"tier": tier}},
    })
}

fn failure(code: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "no", "reason": "No", "code": code})
}

#[tokio::test(start_paused = true)]
async fn a_label_that_changes_is_known_in_the_middle_of_a_load_and_nobody_else_is_asked_about() {
    let Site {
        client,
        mut server,
        clock,
        rulebook,
    } = Site::new();
    let interest = rulebook.meet("a", &labels("iron"));
    let tier = || rulebook.snapshot().labels_of("a").cloned();
    let stop = CancellationToken::new();
    let story = async {
        // It may have been read a minute ago.
        assert_eq!(
            answer(&mut server, 200, &namespace("iron")).await,
            "/api/v1/namespaces/a"
        );
        clock.advance(seconds(20));
        answer(&mut server, 200, &namespace("gold")).await;
        while tier() != Some(labels("gold")) {
            tokio::task::yield_now().await;
        }
        // Neither an error nor the end of the namespace changes what is known.
        for code in [403, 404] {
            clock.advance(seconds(20));
            answer(&mut server, code, &failure(code)).await;
        }
        clock.advance(seconds(20));
        answer(&mut server, 200, &namespace("gold")).await;
        assert_eq!(tier(), Some(labels("gold")));
        drop(interest);
        clock.advance(seconds(600));
        let silence = tokio::time::timeout(seconds(600), server.next_request()).await;
        assert!(
            silence.is_err(),
            "it is asked about a namespace that nobody waits for"
        );
        stop.cancel();
    };
    let asking = run(client, rulebook.clone(), stop.clone());
    futures::future::join(asking, story).await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_cannot_be_read_keeps_nobody_else_s_labels_old() {
    let Site {
        client,
        mut server,
        rulebook,
        ..
    } = Site::new();
    let _interests = ["a", "b"].map(|name| rulebook.meet(name, &labels("gold")));
    let stop = CancellationToken::new();
    let story = async {
        let begun = tokio::time::Instant::now();
        let path = answer(&mut server, 403, &failure(403)).await;
        assert_eq!(path, "/api/v1/namespaces/a");
        // Its label was taken away.
        let path = answer(&mut server, 200, &namespace("iron")).await;
        assert_eq!(path, "/api/v1/namespaces/b");
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let tier = || rulebook.snapshot().labels_of("b").cloned();
        while tier() != Some(labels("iron")) {
            tokio::task::yield_now().await;
        }
        // The one that failed is asked about again, after a pause.
        let path = answer(&mut server, 200, &namespace("gold")).await;
        assert_eq!(path, "/api/v1/namespaces/a");
        assert_eq!(begun.elapsed(), PATIENCE);
        stop.cancel();
    };
    let asking = run(client, rulebook.clone(), stop.clone());
    futures::future::join(asking, story).await;
}

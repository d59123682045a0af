//! The watch against a scripted API server.

use std::collections::BTreeSet;
use std::time::SystemTime;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::Instant;
use tonnage_cache::clock::ManualClock;
use tower_test::mock::{Handle, SendResponse, pair};

use super::*;
use crate::egress::policy::DefaultEgress;

type Server = Handle<Request<Body>, Response<Body>>;
type Respond = SendResponse<Response<Body>>;

const POLICIES: &str = "/apis/tonnage.dev/v1alpha1/egresspolicies";

fn policy(name: &str, version: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": name, "uid": name, "generation": 1, "resourceVersion": version},
        "spec": spec,
    })
}

fn open() -> Value {
    json!({"namespaces": {}, "allow": [{}]})
}

fn list(items: &[Value]) -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicyList",
        "metadata": {"resourceVersion": "7"},
        "items": items,
    })
}

fn failure(code: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "no", "reason": "No", "code": code})
}

fn bookmark(version: &str) -> Value {
    json!({"type": "BOOKMARK", "object": {"apiVersion": "tonnage.dev/v1alpha1", "kind": "EgressPolicy", "metadata": {"resourceVersion": version}}})
}

/// Answers the next request, and says what it was.
async fn answer(server: &mut Server, status: u16, body: String) -> String {
    let (request, respond) = server.next_request().await.unwrap();
    send(respond, status, body);
    let query = request.uri().query().unwrap_or_default();
    format!("{}?{query}", request.uri().path())
}

fn send(respond: Respond, status: u16, body: String) {
    let response = Response::builder().status(status);
    respond.send_response(response.body(Body::from(body.into_bytes())).unwrap());
}

/// Lets everything that has been answered be taken in, while time stands still.
async fn quiet() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Runs `story` beside a watch.
async fn beside(story: impl AsyncFnOnce(&mut Server, &Rulebook, &ManualClock)) {
    let (service, mut server) = pair();
    let client = kube::Client::new(service, "tonnage");
    let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
    let rulebook = Rulebook::new(DefaultEgress::Allow, Arc::clone(&clock) as _);
    let stop = CancellationToken::new();
    let watching = run(
        client,
        rulebook.clone(),
        Arc::clone(&clock) as _,
        stop.clone(),
    );
    let told = async {
        story(&mut server, &rulebook, &clock).await;
        stop.cancel();
    };
    futures::future::join(watching, told).await;
}

fn names(rulebook: &Rulebook) -> Vec<String> {
    let policies = rulebook.snapshot().policies;
    policies.iter().map(|policy| policy.name.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn changes_are_followed_and_bookmarks_prove_that_there_are_none() {
    beside(async |server, rulebook, clock| {
        let all = list(&[policy("b", "5", &open())]).to_string();
        let asked = answer(server, 200, all).await;
        assert!(
            asked.starts_with(POLICIES) && !asked.contains("watch="),
            "{asked}"
        );
        quiet().await;
        assert_eq!(names(rulebook), ["b"]);
        clock.advance(Duration::from_secs(50));
        assert_eq!(rulebook.snapshot().age, Some(Duration::from_secs(50)));
        let events = [
            json!({"type": "ADDED", "object": policy("a", "8", &open())}),
            json!({"type": "DELETED", "object": policy("b", "9", &open())}),
        ];
        let events = events.map(|event| format!("{event}\n")).concat();
        let asked = answer(server, 200, events).await;
        for part in [
            "watch=true",
            "resourceVersion=7",
            "allowWatchBookmarks=true",
            "timeoutSeconds=290",
        ] {
            assert!(asked.contains(part), "{asked}");
        }
        quiet().await;
        assert_eq!(names(rulebook), ["a"]);
        assert_eq!(rulebook.snapshot().age, Some(Duration::ZERO));
        clock.advance(Duration::from_secs(9));
        let asked = answer(server, 200, format!("{}\n", bookmark("12"))).await;
        assert!(asked.contains("resourceVersion=9"), "{asked}");
        quiet().await;
        assert_eq!(rulebook.snapshot().age, Some(Duration::ZERO));
        let asked = answer(server, 500, failure(500).to_string()).await;
        assert!(asked.contains("resourceVersion=12"), "{asked}");
        assert_eq!(names(rulebook), ["a"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_too_long_for_a_policy_that_it_brings_is_ended() {
    beside(async |server, rulebook, _| {
        let long = policy("long", "5", &open());
        answer(server, 200, list(&[long]).to_string()).await;
        let strict = json!({"namespaces": {}, "maxStalenessSeconds": 90});
        let events = [
            json!({"type": "ADDED", "object": policy("strict", "8", &strict)}),
            // The next watch brings it.
            json!({"type": "DELETED", "object": policy("long", "9", &open())}),
        ];
        let events = events.map(|event| format!("{event}\n")).concat();
        let asked = answer(server, 200, events).await;
        assert!(asked.contains("timeoutSeconds=290"), "{asked}");
        let asked = answer(server, 200, format!("{}\n", bookmark("9"))).await;
        for part in ["watch=true", "resourceVersion=8", "timeoutSeconds=30"] {
            assert!(asked.contains(part), "{asked}");
        }
        assert_eq!(names(rulebook), ["long", "strict"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_has_happened_too_long_ago_is_listed_again() {
    beside(async |server, rulebook, _| {
        answer(server, 200, list(&[policy("a", "5", &open())]).to_string()).await;
        let gone = json!({"type": "ERROR", "object": failure(410)});
        answer(server, 200, format!("{gone}\n")).await;
        let asked = answer(server, 200, list(&[]).to_string()).await;
        assert!(!asked.contains("watch="), "{asked}");
        quiet().await;
        assert_eq!(names(rulebook), [""; 0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_nobody_understands_is_there_and_strict() {
    beside(async |server, rulebook, _| {
        let odd = policy(
            "odd",
            "5",
            &json!({"namespaces": {"names": ["team-a"]}, "allow": 7}),
        );
        answer(server, 200, list(&[odd]).to_string()).await;
        quiet().await;
        let policies = rulebook.snapshot().policies;
        assert!(policies[0].rules().is_err());
        assert!(policies[0].selects("team-a", &BTreeMap::new()));
        assert!(!policies[0].selects("team-b", &BTreeMap::new()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_refuses_or_does_not_know_the_resource_says_nothing_about_the_rules() {
    beside(async |server, rulebook, _| {
        for code in [403, 404] {
            answer(server, code, failure(code).to_string()).await;
            quiet().await;
            assert_eq!(rulebook.snapshot().age, None);
        }
        answer(server, 200, list(&[]).to_string()).await;
        quiet().await;
        assert_eq!(rulebook.snapshot().age, Some(Duration::ZERO));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_back_is_asked_within_ten_seconds() {
    beside(async |server, rulebook, _| {
        for _ in 0..20 {
            let asked = Instant::now();
            answer(server, 403, failure(403).to_string()).await;
            assert!(asked.elapsed() <= Duration::from_secs(10));
        }
        answer(server, 200, list(&[]).to_string()).await;
        quiet().await;
        assert_eq!(rulebook.snapshot().age, Some(Duration::ZERO));
    })
    .await;
}

const HOUR: Duration = Duration::from_hours(1);
/// Longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(10);

/// What an API server that is away does about requests.
#[derive(Debug, Clone, Copy)]
enum Outage {
    /// It refuses them at once.
    Refuses,
    /// It never answers.
    Silent,
}

impl Outage {
    /// How long a request lasts.
    fn lasts(self) -> Duration {
        match self {
            Self::Refuses => Duration::ZERO,
            Self::Silent => Duration::from_secs(30),
        }
    }

    /// An hour of it. Returns when requests came, from its beginning, and what is still to be answered.
    async fn endure(self, server: &mut Server) -> (Vec<Duration>, Vec<Respond>) {
        let began = Instant::now();
        let (mut asked, mut unanswered) = (Vec::new(), Vec::new());
        while let Ok(next) = tokio::time::timeout_at(began + HOUR, server.next_request()).await {
            let (_, respond) = next.unwrap();
            asked.push(began.elapsed());
            match self {
                Self::Refuses => send(respond, 503, failure(503).to_string()),
                Self::Silent => unanswered.push(respond),
            }
        }
        (asked, unanswered)
    }
}

/// A watch that has read the rules, the hour, and what comes after it. Returns when it asked during the hour.
async fn outlast(outage: Outage) -> Vec<Duration> {
    let mut moments = Vec::new();
    beside(async |server, rulebook, clock| {
        let old = policy("old", "5", &open());
        answer(server, 200, list(&[old]).to_string()).await;
        quiet().await;
        let (asked, _unanswered) = outage.endure(server).await;
        moments.extend(asked);
        clock.advance(HOUR);
        assert_eq!(names(rulebook), ["old"]);
        assert_eq!(rulebook.snapshot().age, Some(HOUR));
        let back = Instant::now();
        // What has happened meanwhile is not known any more.
        let gone = json!({"type": "ERROR", "object": failure(410)});
        let asked = answer(server, 200, format!("{gone}\n")).await;
        assert!(asked.contains("watch=true"), "{asked}");
        assert!(back.elapsed() <= outage.lasts() + LONGEST);
        let answered = Instant::now();
        let new = policy("new", "9", &open());
        let asked = answer(server, 200, list(&[new]).to_string()).await;
        assert!(!asked.contains("watch="), "{asked}");
        assert!(answered.elapsed() <= LONGEST);
        quiet().await;
        assert_eq!(names(rulebook), ["new"]);
        assert_eq!(rulebook.snapshot().age, Some(Duration::ZERO));
    })
    .await;
    moments
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_an_api_server_is_asked_through_steadily_and_apart_and_ends_soon() {
    for outage in [Outage::Refuses, Outage::Silent] {
        let (one, other) = (outlast(outage), outlast(outage));
        let (one, other) = futures::future::join(Box::pin(one), Box::pin(other)).await;
        for asked in [&one, &other] {
            let requests = asked.len();
            assert!((90..=900).contains(&requests), "{outage:?} {requests}");
            // The first pauses are shorter.
            let pairs = asked.windows(2).skip(3);
            let pauses: Vec<Duration> = pairs
                .map(|pair| {
                    let answered = pair[0].saturating_add(outage.lasts());
                    pair[1].saturating_sub(answered)
                })
                .collect();
            for pause in &pauses {
                let bounds = Duration::from_secs(5)..=LONGEST;
                assert!(bounds.contains(pause), "{outage:?} {pause:?}");
            }
            let different: BTreeSet<&Duration> = pauses.iter().collect();
            assert!(different.len() * 2 > pauses.len(), "{outage:?} {pauses:?}");
        }
        let theirs: BTreeSet<&Duration> = other.iter().collect();
        let together = one.iter().filter(|at| theirs.contains(at)).count();
        // The first request comes at the beginning.
        assert!(together * 10 < one.len(), "{outage:?} {together}");
    }
}

#[test]
fn watches_are_as_short_as_the_strictest_policy_needs() {
    let of = |seconds: &[i64]| {
        let policies: Vec<Compiled> = seconds
            .iter()
            .map(|seconds| {
                let spec = json!({"namespaces": {}, "maxStalenessSeconds": seconds});
                Compiled::from_json(&policy("p", "1", &spec))
            })
            .collect();
        watch_seconds(policies.iter())
    };
    assert_eq!(of(&[]), 290);
    assert_eq!(of(&[1800]), 290);
    assert_eq!(of(&[1800, 300]), 100);
    assert_eq!(of(&[60]), 20);
    assert_eq!(of(&[1]), 20);
}

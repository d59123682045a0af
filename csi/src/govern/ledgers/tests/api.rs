//! The loop against an API server that remembers what it was asked.

use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use http::{Request, Response};
use kube::client::Body;
use tokio::sync::watch;
use tonnage_cache::clock::ManualClock;
use tower_test::mock::{Handle, SendResponse, pair};

use super::*;

type Server = Handle<Request<Body>, Response<Body>>;

pub(super) const GROUP: &str = "/apis/tonnage.dev/v1alpha1";
const BUDGET: &str = "/apis/tonnage.dev/v1alpha1/egressbudgets/research.daily.team-a";

/// What was asked: method and path, and the body.
pub(super) type Asked = Vec<(String, Value)>;

/// What comes of a request.
pub(super) enum Reply {
    /// An answer.
    Is(u16, Value),
    /// An answer, and then a node's object that is new.
    IsAndThen(u16, Value, Value),
    /// Nothing, ever.
    Never,
}

impl From<(u16, Value)> for Reply {
    fn from((status, body): (u16, Value)) -> Self {
        Self::Is(status, body)
    }
}

pub(super) fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": code});
    (code, status)
}

pub(super) fn list(kind: &str, items: &[Value]) -> (u16, Value) {
    let list = json!({
        "apiVersion": "v1",
        "kind": format!("{kind}List"),
        "metadata": {"resourceVersion": "10"},
        "items": items,
    });
    (200, list)
}

pub(super) fn lease() -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressLease",
        "metadata": {"name": "node-1", "resourceVersion": "5", "uid": "l"},
        "spec": {
            "incarnation": "00000000000000ff",
            "demands": [{"policyUid": UID, "budget": "daily", "namespace": "team-a", "seq": 1, "wantedBytes": GIB, "spentBytes": 0}],
        },
    })
}

/// The object that a request brings, at a version, as it is answered.
fn at(mut object: Value, version: &str) -> (u16, Value) {
    object["metadata"]["resourceVersion"] = json!(version);
    object["metadata"]["uid"] = json!("b");
    (200, object)
}

/// Answers as an API server with one policy, one namespace and one node that asks.
pub(super) fn answer(question: &str, body: &Value) -> (u16, Value) {
    let (method, path) = question.split_once(' ').unwrap();
    match (method, path) {
        ("GET", "/api/v1/namespaces") => {
            let object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "team-a"}});
            list("PartialObjectMetadata", &[object])
        }
        ("GET", path) if path == format!("{GROUP}/egresspolicies") => {
            list("EgressPolicy", &[policy("100Gi")])
        }
        ("GET", path) if path == format!("{GROUP}/egressbudgets") => list("EgressBudget", &[]),
        ("GET", path) if path == format!("{GROUP}/egressleases") => list("EgressLease", &[lease()]),
        ("POST", _) => at(body.clone(), "11"),
        ("PUT", path) if path == format!("{BUDGET}/status") => at(body.clone(), "12"),
        ("PUT", _) => at(body.clone(), "13"),
        ("PATCH", _) => (200, policy("100Gi")),
        (method, path) => panic!("{method} {path}"),
    }
}

async fn serve<R: Into<Reply>>(
    mut server: Server,
    asked: &Mutex<Asked>,
    mut answer: impl FnMut(&str, &Value) -> R,
) {
    let mut open = Vec::new();
    let mut leases = None;
    while let Some((request, respond)) = server.next_request().await {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default();
        if query.contains("watch=") {
            if parts.uri.path().ends_with("/egressleases") {
                leases = Some(respond);
            } else {
                open.push(respond);
            }
            continue;
        }
        let question = format!("{} {}", parts.method, parts.uri.path());
        let sent = body.collect_bytes().await.unwrap();
        let sent: Value = serde_json::from_slice(&sent).unwrap_or_default();
        let reply: Reply = answer(&question, &sent).into();
        if parts.method != "GET" || question.contains(BUDGET) {
            asked.lock().unwrap().push((question, sent));
        }
        let (status, body) = match reply {
            Reply::Is(status, body) => (status, body),
            Reply::IsAndThen(status, body, object) => {
                let event = json!({"type": "ADDED", "object": object});
                send(leases.take().unwrap(), 200, &event);
                (status, body)
            }
            Reply::Never => {
                open.push(respond);
                continue;
            }
        };
        send(respond, status, &body);
    }
}

fn send(respond: SendResponse<Response<Body>>, status: u16, body: &Value) {
    let body = Body::from(format!("{body}\n").into_bytes());
    respond.send_response(Response::builder().status(status).body(body).unwrap());
}

/// Runs the loop as leader for so many seconds and says what it wrote, and the last figures.
pub(super) async fn lead<R: Into<Reply>>(
    seconds: u64,
    answer: impl FnMut(&str, &Value) -> R,
) -> (Asked, Vec<BudgetFigure>) {
    lead_audited(seconds, Audit::to(std::io::sink()), answer).await
}

async fn lead_audited<R: Into<Reply>>(
    seconds: u64,
    audit: Audit,
    answer: impl FnMut(&str, &Value) -> R,
) -> (Asked, Vec<BudgetFigure>) {
    let (service, server) = pair::<Request<Body>, Response<Body>>();
    let (leads, leading) = watch::channel(true);
    let (figures, told) = watch::channel(Vec::new());
    let parts = Parts {
        client: kube::Client::new(service, "tonnage"),
        leading,
        audit,
        figures,
        clock: Arc::new(ManualClock::at(
            UNIX_EPOCH + Duration::from_secs(1_795_751_063),
        )),
    };
    let asked = Mutex::new(Vec::new());
    let stop = CancellationToken::new();
    let story = async {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let last = told.borrow().clone();
        leads.send_replace(false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(told.borrow().is_empty(), "figures of who does not lead");
        stop.cancel();
        last
    };
    let both = futures::future::join(Box::pin(run(parts, stop.clone())), story);
    let ((), last) = tokio::select! {
        told = both => told,
        () = serve(server, &asked, answer) => unreachable!(),
    };
    (asked.into_inner().unwrap(), last)
}

pub(super) fn questions(asked: &Asked) -> Vec<&str> {
    let questions = asked.iter();
    questions.map(|(question, _)| question.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_demand_is_answered_in_the_order_that_holds_and_then_nothing_is_written() {
    let (asked, figures) = lead(600, answer).await;
    let policies = format!("PATCH {GROUP}/egresspolicies/research/status");
    assert_eq!(
        questions(&asked),
        [
            format!("POST {GROUP}/egressbudgets").as_str(),
            format!("PUT {BUDGET}/status").as_str(),
            format!("PUT {GROUP}/egressleases/node-1/status").as_str(),
            policies.as_str(),
        ]
    );
    let (_, made) = &asked[0];
    assert_eq!(made["metadata"]["name"], "research.daily.team-a");
    let owner = &made["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"]),
        (&json!("EgressPolicy"), &json!(UID))
    );
    let (_, ledger) = &asked[1];
    assert_eq!(ledger["metadata"]["resourceVersion"], "11");
    assert_eq!(ledger["status"]["outstanding"][0]["node"], "node-1");
    assert_eq!(ledger["status"]["outstandingBytes"], GIB);
    let (_, granted) = &asked[2];
    assert_eq!(granted["metadata"]["resourceVersion"], "5");
    assert_eq!(granted["status"]["grants"][0]["bytes"], GIB);
    let (_, said) = &asked[3];
    assert_eq!(said["metadata"]["uid"], UID);
    assert_eq!(said["status"]["conditions"][0]["reason"], "InForce");
    assert_eq!(figures[0].used_bytes, GIB);
}

#[tokio::test(start_paused = true)]
async fn the_first_turn_is_taken_at_the_moment_at_which_everything_is_read() {
    let began = tokio::time::Instant::now();
    let mut first = None;
    lead(5, |question, body| {
        if question.starts_with("POST") {
            first.get_or_insert_with(|| began.elapsed());
        }
        answer(question, body)
    })
    .await;
    assert_eq!(first, Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn ledgers_are_not_kept_any_more_once_nobody_says_who_leads() {
    let (service, _server) = pair::<Request<Body>, Response<Body>>();
    let (leads, leading) = watch::channel(true);
    drop(leads);
    let figure = BudgetFigure {
        policy: "research".to_owned(),
        budget: "daily".to_owned(),
        namespace: None,
        limit_bytes: 1,
        used_bytes: 1,
    };
    let (figures, told) = watch::channel(vec![figure]);
    let parts = Parts {
        client: kube::Client::new(service, "tonnage"),
        leading,
        audit: Audit::to(std::io::sink()),
        figures,
        clock: Arc::new(ManualClock::at(UNIX_EPOCH)),
    };
    run(parts, CancellationToken::new()).await;
    assert!(told.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_somebody_else_wrote_is_read_again_before_anything_is_granted() {
    let mut puts = 0;
    let (asked, _) = lead(30, |question, body| {
        if question == format!("PUT {BUDGET}/status") {
            puts += 1;
            if puts == 1 {
                return failure(409, "Conflict");
            }
        }
        if question == format!("GET {BUDGET}") {
            // The other leader has granted all of it to somebody else.
            let theirs = json!({
                "apiVersion": "tonnage.dev/v1alpha1",
                "kind": "EgressBudget",
                "metadata": {"name": "research.daily.team-a"},
                "spec": {"policy": "research", "policyUid": UID, "budget": "daily", "namespace": "team-a"},
                "status": {
                    "limitBytes": 100 * GIB,
                    "asOf": 1_795_751_063,
                    "outstanding": [{"node": "node-2", "incarnation": "1", "seq": 4, "bytes": 100 * GIB, "durationSeconds": 900, "until": 0}],
                },
            });
            return at(theirs, "20");
        }
        answer(question, body)
    })
    .await;
    let lease = format!("PUT {GROUP}/egressleases/node-1/status");
    let told = asked.iter().find(|(question, _)| *question == lease);
    let grant = &told.unwrap().1["status"]["grants"][0];
    assert_eq!(grant["bytes"], 0);
    let message = grant["message"].as_str().unwrap();
    assert!(message.contains("has 0 B of 100.0 GiB left"), "{message}");
    assert_eq!(puts, 1, "nothing new is in the ledger");
}

/// A budget of which nobody knows whether it was written: who reads it finds it `as_written` or as another has written it. Says what
/// the audit log has of grants, and how often the ledger was written.
async fn in_doubt(as_written: bool) -> (Vec<u64>, usize) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut written: Vec<Value> = Vec::new();
    let audit = Audit::to_file(file.path()).unwrap();
    lead_audited(30, audit, |question, body| -> Reply {
        if question == format!("PUT {BUDGET}/status") {
            written.push(body.clone());
            match written.len() {
                1 => return Reply::Never,
                2 => return failure(409, "Conflict").into(),
                _ => {}
            }
        }
        if question == format!("GET {BUDGET}") {
            let mut newest = written[0].clone();
            if !as_written {
                newest["status"] = json!({"limitBytes": 100 * GIB, "asOf": 1_795_751_063});
            }
            return at(newest, "12").into();
        }
        answer(question, body).into()
    })
    .await;
    let log = std::fs::read_to_string(file.path()).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let grants = lines.filter(|line: &Value| line["event"] == "Grant");
    let bytes = grants.map(|line| line["bytes"].as_u64().unwrap()).collect();
    (bytes, written.len())
}

#[tokio::test(start_paused = true)]
async fn what_was_written_without_an_answer_is_audited_once_it_is_read() {
    assert_eq!(in_doubt(true).await, (vec![GIB], 2));
}

#[tokio::test(start_paused = true)]
async fn what_was_not_written_is_audited_when_it_is() {
    assert_eq!(in_doubt(false).await, (vec![GIB], 3));
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_fails_it_is_asked_ever_more_seldom() {
    let (asked, _) = lead(60, |question, body| match question.split_once(' ') {
        Some(("POST" | "PUT" | "PATCH", _)) => failure(500, "InternalError"),
        Some(_) | None => answer(question, body),
    })
    .await;
    let posts = asked.iter().filter(|(it, _)| it.starts_with("POST"));
    let posts = posts.count();
    assert!((5..=10).contains(&posts), "{posts}");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_has_a_ledgers_name_and_is_none_is_left_alone() {
    let (asked, _) = lead(60, |question, body| {
        if question.starts_with("POST") {
            return failure(409, "AlreadyExists");
        }
        if question == format!("GET {BUDGET}") {
            let foreign = json!({"apiVersion": "tonnage.dev/v1alpha1", "kind": "EgressBudget", "metadata": {"name": "research.daily.team-a"}, "spec": {"mine": true}});
            return at(foreign, "20");
        }
        answer(question, body)
    })
    .await;
    let is_about_grants = |question: &&str| question.contains("egressleases");
    assert_eq!(questions(&asked).into_iter().find(is_about_grants), None);
    assert!(questions(&asked).iter().all(|it| !it.starts_with("DELETE")));
}

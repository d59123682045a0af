//! Surveys of pods beside a scripted API server.

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

fn volumes() -> Value {
    let volume = |name: &str, driver: &str, claim: &Value| json!({"metadata": {"name": name}, "spec": {"csi": {"driver": driver, "volumeHandle": name}, "claimRef": claim}});
    json!([
        volume("ours", DRIVER_NAME, &json!({"namespace": "a", "name": "weights"})),
        volume("generic", DRIVER_NAME, &json!({"namespace": "a", "name": "job-model"})),
        volume("free", DRIVER_NAME, &Value::Null),
        volume("other", "other.example.com", &json!({"namespace": "a", "name": "disk"})),
        {"metadata": {"name": "local"}, "spec": {"hostPath": {"path": "/x"}}},
    ])
}

fn pod(name: &str, volume: &Value) -> Value {
    json!({
        "metadata": {"namespace": "a", "name": name},
        "spec": {"nodeName": "node-1", "containers": [], "volumes": [volume]},
        "status": {"phase": "Running"},
    })
}

fn with(mut pod: Value, part: &str, value: &Value) -> Value {
    let (parent, key) = part.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap()[key] = value.clone();
    pod
}

fn inline() -> Value {
    json!({"name": "model", "csi": {"driver": DRIVER_NAME}})
}

fn claimed(claim: &str) -> Value {
    json!({"name": "model", "persistentVolumeClaim": {"claimName": claim}})
}

fn list(kind: &str, items: &Value, next: &str) -> (u16, Value) {
    let list =
        json!({"apiVersion": "v1", "kind": kind, "metadata": {"continue": next}, "items": items});
    (200, list)
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "status": "Failure", "message": "so it is", "reason": reason, "code": code});
    (code, status)
}

/// Asks beside an API server that gives these answers in turn, and says what it was asked.
async fn asked(wait: Duration, answers: Vec<(u16, Value)>) -> (Result<Code, Failure>, Vec<String>) {
    let (service, mut server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let client = Client::new(service, "default");
    let mut questions = Vec::new();
    let serve = async {
        for (status, body) in answers {
            let (request, respond) = server.next_request().await.unwrap();
            questions.push(format!("{} {}", request.method(), request.uri()));
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            respond.send_response(Response::builder().status(status).body(body).unwrap());
        }
        std::future::pending::<()>().await;
    };
    let console = Console::new(true);
    let verdict = tokio::select! {
        users = users_after(&client, wait, &console) => users.and_then(|users| judge(&users)),
        () = serve => unreachable!(),
    };
    (verdict, questions)
}

#[tokio::test(start_paused = true)]
async fn pods_that_use_a_volume_inline_by_claim_or_generically_are_named() {
    let pods = json!([
        pod("inline", &inline()),
        pod("claimed", &claimed("weights")),
        pod(
            "job",
            &json!({"name": "model", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}})
        ),
        pod(
            "elsewhere",
            &json!({"name": "x", "csi": {"driver": "other.example.com"}})
        ),
        pod("disk", &claimed("disk")),
        pod("plain", &json!({"name": "x", "emptyDir": {}})),
        with(
            pod("other-namespace", &claimed("weights")),
            "/metadata/namespace",
            &json!("b")
        ),
        with(pod("done", &inline()), "/status/phase", &json!("Succeeded")),
        with(pod("pending", &inline()), "/spec/nodeName", &Value::Null),
    ]);
    let answers = vec![
        list("PersistentVolumeList", &volumes(), ""),
        list("PodList", &pods, ""),
    ];
    let (verdict, questions) = asked(Duration::ZERO, answers).await;
    let failure = verdict.unwrap_err();
    assert_eq!(failure.code.number(), 1);
    assert_eq!(
        failure.to_string(),
        "tonnage: uninstall: 3 pods (a/inline, a/claimed, a/job) still use volumes of csi.tonnage.dev, which kubelet \
         cannot unmount without the driver; delete them first (helm uninstall --no-hooks does not ask, and then they stay \
         Terminating until the driver is installed again)"
    );
    assert_eq!(
        questions,
        [
            "GET /api/v1/persistentvolumes?&limit=500",
            "GET /api/v1/pods?&limit=500"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn all_pages_are_read() {
    let answers = vec![
        list("PersistentVolumeList", &json!([]), ""),
        list("PodList", &json!([pod("plain", &claimed("x"))]), "next"),
        list("PodList", &json!([pod("inline", &inline())]), ""),
    ];
    let (verdict, questions) = asked(Duration::ZERO, answers).await;
    assert!(
        verdict
            .unwrap_err()
            .to_string()
            .contains("1 pod (a/inline)")
    );
    assert_eq!(
        questions.last().unwrap(),
        "GET /api/v1/pods?&limit=500&continue=next"
    );
}

#[tokio::test(start_paused = true)]
async fn pods_that_are_being_deleted_are_waited_for() {
    let leaving = with(
        pod("inline", &inline()),
        "/metadata/deletionTimestamp",
        &json!("2026-01-01T00:00:00Z"),
    );
    let none = || list("PersistentVolumeList", &json!([]), "");
    let answers = vec![
        none(),
        list("PodList", &json!([leaving]), ""),
        none(),
        list("PodList", &json!([]), ""),
    ];
    let minute = Duration::from_mins(1);
    assert_eq!(asked(minute, answers).await.0.unwrap(), Code::Done);
    let answers = vec![none(), list("PodList", &json!([leaving]), "")];
    let failure = asked(Duration::ZERO, answers).await.0.unwrap_err();
    assert!(failure.to_string().contains("a/inline"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_is_asked_again_and_one_that_refuses_is_not() {
    let none = |kind: &str| list(kind, &json!([]), "");
    let answers = vec![
        refusal(503, "ServiceUnavailable"),
        none("PersistentVolumeList"),
        none("PodList"),
    ];
    let minute = Duration::from_mins(1);
    assert_eq!(asked(minute, answers).await.0.unwrap(), Code::Done);
    let failure = asked(minute, vec![refusal(403, "Forbidden")]).await.0;
    assert_eq!(failure.unwrap_err().code, Code::Denied);
    let failure = asked(minute, Vec::new()).await.0.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "tonnage: ask the API server which pods use volumes: it does not answer; try again, or uninstall with --no-hooks"
    );
}

#[test]
fn a_sentence_names_ten_pods_and_counts_the_rest() {
    let users: Vec<User> = (0..12)
        .map(|number| User {
            name: Name {
                namespace: "a".to_owned(),
                name: format!("p{number}"),
            },
            leaves: false,
        })
        .collect();
    let text = listed(&users);
    assert!(text.starts_with("12 pods (a/p0, a/p1, "), "{text}");
    assert!(text.ends_with("a/p9, and 2 more)"), "{text}");
}

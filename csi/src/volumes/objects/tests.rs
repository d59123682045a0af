//! Volume objects against a scripted API server.

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tonnage_cache::digest::Digest;
use tonnage_cache::error::Kind;
use tower_test::mock::Handle;

use super::*;

type Server = Handle<Request<Body>, Response<Body>>;

const VOLUMES: &str = "/apis/tonnage.dev/v1alpha1/volumes";

fn records() -> (VolumeObjects, Server) {
    let (service, server) = tower_test::mock::pair();
    (
        VolumeObjects::new(kube::Client::new(service, "tonnage")),
        server,
    )
}

fn volume(path: &str) -> Volume {
    Volume {
        name: "pvc-1".to_owned(),
        attributes: Attributes {
            source: "models".to_owned(),
            path: path.to_owned(),
            revision: Some(Digest::of(b"r")),
            limit_bytes: Some(1 << 30),
            ..Attributes::default()
        },
        capacity_bytes: 1 << 30,
        claim: Some(Claim {
            namespace: "team".to_owned(),
            name: "llama".to_owned(),
        }),
    }
}

fn id() -> VolumeId {
    VolumeId::parse(&volume("a").id()).unwrap()
}

fn stored(volume: &Volume) -> Value {
    serde_json::to_value(object_of(volume)).unwrap()
}

fn refusal(code: u16, reason: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "message": "it says so",
        "reason": reason,
        "code": code,
    })
}

/// Answers the next request; returns its method and path, and what it carried.
async fn answer(server: &mut Server, status: u16, body: &Value) -> (String, Value) {
    let (request, respond) = server.next_request().await.unwrap();
    let line = format!("{} {}", request.method(), request.uri().path());
    let sent = request.into_body().collect_bytes().await.unwrap();
    let body = Body::from(serde_json::to_vec(body).unwrap());
    respond.send_response(Response::builder().status(status).body(body).unwrap());
    (line, serde_json::from_slice(&sent).unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_volume_is_posted_whole_and_read_back_equal() {
    let (records, mut server) = records();
    let wanted = volume("llama");
    let story = async {
        let (line, sent) = answer(&mut server, 201, &stored(&wanted)).await;
        assert_eq!(line, format!("POST {VOLUMES}"));
        assert_eq!(sent["metadata"]["name"], wanted.id());
        let spec = json!({
            "requestName": "pvc-1",
            "attributes": {
                "source": "models",
                "path": "llama",
                "revision": Digest::of(b"r").to_hex(),
                "limitBytes": "1073741824",
            },
            "capacityBytes": 1 << 30,
            "claim": {"namespace": "team", "name": "llama"},
        });
        assert_eq!(sent["spec"], spec);
        let (line, _) = answer(&mut server, 200, &stored(&wanted)).await;
        assert_eq!(line, format!("GET {VOLUMES}/{}", wanted.id()));
    };
    let calls = async {
        assert_eq!(records.create(&wanted).await.unwrap(), wanted);
        assert_eq!(records.find(&id()).await.unwrap().unwrap(), wanted);
    };
    tokio::join!(calls, story);
}

#[tokio::test]
async fn who_comes_second_gets_what_the_first_wrote() {
    let (records, mut server) = records();
    let (first, second) = (volume("first"), volume("second"));
    let story = async {
        answer(&mut server, 409, &refusal(409, "AlreadyExists")).await;
        answer(&mut server, 200, &stored(&first)).await;
        answer(&mut server, 409, &refusal(409, "AlreadyExists")).await;
        answer(&mut server, 404, &refusal(404, "NotFound")).await;
    };
    let calls = async {
        assert_eq!(records.create(&second).await.unwrap(), first);
        let error = records.create(&second).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Transient);
    };
    tokio::join!(calls, story);
}

#[tokio::test]
async fn an_absent_volume_is_none_to_find_and_fine_to_delete() {
    let (records, mut server) = records();
    let story = async {
        answer(&mut server, 404, &refusal(404, "NotFound")).await;
        let (line, _) = answer(&mut server, 404, &refusal(404, "NotFound")).await;
        assert_eq!(line, format!("DELETE {VOLUMES}/{}", id().as_str()));
        let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"});
        answer(&mut server, 200, &gone).await;
    };
    let calls = async {
        assert_eq!(records.find(&id()).await.unwrap(), None);
        records.delete(&id()).await.unwrap();
        records.delete(&id()).await.unwrap();
    };
    tokio::join!(calls, story);
}

#[tokio::test]
async fn an_id_from_elsewhere_is_never_asked_for() {
    let (records, server) = records();
    drop(server);
    for id in ["fake-vol-id", "../secrets", "v1-../../x"] {
        let id = VolumeId::parse(id).unwrap();
        assert_eq!(records.find(&id).await.unwrap(), None);
        records.delete(&id).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_api_server_says_becomes_a_kind_and_a_sentence() {
    let (records, mut server) = records();
    let cases = [
        (
            403,
            "Forbidden",
            Kind::Denied,
            "the API server does not let the controller create Volumes: its ClusterRole needs the verb create for volumes.tonnage.dev",
        ),
        (
            422,
            "Invalid",
            Kind::Invalid,
            "the API server refuses the Volume v1-",
        ),
        (
            404,
            "NotFound",
            Kind::Transient,
            "install Tonnage's custom resources",
        ),
        (
            503,
            "ServiceUnavailable",
            Kind::Transient,
            "the API server did not create the Volume (status 503: it says so); this is tried again by itself",
        ),
    ];
    for (code, reason, kind, words) in cases {
        let body = refusal(code, reason);
        let volume = volume("a");
        let (created, _) = tokio::join!(records.create(&volume), answer(&mut server, code, &body));
        let error = created.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    drop(server);
    let error = records.create(&volume("a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    assert!(
        error.to_string().contains("it cannot be reached"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_api_server_is_not_waited_for_longer_than_the_provisioner_waits() {
    let (records, _server) = records();
    let error = records.find(&id()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    assert!(
        error.to_string().contains("no answer within 5 s"),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_object_is_named() {
    let (records, mut server) = records();
    let mut unknown = stored(&volume("a"));
    unknown["spec"]["attributes"]["colour"] = json!("red");
    let mut negative = stored(&volume("a"));
    negative["spec"]["capacityBytes"] = json!(-1);
    let mut other = stored(&volume("a"));
    other["spec"]["requestName"] = json!("pvc-2");
    let mut untyped = stored(&volume("a"));
    untyped["spec"]["attributes"] = json!("none");
    let cases = [
        (unknown, "attribute \"colour\" is unknown"),
        (negative, "its capacityBytes are -1"),
        (
            other,
            "its name does not follow from its requestName \"pvc-2\"",
        ),
        (untyped, "invalid type"),
    ];
    for (object, words) in cases {
        let id = id();
        let (found, _) = tokio::join!(records.find(&id), answer(&mut server, 200, &object));
        let error = found.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("the Volume {} ", id.as_str())),
            "{text}"
        );
        assert!(text.contains(words), "{text}");
    }
}

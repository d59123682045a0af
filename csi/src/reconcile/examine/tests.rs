//! One examination against a scripted API server.

use std::time::UNIX_EPOCH;

use http::{Request, Response};
use kube::api::ApiResource;
use kube::client::Body;
use serde_json::json;
use tonnage_cache::clock::ManualClock;
use tonnage_cache::gate::OpenGate;
use tonnage_cache::source::config::{SourceConfig, build};
use tower_test::mock::Handle;

use super::*;
use crate::crd;

/// Answers the patch of a status, and gives back what was patched.
async fn patched(mut server: Handle<Request<Body>, Response<Body>>) -> Value {
    let (request, respond) = server.next_request().await.unwrap();
    assert_eq!(request.method(), "PATCH");
    let sent = request.into_body().collect_bytes().await.unwrap();
    let patch: Value = serde_json::from_slice(&sent).unwrap();
    let mut answer = patch.clone();
    answer["metadata"] = json!({"name": "models"});
    let body = Body::from(serde_json::to_vec(&answer).unwrap());
    respond.send_response(Response::new(body));
    patch
}

#[tokio::test]
async fn a_warning_about_trust_goes_when_the_source_is_no_longer_read_as_service_accounts() {
    let directory = tempfile::tempdir().unwrap();
    let place = SourceConfig {
        name: "models".to_owned(),
        url: format!("file://{}", directory.path().display()),
        ..SourceConfig::default()
    };
    let warning = json!({
        "type": "TrustNotRestricted", "status": "True", "reason": "AnyServiceAccount", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let others = json!({
        "type": "Audited", "status": "True", "reason": "Yes", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let object: crd::Source = serde_json::from_value(json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "Source",
        "metadata": {"name": "models", "uid": "u", "generation": 2},
        "spec": {"url": "s3://b"},
        "status": {"conditions": [warning, others]},
    }))
    .unwrap();
    let sources = Sources::default();
    let source = build(&place, OpenGate::shared()).unwrap();
    sources.put(Arc::new(object), source);
    let (service, server) = tower_test::mock::pair();
    let client = kube::Client::new(service, "tonnage");
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(UNIX_EPOCH));
    let tokens = directory.path().to_owned();
    let examiner = Examiner {
        objects: Api::all_with(client, &ApiResource::erase::<crd::Source>(&())),
        trust: Trust::new(tokens, "tonnage".to_owned(), Arc::clone(&clock)),
        sources: sources.clone(),
        clock,
    };
    let task = Task {
        name: "models".to_owned(),
        facts: facts_of(&sources, "models"),
        written: None,
    };
    let ((_, outcome), patch) = tokio::join!(examiner.examine(task), patched(server));
    assert!(matches!(outcome, Outcome::Said(Some(_))), "{outcome:?}");
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    let kinds: Vec<&Value> = conditions.iter().map(|one| &one["type"]).collect();
    assert_eq!(kinds, ["Audited", "Ready"]);
    assert_eq!(patch["status"]["observedGeneration"], 2);
}

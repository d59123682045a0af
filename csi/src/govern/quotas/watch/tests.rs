//! The watch against a scripted API server.

use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_test::mock::Handle;

use super::*;

type Server = Handle<Request<Body>, Response<Body>>;

fn quota(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "CacheQuota",
        "metadata": {"name": name, "namespace": "team-a", "resourceVersion": "7"},
        "spec": spec,
    })
}

/// Name and limit of bytes on a node.
type Known = (String, Result<Option<u64>, String>);

/// The quotas as the node knows them.
fn known(quotas: &Quotas) -> Option<Vec<Known>> {
    let state = quotas.lock();
    let rules = state.rules.as_ref()?.get("team-a");
    let rules = rules.into_iter().flatten();
    let known = rules.map(|(name, rule)| {
        let limits = rule.quota.limits.as_ref();
        let limit = limits.map(|it| it.node.logical_bytes).map_err(Clone::clone);
        (name.clone(), limit)
    });
    Some(known.collect())
}

/// Answers the list and then the watch, which stays open behind its events.
async fn serve(mut server: Server, list: (u16, Value), events: Vec<Value>) {
    let mut open = Vec::new();
    let mut events = Some(events);
    while let Some((request, respond)) = server.next_request().await {
        assert_eq!(
            request.uri().path(),
            "/apis/tonnage.dev/v1alpha1/cachequotas"
        );
        let query = request.uri().query().unwrap_or_default();
        if !query.contains("watch=true") {
            let body = Body::from(list.1.to_string().into_bytes());
            respond.send_response(Response::builder().status(list.0).body(body).unwrap());
            continue;
        }
        let Some(events) = events.take() else {
            open.push(respond);
            continue;
        };
        let lines: Vec<String> = events.iter().map(|event| format!("{event}\n")).collect();
        let body = Body::from(lines.concat().into_bytes());
        respond.send_response(Response::new(body));
    }
}

/// Longer than any of it takes by the clock of a test.
const PATIENCE: Duration = Duration::from_mins(10);

/// Runs the watch until `is_so`.
async fn until(list: (u16, Value), events: Vec<Value>, is_so: impl Fn(&Quotas) -> bool) {
    let (service, server) = tower_test::mock::pair();
    let quotas = Quotas::awaited("gpu-1");
    let parts = Parts {
        client: kube::Client::new(service, "tonnage"),
        quotas: Arc::clone(&quotas),
    };
    let stop = CancellationToken::new();
    let seen = async {
        while !is_so(&quotas) {
            quotas.changed().await;
        }
    };
    tokio::select! {
        () = run(parts, stop) => panic!("the watch ended"),
        () = serve(server, list, events) => panic!("the server ended"),
        seen = timeout(PATIENCE, seen) => seen.unwrap(),
    }
}

fn listed(items: &[Value]) -> (u16, Value) {
    let list = json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "CacheQuotaList",
        "metadata": {"resourceVersion": "7"},
        "items": items,
    });
    (200, list)
}

#[tokio::test(start_paused = true)]
async fn what_is_listed_and_what_comes_after_is_in_force() {
    let list = listed(&[
        quota("old", &json!({"perNode": {"logicalBytes": "1Gi"}})),
        quota("gone", &json!({"perNode": {"logicalBytes": "2Gi"}})),
    ]);
    let events = vec![
        json!({"type": "DELETED", "object": quota("gone", &json!({"perNode": {}}))}),
        json!({"type": "MODIFIED", "object": quota("old", &json!({"perNode": {"logicalBytes": "3Gi"}}))}),
        json!({"type": "ADDED", "object": quota("new", &json!({"perNode": {"logicalBytes": 4}}))}),
    ];
    let wanted = vec![
        ("new".to_owned(), Ok(Some(4))),
        ("old".to_owned(), Ok(Some(3 << 30))),
    ];
    until(list, events, |quotas| {
        known(quotas).as_ref() == Some(&wanted)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_cannot_be_understood_lets_nothing_new_in() {
    for spec in [
        json!({"perNode": {"volumes": "many"}}),
        json!({"perNode": {"bytes": "1Gi"}}),
        json!({"cluster": {"logicalBytes": "1Gi", "nodes": 4}}),
    ] {
        until(listed(&[quota("q", &spec)]), Vec::new(), |quotas| {
            let known = known(quotas).unwrap_or_default();
            matches!(known.as_slice(), [(name, Err(why))]
                if name == "q" && why.starts_with("its object cannot be understood: "))
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_the_kind_has_no_quotas() {
    let refusal = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
        "message": "the server could not find the requested resource", "code": 404,
    });
    let (service, server) = tower_test::mock::pair();
    let quotas = Quotas::awaited("gpu-1");
    let parts = Parts {
        client: kube::Client::new(service, "tonnage"),
        quotas: Arc::clone(&quotas),
    };
    let seen = async {
        while quotas.lock().rules.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = run(parts, CancellationToken::new()) => panic!("the watch ended"),
        () = serve(server, (404, refusal), Vec::new()) => panic!("the server ended"),
        () = seen => {}
    }
    assert_eq!(known(&quotas), Some(Vec::new()));
}

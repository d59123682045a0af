//! The way of a ledger's figures from the API server's objects to Prometheus, while a replica leads.

use std::time::{Duration, UNIX_EPOCH};

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tonnage_cache::clock::ManualClock;
use tower_test::mock::{Handle, pair};

use super::*;

const NOW: i64 = 1_795_751_063;
const GIB: i64 = 1 << 30;

fn policy() -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "research", "uid": "u", "generation": 1, "resourceVersion": "7"},
        "spec": {
            "namespaces": {"names": ["team-a"]},
            "allow": [{}],
            "budgets": [{"name": "daily", "bytes": "100Gi", "window": {"rolling": "24h"}}],
        },
    })
}

/// Five GiB are settled, and one may still be spent.
fn ledger() -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressBudget",
        "metadata": {"name": "research.daily.team-a", "uid": "b", "resourceVersion": "8"},
        "spec": {"policy": "research", "policyUid": "u", "budget": "daily", "namespace": "team-a"},
        "status": {
            "limitBytes": 100 * GIB,
            "window": "24h",
            "asOf": NOW,
            "settled": [{"start": NOW - 7_200, "bytes": 5 * GIB}],
            "outstanding": [{"node": "node-1", "incarnation": "1", "seq": 4, "bytes": GIB, "durationSeconds": 900, "until": NOW + 900}],
            "outstandingBytes": GIB,
        },
    })
}

fn items(path: &str) -> Vec<Value> {
    match path.rsplit('/').next() {
        Some("egresspolicies") => vec![policy()],
        Some("egressbudgets") => vec![ledger()],
        Some("namespaces") => {
            vec![
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "team-a"}}),
            ]
        }
        Some(_) | None => Vec::new(),
    }
}

/// An API server with one policy and its ledger, where nothing ever happens; it takes what is written, and changes its version.
async fn serve(mut server: Handle<Request<Body>, Response<Body>>) {
    let mut watches = Vec::new();
    while let Some((request, respond)) = server.next_request().await {
        let (parts, body) = request.into_parts();
        if parts.uri.query().unwrap_or_default().contains("watch=") {
            watches.push(respond);
            continue;
        }
        let answer = if parts.method == Method::GET {
            let items = items(parts.uri.path());
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "10"}, "items": items})
        } else {
            let sent = body.collect_bytes().await.unwrap();
            let mut object: Value = serde_json::from_slice(&sent).unwrap();
            object["metadata"]["resourceVersion"] = json!("11");
            object
        };
        let body = Body::from(serde_json::to_vec(&answer).unwrap());
        respond.send_response(Response::new(body));
    }
}

fn budgets(metrics: &Metrics) -> Vec<String> {
    let text = metrics.text();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("tonnage_egress_budget"));
    lines.map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_used_of_a_budget_reaches_prometheus_while_the_replica_leads_and_no_longer() {
    let (service, server) = pair::<Request<Body>, Response<Body>>();
    let client = kube::Client::new(service, "tonnage");
    let now = Duration::from_secs(u64::try_from(NOW).unwrap());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(UNIX_EPOCH + now));
    let metrics = Metrics::new();
    let (mut servers, stop) = (Servers::new(), CancellationToken::new());
    let leads = govern(&client, &clock, &metrics, (&mut servers, &stop));
    let story = async {
        assert!(metrics.text().contains("\ntonnage_leading 0\n"));
        assert_eq!(budgets(&metrics), Vec::<String>::new());
        leads.send_replace(true);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(metrics.text().contains("\ntonnage_leading 1\n"));
        assert_eq!(
            budgets(&metrics),
            [
                "tonnage_egress_budget_limit_bytes{policy=\"research\",budget=\"daily\",namespace=\"team-a\"} 107374182400",
                "tonnage_egress_budget_used_bytes{policy=\"research\",budget=\"daily\",namespace=\"team-a\"} 6442450944",
            ]
        );
        leads.send_replace(false);
        assert_eq!(budgets(&metrics), Vec::<String>::new());
        stop.cancel();
        while let Some(ended) = servers.join_next().await {
            ended.unwrap();
        }
    };
    tokio::select! {
        () = story => {}
        () = serve(server) => unreachable!("nobody asks any more"),
    }
}

//! One object that the API server does not answer about, or does not take: nobody else waits for it.

use tokio::time::Instant;

use super::api::{GROUP, Reply, answer, failure, lead, lease, list, questions};
use super::*;

/// Another node, which asks for bytes of the budget that all share.
fn other() -> Value {
    let mut other = lease();
    other["metadata"] = json!({"name": "node-2", "resourceVersion": "30", "uid": "m"});
    other["spec"]["demands"] = json!([
        {"policyUid": UID, "budget": "all", "seq": 1, "wantedBytes": GIB, "spentBytes": 0},
    ]);
    other
}

fn told(node: &str) -> String {
    format!("PUT {GROUP}/egressleases/{node}/status")
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_never_answered_stops_nobody_else() {
    let (asked, _) = lead(25, |question, body| -> Reply {
        if question == format!("GET {GROUP}/egressleases") {
            return list("EgressLease", &[lease(), other()]).into();
        }
        let is_of_one = body["metadata"]["name"] == "research.daily.team-a";
        if question.starts_with("POST") && is_of_one {
            return Reply::Never;
        }
        answer(question, body).into()
    })
    .await;
    let asked = questions(&asked);
    assert!(asked.contains(&told("node-2").as_str()), "{asked:?}");
    let status = format!("PATCH {GROUP}/egresspolicies/research/status");
    assert!(asked.contains(&status.as_str()), "{asked:?}");
    let posts = asked.iter().filter(|it| it.starts_with("POST")).count();
    // Five seconds of patience and a pause that doubles, three times by now; and once for the other.
    assert_eq!(posts, 4, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_refused_again_and_again_makes_nobody_else_wait() {
    let began = Instant::now();
    let mut refused = Vec::new();
    let mut granted = None;
    lead(50, |question, body| -> Reply {
        if question == told("node-1") {
            refused.push(began.elapsed().as_secs());
            let (status, body) = failure(422, "Invalid");
            return if refused.len() == 5 {
                Reply::IsAndThen(status, body, other())
            } else {
                Reply::Is(status, body)
            };
        }
        if question == told("node-2") {
            granted.get_or_insert(began.elapsed().as_secs());
        }
        answer(question, body).into()
    })
    .await;
    let last = refused[4];
    // Its pause doubles.
    let pauses: Vec<u64> = refused.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(pauses, [2, 4, 8, 16]);
    let granted = granted.unwrap();
    assert!(granted <= last + 2, "{last} {granted}");
}

//! The loop against an API server that compares versions: what is written, when, and what happens when that fails.

use std::cell::RefCell;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;

mod cluster;
mod site;

use site::{Mood, Site, account, demand, expect, left_behind, owners, silence};

const NODE: &str = "GET /api/v1/nodes/node-1";
const GET: &str = "GET /apis/tonnage.dev/v1alpha1/egressleases/node-1";
const POST: &str = "POST /apis/tonnage.dev/v1alpha1/egressleases";
const PUT: &str = "PUT /apis/tonnage.dev/v1alpha1/egressleases/node-1";

#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_nothing_is_missing_and_nothing_denied() {
    let site = Site::new();
    site.tell(async |asked| silence(asked, 3_600).await).await;
    assert_eq!(site.cluster.borrow().object, None);
}

#[tokio::test(start_paused = true)]
async fn the_first_demand_makes_the_object_with_the_node_as_its_owner_and_the_grant_reaches_who_waits()
 {
    let site = Site::new();
    site.tell(async |asked| {
        let controller = async {
            let [_, made] = expect(asked, [NODE, POST]).await;
            let expected = json!({
                "apiVersion": "tonnage.dev/v1alpha1",
                "kind": "EgressLease",
                "metadata": {"name": "node-1", "ownerReferences": owners()},
                "spec": {"incarnation": "0000000000000007", "demands": [demand("a", 1_001, 10, 0)]},
            });
            assert_eq!(made.body, expected);
            // Once the answer is there.
            tokio::time::sleep(Duration::from_millis(1)).await;
            site.cluster.borrow_mut().grant(&[("a", 1_001, 10)]);
        };
        let (taken, ()) = futures::future::join(site.take("a", 10), controller).await;
        assert_eq!(taken.bytes(), 10);
        // A grant that was used up needs no report.
        silence(asked, 600).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_start_has_asked_is_taken_back_and_numbers_go_on_above_it() {
    let site = Site::new();
    let before = left_behind(&json!([demand("a", 5_000, 10, 0)]));
    site.cluster.borrow_mut().make(before);
    site.tell(async |asked| {
        let [_, taken_over] = expect(asked, [NODE, PUT]).await;
        let spec = &taken_over.body["spec"];
        assert_eq!(*spec, json!({"incarnation": "0000000000000007"}));
        assert_eq!(taken_over.body["metadata"]["labels"], json!({"a": "b"}));
        site.miss("a", 10);
        let [asks] = expect(asked, [PUT]).await;
        assert!(asks.at - taken_over.at >= Duration::from_secs(5));
        assert_eq!(
            asks.body["spec"]["demands"],
            json!([demand("a", 5_001, 10, 0)])
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_object_of_an_earlier_start_that_asks_for_nothing_is_left_alone() {
    let site = Site::new();
    let before = left_behind(&json!([]));
    site.cluster.borrow_mut().make(before);
    site.tell(async |asked| {
        expect(asked, [NODE]).await;
        silence(asked, 600).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_understood_is_replaced() {
    let site = Site::new();
    let before = left_behind(&json!("what?"));
    site.cluster.borrow_mut().make(before);
    site.tell(async |asked| {
        let [_, put] = expect(asked, [NODE, PUT]).await;
        assert_eq!(put.body["spec"], json!({"incarnation": "0000000000000007"}));
        silence(asked, 600).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_edited_owner_and_an_edited_demand_are_put_right() {
    let site = Site::new();
    site.miss("a", 10);
    site.tell(async |asked| {
        let [_, made] = expect(asked, [NODE, POST]).await;
        let edits: [fn(&mut Value); 3] = [
            |object| object["metadata"]["ownerReferences"] = json!([]),
            |object| object["metadata"]["ownerReferences"][0]["uid"] = json!("other"),
            |object| object["spec"]["demands"][0]["wantedBytes"] = json!(1_000_000),
        ];
        for edit in edits {
            silence(asked, 10).await;
            site.cluster.borrow_mut().change(edit);
            let [put] = expect(asked, [PUT]).await;
            assert_eq!(put.body["spec"], made.body["spec"]);
            assert_eq!(put.body["metadata"]["ownerReferences"], owners());
        }
        silence(asked, 600).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_was_deleted_is_made_again_with_what_is_still_asked() {
    let site = Site::new();
    site.miss("a", 10);
    site.tell(async |asked| {
        let [_, first] = expect(asked, [NODE, POST]).await;
        silence(asked, 10).await;
        site.cluster.borrow_mut().delete();
        let [_, second] = expect(asked, [NODE, POST]).await;
        assert_eq!(first.body, second.body);
        silence(asked, 10).await;
        site.cluster.borrow_mut().grant(&[("a", 1_001, 10)]);
        silence(asked, 10).await;
        assert_eq!(site.spender.left(&account("a")), 10);
        // Nothing is asked any more, so nothing is said.
        site.cluster.borrow_mut().delete();
        let [_, third] = expect(asked, [NODE, POST]).await;
        assert_eq!(
            third.body["spec"],
            json!({"incarnation": "0000000000000007"})
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_overtaken_is_made_again_at_once_and_old_news_change_nothing() {
    let site = Site::new();
    site.miss("a", 10);
    site.tell(async |asked| {
        expect(asked, [NODE, POST]).await;
        silence(asked, 10).await;
        site.cluster.borrow_mut().hold();
        site.cluster.borrow_mut().grant(&[("a", 1_001, 10)]);
        site.miss("b", 7);
        let [failed, _, done] = expect(asked, [PUT, GET, PUT]).await;
        assert!(done.at - failed.at < Duration::from_millis(100));
        assert_eq!(failed.body["spec"], done.body["spec"]);
        silence(asked, 1).await;
        // The grant was in what was read.
        assert_eq!(site.spender.left(&account("a")), 10);
        site.cluster.borrow_mut().release();
        silence(asked, 30).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_when_it_is_written_is_made_in_the_same_attempt() {
    let site = Site::new();
    site.miss("a", 10);
    site.tell(async |asked| {
        expect(asked, [NODE, POST]).await;
        silence(asked, 10).await;
        site.cluster.borrow_mut().hold();
        site.cluster.borrow_mut().delete();
        site.miss("b", 7);
        let [failed, .., made] = expect(asked, [PUT, GET, NODE, POST]).await;
        assert_eq!(failed.body["spec"], made.body["spec"]);
        silence(asked, 1).await;
        // The deletion is old news.
        site.cluster.borrow_mut().release();
        silence(asked, 30).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_not_made_twice() {
    let site = Site::new();
    site.miss("a", 10);
    site.set(Mood::Loses(POST));
    site.tell(async |asked| {
        expect(asked, [NODE, POST]).await;
        silence(asked, 600).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_it_is_asked_ever_more_seldom_and_the_demand_stays_the_same() {
    for mood in [Mood::Away, Mood::Silent] {
        let site = Site::new();
        site.set(mood);
        site.miss("a", 10);
        site.tell(async |asked| {
            let mut last = expect(asked, [NODE]).await[0].at;
            for least in [5, 10, 20, 30, 30] {
                let [next] = expect(asked, [NODE]).await;
                let pause = (next.at - last).as_secs();
                // The attempt itself may have waited for 5 s, and a look comes once a second.
                assert!(
                    (least..=least * 6 / 5 + 7).contains(&pause),
                    "{mood:?} {pause}"
                );
                last = next.at;
            }
            site.set(Mood::Fine);
            let [_, made] = expect(asked, [NODE, POST]).await;
            assert_eq!(
                made.body["spec"]["demands"],
                json!([demand("a", 1_001, 10, 0)])
            );
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_end_the_loop() {
    let cases: [(&'static str, u16, &[&str]); 7] = [
        (NODE, 403, &[NODE, NODE, POST]),
        (NODE, 404, &[NODE, NODE, POST]),
        (POST, 403, &[NODE, POST, POST]),
        (POST, 404, &[NODE, POST, POST]),
        (POST, 409, &[NODE, POST, GET, NODE, POST]),
        (POST, 422, &[NODE, POST, POST]),
        (POST, 500, &[NODE, POST, POST]),
    ];
    for (which, code, all) in cases {
        let site = Site::new();
        site.miss("a", 10);
        site.set(Mood::Fails(which, code));
        site.tell(async |asked| {
            for what in all {
                expect(asked, [*what]).await;
            }
            silence(asked, 600).await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn denials_are_told_at_once_then_once_a_minute_and_along_with_demands() {
    let site = Site::new();
    site.deny();
    site.tell(async |asked| {
        let [_, first] = expect(asked, [NODE, POST]).await;
        let line = |count: u64| {
            json!([{
                "policyUid": "p", "count": count, "lastNamespace": "team-a", "lastReason": "not this",
                "lastTime": 1_000,
            }])
        };
        let spec = json!({"incarnation": "0000000000000007", "denials": line(1)});
        assert_eq!(first.body["spec"], spec);
        silence(asked, 10).await;
        site.deny();
        site.deny();
        let [second] = expect(asked, [PUT]).await;
        let between = (second.at - first.at).as_secs();
        assert!((60..=74).contains(&between), "{between}");
        assert_eq!(second.body["spec"]["denials"], line(3));
        silence(asked, 10).await;
        site.deny();
        silence(asked, 10).await;
        site.miss("a", 10);
        let asks = Instant::now();
        let [third] = expect(asked, [PUT]).await;
        assert!(third.at - asks <= TICK);
        assert_eq!(third.body["spec"]["denials"], line(4));
        assert_eq!(third.body["spec"]["demands"], json!([demand("a", 1_001, 10, 0)]));
        silence(asked, 600).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn denials_that_find_no_room_beside_demands_are_tried_again_once_a_minute() {
    let site = Site::new();
    for number in 0..40 {
        site.miss(&format!("{number:0500}"), 10);
    }
    site.deny();
    site.tell(async |asked| {
        let [_, first] = expect(asked, [NODE, POST]).await;
        let spec = &first.body["spec"];
        assert_eq!(spec["demands"].as_array().unwrap().len(), 40);
        assert_eq!(spec["denials"], Value::Null);
        let [second] = expect(asked, [PUT]).await;
        let between = (second.at - first.at).as_secs();
        assert!((60..=74).contains(&between), "{between}");
        assert_eq!(second.body["spec"], *spec);
        silence(asked, 50).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_stops_gives_back_what_it_has_not_spent() {
    let site = Site::new();
    site.miss("a", 10);
    site.tell(async |asked| {
        expect(asked, [NODE, POST]).await;
        silence(asked, 1).await;
        site.cluster.borrow_mut().grant(&[("a", 1_001, 10)]);
        assert_eq!(site.take("a", 4).await.bytes(), 4);
        // The budget is shared.
        site.spender.note_use(&[account("a")], "team-a", 4);
    })
    .await;
    let cluster = site.cluster.borrow();
    let spec = &cluster.object.as_ref().unwrap()["spec"];
    let mut last = demand("a", 1_002, 0, 4);
    last["spentBy"] = json!([{"namespace": "team-a", "bytes": 4}]);
    assert_eq!(spec["demands"], json!([last]));
}

#[tokio::test(start_paused = true)]
async fn a_silent_api_server_holds_up_a_service_that_stops_for_two_seconds_at_most() {
    let site = Site::new();
    site.miss("a", 10);
    let stopped = RefCell::new(None);
    site.tell(async |asked| {
        expect(asked, [NODE, POST]).await;
        silence(asked, 1).await;
        site.set(Mood::Silent);
        *stopped.borrow_mut() = Some(Instant::now());
    })
    .await;
    let waited = stopped.into_inner().unwrap().elapsed();
    assert!(waited <= FAREWELL + Duration::from_millis(1), "{waited:?}");
}

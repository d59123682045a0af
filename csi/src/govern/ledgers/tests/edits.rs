//! Budgets whose window is edited, that are taken out of their policy and put back, and nodes whose objects vanish for a while.

use super::*;

const NAME: &str = "research.daily.team-a";
/// 2026-11-28T00:00:00Z is so far off.
const REST_OF_THE_DAY: u32 = 72_937;

/// A policy with another window in place of the day.
fn windowed(window: &Value) -> Value {
    let mut policy = policy("10Gi");
    policy["spec"]["budgets"][0]["window"] = window.clone();
    policy
}

/// A policy without the daily budget.
fn without() -> Value {
    let mut policy = policy("10Gi");
    policy["spec"]["budgets"].as_array_mut().unwrap().remove(0);
    policy
}

/// Six of ten are spent, two are held.
fn spent() -> Story {
    let mut story = Story::new(&policy("10Gi"));
    story.lease("n", vec![demand(daily(), 1, (6 * GIB, 0))]);
    story.turn();
    story.lease("n", vec![demand(daily(), 2, (2 * GIB, 6 * GIB))]);
    story.pass(1);
    story
}

/// What a node gets that asks for everything.
fn rest(story: &mut Story) -> u64 {
    story.lease("other", vec![demand(daily(), 1, (100 * GIB, 0))]);
    story.pass(1);
    let (node, bytes, _) = story.told.last().unwrap();
    assert_eq!(node, "other");
    *bytes
}

#[test]
fn another_window_gives_back_nothing_that_may_be_of_it() {
    for window in [
        // By this zone the day began at two, after the beginning of the ledger's.
        json!({"calendar": "Daily", "timeZone": "-02:00"}),
        json!({"calendar": "Daily", "timeZone": "+03:00"}),
        json!({"calendar": "Hourly"}),
        json!({"calendar": "Monthly"}),
        json!({"rolling": "1h"}),
        json!({"rolling": "30d"}),
    ] {
        let mut story = spent();
        story.world.change(read(&windowed(&window)));
        story.pass(60);
        assert_eq!(rest(&mut story), 2 * GIB, "{window}");
        story.world.change(read(&policy("10Gi")));
        story.pass(60);
        assert_eq!(story.told.len(), 3, "{window}: nothing is left");
        let ledger = &story.ledgers[NAME];
        let settled: u64 = ledger.settled.values().sum();
        assert_eq!((settled, ledger.held()), (6 * GIB, 4 * GIB), "{window}");
    }
}

#[test]
fn a_budget_that_is_put_back_has_what_it_had() {
    let mut story = spent();
    story.world.change(read(&without()));
    // What is held runs out meanwhile.
    story.wait(1_000);
    let ledger = &story.ledgers[NAME];
    assert_eq!((ledger.held(), ledger.limit), (0, 10 * GIB));
    assert!(story.deleted.is_empty());
    story.world.change(read(&policy("10Gi")));
    story.pass(1);
    assert_eq!(rest(&mut story), 2 * GIB);
}

#[test]
fn the_ledger_of_a_budget_that_is_gone_is_deleted_once_nothing_in_it_counts() {
    let mut story = spent();
    story.world.change(read(&without()));
    // The node gives back what it has, by its report, and asks no more.
    story.lease("n", vec![demand(daily(), 3, (0, GIB))]);
    story.wait(ROUND.as_secs());
    let settled: u64 = story.ledgers[NAME].settled.values().sum();
    assert_eq!(settled, 7 * GIB);
    story.lease("n", vec![]);
    story.wait(2 * ROUND.as_secs());
    assert!(story.deleted.is_empty(), "its day is not over");
    story.pass(REST_OF_THE_DAY);
    story.wait(ROUND.as_secs());
    assert_eq!(story.deleted, [NAME]);
}

#[test]
fn the_ledger_of_a_policy_that_is_gone_is_deleted_once_nothing_is_held() {
    let mut story = spent();
    story
        .world
        .change(Change::PolicyGone("research".to_owned()));
    story.wait(600);
    assert!(story.deleted.is_empty());
    story.lease("n", vec![demand(daily(), 3, (0, GIB))]);
    story.wait(ROUND.as_secs());
    assert_eq!(story.deleted, [NAME]);
}

#[test]
fn a_node_whose_object_vanishes_for_a_while_is_settled_once() {
    let mut story = Story::new(&policy("100Gi"));
    let denials = vec![DenialLine {
        policy_uid: UID.to_owned(),
        count: 3,
        last_namespace: "team-b".to_owned(),
        last_reason: "no".to_owned(),
        last_time: 1_795_751_000,
    }];
    story.lease_of("n", vec![demand(daily(), 1, (5 * GIB, 0))], denials.clone());
    story.turn();
    story.world.change(Change::LeaseGone("n".to_owned()));
    story.wait(60);
    // The node writes it again, as it was.
    story.lease_of("n", vec![demand(daily(), 1, (5 * GIB, 0))], denials.clone());
    story.wait(60);
    assert_eq!(story.ledgers[NAME].held(), 5 * GIB);
    story.lease_of("n", vec![demand(daily(), 2, (0, 4 * GIB))], denials);
    story.wait(1_000);
    let ledger = &story.ledgers[NAME];
    let settled: u64 = ledger.settled.values().sum();
    assert_eq!((settled, ledger.held()), (4 * GIB, 0));
    let status = &story.statuses.last().unwrap().status;
    assert_eq!(status.denied.as_ref().unwrap().count, 3);
}

#[test]
fn a_node_whose_clock_is_ahead_does_not_keep_the_last_denial_for_itself() {
    let mut story = Story::new(&policy("100Gi"));
    let denial = |reason: &str, last_time| DenialLine {
        policy_uid: UID.to_owned(),
        count: 1,
        last_namespace: "team-b".to_owned(),
        last_reason: reason.to_owned(),
        last_time,
    };
    let now = story.now.wall;
    let ahead = denial("ahead", now + 864_000);
    story.lease_of("a", vec![], vec![ahead]);
    story.wait(30);
    let told = |story: &Story| {
        story
            .statuses
            .last()
            .unwrap()
            .status
            .denied
            .clone()
            .unwrap()
    };
    let first = told(&story);
    assert_eq!(first.last_reason.as_deref(), Some("ahead"));
    assert!(first.last_time.unwrap() <= time(story.now.wall).unwrap());
    let right = denial("right", story.now.wall + 1);
    story.lease_of("b", vec![], vec![right]);
    story.wait(30);
    let second = told(&story);
    assert_eq!(second.last_reason.as_deref(), Some("right"));
    assert_eq!(second.count, 2);
}

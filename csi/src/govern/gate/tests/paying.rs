//! Runs: who pays, what is given back, and what stops them.

use super::*;

mod told;

#[tokio::test(start_paused = true)]
async fn a_run_is_charged_in_full_and_what_did_not_come_is_given_back() {
    let site = Site::new(&[policy(&budget())]);
    site.has("a", 1_000);
    let (opened, seats) = site.load(&["a"]);
    site.run(100).await.unwrap().settle(100, true);
    site.run(100).await.unwrap().settle(0, false);
    // Nothing was left of the first grant, and all of the second.
    assert_eq!(site.left("a"), 100);
    drop(site.run(100).await.unwrap());
    assert_eq!(site.left("a"), 0);
    drop((opened, seats));
    let events = site.events();
    let told: Vec<(Event, u64)> = events.iter().map(|it| (it.event, it.bytes)).collect();
    let expected = [
        (Event::Reserve, 100),
        (Event::Reserve, 100),
        (Event::Settle, 200),
    ];
    assert_eq!(told, expected);
    for event in &events {
        assert_eq!(event.who.as_ref().unwrap().namespace, "a");
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_asks_for_all_of_its_bytes_at_once() {
    let site = Site::new(&[policy(&budget())]);
    site.has("a", 5_000);
    let progress = Arc::<Progress>::default();
    progress.expect(1_000, 1);
    progress.add_bytes(400);
    let (_opened, _seat) = site.judge("a").unwrap().open(LOAD, progress);
    let first = site.run(100).await.unwrap();
    assert_eq!(site.left("a"), 500);
    first.settle(100, true);
}

#[tokio::test(start_paused = true)]
async fn a_shared_load_goes_on_with_the_budget_of_another_and_each_is_told_what_it_paid() {
    let site = Site::new(&[policy(&budget())]);
    site.has("a", 100);
    site.has("b", 1_000);
    let (opened, seats) = site.load(&["a", "b"]);
    site.run(100).await.unwrap().settle(100, true);
    site.run(100).await.unwrap().settle(100, true);
    site.run(50).await.unwrap().settle(50, true);
    drop((opened, seats));
    let paid: Vec<(String, u64)> = site
        .events()
        .into_iter()
        .filter(|entry| entry.event == Event::Settle)
        .map(|entry| (entry.who.unwrap().namespace, entry.bytes))
        .collect();
    assert_eq!(paid, [("a".to_owned(), 100), ("b".to_owned(), 150)]);
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_used_up_stops_the_load_in_the_controller_s_words_and_one_that_is_raised_lets_it_go_on()
 {
    let site = Site::new(&[policy(&budget())]);
    site.has("a", 100);
    let (_opened, _seats) = site.load(&["a"]);
    site.run(100).await.unwrap().settle(100, true);
    let refusal = site.run(100).await.unwrap_err();
    assert_eq!(refusal, Refusal::Exhausted("nothing is left".to_owned()));
    let (_, lines) = site.denials.lines(8 << 10);
    assert_eq!(lines[0].last_reason, "nothing is left");
    site.has("a", 100);
    site.answer();
    site.run(100).await.unwrap().settle(100, true);
}

#[tokio::test(start_paused = true)]
async fn rules_that_are_tightened_stop_a_load_in_the_middle() {
    let site = Site::new(&[policy(&json!({"allow": [{}]}))]);
    let (opened, seats) = site.load(&["a"]);
    site.run_alone(100).await.unwrap().settle(100, true);
    site.rules(&[policy(&json!({"allow": [{"prefixes": ["other"]}]}))]);
    for _ in 0..2 {
        let refusal = site.run_alone(100).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Denied(_)), "{refusal:?}");
    }
    site.rules(&[policy(&json!({"allow": [{}]}))]);
    site.run_alone(100).await.unwrap().settle(100, true);
    drop((opened, seats));
    let events = site.events();
    let told: Vec<Event> = events.iter().map(|entry| entry.event).collect();
    assert_eq!(told, [Event::Deny, Event::Settle], "a denial is told once");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_is_asked_about_again_and_gives_its_bytes_back() {
    let mut spec = budget();
    spec["rate"] = json!({"bytesPerSecondPerNode": 100});
    let site = Site::new(&[policy(&spec)]);
    site.has("a", 10_000);
    let (_opened, _seats) = site.load(&["a"]);
    site.run(1_000).await.unwrap().settle(1_000, true);
    let demand = demand(1_000);
    let mut waits = pin!(site.gate.admit(&demand));
    assert!(poll!(&mut waits).is_pending());
    site.answer();
    assert!(poll!(&mut waits).is_pending(), "the debt is worked off");
    assert_eq!(site.left("a"), 0);
    site.rules(&[policy(&json!({"allow": []}))]);
    let mut permit = waits.await.unwrap();
    assert!(!permit.begin());
    drop(permit);
    assert_eq!(site.left("a"), 1_000);
    let refusal = site.run(1_000).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Denied(_)), "{refusal:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_outlives_the_call_of_its_pod_when_the_next_one_comes() {
    let mut spec = budget();
    spec["rate"] = json!({"bytesPerSecondPerNode": 100});
    let site = Site::new(&[policy(&spec)]);
    site.has("a", 10_000);
    let (_opened, seats) = site.load(&["a"]);
    site.run(1_000).await.unwrap().settle(1_000, true);
    let demand = demand(1_000);
    let mut waits = pin!(site.gate.admit(&demand));
    assert!(poll!(&mut waits).is_pending());
    site.answer();
    assert!(poll!(&mut waits).is_pending());
    // Kubelet asks again, and what its first call had goes.
    let _again = site.judge("a").unwrap().join(LOAD).unwrap();
    drop(seats);
    begun(waits.await.unwrap()).settle(1_000, true);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_back_is_waited_for_again_and_owed_bytes_that_did_not_come_are_forgiven()
 {
    let site = Site::new(&[policy(&budget_and("whenControllerUnreachable", "Allow"))]);
    let (_opened, _seats) = site.load(&["a"]);
    site.run_alone(100).await.unwrap().settle(0, false);
    assert_eq!(site.spender.owed(&account("a")), 0);
    let begun = tokio::time::Instant::now();
    site.run_alone(100).await.unwrap().settle(100, true);
    assert_eq!(
        (begun.elapsed().as_secs(), site.spender.owed(&account("a"))),
        (0, 100)
    );
    site.has("a", 1_000);
    site.answer();
    assert_eq!(site.spender.owed(&account("a")), 0);
    let demand = demand(10_000);
    let mut waits = pin!(site.gate.admit(&demand));
    assert!(poll!(&mut waits).is_pending(), "nobody is silent any more");
}

#[tokio::test(start_paused = true)]
async fn a_second_request_does_not_wait() {
    let site = Site::new(&[policy(&budget())]);
    let (_opened, _seats) = site.load(&["a"]);
    let mut hedge = demand(100);
    hedge.purpose = Purpose::Hedge;
    let refusal = site.gate.admit(&hedge).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Exhausted(_)), "{refusal:?}");
    site.has("a", 100);
    site.answer();
    site.gate.admit(&hedge).await.unwrap().settle(100, true);
}

#[tokio::test(start_paused = true)]
async fn rules_that_are_too_old_let_nothing_through_until_they_are_read_again() {
    let site = Site::new(&[policy(&json!({"allow": [{}], "maxStalenessSeconds": 60}))]);
    let (_opened, _seats) = site.load(&["a"]);
    site.clock.advance(Duration::from_secs(61));
    let refusal = site.run_alone(100).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Exhausted(_)), "{refusal:?}");
    assert!(
        refusal.to_string().starts_with("the policies are 61 s old"),
        "{refusal}"
    );
    site.rulebook.prove(site.clock.monotonic());
    site.run_alone(100).await.unwrap().settle(100, true);
}

#[tokio::test(start_paused = true)]
async fn budgets_of_a_policy_that_only_watches_are_counted_and_never_refuse() {
    let site = Site::new(&[policy(&budget_and("mode", "Audit"))]);
    let (_opened, _seats) = site.load(&["a"]);
    site.run_alone(100).await.unwrap().settle(100, true);
    assert_eq!(site.spender.owed(&account("a")), 100);
    site.has("a", 1_000);
    site.answer();
    assert_eq!(site.spender.owed(&account("a")), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_controller_a_node_spends_what_it_was_granted_and_then_stops() {
    for (mode, granted_is_spent) in [("SpendLease", true), ("Deny", false)] {
        let site = Site::new(&[policy(&budget_and("whenControllerUnreachable", mode))]);
        site.has("a", 300);
        let progress = Arc::<Progress>::default();
        progress.expect(300, 1);
        let (_opened, _seat) = site.judge("a").unwrap().open(LOAD, progress);
        site.run(100).await.unwrap().settle(100, true);
        let begun = tokio::time::Instant::now();
        let refusal = site.run_alone(1_000).await.unwrap_err();
        assert_eq!(begun.elapsed().as_secs(), 30);
        let sentence = refusal.to_string();
        assert!(matches!(refusal, Refusal::Exhausted(_)), "{sentence}");
        assert!(
            sentence.contains("budget p/daily of namespace a") && sentence.contains(mode),
            "{sentence}"
        );
        // Nobody waits for it again soon.
        let begun = tokio::time::Instant::now();
        let small = site.run_alone(100).await;
        assert_eq!(small.is_ok(), granted_is_spent, "{mode}");
        assert!(site.run_alone(1_000).await.is_err());
        assert_eq!(begun.elapsed().as_secs(), 0);
        drop(small);
        site.clock.advance(Duration::from_mins(1));
        site.has("a", 5_000);
        site.run(1_000).await.unwrap().settle(1_000, true);
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_policy_allows_it_a_node_goes_on_without_a_controller_and_owes() {
    let site = Site::new(&[policy(&budget_and("whenControllerUnreachable", "Allow"))]);
    let (_opened, _seats) = site.load(&["a"]);
    let begun = tokio::time::Instant::now();
    for _ in 0..3 {
        site.run_alone(100).await.unwrap().settle(100, true);
    }
    assert_eq!(begun.elapsed().as_secs(), 30, "waited once");
    assert_eq!(site.spender.owed(&account("a")), 300);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_nobody_waits_for_gets_nothing() {
    let site = Site::new(&[]);
    assert!(site.run_alone(100).await.is_err());
    let (opened, seats) = site.load(&["a"]);
    let under_way = site.run_alone(100).await.unwrap();
    drop(seats);
    assert!(site.run_alone(100).await.is_err());
    drop(opened);
    // Settled late, and told all the same.
    under_way.settle(100, true);
    let events = site.events();
    assert_eq!((events[0].event, events[0].bytes), (Event::Settle, 100));
    assert_eq!(events[0].rule.as_deref(), Some("default"));
}

#[tokio::test(start_paused = true)]
async fn a_second_request_that_finds_no_bytes_is_no_denial() {
    let site = Site::new(&[policy(&budget())]);
    site.has("a", 100);
    let (opened, seats) = site.load(&["a"]);
    site.run(100).await.unwrap().settle(100, true);
    let mut hedge = demand(100);
    hedge.purpose = Purpose::Hedge;
    assert!(site.gate.admit(&hedge).await.is_err());
    // The controller says that nothing is left.
    site.answer();
    assert!(site.gate.admit(&hedge).await.is_err());
    drop((opened, seats));
    let told: Vec<Event> = site.events().iter().map(|entry| entry.event).collect();
    assert_eq!(told, [Event::Reserve, Event::Settle]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_brings_nothing_takes_nothing_of_the_rate() {
    let spec = json!({"allow": [{}], "rate": {"bytesPerSecondPerNode": 100}});
    let site = Site::new(&[policy(&spec)]);
    let (_opened, _seats) = site.load(&["a"]);
    site.run_alone(1_000).await.unwrap().settle(0, false);
    let begun = tokio::time::Instant::now();
    site.run_alone(1_010).await.unwrap().settle(1_010, true);
    assert_eq!(begun.elapsed().as_secs(), 0);
    // What came counts.
    site.run_alone(1).await.unwrap().settle(1, true);
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_owes_nothing_takes_nobody_s_debt_back() {
    let site = Site::new(&[policy(&budget_and("mode", "Audit"))]);
    let (_opened, _seats) = site.load(&["a"]);
    site.run_alone(100).await.unwrap().settle(100, true);
    // The controller says that nothing is left: what is loaded from now on is no debt.
    site.answer();
    assert_eq!(site.spender.owed(&account("a")), 100);
    site.run_alone(100).await.unwrap().settle(0, false);
    assert_eq!(site.spender.owed(&account("a")), 100);
}

#[tokio::test(start_paused = true)]
async fn what_a_load_foresees_is_asked_only_where_a_budget_is_charged() {
    let free = json!({"allow": [{}]});
    for (spec, looks) in [(free, 0), (budget_and("mode", "Audit"), 1)] {
        let site = Site::new(&[policy(&spec)]);
        let (_opened, _seats) = site.load(&["a"]);
        site.run_alone(100).await.unwrap().settle(100, true);
        let tab = site.gate.shared.tabs.find(LOAD).unwrap();
        assert_eq!(tab.looks.load(Ordering::Relaxed), looks, "{spec}");
    }
}

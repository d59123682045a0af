//! Runs that wait for bytes and for places, in time that passes only while all wait.

use futures::future::join_all;
use futures::poll;

use super::*;

fn limit(value: u64, policy: &str) -> Limit {
    Limit {
        value,
        policy: policy.to_owned(),
    }
}

/// The limits of these policies.
fn limits(all: &[(u64, &str)]) -> Option<Limits> {
    Limits::of(all.iter().map(|(value, policy)| limit(*value, policy)))
}

fn of_node(per_second: &[(u64, &str)]) -> Rates {
    Rates {
        bytes_per_second_per_node: limits(per_second),
        ..Rates::default()
    }
}

fn of_namespace(per_second: &[(u64, &str)]) -> Rates {
    Rates {
        bytes_per_second_per_namespace: limits(per_second),
        ..Rates::default()
    }
}

fn places(connections: &[(u64, &str)]) -> Rates {
    Rates {
        connections_per_node: limits(connections),
        ..Rates::default()
    }
}

/// How long a run waits that brings all of its bytes.
async fn millis(pace: &Arc<Pace>, rates: &Rates, namespace: &str, bytes: u64) -> u128 {
    let start = Instant::now();
    pace.enter(rates, namespace, bytes)
        .await
        .unwrap()
        .end(bytes);
    start.elapsed().as_millis()
}

#[tokio::test(start_paused = true)]
async fn a_run_begins_when_those_before_it_are_worked_off() {
    let pace = Arc::new(Pace::default());
    let rates = of_node(&[(1_000, "p")]);
    // A tenth of a second is saved up.
    assert_eq!(millis(&pace, &rates, "a", 600).await, 0);
    assert_eq!(millis(&pace, &rates, "b", 1_000).await, 500);
    assert!(pace.is_tight(&rates, "c"));
    assert_eq!(millis(&pace, &rates, "a", 1).await, 1_000);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!pace.is_tight(&rates, "c"));
    assert_eq!(millis(&pace, &rates, "a", 1).await, 0);
}

#[tokio::test(start_paused = true)]
async fn namespaces_wait_for_themselves_and_policies_do_not_share_their_limits() {
    let pace = Arc::new(Pace::default());
    let of = |policy: &str| of_namespace(&[(1_000, policy)]);
    assert_eq!(millis(&pace, &of("p"), "a", 1_100).await, 0);
    assert_eq!(millis(&pace, &of("p"), "b", 1_100).await, 0);
    assert_eq!(millis(&pace, &of("q"), "a", 1_100).await, 0);
    assert_eq!(millis(&pace, &of("p"), "a", 1).await, 1_000);
}

#[tokio::test(start_paused = true)]
async fn the_last_of_several_limits_decides() {
    let pace = Arc::new(Pace::default());
    let rates = Rates {
        bytes_per_second_per_namespace: limits(&[(100, "q")]),
        ..of_node(&[(1_000, "p")])
    };
    assert_eq!(millis(&pace, &rates, "a", 210).await, 0);
    assert_eq!(millis(&pace, &rates, "a", 1).await, 2_000);
    assert_eq!(millis(&pace, &rates, "b", 1).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stricter_policy_for_some_does_not_raise_what_all_have_together() {
    let pace = Arc::new(Pace::default());
    let (all, some) = (
        of_node(&[(1_000, "p")]),
        of_node(&[(500, "q"), (1_000, "p")]),
    );
    assert_eq!(millis(&pace, &all, "a", 1_100).await, 0);
    assert_eq!(millis(&pace, &some, "b", 2_000).await, 1_000);
    // Its own limit holds, too, and what it takes is taken from all.
    assert_eq!(millis(&pace, &all, "a", 1).await, 2_000);
    assert_eq!(millis(&pace, &some, "b", 1).await, 900);

    let (all, some) = (places(&[(2, "p")]), places(&[(1, "q"), (2, "p")]));
    let first = pace.enter(&all, "a", 1).await;
    let second = pace.enter(&all, "a", 1).await;
    let mut third = Box::pin(pace.enter(&some, "b", 1));
    assert!(poll!(&mut third).is_pending());
    drop(first);
    let third = third.await;
    drop(second);
    let mut fourth = Box::pin(pace.enter(&some, "b", 1));
    assert!(poll!(&mut fourth).is_pending(), "q has its one");
    drop(third);
    drop(fourth.await);
    assert!(pace.lock().places.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_waits_for_its_own_bytes_holds_nobody_up() {
    let pace = Arc::new(Pace::default());
    let rates = Rates {
        bytes_per_second_per_namespace: limits(&[(100, "p")]),
        connections_per_node: limits(&[(1, "p")]),
        ..of_node(&[(1_000, "p")])
    };
    assert_eq!(millis(&pace, &rates, "a", 1_010).await, 0);
    let mut slow: Vec<_> = (0..9)
        .map(|_| Box::pin(pace.enter(&rates, "a", 1_000)))
        .collect();
    for run in &mut slow {
        assert!(poll!(run).is_pending());
    }
    // The node's own bytes are worked off after 910 ms, whatever waits beside.
    assert_eq!(millis(&pace, &rates, "b", 1).await, 910);
    assert_eq!(millis(&pace, &rates, "b", 1).await, 1);
}

#[tokio::test(start_paused = true)]
async fn one_namespace_with_many_runs_does_not_hold_up_the_first_of_another() {
    let pace = Arc::new(Pace::default());
    let rates = of_node(&[(1_000, "p")]);
    assert_eq!(millis(&pace, &rates, "a", 1_100).await, 0);
    let runs = ["a", "a", "a", "b", "b"];
    let waits = runs.map(|namespace| millis(&pace, &rates, namespace, 1_000));
    assert_eq!(
        join_all(waits).await,
        [2_000, 4_000, 5_000, 1_000, 3_000],
        "in turn"
    );

    let rates = places(&[(1, "p")]);
    let first = pace.enter(&rates, "a", 1).await;
    let mut second = Box::pin(pace.enter(&rates, "a", 1));
    let mut other = Box::pin(pace.enter(&rates, "b", 1));
    assert!(poll!(&mut second).is_pending() && poll!(&mut other).is_pending());
    drop(first);
    assert!(poll!(&mut second).is_pending());
    drop(other.await);
    drop(second.await);
    assert!(pace.lock().places.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_given_up_while_it_waits_leaves_nothing_behind() {
    let pace = Arc::new(Pace::default());
    let rates = of_node(&[(1_000, "p")]);
    assert_eq!(millis(&pace, &rates, "a", 1_100).await, 0);
    let mut given_up = Box::pin(pace.enter(&rates, "a", 5_000));
    assert!(poll!(&mut given_up).is_pending());
    // Its turn would come first.
    let mut next = Box::pin(millis(&pace, &rates, "a", 1));
    assert!(poll!(&mut next).is_pending());
    drop(given_up);
    assert_eq!(next.await, 1_000);
    assert!(!pace.is_tight(&places(&[(1, "p")]), "a"));

    // It has passed its namespace's limit, and waits for the node's.
    let both = Rates {
        bytes_per_second_per_namespace: limits(&[(100, "p")]),
        ..rates.clone()
    };
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(millis(&pace, &rates, "b", 1_100).await, 0);
    let mut given_up = Box::pin(pace.enter(&both, "a", 510));
    assert!(poll!(&mut given_up).is_pending());
    drop(given_up);
    assert_eq!(millis(&pace, &both, "a", 1).await, 1_000);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_did_not_come_are_given_back_and_who_waits_is_told() {
    let pace = Arc::new(Pace::default());
    let rates = of_node(&[(1_000, "p")]);
    let failed = pace.enter(&rates, "a", 5_000).await.unwrap();
    let mut next = Box::pin(millis(&pace, &rates, "b", 1_000));
    assert!(poll!(&mut next).is_pending());
    failed.end(600);
    assert_eq!(next.await, 500);
    // Never sent.
    drop(pace.enter(&rates, "a", 5_000).await);
    assert_eq!(millis(&pace, &rates, "b", 1).await, 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_runs_than_connections_are_under_way_and_none_is_forgotten() {
    let pace = Arc::new(Pace::default());
    let rates = Rates {
        connections_per_namespace: limits(&[(1, "p")]),
        ..places(&[(2, "p")])
    };
    let first = pace.enter(&rates, "a", 1).await;
    assert!(pace.is_tight(&rates, "a") && !pace.is_tight(&rates, "b"));
    let second = pace.enter(&rates, "b", 1).await;
    let mut third = Box::pin(pace.enter(&rates, "c", 1));
    assert!(poll!(&mut third).is_pending());
    drop(first);
    let third = third.await;
    let mut fourth = Box::pin(pace.enter(&rates, "c", 1));
    drop(second);
    assert!(poll!(&mut fourth).is_pending(), "c has its one");
    drop(third);
    drop(fourth.await);
    assert!(pace.lock().places.is_idle());
}

#[tokio::test(start_paused = true)]
async fn who_needs_a_place_of_two_policies_is_not_passed_for_ever_by_those_who_need_one() {
    let pace = Arc::new(Pace::default());
    let (p, q) = (places(&[(1, "p")]), places(&[(1, "q")]));
    let both = places(&[(1, "p"), (1, "q")]);
    let (of_p, of_q) = (pace.enter(&p, "a", 1).await, pace.enter(&q, "c", 1).await);
    let mut needs_both = Box::pin(pace.enter(&both, "b", 1));
    let mut next_of_p = Box::pin(pace.enter(&p, "a", 1));
    let mut next_of_q = Box::pin(pace.enter(&q, "c", 1));
    assert!(poll!(&mut needs_both).is_pending());
    assert!(poll!(&mut next_of_p).is_pending());
    assert!(poll!(&mut next_of_q).is_pending());
    drop(of_p);
    let next_of_p = next_of_p.await;
    drop(of_q);
    assert!(poll!(&mut next_of_q).is_pending(), "kept free for b");
    drop(next_of_p);
    drop(needs_both.await);
    drop(next_of_q.await);
    assert!(pace.lock().places.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_fills_a_limit_of_the_node_by_itself_keeps_no_place_of_another_free() {
    let pace = Arc::new(Pace::default());
    let (all, some) = (places(&[(2, "p")]), places(&[(1, "q"), (2, "p")]));
    let drips = pace.enter(&some, "team-a", 1).await;
    let mut second = Box::pin(pace.enter(&some, "team-a", 1));
    assert!(poll!(&mut second).is_pending(), "team-a has q itself");
    // The first time it is team-b's turn, the second time team-a's.
    for _ in 0..2 {
        let mut other = Box::pin(pace.enter(&all, "team-b", 1));
        assert!(poll!(&mut other).is_ready(), "p has a free place");
    }
    drop(drips);
    drop(second.await);
    assert!(pace.lock().places.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_fills_one_limit_keeps_nothing_though_it_lacks_another_s_place_too() {
    let pace = Arc::new(Pace::default());
    let of_p = Rates {
        connections_per_namespace: limits(&[(1, "r")]),
        ..places(&[(2, "p")])
    };
    let of_both = Rates {
        connections_per_node: limits(&[(1, "q"), (2, "p")]),
        ..of_p.clone()
    };
    // team-a is at its limit of r, and q is another's.
    let first = pace.enter(&of_p, "team-a", 1).await;
    let of_q = pace.enter(&places(&[(1, "q")]), "team-c", 1).await;
    let mut second = Box::pin(pace.enter(&of_both, "team-a", 1));
    assert!(poll!(&mut second).is_pending());
    let plain = places(&[(2, "p")]);
    let mut other = Box::pin(pace.enter(&plain, "team-b", 1));
    assert!(poll!(&mut other).is_ready(), "p has a free place");
    drop((of_q, first));
    drop(second.await);
    assert!(pace.lock().places.is_idle());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_limited_does_not_wait_and_is_not_counted() {
    let pace = Arc::new(Pace::default());
    let free = Rates::default();
    assert!(pace.enter(&free, "a", u64::MAX).await.is_none());
    assert!(!pace.is_tight(&free, "a"));
    assert_eq!(pace.lock().last, 0);
}

//! Turns of a ledger, one rule each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::crd::CalendarPeriod;
use crate::egress::lease::{Demand, Grant, Lease};
use crate::egress::terms::{Account, PolicyUid};

const HOURLY: Window = Window::Calendar {
    period: CalendarPeriod::Hourly,
    offset_seconds: 0,
};
const TEN: i64 = 36_000;
const A: Incarnation = Incarnation(1);
const B: Incarnation = Incarnation(2);

fn rules() -> Rules {
    Rules {
        most: 40,
        share: 2,
        least: 10,
        ..Rules::default()
    }
}

fn ask(seq: u64, wanted: u64, spent: u64) -> Ask {
    Ask {
        incarnation: A,
        seq,
        wanted,
        spent,
        answered: 0,
    }
}

#[test]
fn a_crumb_is_granted_to_who_needs_no_more_and_to_nobody_else() {
    let rules = Rules::default();
    let mib = 1u64 << 20;
    assert_eq!(rules.portion(1 << 40, 1 << 40, 63 * mib), 0);
    assert_eq!(rules.portion(1 << 40, 1 << 40, 64 * mib), 64 * mib);
    assert_eq!(rules.portion(mib, 1 << 40, 63 * mib), mib);
}

fn asked(asks: &[(&str, Ask)]) -> BTreeMap<String, Ask> {
    let asks = asks.iter();
    asks.map(|(node, ask)| ((*node).to_owned(), *ask)).collect()
}

/// A turn at ten o'clock and some seconds.
fn turn(ledger: &Ledger, seconds: i64, asks: &[(&str, Ask)], expired: &Expired) -> Turned {
    ledger.turn(&Turn {
        limit: ledger.limit,
        window: &HOURLY,
        wall: TEN + seconds,
        asks: &asked(asks),
        expired,
        rules: &rules(),
    })
}

fn next(ledger: &Ledger, seconds: i64, asks: &[(&str, Ask)]) -> Ledger {
    let turned = turn(ledger, seconds, asks, &Expired::default());
    turned.ledger.unwrap()
}

fn expired(node: &str, incarnation: Incarnation, seq: u64) -> Expired {
    Expired {
        rows: [(node.to_owned(), incarnation, seq)].into(),
        ..Expired::default()
    }
}

/// What a node is told of a demand.
fn told(ledger: &Ledger, node: &str, ask: &Ask) -> Option<u64> {
    let book = Book {
        ledger,
        window: &HOURLY,
        rules: &rules(),
    };
    book.answer(node, ask).map(|answer| answer.bytes)
}

fn settled(ledger: &Ledger) -> u64 {
    ledger.settled(&HOURLY, ledger.as_of)
}

#[test]
fn a_grant_is_what_is_missing_up_to_a_share_and_to_what_is_left() {
    let asks = [
        ("a", ask(1, 7, 0)),
        ("b", ask(1, 500, 0)),
        ("c", ask(1, 500, 0)),
        ("d", ask(1, 500, 0)),
    ];
    let ledger = next(&Ledger::new(100), 0, &asks);
    let held: Vec<u64> = ledger.rows.values().map(|row| row.held).collect();
    // A share is 50; of the rest of 43 the third gets all.
    assert_eq!(held, [7, 50, 43]);
    assert_eq!(ledger.held(), 100);
    assert_eq!(told(&ledger, "b", &asks[1].1), Some(50));
    assert_eq!(told(&ledger, "d", &asks[3].1), Some(0));
}

#[test]
fn a_rest_that_is_of_no_use_is_left_to_who_asks_for_less() {
    let mut ledger = Ledger::new(100);
    ledger.settled.insert(HOURLY.key(TEN), 95);
    let asks = [("a", ask(1, 50, 0)), ("b", ask(1, 4, 0))];
    let ledger = next(&ledger, 0, &asks);
    assert_eq!(ledger.rows.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(ledger.room(&HOURLY, TEN), 1);
}

#[test]
fn the_next_demand_settles_what_was_spent_and_frees_the_rest() {
    let ledger = next(&Ledger::new(100), 0, &[("a", ask(1, 50, 0))]);
    let turned = turn(&ledger, 9, &[("a", ask(2, 30, 20))], &Expired::default());
    let expected = [
        Effect::Settled {
            node: Some("a".to_owned()),
            granted: 50,
            spent: 20,
            ending: Ending::Reported,
        },
        Effect::Granted {
            node: "a".to_owned(),
            seq: 2,
            bytes: 30,
        },
    ];
    assert_eq!(turned.effects, expected);
    let ledger = turned.ledger.unwrap();
    assert_eq!((settled(&ledger), ledger.held()), (20, 30));
    assert_eq!(ledger.as_of, TEN + 9);
}

#[test]
fn what_a_node_claims_to_have_spent_beyond_its_grant_is_its_grant() {
    let ledger = next(&Ledger::new(100), 0, &[("a", ask(1, 50, 0))]);
    let ledger = next(&ledger, 9, &[("a", ask(2, 0, u64::MAX))]);
    assert_eq!((settled(&ledger), ledger.held()), (50, 0));
}

#[test]
fn a_message_that_is_repeated_or_late_changes_nothing() {
    let first = [("a", ask(1, 50, 0))];
    let second = [("a", ask(2, 30, 20))];
    let ledger = next(&Ledger::new(100), 0, &first);
    assert_eq!(turn(&ledger, 1, &first, &Expired::default()).ledger, None);
    let ledger = next(&ledger, 2, &second);
    assert_eq!(turn(&ledger, 3, &second, &Expired::default()).ledger, None);
    assert_eq!(turn(&ledger, 3, &first, &Expired::default()).ledger, None);
    assert_eq!(told(&ledger, "a", &first[0].1), None);
}

#[test]
fn a_grant_that_was_not_reported_counts_in_full_and_is_not_given_again() {
    let asks = [("a", ask(1, 50, 0))];
    let ledger = next(&Ledger::new(100), 0, &asks);
    let over = expired("a", A, 1);
    let ledger = turn(&ledger, 900, &asks, &over).ledger.unwrap();
    assert_eq!((settled(&ledger), ledger.held()), (50, 0));
    assert_eq!(turn(&ledger, 901, &asks, &over).ledger, None);
    // The report comes after all.
    let late = [("a", ask(2, 0, 10))];
    assert_eq!(turn(&ledger, 902, &late, &over).ledger, None);
    assert_eq!(settled(&ledger), 50);
}

#[test]
fn a_controller_that_is_far_behind_grants_no_old_demand_again() {
    let ledger = next(&Ledger::new(100), 0, &[("a", ask(1, 50, 0))]);
    let ledger = next(&ledger, 1, &[("a", ask(2, 50, 50))]);
    let over = expired("a", A, 2);
    let behind = [("a", ask(1, 50, 0))];
    let ledger = turn(&ledger, 4_000, &behind, &over).ledger.unwrap();
    assert_eq!(settled(&ledger), 50);
    assert_eq!(turn(&ledger, 4_001, &behind, &over).ledger, None);
}

#[test]
fn a_report_that_was_lost_counts_in_full() {
    let ledger = next(&Ledger::new(100), 0, &[("a", ask(1, 50, 0))]);
    let ledger = next(&ledger, 9, &[("a", ask(3, 0, 0))]);
    assert_eq!(settled(&ledger), 50);
}

#[test]
fn a_service_that_begins_anew_gives_up_what_it_had() {
    let ledger = next(&Ledger::new(100), 0, &[("a", ask(1, 50, 0))]);
    let anew = Ask {
        incarnation: B,
        ..ask(2, 20, 0)
    };
    let turned = turn(&ledger, 9, &[("a", anew)], &Expired::default());
    let ledger = turned.ledger.unwrap();
    assert_eq!((settled(&ledger), ledger.held()), (50, 20));
    assert!(matches!(
        turned.effects[0],
        Effect::Settled {
            ending: Ending::Lost,
            ..
        }
    ));
    // Its number may not be used by another before the grant has run out.
    let same = Ask {
        incarnation: A,
        ..anew
    };
    assert_eq!(told(&ledger, "a", &same), None);
}

#[test]
fn bytes_are_booked_in_the_window_in_which_they_are_settled() {
    let ledger = next(&Ledger::new(100), 3_500, &[("a", ask(1, 50, 0))]);
    let ledger = next(&ledger, 3_700, &[("a", ask(2, 0, 50))]);
    assert_eq!(ledger.settled, [(HOURLY.key(TEN + 3_700), 50)].into());
    // Held bytes count in every window that they may be spent in.
    let ledger = next(&Ledger::new(100), 3_500, &[("a", ask(1, 50, 0))]);
    assert_eq!(ledger.room(&HOURLY, TEN + 3_700), 50);
}

#[test]
fn a_new_window_frees_what_was_settled_and_a_clock_that_goes_back_does_not_do_it_again() {
    let mut ledger = Ledger::new(100);
    ledger.settled.insert(HOURLY.key(TEN), 100);
    let asks = [("a", ask(1, 50, 0))];
    assert_eq!(
        turn(&ledger, 3_599, &asks, &Expired::default()).ledger,
        None
    );
    let ledger = next(&ledger, 3_600, &asks);
    let ledger = next(&ledger, 3_601, &[("a", ask(2, 50, 50))]);
    let ledger = next(&ledger, 3_602, &[("a", ask(3, 50, 50))]);
    assert_eq!(settled(&ledger), 100);
    let asks = [("a", ask(3, 50, 50))];
    assert_eq!(turn(&ledger, 0, &asks, &Expired::default()).ledger, None);
    assert_eq!(ledger.time(TEN), TEN + 3_602);
}

#[test]
fn a_limit_below_what_is_gone_grants_nothing_and_takes_nothing_back() {
    let ledger = next(&Ledger::new(100), 0, &[("a", ask(1, 50, 0))]);
    let turned = ledger.turn(&Turn {
        limit: 20,
        window: &HOURLY,
        wall: TEN,
        asks: &asked(&[("b", ask(1, 5, 0))]),
        expired: &Expired::default(),
        rules: &rules(),
    });
    let ledger = turned.ledger.unwrap();
    assert_eq!((ledger.limit, ledger.held()), (20, 50));
    assert_eq!(ledger.room(&HOURLY, TEN), 0);
    assert!(turned.effects.is_empty());
}

#[test]
fn who_was_served_longest_ago_is_served_first() {
    let ledger = next(&Ledger::new(100), 0, &[("a", ask(1, 50, 0))]);
    let ledger = next(&ledger, 5, &[("a", ask(2, 50, 50)), ("b", ask(1, 50, 0))]);
    assert_eq!(ledger.rows["b"].held, 50);
    assert_eq!(ledger.rows["a"].held, 0);
}

#[test]
fn grants_run_out_by_the_clock_of_who_watches_them() {
    let ledger = next(&Ledger::new(100), 0, &[("a", ask(1, 50, 0))]);
    let mut sightings = Sightings::default();
    let at = |seconds| Duration::from_secs(seconds);
    assert_eq!(sightings.observe(&ledger, at(100)), Expired::default());
    assert_eq!(sightings.observe(&ledger, at(999)), Expired::default());
    assert_eq!(sightings.observe(&ledger, at(1_000)), expired("a", A, 1));
    // Another leader begins to count when it comes.
    let mut sightings = Sightings::default();
    assert_eq!(sightings.observe(&ledger, at(1_000)), Expired::default());
    assert_eq!(sightings.observe(&ledger, at(1_900)), expired("a", A, 1));
}

#[test]
fn more_nodes_than_rows_are_held_together() {
    let rules = Rules { rows: 2, ..rules() };
    let shown = |answered| Ask {
        answered,
        ..ask(1, 10, 0)
    };
    let turned = |ledger: &Ledger, asks: &[(&str, Ask)], expired: &Expired| {
        let turned = ledger.turn(&Turn {
            limit: 100,
            window: &HOURLY,
            wall: TEN,
            asks: &asked(asks),
            expired,
            rules: &rules,
        });
        turned.ledger
    };
    let none = Expired::default();
    let asks = [("a", shown(0)), ("b", shown(0)), ("c", shown(0))];
    let ledger = turned(&Ledger::new(100), &asks, &none).unwrap();
    // Nobody can be forgotten before its object shows the answer.
    assert_eq!(ledger.rows.keys().collect::<Vec<_>>(), ["a", "b"]);
    // That is not for want of bytes.
    assert_eq!(told(&ledger, "c", &shown(0)), None);
    let asks = [("a", shown(1)), ("b", shown(1)), ("c", shown(0))];
    let ledger = turned(&ledger, &asks, &none).unwrap();
    assert_eq!(ledger.rows.keys().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(ledger.crowd.len(), 1);
    assert_eq!((ledger.crowd[0].bytes, ledger.held()), (10, 30));
    let mut sightings = Sightings::default();
    sightings.observe(&ledger, Duration::ZERO);
    let over = sightings.observe(&ledger, Duration::from_mins(15));
    let ledger = turned(&ledger, &asks, &over).unwrap();
    assert!(ledger.crowd.is_empty());
    assert_eq!((settled(&ledger), ledger.held()), (30, 0));
}

#[test]
fn times_of_many_kinds_of_windows_stay_few() {
    let week = Window::Rolling { seconds: 604_800 };
    let mut ledger = Ledger {
        window: Some(week),
        ..Ledger::new(1_000)
    };
    for minute in 0..60 {
        ledger.settled.insert(
            WindowKey {
                start_unix: TEN + minute * 60,
            },
            1,
        );
    }
    let turned = ledger.turn(&Turn {
        limit: 1_000,
        window: &week,
        wall: TEN + 3_600,
        asks: &asked(&[("a", ask(1, 10, 0))]),
        expired: &Expired::default(),
        rules: &rules(),
    });
    let ledger = turned.ledger.unwrap();
    assert_eq!(ledger.settled.len(), MOST_SETTLED);
    assert_eq!(ledger.settled(&week, ledger.as_of), 60);
}

fn account(budget: &str) -> Account {
    Account {
        policy: PolicyUid("p".to_owned()),
        budget: budget.to_owned(),
        namespace: None,
    }
}

fn lease(demands: &[(&str, u64, u64)]) -> Lease {
    let demands = demands.iter().map(|(budget, seq, wanted)| Demand {
        account: account(budget),
        seq: *seq,
        wanted: *wanted,
        spent: 0,
    });
    Lease {
        node: "a".to_owned(),
        incarnation: A,
        demands: demands.collect(),
        grants: Vec::new(),
    }
}

#[test]
fn a_node_is_told_once_what_the_ledgers_say() {
    let mut lease = lease(&[("x", 1, 50), ("y", 1, 50)]);
    let mut asks = Asks::default();
    assert_eq!(asks.update(&lease).len(), 2);
    assert!(asks.update(&lease).is_empty());
    let x = next(&Ledger::new(100), 0, &[("a", asks.of(&account("x"))["a"])]);
    let y = Ledger::new(0);
    let ledgers = BTreeMap::from([(account("x"), x), (account("y"), y)]);
    let rules = rules();
    let find = |account: &Account| {
        ledgers.get(account).map(|ledger| Book {
            ledger,
            window: &HOURLY,
            rules: &rules,
        })
    };
    let told = grants(&lease, find).unwrap();
    let bytes: Vec<u64> = told.iter().map(|grant: &Grant| grant.bytes).collect();
    assert_eq!(bytes, [50, 0]);
    lease.grants = told;
    assert_eq!(grants(&lease, find), None);
    assert_eq!(asks.update(&lease), [account("x")].into());
    assert_eq!(asks.of(&account("x"))["a"].answered, 1);
    // What was given back is not worth a write.
    lease.demands = vec![];
    assert_eq!(grants(&lease, find), None);
    assert_eq!(asks.update(&lease).len(), 2);
    assert_eq!(asks.accounts().count(), 0);
}

//! The purse, one rule each.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::egress::terms::PolicyUid;

const ME: Incarnation = Incarnation(7);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn account(budget: &str) -> Account {
    Account {
        policy: PolicyUid("p".to_owned()),
        budget: budget.to_owned(),
        namespace: None,
    }
}

fn purse() -> Purse {
    Purse::new(ME, None, 0)
}

/// Charges load 1.
fn charge(
    purse: &mut Purse,
    budgets: &[&str],
    bytes: u64,
    seconds: u64,
) -> Result<Receipt, Missing> {
    let accounts: BTreeSet<Account> = budgets.iter().copied().map(account).collect();
    let charge = Charge {
        accounts: &accounts,
        bytes,
        load: 1,
        foreseen: 0,
    };
    purse.charge(&charge, at(seconds))
}

fn grant(budget: &str, seq: u64, bytes: u64) -> Grant {
    Grant {
        account: account(budget),
        incarnation: ME,
        seq,
        bytes,
        seconds: 900,
    }
}

fn demand(budget: &str, seq: u64, wanted: u64, spent: u64) -> Demand {
    Demand {
        account: account(budget),
        seq,
        wanted,
        spent,
    }
}

/// A purse that asked at second 100 and was granted at second 130.
fn granted(bytes: u64) -> Purse {
    let mut purse = purse();
    assert!(charge(&mut purse, &["a"], 10, 99).is_err());
    assert_eq!(purse.demands(at(100)), Some(vec![demand("a", 1, 10, 0)]));
    purse.written();
    assert!(purse.accept(&[grant("a", 1, bytes)], at(130)));
    purse
}

#[test]
fn nothing_is_spent_that_was_not_granted() {
    let mut purse = purse();
    let missing = charge(&mut purse, &["a"], 10, 0).unwrap_err();
    let expected = Missing {
        account: account("a"),
        bytes: 10,
        is_exhausted: false,
    };
    assert_eq!(missing, expected);
    assert_eq!(purse.left(&account("a"), at(0)), 0);
}

#[test]
fn a_grant_is_spent_to_its_last_byte_and_no_further() {
    let mut purse = granted(25);
    assert!(charge(&mut purse, &["a"], 20, 131).is_ok());
    assert!(charge(&mut purse, &["a"], 6, 131).is_err());
    assert!(charge(&mut purse, &["a"], 5, 131).is_ok());
    assert_eq!(purse.left(&account("a"), at(131)), 0);
}

#[test]
fn a_lease_ends_by_the_clock_that_ran_when_it_was_asked_for() {
    let purse = granted(25);
    // 100 + 900 - 60, however late the answer came.
    assert_eq!(purse.left(&account("a"), at(939)), 25);
    assert_eq!(purse.left(&account("a"), at(940)), 0);
}

#[test]
fn a_write_that_may_have_arrived_starts_the_clock_too() {
    let mut purse = purse();
    assert!(charge(&mut purse, &["a"], 10, 0).is_err());
    assert!(purse.demands(at(100)).is_some());
    assert_eq!(purse.demands(at(104)), None);
    assert_eq!(purse.demands(at(105)), Some(vec![demand("a", 1, 10, 0)]));
    purse.written();
    assert!(purse.accept(&[grant("a", 1, 10)], at(106)));
    assert_eq!(purse.left(&account("a"), at(939)), 10);
    assert_eq!(purse.left(&account("a"), at(940)), 0);
}

#[test]
fn an_answer_that_comes_too_late_is_asked_for_again() {
    let mut purse = purse();
    assert!(charge(&mut purse, &["a"], 10, 0).is_err());
    assert!(purse.demands(at(0)).is_some());
    purse.written();
    assert!(purse.accept(&[grant("a", 1, 10)], at(2_000)));
    assert!(charge(&mut purse, &["a"], 10, 2_000).is_err());
    assert_eq!(purse.demands(at(2_000)), Some(vec![demand("a", 2, 10, 0)]));
}

#[test]
fn all_accounts_are_charged_or_none() {
    let mut purse = granted(25);
    assert!(charge(&mut purse, &["a", "b"], 10, 131).is_err());
    assert_eq!(purse.left(&account("a"), at(131)), 25);
    assert_eq!(purse.demands(at(131)), Some(vec![demand("b", 2, 10, 0)]));
    purse.written();
    assert!(purse.accept(&[grant("b", 2, 10)], at(132)));
    assert!(charge(&mut purse, &["a", "b"], 10, 132).is_ok());
    assert_eq!(purse.left(&account("a"), at(132)), 15);
    assert_eq!(purse.left(&account("b"), at(132)), 0);
}

#[test]
fn a_demand_is_for_what_all_loads_will_need() {
    let mut purse = purse();
    let accounts: BTreeSet<Account> = [account("a")].into();
    for (load, bytes, foreseen) in [(1, 10, 0), (2, 10, 100), (2, 10, 90)] {
        let charge = Charge {
            accounts: &accounts,
            bytes,
            load,
            foreseen,
        };
        assert!(purse.charge(&charge, at(0)).is_err());
    }
    assert_eq!(purse.demands(at(0)), Some(vec![demand("a", 1, 100, 0)]));
}

#[test]
fn the_next_demand_says_what_was_spent() {
    let mut purse = granted(25);
    assert!(charge(&mut purse, &["a"], 20, 131).is_ok());
    assert!(charge(&mut purse, &["a"], 20, 131).is_err());
    assert_eq!(purse.demands(at(131)), Some(vec![demand("a", 2, 20, 20)]));
    // The rest was given back with it.
    assert_eq!(purse.left(&account("a"), at(131)), 0);
    assert!(!purse.accept(&[grant("a", 1, 25)], at(132)));
}

#[test]
fn what_was_not_received_is_given_back_once_while_the_grant_lasts() {
    let mut purse = granted(25);
    let first = charge(&mut purse, &["a"], 20, 131).unwrap();
    assert_eq!(first.bytes(), 20);
    purse.refund(&first, 1_000);
    assert_eq!(purse.left(&account("a"), at(131)), 25);
    let second = charge(&mut purse, &["a"], 20, 131).unwrap();
    assert!(charge(&mut purse, &["a"], 20, 131).is_err());
    assert_eq!(purse.demands(at(131)), Some(vec![demand("a", 2, 20, 20)]));
    purse.written();
    // It has been accounted for.
    purse.refund(&second, 20);
    assert!(purse.accept(&[grant("a", 2, 20)], at(132)));
    purse.refund(&second, 20);
    assert_eq!(purse.left(&account("a"), at(132)), 20);
}

#[test]
fn what_is_not_used_is_given_back_and_then_there_is_silence() {
    let mut purse = granted(25);
    assert!(charge(&mut purse, &["a"], 5, 140).is_ok());
    assert_eq!(purse.demands(at(199)), None);
    assert_eq!(purse.demands(at(200)), Some(vec![demand("a", 2, 0, 5)]));
    purse.written();
    for second in 201..5_000 {
        assert_eq!(purse.demands(at(second)), None);
    }
}

#[test]
fn a_grant_that_was_used_up_needs_no_report() {
    let mut purse = granted(25);
    assert!(charge(&mut purse, &["a"], 25, 140).is_ok());
    for second in 141..5_000 {
        assert_eq!(purse.demands(at(second)), None);
    }
    assert!(charge(&mut purse, &["a"], 1, 5_000).is_err());
    assert_eq!(purse.demands(at(5_000)), Some(vec![demand("a", 2, 1, 25)]));
}

#[test]
fn an_account_that_was_forgotten_does_not_report_for_its_last_grant() {
    let mut purse = granted(25);
    assert!(charge(&mut purse, &["a"], 25, 140).is_ok());
    assert!(charge(&mut purse, &["b"], 1, 5_000).is_err());
    assert_eq!(purse.demands(at(5_000)), Some(vec![demand("b", 2, 1, 0)]));
    purse.written();
    assert!(charge(&mut purse, &["a"], 1, 5_005).is_err());
    let demands = purse.demands(at(5_005)).unwrap();
    // Not 2: what was spent of grant 1 is not 0.
    assert_eq!(demands[0], demand("a", 4, 1, 0));
}

#[test]
fn a_load_that_gave_up_takes_its_demand_back() {
    let mut purse = purse();
    assert!(charge(&mut purse, &["a"], 10, 0).is_err());
    assert!(purse.demands(at(0)).is_some());
    purse.written();
    purse.forget(1);
    assert_eq!(purse.demands(at(59)), None);
    assert_eq!(purse.demands(at(60)), Some(vec![demand("a", 2, 0, 0)]));
    assert!(!purse.accept(&[grant("a", 1, 10)], at(61)));
}

#[test]
fn an_exhausted_budget_is_told_once_and_costs_nothing_to_wait_for() {
    let mut purse = purse();
    assert!(charge(&mut purse, &["a"], 10, 0).is_err());
    assert!(purse.demands(at(0)).is_some());
    purse.written();
    assert!(purse.accept(&[grant("a", 1, 0)], at(1)));
    assert!(!purse.accept(&[grant("a", 1, 0)], at(1)));
    assert!(
        charge(&mut purse, &["a", "b"], 10, 1)
            .unwrap_err()
            .is_exhausted
    );
    purse.forget(1);
    assert!(charge(&mut purse, &["a"], 10, 2).unwrap_err().is_exhausted);
    for second in 2..5_000 {
        assert_eq!(purse.demands(at(second)), None);
    }
    // The limit was raised.
    assert!(purse.accept(&[grant("a", 1, 10)], at(5_000)));
}

#[test]
fn an_answer_to_somebody_else_is_not_taken() {
    let mut purse = purse();
    assert!(charge(&mut purse, &["a"], 10, 0).is_err());
    assert!(purse.demands(at(0)).is_some());
    let other = Grant {
        incarnation: Incarnation(6),
        ..grant("a", 1, 10)
    };
    let old = grant("a", 0, 10);
    let unasked = grant("b", 1, 10);
    assert!(!purse.accept(&[other, old, unasked], at(1)));
}

#[test]
fn numbers_go_on_where_an_earlier_start_ended() {
    let before = Lease {
        node: "n".to_owned(),
        incarnation: Incarnation(6),
        demands: vec![demand("a", 41, 0, 0)],
        grants: vec![grant("b", 17, 1)],
    };
    let mut purse = Purse::new(ME, Some(&before), 5);
    assert!(charge(&mut purse, &["b"], 10, 0).is_err());
    assert_eq!(purse.demands(at(0)), Some(vec![demand("b", 42, 10, 0)]));
}

#[test]
fn more_accounts_than_lines_take_turns() {
    let mut purse = purse().with_rules(Rules {
        most: 2,
        ..Rules::default()
    });
    let named = |purse: &mut Purse, second: u64| -> Vec<String> {
        let demands = purse.demands(at(second)).unwrap();
        purse.written();
        let wanting = demands.into_iter().filter(|demand| demand.wanted > 0);
        wanting.map(|demand| demand.account.budget).collect()
    };
    for budget in ["a", "b", "c"] {
        assert!(charge(&mut purse, &[budget], 10, 0).is_err());
    }
    assert_eq!(named(&mut purse, 0), ["a", "b"]);
    assert_eq!(purse.demands(at(5)), None);
    // One that was granted makes room.
    assert!(purse.accept(&[grant("a", 1, 10), grant("b", 2, 0)], at(6)));
    assert_eq!(named(&mut purse, 6), ["c", "b"]);
    // One that was refused does so after a while, and comes again.
    assert!(charge(&mut purse, &["d"], 10, 7).is_err());
    assert_eq!(named(&mut purse, 60), ["d", "c"]);
}

#[test]
fn what_an_object_does_not_say_any_more_is_said_again_at_the_usual_pace() {
    let mut purse = granted(25);
    assert!(charge(&mut purse, &["b"], 7, 131).is_err());
    let said = purse.demands(at(131));
    assert_eq!(said, Some(vec![demand("b", 2, 7, 0)]));
    purse.written();
    purse.repeat();
    assert_eq!(purse.demands(at(135)), None);
    assert_eq!(purse.demands(at(136)), said);
    purse.written();
    assert_eq!(purse.demands(at(141)), None);
    // The clock of the grant to come did not begin anew, and the grant that is held is not touched.
    assert!(purse.accept(&[grant("b", 2, 7)], at(142)));
    assert_eq!(purse.left(&account("b"), at(970)), 7);
    assert_eq!(purse.left(&account("b"), at(971)), 0);
    assert_eq!(purse.left(&account("a"), at(142)), 25);
}

#[test]
fn a_service_that_stops_gives_back_at_once_what_it_holds_and_what_it_asked_for() {
    let mut purse = granted(25);
    assert!(charge(&mut purse, &["a"], 5, 131).is_ok());
    assert!(charge(&mut purse, &["b"], 7, 131).is_err());
    assert!(purse.demands(at(131)).is_some());
    purse.written();
    assert!(charge(&mut purse, &["c"], 7, 131).is_err());
    purse.close();
    let last = purse.demands(at(131)).unwrap();
    assert_eq!(last, [demand("a", 2, 0, 5), demand("b", 3, 0, 0)]);
    assert_eq!(purse.left(&account("a"), at(131)), 0);
    assert!(!purse.accept(&[grant("b", 2, 7)], at(132)));
    purse.written();
    assert_eq!(purse.demands(at(200)), None);
}

#[test]
fn an_account_is_exhausted_from_the_answer_that_says_so_to_the_next_grant() {
    let mut purse = purse();
    assert!(charge(&mut purse, &["a"], 10, 0).is_err());
    assert!(purse.demands(at(0)).is_some());
    assert!(!purse.is_exhausted(&account("a")));
    assert!(purse.accept(&[grant("a", 1, 0)], at(1)));
    assert!(purse.is_exhausted(&account("a")));
    assert!(purse.accept(&[grant("a", 1, 10)], at(2)));
    assert!(!purse.is_exhausted(&account("a")));
}

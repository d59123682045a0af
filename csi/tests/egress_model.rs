//! The protocol of byte budgets, checked in every state that a small world can get into: two nodes, two controllers of which
//! both believe that they lead, loss, delay, repetition, crashes, clocks that jump, windows that pass, limits that change. The
//! transitions are the production code's (`egress::ledger`, `egress::lease`); `docs/ledger.md` states what is shown.
//!
//! Each world is bounded by how often what may happen, and within that searched completely. A world in which the protocol is
//! broken in one place must be found out: otherwise the search would prove nothing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect fails; how many states were searched is a result"
)]

use stateright::{Checker as _, Expectation, HasDiscoveries, Model as _};

#[path = "egress_model/model.rs"]
mod model;
#[path = "egress_model/node.rs"]
mod node;
#[path = "egress_model/part.rs"]
mod part;
#[path = "egress_model/setting.rs"]
mod setting;
#[path = "egress_model/world.rs"]
mod world;

use model::{ABOVE, UNBOOKED, WRONG};
use setting::{AHEAD, Flaw, HOURLY, ROLLING, Setting};

/// Searches a world to its end: what must hold does, and what should be possible is.
fn holds(name: &str, setting: Setting) {
    let checker = setting.checker().threads(2).spawn_bfs().join();
    eprintln!(
        "{name}: {} states, {} steps, at most {} deep",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    let mut discoveries = checker.discoveries();
    for property in checker.model().properties() {
        let found = discoveries.remove(property.name);
        if property.expectation == Expectation::Sometimes {
            assert!(found.is_some(), "{name}: never: {}", property.name);
        } else if let Some(path) = found {
            let end = format!("{:#?}", path.last_state());
            panic!(
                "{name}: not so: {}\n{end}\n{:#?}",
                property.name,
                path.into_actions()
            );
        }
    }
}

/// Searches until something does not hold, and says what.
fn breaks(setting: Setting) -> Vec<&'static str> {
    let flaw = setting.flaw;
    let checker = setting
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found: Vec<_> = [ABOVE, UNBOOKED, WRONG]
        .into_iter()
        .filter(|name| checker.discovery(name).is_some())
        .collect();
    eprintln!(
        "{flaw:?}: found out after {} states: {found:?}",
        checker.unique_state_count()
    );
    found
}

/// An optimized build searches more of each world.
fn or_more(few: u8, more: u8) -> u8 {
    if cfg!(debug_assertions) { few } else { more }
}

#[test]
fn two_leaders_never_give_away_the_same_bytes() {
    holds(
        "two leaders",
        Setting {
            demands: or_more(3, 4),
            ..Setting::new()
        },
    );
}

#[test]
fn grants_that_run_out_and_windows_that_pass_never_free_bytes_early() {
    for (name, window) in [("calendar", HOURLY), ("rolling", ROLLING)] {
        holds(
            name,
            Setting {
                controllers: 1,
                window,
                limits: vec![1],
                foreseen: 1,
                ticks: or_more(4, 5),
                demands: or_more(2, 3),
                ..Setting::new()
            },
        );
    }
}

#[test]
fn lost_late_and_repeated_messages_are_harmless() {
    holds(
        "messages",
        Setting {
            controllers: 1,
            rereads: true,
            timeouts: or_more(1, 2),
            ticks: or_more(1, 2),
            demands: 3,
            ..Setting::new()
        },
    );
}

#[test]
fn a_service_that_begins_anew_gives_up_what_it_had() {
    holds(
        "restarts",
        Setting {
            controllers: 1,
            restarts: 1,
            timeouts: or_more(0, 1),
            ticks: or_more(0, 1),
            demands: 3,
            ..Setting::new()
        },
    );
}

#[test]
fn a_change_of_leaders_loses_nothing_and_expires_nothing_early() {
    holds(
        "handover",
        Setting {
            nodes: 1,
            limits: vec![2],
            handovers: 1,
            ticks: or_more(2, 4),
            demands: or_more(2, 3),
            ..Setting::new()
        },
    );
}

#[test]
fn clocks_that_jump_open_no_window_twice() {
    holds(
        "jumps",
        Setting {
            nodes: or_more(1, 2).into(),
            controllers: 1,
            limits: vec![2],
            jumps: 2,
            ticks: 2,
            demands: 3,
            ..Setting::new()
        },
    );
}

#[test]
fn a_limit_that_changes_never_lets_use_grow_beyond_it() {
    holds(
        "limits",
        Setting {
            controllers: 1,
            limits: vec![2, 4, 1],
            demands: or_more(4, 5),
            ..Setting::new()
        },
    );
}

#[test]
fn a_window_that_is_edited_gives_nothing_back() {
    for (name, window, edited) in [
        ("another time zone", HOURLY, AHEAD),
        ("rolling to calendar", ROLLING, HOURLY),
        ("calendar to rolling", HOURLY, ROLLING),
    ] {
        holds(
            name,
            Setting {
                nodes: 1,
                controllers: 1,
                window,
                edited: Some(edited),
                limits: vec![2],
                ticks: or_more(3, 4),
                demands: or_more(2, 3),
                ..Setting::new()
            },
        );
    }
    holds(
        "an edit that one of two leaders has not read",
        Setting {
            nodes: 1,
            edited: Some(AHEAD),
            limits: vec![1],
            foreseen: 1,
            ticks: or_more(2, 3),
            demands: 2,
            ..Setting::new()
        },
    );
}

#[test]
fn a_charge_takes_from_both_budgets_or_from_none() {
    holds(
        "two budgets",
        Setting {
            nodes: 1,
            controllers: 1,
            accounts: 2,
            ticks: or_more(2, 3),
            demands: or_more(3, 4),
            ..Setting::new()
        },
    );
}

#[test]
fn grants_that_lose_their_rows_are_still_held() {
    let mut setting = Setting {
        controllers: 1,
        limits: vec![2],
        foreseen: 1,
        ticks: or_more(2, 4),
        demands: or_more(2, 3),
        ..Setting::new()
    };
    setting.ledger.rows = 1;
    holds("crowd", setting);
}

#[test]
fn every_flaw_is_found_out() {
    for flaw in Flaw::ALL {
        let bounds = Setting {
            controllers: 1,
            demands: 2,
            flaw: Some(flaw),
            ..Setting::new()
        };
        let one_byte = Setting {
            limits: vec![1],
            foreseen: 1,
            ..bounds.clone()
        };
        let setting = match flaw {
            Flaw::CountsFromTheAnswer => Setting {
                ticks: 4,
                ..one_byte
            },
            Flaw::AnswersBeforeItWrites => bounds,
            Flaw::WritesWithoutVersion => Setting {
                controllers: 2,
                ..one_byte
            },
            Flaw::RemembersItsLease => Setting {
                restarts: 1,
                ..bounds
            },
            Flaw::ReportsAndGoesOn => Setting { ticks: 1, ..bounds },
            Flaw::GoesByTheWallClock => Setting {
                jumps: 2,
                ..one_byte
            },
            Flaw::KeepsKeysAtAnEdit => Setting {
                nodes: 1,
                edited: Some(AHEAD),
                ticks: 2,
                ..one_byte
            },
        };
        assert!(!breaks(setting).is_empty(), "{flaw:?} was not found out");
    }
}

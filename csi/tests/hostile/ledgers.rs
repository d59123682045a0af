//! Ledgers as the API server might give them: whatever stands there, no more is granted than the limit allows.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use tonnage_csi::crd::{
    CalendarPeriod, CrowdLine, EgressBudgetStatus, OutstandingLine, SettledLine,
};
use tonnage_csi::egress::lease::Incarnation;
use tonnage_csi::egress::ledger::objects::{read_ledger, write_ledger};
use tonnage_csi::egress::ledger::{Ask, Book, Effect, Rules, Sightings, Turn};
use tonnage_csi::egress::window::Window;

use super::words::{settings, text};

/// 2026-11-27T03:44:23Z.
const NOW: i64 = 1_795_751_063;
const WINDOWS: &[Window] = &[
    Window::Rolling { seconds: 86_400 },
    Window::Calendar {
        period: CalendarPeriod::Daily,
        offset_seconds: 7_200,
    },
    Window::Calendar {
        period: CalendarPeriod::Monthly,
        offset_seconds: 0,
    },
];

/// Numbers of bytes and of everything else, sensible ones and others.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 0i64..1_000,
        2 => 0i64..1 << 40,
        1 => select(vec![i64::MIN, -1, 0, 1, i64::MAX]),
        1 => any::<i64>(),
    ]
}

/// Times that clocks show, and some that they should not.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => NOW - 100_000..NOW + 100_000,
        1 => -250_000_000_000i64..250_000_000_000,
    ]
}

fn node() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[a-d]", 1 => text()]
}

fn incarnation() -> impl Strategy<Value = String> {
    prop_oneof![8 => "000000000000000[0-3]", 1 => "[0-9a-f]{0,18}", 1 => text()]
}

prop_compose! {
    fn row()(
        node in node(),
        incarnation in incarnation(),
        seq in number(),
        bytes in number(),
        duration_seconds in number(),
        until in time(),
    ) -> OutstandingLine {
        OutstandingLine { node, incarnation, seq, bytes, duration_seconds, until }
    }
}

prop_compose! {
    fn status()(
        limit_bytes in number(),
        as_of in time(),
        settled in proptest::collection::vec((time(), number()), 0..6),
        outstanding in proptest::collection::vec(row(), 0..6),
        crowds in proptest::collection::vec((number(), number(), number()), 0..4),
        window in text(),
        outstanding_bytes in number(),
    ) -> EgressBudgetStatus {
        let settled = settled.into_iter().map(|(start, bytes)| SettledLine { start, bytes });
        let crowds = crowds
            .into_iter()
            .map(|(id, bytes, duration_seconds)| CrowdLine { id, bytes, duration_seconds });
        EgressBudgetStatus {
            limit_bytes,
            window,
            as_of,
            settled: settled.collect(),
            outstanding,
            crowds: crowds.collect(),
            outstanding_bytes,
            ..EgressBudgetStatus::default()
        }
    }
}

prop_compose! {
    fn ask()(
        incarnation in 0u64..4,
        seq in prop_oneof![4 => 0u64..8, 1 => any::<u64>()],
        wanted in prop_oneof![4 => 0u64..1 << 34, 1 => any::<u64>()],
        spent in prop_oneof![4 => 0u64..1 << 34, 1 => any::<u64>()],
        answered in 0u64..8,
    ) -> Ask {
        Ask { incarnation: Incarnation(incarnation), seq, wanted, spent, answered }
    }
}

fn asks() -> impl Strategy<Value = BTreeMap<String, Ask>> {
    proptest::collection::btree_map("[a-f]", ask(), 0..6)
}

fn rules() -> impl Strategy<Value = Rules> {
    let small = Rules {
        most: 100,
        share: 3,
        least: 5,
        seconds: 900,
        rows: 2,
    };
    let odd = Rules {
        most: 0,
        share: 0,
        least: 0,
        seconds: u32::MAX,
        rows: 0,
    };
    select(vec![Rules::default(), small, odd])
}

proptest! {
    #![proptest_config(settings(512))]

    #[test]
    fn whatever_is_read_leaves_no_more_room_than_the_limit(
        status in status(),
        window in select(WINDOWS),
        now in time(),
    ) {
        let ledger = read_ledger(&status);
        let limit = u64::try_from(status.limit_bytes).unwrap_or(0);
        prop_assert_eq!(ledger.limit, limit);
        let used = ledger.used(&window, now);
        prop_assert_eq!(ledger.room(&window, now), limit.saturating_sub(used));
        // Every grant that the object shows is held, and nothing below zero frees anything.
        let shown = status.outstanding.iter().map(|line| line.bytes);
        let shown = shown.chain(status.crowds.iter().map(|line| line.bytes));
        let held = shown
            .map(|bytes| u64::try_from(bytes).unwrap_or(0))
            .fold(0, u64::saturating_add);
        prop_assert_eq!(ledger.held(), held);
        let booked = status.settled.iter().map(|line| u64::try_from(line.bytes).unwrap_or(0));
        let booked = booked.fold(0, u64::saturating_add);
        prop_assert!(ledger.settled(&window, now) <= booked);
        prop_assert!(ledger.settled(&window, i64::MIN) == booked);
    }

    #[test]
    fn a_ledger_that_was_read_is_written_and_read_as_itself(
        status in status(),
        window in select(WINDOWS),
    ) {
        let ledger = read_ledger(&status);
        let again = read_ledger(&write_ledger(&ledger, &window));
        // An object holds no number above 2^63 - 1, which sums of several lines may be.
        let sums = ledger.rows.values().map(|row| row.held);
        let fits = |bytes: u64| i64::try_from(bytes).is_ok();
        if sums.chain(ledger.settled.values().copied()).all(fits) {
            prop_assert_eq!(&again, &ledger);
        }
        prop_assert_eq!(read_ledger(&write_ledger(&again, &window)), again);
    }

    #[test]
    fn a_turn_of_whatever_was_read_grants_no_more_than_the_limit(
        status in status(),
        limit in prop_oneof![0u64..1_000, 0u64..1 << 41, any::<u64>()],
        window in select(WINDOWS),
        wall in time(),
        asks in asks(),
        rules in rules(),
        later in 0u64..2_000,
    ) {
        let ledger = read_ledger(&status);
        let mut sightings = Sightings::default();
        sightings.observe(&ledger, Duration::ZERO);
        let expired = sightings.observe(&ledger, Duration::from_secs(later));
        let turned = ledger.turn(&Turn {
            limit,
            window: &window,
            wall,
            asks: &asks,
            expired: &expired,
            rules: &rules,
        });
        let now = ledger.time(wall);
        let granted = turned.effects.iter().map(|effect| match effect {
            Effect::Granted { bytes, .. } => *bytes,
            Effect::Settled { .. } => 0,
        });
        let granted = granted.fold(0, u64::saturating_add);
        prop_assert!(granted <= limit, "{} of {}", granted, limit);
        let Some(next) = turned.ledger else {
            prop_assert_eq!(granted, 0);
            return Ok(());
        };
        prop_assert_eq!((next.limit, next.as_of), (limit, now));
        // What is used grows by grants alone, and never beyond the limit.
        let (before, after) = (ledger.used(&window, now), next.used(&window, now));
        prop_assert!(after <= limit.max(before), "{} then {} of {}", before, after, limit);
        // Nobody spends more than was granted to him.
        for effect in &turned.effects {
            if let Effect::Settled { granted, spent, .. } = effect {
                prop_assert!(spent <= granted, "{:?}", effect);
            }
        }
        let book = Book { ledger: &next, window: &window, rules: &rules };
        for (node, ask) in &asks {
            if let Some(answer) = book.answer(node, ask) {
                let held = next.rows.get(node).map_or(0, |row| row.held);
                prop_assert!(answer.bytes == 0 || answer.bytes == held, "{:?}", answer);
            }
        }
    }
}

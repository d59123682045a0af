//! What becomes of settled bytes when the window of their budget is edited. Of each key only its bytes are known and the last second
//! at which any of them may have been booked: its end, or the last entry in the ledger if that was earlier. They go to the key of the
//! new window which that second is in:
//!
//! ```text
//! Daily         |·········· key 00:00, 5 bytes ·······▲  now        the last entry was here
//! Daily -05:00  ····|········ key 05:00, 5 bytes ·····▲···
//! ```
//!
//! So whatever may have been spent since the new window began counts in it; what is known to have been spent before that does not, and
//! once that is written it is forgotten. What nodes hold has no window and always counts.

use std::collections::BTreeMap;

use super::Ledger;
use crate::egress::terms::WindowKey;
use crate::egress::window::Window;

impl Ledger {
    /// What is settled, by keys of a window. Two keys may be the same.
    pub fn booked(&self, window: &Window) -> impl Iterator<Item = (WindowKey, u64)> {
        let settled = self.settled.iter();
        settled.map(move |(key, bytes)| (self.key_in(window, *key), *bytes))
    }

    fn key_in(&self, window: &Window, key: WindowKey) -> WindowKey {
        let last = match self.window {
            Some(own) if own == *window => return key,
            Some(own) => own.closes(key).saturating_sub(1).min(self.as_of),
            None => self.as_of,
        };
        window.key(last.max(key.start_unix))
    }

    /// Goes on with a window.
    pub(super) fn carry(&mut self, window: &Window) {
        if self.window.as_ref() == Some(window) {
            return;
        }
        let mut settled: BTreeMap<WindowKey, u64> = BTreeMap::new();
        for (key, bytes) in self.booked(window) {
            let sum = settled.entry(key).or_default();
            *sum = sum.saturating_add(bytes);
        }
        self.settled = settled;
        // A ledger that names no window is written when there is something else to say.
        self.window = self.window.map(|_| *window);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::sample::select;

    use crate::crd::CalendarPeriod;
    use crate::egress::lease::Incarnation;
    use crate::egress::ledger::{Ask, Expired, Ledger, Rules, Turn};
    use crate::egress::window::Window;

    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;
    const LIMIT: u64 = 100;
    const DAILY: Window = calendar(CalendarPeriod::Daily, 0);

    const fn calendar(period: CalendarPeriod, hours: i64) -> Window {
        Window::Calendar {
            period,
            offset_seconds: hours * HOUR,
        }
    }

    const fn rolling(hours: i64) -> Window {
        Window::Rolling {
            seconds: hours * HOUR,
        }
    }

    const WINDOWS: [Window; 8] = [
        DAILY,
        calendar(CalendarPeriod::Daily, -5),
        calendar(CalendarPeriod::Daily, 9),
        calendar(CalendarPeriod::Hourly, 0),
        calendar(CalendarPeriod::Weekly, 0),
        calendar(CalendarPeriod::Monthly, 2),
        rolling(24),
        rolling(5),
    ];

    /// One node, which spends all that it is granted and says so along with its next demand.
    struct Story {
        ledger: Ledger,
        now: i64,
        seq: u64,
        /// When what was spent, as far as the ledger has not forgotten it for good.
        spent: Vec<(i64, u64)>,
    }

    impl Story {
        fn new(now: i64) -> Self {
            Self {
                ledger: Ledger::new(LIMIT),
                now,
                seq: 0,
                spent: Vec::new(),
            }
        }

        fn held(&self) -> u64 {
            self.ledger.held()
        }

        fn ask(&mut self, window: &Window, wanted: u64) {
            let known = self.ledger.window;
            if let Some(known) = known.filter(|known| known != window) {
                self.spent
                    .retain(|(then, _)| is_in(&known, *then, self.now));
            }
            let held = self.held();
            self.spent.push((self.now, held));
            self.seq += 1;
            let ask = Ask {
                incarnation: Incarnation(1),
                seq: self.seq,
                wanted,
                spent: held,
                answered: 0,
            };
            let turned = self.ledger.turn(&Turn {
                limit: LIMIT,
                window,
                wall: self.now,
                asks: &BTreeMap::from([("a".to_owned(), ask)]),
                expired: &Expired::default(),
                rules: &Rules {
                    least: 1,
                    ..Rules::default()
                },
            });
            if let Some(ledger) = turned.ledger {
                self.ledger = ledger;
            }
        }

        /// Spends so much at a time.
        fn spend(&mut self, window: &Window, now: i64, bytes: u64) {
            self.now = now;
            self.ask(window, bytes);
            assert_eq!(self.held(), bytes);
            self.ask(window, 0);
        }

        fn room(&self, window: &Window, now: i64) -> u64 {
            self.ledger.room(window, now)
        }
    }

    fn is_in(window: &Window, then: i64, now: i64) -> bool {
        match window {
            Window::Rolling { seconds } => then > now - seconds,
            Window::Calendar { .. } => window.key(then) == window.key(now),
        }
    }

    #[test]
    fn another_time_zone_gives_nothing_back_that_may_be_of_its_day() {
        let west = calendar(CalendarPeriod::Daily, -5);
        let mut story = Story::new(0);
        story.spend(&DAILY, 10 * HOUR, 80);
        // By the new zone the day began at five.
        assert_eq!(story.room(&west, 11 * HOUR), 20);
        story.now = 11 * HOUR;
        story.ask(&west, 500);
        assert_eq!((story.held(), story.ledger.window), (20, Some(west)));
        // And back.
        story.ask(&DAILY, 500);
        assert_eq!((story.held(), story.room(&DAILY, 11 * HOUR)), (0, 0));
        assert_eq!(story.room(&DAILY, DAY), LIMIT);
    }

    #[test]
    fn an_edit_alone_is_written() {
        let mut story = Story::new(0);
        story.spend(&DAILY, 10 * HOUR, 80);
        let turned = story.ledger.turn(&Turn {
            limit: LIMIT,
            window: &rolling(5),
            wall: 11 * HOUR,
            asks: &BTreeMap::new(),
            expired: &Expired::default(),
            rules: &Rules::default(),
        });
        let ledger = turned.ledger.unwrap();
        assert_eq!(ledger.window, Some(rolling(5)));
        assert_eq!(ledger.settled(&rolling(5), 11 * HOUR), 80);
    }

    #[test]
    fn what_was_spent_before_the_new_window_began_is_not_in_it() {
        let east = calendar(CalendarPeriod::Daily, 9);
        let mut story = Story::new(0);
        story.spend(&DAILY, 10 * HOUR, 80);
        // By the new zone the day began at three in the afternoon.
        assert_eq!(story.room(&east, 14 * HOUR), 20);
        assert_eq!(story.room(&east, 16 * HOUR), LIMIT);
        // A rolling window knows when what was spent.
        let mut story = Story::new(0);
        story.spend(&rolling(48), 10 * HOUR, 50);
        story.spend(&rolling(48), 40 * HOUR, 30);
        assert_eq!(story.room(&rolling(24), 50 * HOUR), 70);
        assert_eq!(story.room(&rolling(48), 50 * HOUR), 20);
    }

    #[test]
    fn a_month_that_becomes_a_day_is_in_the_day_in_which_it_was_spent_last() {
        let monthly = calendar(CalendarPeriod::Monthly, 0);
        let mut story = Story::new(0);
        story.spend(&monthly, 2 * DAY, 50);
        story.spend(&monthly, 10 * DAY, 30);
        assert_eq!(story.room(&DAILY, 10 * DAY + HOUR), 20);
        assert_eq!(story.room(&DAILY, 11 * DAY), LIMIT);
    }

    #[test]
    fn what_is_held_counts_in_every_window() {
        let mut story = Story::new(10 * HOUR);
        story.ask(&DAILY, 60);
        for window in &WINDOWS {
            assert_eq!(story.room(window, 12 * HOUR), 40, "{window}");
        }
    }

    #[test]
    fn a_ledger_of_a_window_that_cannot_be_read_frees_nothing() {
        let mut story = Story::new(0);
        story.spend(&DAILY, 10 * HOUR, 80);
        story.ledger.window = None;
        for window in &WINDOWS {
            assert_eq!(story.room(window, 10 * HOUR), 20, "{window}");
        }
    }

    /// Pauses, what is wanted after them, and by which window.
    fn steps() -> impl Strategy<Value = Vec<(i64, u64, Window)>> {
        let window = prop_oneof![
            3 => Just(WINDOWS[0]),
            2 => Just(WINDOWS[1]),
            3 => select(&WINDOWS[..]),
        ];
        proptest::collection::vec((0i64..20_000, 0u64..120, window), 1..120)
    }

    proptest! {
        #[test]
        fn however_a_window_is_edited_nothing_in_it_is_forgotten_or_exceeds_the_limit(steps in steps()) {
            let mut story = Story::new(1_795_751_063);
            for (pause, wanted, window) in steps {
                story.now += pause;
                let before = story.ledger.used(&window, story.now);
                story.ask(&window, wanted);
                let now = story.now;
                let ledger = &story.ledger;
                let known = story.spent.iter().filter(|(then, _)| is_in(&window, *then, now));
                let known: u64 = known.map(|(_, bytes)| bytes).sum();
                prop_assert!(known <= ledger.settled(&window, now), "{} of {:?}", known, ledger);
                prop_assert!(ledger.used(&window, now) <= LIMIT, "{:?}", ledger);
                prop_assert!(before <= LIMIT);
            }
        }
    }
}

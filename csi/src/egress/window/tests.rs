//! Windows against calendars and sums that are counted out one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use time::{OffsetDateTime, Weekday};

use super::*;

fn window(json: serde_json::Value) -> Result<Window, String> {
    Window::parse(&serde_json::from_value(json).unwrap())
}

/// 2026-11-27T03:44:23Z, a Friday.
const NOW: i64 = 1_795_751_063;

#[test]
fn calendars_begin_where_people_expect_it() {
    for (json, starts, closes) in [
        (
            serde_json::json!({"calendar": "Hourly"}),
            "2026-11-27 3:00:00.0 +00:00:00",
            "2026-11-27 4:00:00.0 +00:00:00",
        ),
        (
            serde_json::json!({"calendar": "Daily", "timeZone": "UTC"}),
            "2026-11-27 0:00:00.0 +00:00:00",
            "2026-11-28 0:00:00.0 +00:00:00",
        ),
        (
            serde_json::json!({"calendar": "Daily", "timeZone": "-05:00"}),
            "2026-11-26 5:00:00.0 +00:00:00",
            "2026-11-27 5:00:00.0 +00:00:00",
        ),
        (
            serde_json::json!({"calendar": "Weekly"}),
            "2026-11-23 0:00:00.0 +00:00:00",
            "2026-11-30 0:00:00.0 +00:00:00",
        ),
        (
            serde_json::json!({"calendar": "Monthly", "timeZone": "+02:00"}),
            "2026-10-31 22:00:00.0 +00:00:00",
            "2026-11-30 22:00:00.0 +00:00:00",
        ),
    ] {
        let window = window(json).unwrap();
        let shown = |unix| {
            OffsetDateTime::from_unix_timestamp(unix)
                .unwrap()
                .to_string()
        };
        let key = window.key(NOW);
        assert_eq!(shown(key.start_unix), starts, "{window}");
        assert_eq!(shown(window.closes(key)), closes, "{window}");
        assert_eq!(window.ends(key), window.closes(key));
    }
}

#[test]
fn what_is_no_window_is_refused_in_a_sentence() {
    for (json, words) in [
        (
            serde_json::json!({}),
            "window must have either rolling, such as 24h, or calendar, such as Daily",
        ),
        (
            serde_json::json!({"rolling": "24h", "calendar": "Daily"}),
            "window must have either rolling, such as 24h, or calendar, such as Daily",
        ),
        (
            serde_json::json!({"rolling": "24h", "timeZone": "UTC"}),
            "window.timeZone belongs to no rolling window",
        ),
        (
            serde_json::json!({"rolling": "30m"}),
            r#"window.rolling: "30m" is not a length from 1h to 366d in whole minutes"#,
        ),
        (
            serde_json::json!({"rolling": "367d"}),
            r#"window.rolling: "367d" is not a length from 1h to 366d in whole minutes"#,
        ),
        (
            serde_json::json!({"rolling": "3601s"}),
            r#"window.rolling: "3601s" is not a length from 1h to 366d in whole minutes"#,
        ),
        (
            serde_json::json!({"rolling": "a\nday"}),
            r#"window.rolling: "a\nday" is not a length from 1h to 366d in whole minutes"#,
        ),
        (
            serde_json::json!({"calendar": "Daily", "timeZone": "Europe/Berlin"}),
            r#"window.timeZone: "Europe/Berlin" is neither UTC nor an offset such as +02:00"#,
        ),
        (
            serde_json::json!({"calendar": "Daily", "timeZone": "+2:00"}),
            r#"window.timeZone: "+2:00" is neither UTC nor an offset such as +02:00"#,
        ),
        (
            serde_json::json!({"calendar": "Daily", "timeZone": "+15:00"}),
            r#"window.timeZone: "+15:00" is neither UTC nor an offset such as +02:00"#,
        ),
    ] {
        assert_eq!(window(json).unwrap_err(), words);
    }
}

#[test]
fn windows_are_shown_as_they_are_written() {
    for (json, shown) in [
        (serde_json::json!({"rolling": "48h"}), "2d"),
        (serde_json::json!({"rolling": "36h"}), "36h"),
        (serde_json::json!({"rolling": "90m"}), "90m"),
        (serde_json::json!({"calendar": "Daily"}), "Daily"),
        (
            serde_json::json!({"calendar": "Monthly", "timeZone": "-03:30"}),
            "Monthly -03:30",
        ),
    ] {
        let window = window(json).unwrap();
        assert_eq!(window.to_string(), shown);
        assert_eq!(Window::read(shown), Some(window));
    }
}

#[test]
fn what_shows_no_window_is_read_as_none() {
    for shown in [
        "",
        "Yearly",
        "Daily 02:00",
        "Daily +02:00 ",
        "24h UTC",
        "30m",
        "daily",
    ] {
        assert_eq!(Window::read(shown), None, "{shown}");
    }
}

#[test]
fn a_clock_that_goes_back_frees_nothing() {
    for json in [
        serde_json::json!({"calendar": "Daily"}),
        serde_json::json!({"rolling": "24h"}),
    ] {
        let window = window(json).unwrap();
        let settled = [(window.key(NOW), 7)];
        assert_eq!(window.used(settled, NOW - 10 * DAY), 7);
        assert_eq!(window.used(settled, NOW + 10 * DAY), 0);
    }
}

#[test]
fn no_time_overflows() {
    for json in [
        serde_json::json!({"calendar": "Monthly", "timeZone": "+14:00"}),
        serde_json::json!({"calendar": "Weekly", "timeZone": "-14:00"}),
        serde_json::json!({"rolling": "366d"}),
    ] {
        let window = window(json).unwrap();
        for time in [i64::MIN, -1, 0, LAST, i64::MAX] {
            let key = window.key(time);
            assert!(window.closes(key) > key.start_unix);
            let hostile = WindowKey { start_unix: time };
            window.counts(hostile, time);
            window.used([(hostile, u64::MAX), (key, u64::MAX)], time);
        }
    }
}

const PERIODS: [CalendarPeriod; 4] = [
    CalendarPeriod::Hourly,
    CalendarPeriod::Daily,
    CalendarPeriod::Weekly,
    CalendarPeriod::Monthly,
];

/// Whether a period begins with this local second, read off the calendar.
fn begins(period: CalendarPeriod, local: i64) -> bool {
    let moment = OffsetDateTime::from_unix_timestamp(local).unwrap();
    let midnight = moment.to_hms() == (0, 0, 0);
    match period {
        CalendarPeriod::Hourly => moment.minute() == 0 && moment.second() == 0,
        CalendarPeriod::Daily => midnight,
        CalendarPeriod::Weekly => midnight && moment.weekday() == Weekday::Monday,
        CalendarPeriod::Monthly => midnight && moment.day() == 1,
    }
}

fn some_rolling() -> impl Strategy<Value = Window> {
    (60i64..3_000).prop_map(|minutes| Window::Rolling {
        seconds: minutes * 60,
    })
}

/// Stretches of time between spends, and how much each wants.
fn spends() -> impl Strategy<Value = Vec<(i64, u64)>> {
    proptest::collection::vec((0i64..20_000, 0u64..60), 1..120)
}

proptest! {
    #[test]
    fn a_time_lies_in_the_one_period_that_the_calendar_shows(
        period in select(&PERIODS[..]),
        quarters in -56i64..=56,
        now in DAY..4_102_444_800i64,
    ) {
        let offset_seconds = quarters * 900;
        let window = Window::Calendar { period, offset_seconds };
        let key = window.key(now);
        let closes = window.closes(key);
        prop_assert!(key.start_unix <= now && now < closes);
        prop_assert!(begins(period, key.start_unix + offset_seconds));
        prop_assert!(begins(period, closes + offset_seconds));
        let step = if period == CalendarPeriod::Hourly { 60 } else { HOUR };
        let mut between = key.start_unix + step;
        while between < closes {
            prop_assert!(!begins(period, between + offset_seconds));
            prop_assert_eq!(window.key(between), key);
            between += step;
        }
        prop_assert_eq!(window.key(closes - 1), key);
        prop_assert_eq!(window.key(closes).start_unix, closes);
    }

    #[test]
    fn keys_of_a_rolling_window_follow_one_another(window in some_rolling(), now in 0i64..4_102_444_800) {
        let key = window.key(now);
        prop_assert!(key.start_unix <= now && now < window.closes(key));
        prop_assert_eq!(window.key(window.closes(key)).start_unix, window.closes(key));
    }

    #[test]
    fn no_rolling_stretch_ever_has_more_than_the_limit(window in some_rolling(), spends in spends(), limit in 50u64..200) {
        let Window::Rolling { seconds } = window else { unreachable!() };
        let mut settled: BTreeMap<WindowKey, u64> = BTreeMap::new();
        let mut history: Vec<(i64, u64)> = Vec::new();
        let mut now = NOW;
        for (pause, wanted) in spends {
            now += pause;
            settled.retain(|key, _| window.counts(*key, now));
            prop_assert!(settled.len() <= MOST_KEYS);
            let used = window.used(settled.clone(), now);
            let exact: u64 = history.iter().filter(|(at, _)| *at > now - seconds).map(|(_, bytes)| bytes).sum();
            let lenient: u64 = history
                .iter()
                .filter(|(at, _)| *at > now - seconds - window.width())
                .map(|(_, bytes)| bytes)
                .sum();
            // Never less than what was spent in the window, and never more than a 32nd of it longer.
            prop_assert!(exact <= used && used <= lenient);
            if used + wanted <= limit {
                *settled.entry(window.key(now)).or_default() += wanted;
                history.push((now, wanted));
            }
        }
        for (at, _) in &history {
            let sum: u64 = history.iter().filter(|(other, _)| *other <= *at && *other > at - seconds).map(|(_, bytes)| bytes).sum();
            prop_assert!(sum <= limit);
        }
    }

    #[test]
    fn hostile_windows_never_panic(rolling in "\\PC{0,10}|[0-9]{1,25}[mhds]{1,2}", zone in "\\PC{0,10}|[-+][0-9:]{0,8}") {
        Window::read(&rolling);
        Window::read(&format!("Daily {zone}"));
        let mut written = BudgetWindow { rolling: Some(rolling), ..BudgetWindow::default() };
        Window::parse(&written).ok();
        written = BudgetWindow { calendar: Some(CalendarPeriod::Daily), time_zone: Some(zone), ..BudgetWindow::default() };
        Window::parse(&written).ok();
    }

    #[test]
    fn a_window_is_read_as_it_is_shown(
        rolling in some_rolling(),
        period in select(&PERIODS[..]),
        minutes in -899i64..=899,
    ) {
        let calendar = Window::Calendar { period, offset_seconds: minutes * 60 };
        for window in [rolling, calendar] {
            prop_assert_eq!(Window::read(&window.to_string()), Some(window));
        }
    }
}

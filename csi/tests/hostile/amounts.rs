//! Amounts that people write: bytes, sizes, stretches of time, windows, prices and quotas.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;
use tonnage_csi::crd::{BudgetWindow, CacheQuota, CalendarPeriod, PricePerGib, Quantity};
use tonnage_csi::egress::price::Price;
use tonnage_csi::egress::quota::{Place, Quota, Usage, decide};
use tonnage_csi::egress::window::Window;
use tonnage_csi::size::{ByteSize, Span};

use super::values::value;
use super::words::{is_sentence, settings, text};

const SUFFIXES: &[(&str, u128)] = &[
    ("", 1),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Ei", 1 << 60),
    ("e3", 1_000),
    ("E15", 1_000_000_000_000_000),
];
const PERIODS: &[CalendarPeriod] = &[
    CalendarPeriod::Hourly,
    CalendarPeriod::Daily,
    CalendarPeriod::Weekly,
    CalendarPeriod::Monthly,
];

fn quantity(text: String) -> Result<u64, String> {
    Quantity::Text(text).bytes()
}

/// Whole bytes that an object can hold.
fn whole(bytes: u128, scale: u128) -> Option<u64> {
    let is_whole = bytes.is_multiple_of(scale);
    let bytes = i64::try_from(bytes / scale).ok().filter(|_| is_whole);
    bytes.map(i64::unsigned_abs)
}

proptest! {
    #![proptest_config(settings(512))]

    #[test]
    fn a_quantity_is_its_number_times_its_unit(
        number in prop_oneof![0u64..10_000, any::<u64>()],
        fraction in 0u128..1000,
        (suffix, factor) in select(SUFFIXES),
    ) {
        let bytes = u128::from(number) * factor;
        prop_assert_eq!(quantity(format!("{number}{suffix}")).ok(), whole(bytes, 1));
        let thousandths = u128::from(number) * 1000 + fraction;
        let expected = thousandths.checked_mul(factor).and_then(|it| whole(it, 1000));
        let written = format!("{number}.{fraction:03}{suffix}");
        prop_assert_eq!(quantity(written.clone()).ok(), expected, "{}", written);
    }

    #[test]
    fn what_is_no_amount_is_refused_in_a_sentence(text in prop_oneof![text(), "[0-9.]{0,8}[a-zA-Z+ -]{0,3}"]) {
        if let Err(sentence) = quantity(text.clone()) {
            prop_assert!(is_sentence(&sentence), "{}", sentence);
        }
        if let Err(error) = text.parse::<ByteSize>() {
            prop_assert!(is_sentence(&error.to_string()), "{}", error);
        }
        if let Err(error) = text.parse::<Span>() {
            prop_assert!(is_sentence(&error.to_string()), "{}", error);
        }
        let price = PricePerGib { amount: text.clone(), currency: text };
        if let Err(sentence) = Price::parse(&price) {
            prop_assert!(is_sentence(&sentence), "{}", sentence);
        }
    }

    #[test]
    fn a_size_that_is_shown_is_read_as_no_more_and_a_tenth_less_at_most(bytes: u64) {
        let read: ByteSize = ByteSize(bytes).to_string().parse().unwrap();
        prop_assert!(read.0 <= bytes && bytes - read.0 <= bytes / 10 + 1, "{}", read);
    }

    #[test]
    fn a_rolling_window_is_read_as_it_is_shown(minutes in 0i64..600_000) {
        let written = BudgetWindow { rolling: Some(format!("{minutes}m")), ..BudgetWindow::default() };
        let read = Window::parse(&written);
        let is_one = (60..=366 * 24 * 60).contains(&minutes);
        prop_assert_eq!(read.is_ok(), is_one, "{:?}", read);
        if let Ok(window) = read {
            prop_assert_eq!(window, Window::Rolling { seconds: minutes * 60 });
            let shown = BudgetWindow { rolling: Some(window.to_string()), ..BudgetWindow::default() };
            prop_assert_eq!(Window::parse(&shown), Ok(window));
        }
    }

    #[test]
    fn a_calendar_window_is_read_as_it_is_shown(
        period in select(PERIODS),
        (hours, minutes) in (0i64..=16, 0i64..=61),
        is_behind: bool,
    ) {
        let sign = if is_behind { '-' } else { '+' };
        let zone = format!("{sign}{hours:02}:{minutes:02}");
        let written = |zone: String| BudgetWindow {
            calendar: Some(period),
            time_zone: Some(zone),
            ..BudgetWindow::default()
        };
        let read = Window::parse(&written(zone));
        prop_assert_eq!(read.is_ok(), hours <= 14 && minutes <= 59);
        if let Ok(window) = read {
            let shown = window.to_string();
            let zone = shown.split_once(' ').map_or("UTC", |(_, zone)| zone);
            prop_assert_eq!(Window::parse(&written(zone.to_owned())), Ok(window));
        }
    }

    #[test]
    fn what_is_no_window_is_refused_in_a_sentence(rolling in text(), zone in text()) {
        let daily = Some(CalendarPeriod::Daily);
        let windows = [
            BudgetWindow { rolling: Some(rolling), ..BudgetWindow::default() },
            BudgetWindow { calendar: daily, time_zone: Some(zone), ..BudgetWindow::default() },
        ];
        for window in windows {
            if let Err(sentence) = Window::parse(&window) {
                prop_assert!(is_sentence(&sentence), "{}", sentence);
            }
        }
    }

    #[test]
    fn what_was_just_booked_counts_until_its_window_is_over(
        now in -4_000_000_000i64..253_000_000_000,
        minutes in 60i64..500_000,
        period in select(PERIODS),
        quarters in -56i64..=56,
    ) {
        for window in [
            Window::Rolling { seconds: minutes * 60 },
            Window::Calendar { period, offset_seconds: quarters * 900 },
        ] {
            let key = window.key(now);
            prop_assert!(window.counts(key, now), "{}", window);
            prop_assert_eq!(window.used([(key, 7)], now), 7);
            prop_assert!(window.closes(key) <= window.ends(key));
            prop_assert!(!window.counts(key, window.ends(key)));
        }
    }

    #[test]
    fn a_quota_that_cannot_be_read_lets_nothing_in(
        field in select(vec!["/spec/perNode/logicalBytes", "/spec/perNode/volumes", "/spec/cluster/logicalBytes"]),
        value in prop_oneof![value(), text().prop_map(|text| json!(text)), (-9i64..9).prop_map(|it| json!(it))],
    ) {
        let mut object = json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "CacheQuota",
            "metadata": {"name": "q", "namespace": "team-a"},
            "spec": {"perNode": {"logicalBytes": "1Gi", "volumes": 4}, "cluster": {"logicalBytes": "2Gi"}},
        });
        *object.pointer_mut(field).unwrap() = value;
        let Ok(object) = serde_json::from_value::<CacheQuota>(object) else {
            return Ok(());
        };
        let quota = Quota::of(&object);
        if let Err(sentence) = quota.limits.clone() {
            prop_assert!(is_sentence(&sentence), "{}", sentence);
            for place in [Place::Node, Place::Cluster] {
                let no = decide(std::slice::from_ref(&quota), place, Usage::default(), 0);
                prop_assert!(is_sentence(&no.unwrap_err().message));
            }
        }
    }
}

#[test]
fn what_is_booked_at_a_time_that_no_clock_shows_counts_all_the_same() {
    let window = Window::Rolling { seconds: 86_400 };
    for now in [253_400_000_000, i64::MAX] {
        assert!(window.counts(window.key(now), now), "{now}");
    }
}

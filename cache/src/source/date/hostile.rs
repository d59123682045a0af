//! Dates under arbitrary texts, and there and back.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

/// The first second of the year 10000, which neither form can write.
const END: u64 = 253_402_300_800;

fn settings() -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::with_cases(512)
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,40}",
        "[SMTWFa-z]{3}, [0-9 ]{1,2} [JFMASOND][a-z]{2} [0-9]{2,5} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT",
        "[+-]?[0-9]{4,6}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,20})?([Zz]|[+-][0-9]{2}:[0-9]{2})",
    ]
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_time_is_written_and_read_back_in_whole_seconds(millis in 0..END * 1000) {
        let written = format_http(millis);
        prop_assert!(written.is_some());
        prop_assert_eq!(parse_http(&written.unwrap_or_default()), Some(millis / 1000 * 1000));
    }

    #[test]
    fn a_listed_time_is_the_same_in_every_zone(
        seconds in 0i64..253_402_300_000,
        millis in 0u16..1000,
        hours in -14i8..=14,
    ) {
        let nanos = (i128::from(seconds) * 1000 + i128::from(millis)) * 1_000_000;
        let moment = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap();
        let Some(there) = moment.checked_to_offset(time::UtcOffset::from_hms(hours, 0, 0).unwrap()) else {
            return Ok(());
        };
        // What is before the year 0 or after 9999 there cannot be written.
        if let Ok(written) = there.format(&Rfc3339) {
            prop_assert_eq!(parse_rfc3339(&written).map(i128::from), Some(nanos / 1_000_000));
        }
    }

    #[test]
    fn any_text_is_a_date_that_can_be_shown_or_none(text in text()) {
        for millis in [parse_http(&text), parse_rfc3339(&text)].into_iter().flatten() {
            let since = system_time(millis).duration_since(SystemTime::UNIX_EPOCH);
            prop_assert_eq!(since.ok(), Some(Duration::from_millis(millis)));
            prop_assert!(format_http(millis).is_some() || millis >= END * 1000);
        }
    }
}

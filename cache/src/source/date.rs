//! Dates as HTTP (RFC 9110 §5.6.7, its preferred form) and listings (RFC 3339) write them, in milliseconds
//! since the Unix epoch. What cannot be read is no date.

use std::time::{Duration, SystemTime};

use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

const HTTP: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

/// Milliseconds as an HTTP date, in whole seconds.
pub(super) fn format_http(millis: u64) -> Option<String> {
    let seconds = i64::try_from(millis / 1000).ok()?;
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()?
        .format(HTTP)
        .ok()
}

/// An HTTP date in milliseconds.
pub(super) fn parse_http(text: &str) -> Option<u64> {
    let date = PrimitiveDateTime::parse(text.trim(), HTTP).ok()?;
    millis(date.assume_utc())
}

/// An RFC 3339 date in milliseconds.
pub(super) fn parse_rfc3339(text: &str) -> Option<u64> {
    millis(OffsetDateTime::parse(text.trim(), &Rfc3339).ok()?)
}

/// A date in milliseconds as a point in time.
pub(super) fn system_time(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_millis(millis))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn millis(date: OffsetDateTime) -> Option<u64> {
    u64::try_from(date.unix_timestamp_nanos() / 1_000_000).ok()
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_written() {
        let text = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(parse_http(text), Some(784_111_777_000));
        assert_eq!(format_http(784_111_777_999).as_deref(), Some(text));
        assert_eq!(
            parse_rfc3339("1994-11-06T08:49:37.125Z"),
            Some(784_111_777_125)
        );
        assert_eq!(parse_http("yesterday"), None);
        assert_eq!(parse_rfc3339("1901-01-01T00:00:00Z"), None);
    }
}

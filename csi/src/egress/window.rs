//! Windows of time in which a budget's bytes are counted. Pure arithmetic on seconds since 1970 (UTC): there is no daylight
//! saving, and every day has 86,400 seconds.
//!
//! Bytes are booked under a [`WindowKey`], which is the window itself for a calendar's period:
//!
//! ```text
//! calendar   |···· key 0 ····|···· key 86400 ····|     one key is a whole period; it counts until its end
//! rolling    |k|k|k|k|k|k|k|k|k|k|k|k|k|k|k|k|         a 32nd of the length; each counts until its *last* second
//!                    |<──── length ────>| now          is as old as the window is long
//! ```
//!
//! So bytes of a rolling window count at least as long as they should, and at most a 32nd longer: whoever never lets what
//! counts exceed a limit never has more than the limit in any stretch of that length. That needs bytes to be booked no
//! earlier than they are spent: whoever settles a grant books it under the key of that moment.

use std::fmt;

use time::{Date, OffsetDateTime};

use super::terms::WindowKey;
use crate::crd::{BudgetWindow, CalendarPeriod};
use crate::size::Span;

/// Into how many keys a rolling window is cut.
pub const KEYS: i64 = 32;
/// Most keys of a budget that can count at one time.
pub const MOST_KEYS: usize = 33;

const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
const WEEK: i64 = 604_800;
/// 1970 began on a Thursday; this was the Monday before.
const MONDAY: i64 = -3 * DAY;
/// The first second of the year 9999; later times are taken for it.
const LAST: i64 = 253_370_764_800;
const SHORTEST: i64 = HOUR;
const LONGEST: i64 = 366 * DAY;

/// A window of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Window {
    /// The last `seconds`, at every moment.
    Rolling {
        /// Its length.
        seconds: i64,
    },
    /// From one beginning of a period to the next.
    Calendar {
        /// Which period.
        period: CalendarPeriod,
        /// How far local time is ahead of UTC.
        offset_seconds: i64,
    },
}

impl Window {
    /// Reads a policy's window, or says in a sentence what is wrong.
    pub fn parse(written: &BudgetWindow) -> Result<Self, String> {
        let BudgetWindow {
            rolling,
            calendar,
            time_zone,
        } = written;
        match (rolling, calendar) {
            (Some(text), None) if time_zone.is_none() => {
                rolling_seconds(text).map(|seconds| Self::Rolling { seconds })
            }
            (Some(_), None) => Err("window.timeZone belongs to no rolling window".to_owned()),
            (None, Some(period)) => Ok(Self::Calendar {
                period: *period,
                offset_seconds: offset_seconds(time_zone.as_deref().unwrap_or("UTC"))?,
            }),
            (None, None) | (Some(_), Some(_)) => Err(
                "window must have either rolling, such as 24h, or calendar, such as Daily"
                    .to_owned(),
            ),
        }
    }

    /// Reads a window as it is shown; nothing where it is none.
    pub fn read(shown: &str) -> Option<Self> {
        let (name, zone) = shown.split_once(' ').unwrap_or((shown, "UTC"));
        let period = match name {
            "Hourly" => CalendarPeriod::Hourly,
            "Daily" => CalendarPeriod::Daily,
            "Weekly" => CalendarPeriod::Weekly,
            "Monthly" => CalendarPeriod::Monthly,
            _ => {
                let seconds = rolling_seconds(shown).ok()?;
                return Some(Self::Rolling { seconds });
            }
        };
        let offset_seconds = offset_seconds(zone).ok()?;
        Some(Self::Calendar {
            period,
            offset_seconds,
        })
    }

    /// The key that a time belongs to.
    pub fn key(&self, now_unix: i64) -> WindowKey {
        let now = now_unix.clamp(0, LAST);
        let start_unix = match *self {
            Self::Rolling { .. } => floor(now, self.width(), 0),
            Self::Calendar {
                period,
                offset_seconds,
            } => period_start(period, now.saturating_add(offset_seconds))
                .saturating_sub(offset_seconds),
        };
        WindowKey { start_unix }
    }

    /// The first second that belongs to the next key: until then can be booked under this one.
    pub fn closes(&self, key: WindowKey) -> i64 {
        let start = key.start_unix.clamp(-DAY, LAST);
        match *self {
            Self::Rolling { .. } => start.saturating_add(self.width()),
            Self::Calendar {
                period,
                offset_seconds,
            } => next_period(period, start.saturating_add(offset_seconds))
                .saturating_sub(offset_seconds),
        }
    }

    /// The first second at which what is booked under a key counts no more.
    pub fn ends(&self, key: WindowKey) -> i64 {
        let closes = self.closes(key);
        match *self {
            Self::Rolling { seconds } => closes.saturating_add(seconds),
            Self::Calendar { .. } => closes,
        }
    }

    /// When the period of a calendar that a time is in ends; a rolling window has no end.
    pub fn period_end(&self, now_unix: i64) -> Option<i64> {
        match self {
            Self::Rolling { .. } => None,
            Self::Calendar { .. } => Some(self.closes(self.key(now_unix))),
        }
    }

    /// Whether what is booked under a key counts. Keys that have not begun count too: a clock that went back frees nothing.
    pub fn counts(&self, key: WindowKey, now_unix: i64) -> bool {
        now_unix.min(LAST) < self.ends(key)
    }

    /// The sum of what counts.
    pub fn used(&self, settled: impl IntoIterator<Item = (WindowKey, u64)>, now_unix: i64) -> u64 {
        settled
            .into_iter()
            .filter(|(key, _)| self.counts(*key, now_unix))
            .fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
    }

    /// How many seconds a key of a rolling window, or at most one of a calendar, is long.
    fn width(&self) -> i64 {
        match *self {
            Self::Rolling { seconds } => seconds.saturating_add(KEYS - 1).div_euclid(KEYS).max(1),
            Self::Calendar { period, .. } => match period {
                CalendarPeriod::Hourly => HOUR,
                CalendarPeriod::Daily => DAY,
                CalendarPeriod::Weekly => WEEK,
                CalendarPeriod::Monthly => 31 * DAY,
            },
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Rolling { seconds } if seconds.rem_euclid(DAY) == 0 => {
                write!(f, "{}d", seconds.div_euclid(DAY))
            }
            Self::Rolling { seconds } if seconds.rem_euclid(HOUR) == 0 => {
                write!(f, "{}h", seconds.div_euclid(HOUR))
            }
            Self::Rolling { seconds } => write!(f, "{}m", seconds.div_euclid(60)),
            Self::Calendar {
                period,
                offset_seconds,
            } => {
                write!(f, "{period:?}")?;
                if offset_seconds == 0 {
                    return Ok(());
                }
                let sign = if offset_seconds < 0 { '-' } else { '+' };
                let minutes = offset_seconds.unsigned_abs() / 60;
                write!(f, " {sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        }
    }
}

fn rolling_seconds(text: &str) -> Result<i64, String> {
    let bad = || {
        format!(
            "window.rolling: \"{}\" is not a length from 1h to 366d in whole minutes",
            text.escape_default()
        )
    };
    let Span(length) = text.parse().map_err(|_| bad())?;
    let seconds = i64::try_from(length.as_secs()).map_err(|_| bad())?;
    let fits = (SHORTEST..=LONGEST).contains(&seconds)
        && length.subsec_nanos() == 0
        && seconds.rem_euclid(60) == 0;
    fits.then_some(seconds).ok_or_else(bad)
}

fn offset_seconds(text: &str) -> Result<i64, String> {
    let bad = || {
        format!(
            "window.timeZone: \"{}\" is neither UTC nor an offset such as +02:00",
            text.escape_default()
        )
    };
    let (sign, rest) = match text {
        "UTC" => return Ok(0),
        text => match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(rest), _) => (1, rest),
            (None, Some(rest)) => (-1, rest),
            (None, None) => return Err(bad()),
        },
    };
    let two = |text: &str, most: i64| {
        let is_two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<i64>().ok().filter(|_| is_two);
        number.filter(|number| *number <= most).ok_or_else(bad)
    };
    let (hours, minutes) = rest.split_once(':').ok_or_else(bad)?;
    let seconds = two(hours, 14)? * HOUR + two(minutes, 59)? * 60;
    Ok(sign * seconds)
}

fn floor(time: i64, width: i64, origin: i64) -> i64 {
    (time - origin).div_euclid(width) * width + origin
}

/// The date of a local time.
fn date(local: i64) -> Date {
    OffsetDateTime::from_unix_timestamp(local)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .date()
}

fn period_start(period: CalendarPeriod, local: i64) -> i64 {
    match period {
        CalendarPeriod::Hourly => floor(local, HOUR, 0),
        CalendarPeriod::Daily => floor(local, DAY, 0),
        CalendarPeriod::Weekly => floor(local, WEEK, MONDAY),
        CalendarPeriod::Monthly => floor(local, DAY, 0) - (i64::from(date(local).day()) - 1) * DAY,
    }
}

fn next_period(period: CalendarPeriod, local: i64) -> i64 {
    let start = period_start(period, local);
    match period {
        CalendarPeriod::Hourly => start + HOUR,
        CalendarPeriod::Daily => start + DAY,
        CalendarPeriod::Weekly => start + WEEK,
        CalendarPeriod::Monthly => {
            let date = date(local);
            start + i64::from(date.month().length(date.year())) * DAY
        }
    }
}

#[cfg(test)]
mod tests;

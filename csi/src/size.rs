//! Sizes in bytes as people write and read them: `500GiB` in, `18.2 GiB` out. Units are powers of 1024 with an
//! `i` and powers of 1000 without. Rates and durations are shown here too, so that every line looks alike.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(try_from = "Written")]
pub struct ByteSize(pub u64);

/// Why a text is not a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is not a size: write 750GiB, 1.5T or a number of bytes")]
pub struct ParseError(String);

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Written {
    Bytes(u64),
    Text(String),
}

impl TryFrom<Written> for ByteSize {
    type Error = ParseError;

    fn try_from(written: Written) -> Result<Self, ParseError> {
        match written {
            Written::Bytes(bytes) => Ok(Self(bytes)),
            Written::Text(text) => text.parse(),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError(text.escape_default().to_string());
        let trimmed = text.trim();
        let end = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at_checked(end).ok_or_else(bad)?;
        let factor = factor(unit.trim()).ok_or_else(bad)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.len() > 6 || number.ends_with('.') {
            return Err(bad());
        }
        let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
        let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
        let bytes = digits.checked_mul(factor).ok_or_else(bad)? / scale;
        u64::try_from(bytes).map(Self).map_err(|_| bad())
    }
}

fn factor(unit: &str) -> Option<u128> {
    let unit = unit.strip_suffix(['b', 'B']).unwrap_or(unit);
    let (letter, base) = match unit.strip_suffix('i') {
        Some(letter) => (letter, 1024u128),
        None => (unit, 1000u128),
    };
    let power = match letter {
        "" if base == 1000 => 0,
        "k" | "K" => 1,
        "m" | "M" => 2,
        "g" | "G" => 3,
        "t" | "T" => 4,
        "p" | "P" => 5,
        _ => return None,
    };
    Some(base.pow(power))
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut tenths = u128::from(self.0) * 10 / 1024;
        let mut units = UNITS.iter();
        let mut unit = units.next().copied().unwrap_or_default();
        while tenths >= 10_240 {
            let Some(next) = units.next() else { break };
            tenths /= 1024;
            unit = next;
        }
        f.pad(&format!("{}.{} {unit}", tenths / 10, tenths % 10))
    }
}

/// A stretch of time as people write it: `90s`, `500ms`, `5m`, `2h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

/// Why a text is not a stretch of time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is not a time: write 90s, 500ms, 5m or 2h")]
pub struct SpanError(String);

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let bad = || SpanError(text.escape_default().to_string());
        let trimmed = text.trim();
        let end = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at_checked(end).ok_or_else(bad)?;
        let millis: u64 = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let number: u64 = number.parse().map_err(|_| bad())?;
        number
            .checked_mul(millis)
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(bad)
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, SpanError> {
        text.parse()
    }
}

/// Shows a duration with three figures: `812 µs`, `43 ms`, `2.91 s`, `4 min 12 s`.
#[derive(Debug, Clone, Copy)]
pub struct Took(pub Duration);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let text = if micros < 1_000 {
            format!("{micros} µs")
        } else if micros < 1_000_000 {
            format!("{} ms", micros / 1_000)
        } else if micros < 60_000_000 {
            format!("{}.{:02} s", micros / 1_000_000, micros / 10_000 % 100)
        } else {
            let seconds = micros / 1_000_000;
            format!("{} min {} s", seconds / 60, seconds % 60)
        };
        f.pad(&text)
    }
}

/// Shows bytes per time as `1.42 GB/s`, in powers of 1000 like data sheets.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Bytes that went.
    pub bytes: u64,
    /// The time they took.
    pub time: Duration,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.time.as_nanos().max(1);
        let per_second = u128::from(self.bytes) * 1_000_000_000 / nanos;
        let text = if per_second >= 1_000_000_000 {
            format!(
                "{}.{:02} GB/s",
                per_second / 1_000_000_000,
                per_second / 10_000_000 % 100
            )
        } else {
            format!(
                "{}.{} MB/s",
                per_second / 1_000_000,
                per_second / 100_000 % 10
            )
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_kinds_of_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("1KiB", 1024),
            ("1k", 1000),
            ("1.5 GiB", 3 << 29),
            ("2T", 2_000_000_000_000),
            ("512MiB", 512 << 20),
            ("7B", 7),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!("0s".parse(), Ok(Span(Duration::ZERO)));
        assert_eq!("5m".parse(), Ok(Span(Duration::from_mins(5))));
        assert_eq!("250ms".parse(), Ok(Span(Duration::from_millis(250))));
        for text in ["5", "", "s", "1.5s", "-1s", "99999999999999999999h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "GiB",
            "1.GiB",
            ".5G",
            "1 XB",
            "-1",
            "1e9",
            "99999999P",
            "1iB",
            "1..2k",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_times_and_rates_are_shown_with_few_figures() {
        assert_eq!(ByteSize(1023).to_string(), "1023 B");
        assert_eq!(ByteSize(18 << 30).to_string(), "18.0 GiB");
        assert_eq!(ByteSize(u64::MAX).to_string(), "16383.9 PiB");
        assert_eq!(Took(Duration::from_micros(812)).to_string(), "812 µs");
        assert_eq!(Took(Duration::from_millis(2_915)).to_string(), "2.91 s");
        assert_eq!(Took(Duration::from_secs(252)).to_string(), "4 min 12 s");
        let rate = Rate {
            bytes: 1 << 30,
            time: Duration::from_millis(500),
        };
        assert_eq!(rate.to_string(), "2.14 GB/s");
    }
}

//! Bytes as Kubernetes writes quantities: `500Gi`, `1.5T`, `1e12` or a number. What is written is kept as it is, so that an
//! object reads back as its author wrote it.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use tonnage_cache::path::Escaped;

/// Longest text that is looked at.
const LONGEST: usize = 64;
/// Most figures behind the point.
const FIGURES: usize = 9;

/// A number of bytes, as a number or as a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    /// `1073741824`.
    Number(i64),
    /// `1Gi`.
    Text(String),
}

impl Quantity {
    /// How many bytes, or in a sentence what is wrong: they must be whole, not negative, and at most 2⁶³ − 1.
    pub fn bytes(&self) -> Result<u64, String> {
        match self {
            Self::Number(number) => {
                u64::try_from(*number).map_err(|_| refusal(&number.to_string()))
            }
            Self::Text(text) => parse(text).ok_or_else(|| refusal(text)),
        }
    }
}

fn refusal(text: &str) -> String {
    format!(
        "{} is not a number of bytes: write 500Gi, 1.5T or 1000000",
        Escaped(text)
    )
}

/// A quantity of Kubernetes (apimachinery, `resource.Quantity`) in whole units; signs are not among them.
fn parse(text: &str) -> Option<u64> {
    if text.len() > LONGEST {
        return None;
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > FIGURES {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let bytes = digits.checked_mul(factor(suffix)?)?;
    let whole = bytes.checked_rem(scale)? == 0;
    let bytes = i64::try_from(bytes.checked_div(scale)?).ok()?;
    u64::try_from(bytes).ok().filter(|_| whole)
}

fn factor(suffix: &str) -> Option<u128> {
    let exponent = |digits: &str| {
        let exponent = digits.parse::<u32>().ok().filter(|it| *it <= 18)?;
        10u128.checked_pow(exponent)
    };
    match suffix {
        "" => Some(1),
        "k" => Some(1_000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        "T" => Some(1_000_000_000_000),
        "P" => Some(1_000_000_000_000_000),
        "E" => Some(1_000_000_000_000_000_000),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        "Ti" => Some(1 << 40),
        "Pi" => Some(1 << 50),
        "Ei" => Some(1 << 60),
        text => exponent(text.strip_prefix(['e', 'E'])?),
    }
}

impl JsonSchema for Quantity {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"x-kubernetes-int-or-string": true})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Result<u64, String> {
        serde_json::from_str::<Quantity>(json).unwrap().bytes()
    }

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (json, bytes) in [
            ("0", 0),
            ("1073741824", 1 << 30),
            (r#""1Gi""#, 1 << 30),
            (r#""1.5Gi""#, 3 << 29),
            (r#""500G""#, 500_000_000_000),
            (r#""10k""#, 10_000),
            (r#""1e12""#, 1_000_000_000_000),
            (r#""1E3""#, 1_000),
            (r#""1E""#, 1_000_000_000_000_000_000),
            (r#"".5Ki""#, 512),
            (r#""7.""#, 7),
            (r#""1.0""#, 1),
            ("9223372036854775807", u64::MAX >> 1),
        ] {
            assert_eq!(read(json), Ok(bytes), "{json}");
        }
    }

    #[test]
    fn what_is_no_number_of_bytes_is_refused_in_a_sentence() {
        for json in [
            "-1",
            r#""""#,
            r#""-1Gi""#,
            r#""+1Gi""#,
            r#""1GiB""#,
            r#""1K""#,
            r#""100m""#,
            r#""1.5""#,
            r#""0.3Ki""#,
            r#""1..5Gi""#,
            r#"".""#,
            r#""8Ei""#,
            r#""1e19""#,
            r#""1e""#,
            r#""1 Gi""#,
            r#""١Gi""#,
        ] {
            let sentence = read(json).unwrap_err();
            assert!(
                sentence.ends_with("is not a number of bytes: write 500Gi, 1.5T or 1000000"),
                "{sentence}"
            );
        }
    }

    #[test]
    fn what_was_written_reads_back() {
        for json in ["7", r#""1.5Gi""#] {
            let quantity: Quantity = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&quantity).unwrap(), json);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}|[0-9.]{0,70}[kMGTPEie+0-9]{0,4}") {
            let bytes = Quantity::Text(text).bytes();
            prop_assert!(bytes.is_err() || bytes.is_ok_and(|bytes| bytes <= i64::MAX.unsigned_abs()));
        }

        #[test]
        fn every_number_reads_as_itself(number in 0..=i64::MAX) {
            let bytes = number.unsigned_abs();
            prop_assert_eq!(Quantity::Number(number).bytes(), Ok(bytes));
            prop_assert_eq!(Quantity::Text(number.to_string()).bytes(), Ok(bytes));
        }
    }
}

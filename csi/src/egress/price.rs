//! What bytes cost. Exact: a price is a decimal number, a cost is a fraction of whole numbers, and nothing is rounded until
//! it is shown. Shown costs are rounded to the nearest hundredth, a half upwards; a cost that is not nothing is never shown
//! as nothing. Costs are worked out from sums of bytes, never summed from what was shown.

use std::fmt;

use crate::crd::PricePerGib;

/// Most figures before the point, and behind it.
const FIGURES: usize = 9;
const GIB: u128 = 1 << 30;

/// What 2³⁰ bytes cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// In units of 10^-9 of the currency: 0.09 is 90,000,000.
    nano: u64,
    /// As it was written.
    amount: String,
    currency: String,
}

/// What some bytes cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// In units of 10^-9 / 2³⁰ of the currency.
    fine: u128,
    currency: String,
}

impl Price {
    /// Reads a policy's price, or says in a sentence what is wrong.
    pub fn parse(written: &PricePerGib) -> Result<Self, String> {
        let PricePerGib { amount, currency } = written;
        let nano = nano(amount).ok_or_else(|| {
            format!(
                "pricePerGiB.amount: \"{}\" is not a decimal number such as 0.09",
                amount.escape_default()
            )
        })?;
        if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(format!(
                "pricePerGiB.currency: \"{}\" is not three capital letters such as EUR",
                currency.escape_default()
            ));
        }
        Ok(Self {
            nano,
            amount: amount.clone(),
            currency: currency.clone(),
        })
    }

    /// What so many bytes cost.
    pub fn cost(&self, bytes: u64) -> Cost {
        Cost {
            // At most 2^64 · 10^18 < 2^124.
            fine: u128::from(bytes).saturating_mul(u128::from(self.nano)),
            currency: self.currency.clone(),
        }
    }

    /// Its currency.
    pub fn currency(&self) -> &str {
        &self.currency
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/GiB", self.amount, self.currency)
    }
}

impl Cost {
    /// The sum, if it is of one currency.
    pub fn plus(&self, other: &Self) -> Option<Self> {
        let fine = self.fine.checked_add(other.fine)?;
        (self.currency == other.currency).then(|| Self {
            fine,
            currency: self.currency.clone(),
        })
    }

    /// Millionths of the currency, rounded to the nearest, a half upwards: for counters.
    pub fn micros(&self) -> u64 {
        let micros = rounded(self.fine, GIB * 1_000);
        u64::try_from(micros).unwrap_or(u64::MAX)
    }

    /// Its currency.
    pub fn currency(&self) -> &str {
        &self.currency
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cents = rounded(self.fine, GIB * 10_000_000);
        let currency = &self.currency;
        if cents == 0 && self.fine > 0 {
            return write!(f, "under 0.01 {currency}");
        }
        write!(f, "{}.{:02} {currency}", cents / 100, cents % 100)
    }
}

/// Rounds to the nearest, a half upwards.
fn rounded(value: u128, unit: u128) -> u128 {
    value.saturating_add(unit / 2) / unit.max(1)
}

fn nano(amount: &str) -> Option<u64> {
    let (whole, fraction) = match amount.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (amount, ""),
    };
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > FIGURES || fraction.len() > FIGURES {
        return None;
    }
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    format!("{whole}{fraction:0<9}").parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn price(amount: &str) -> Price {
        Price::parse(&PricePerGib {
            amount: amount.to_owned(),
            currency: "EUR".to_owned(),
        })
        .unwrap()
    }

    #[test]
    fn costs_are_exact_and_rounded_only_when_shown() {
        for (amount, bytes, shown, micros) in [
            ("0.09", 0, "0.00 EUR", 0),
            ("0.09", 1 << 30, "0.09 EUR", 90_000),
            ("0.09", 16_000_000_000, "1.34 EUR", 1_341_105),
            ("0.01", 1 << 29, "0.01 EUR", 5_000),
            ("0.01", (1 << 29) - 1, "under 0.01 EUR", 5_000),
            ("0.09", 1, "under 0.01 EUR", 0),
            ("0", 1 << 40, "0.00 EUR", 0),
            ("2", 3 << 29, "3.00 EUR", 3_000_000),
            ("0.000000001", 1 << 60, "1.07 EUR", 1_073_742),
            ("0.1", 3 << 30, "0.30 EUR", 300_000),
        ] {
            let cost = price(amount).cost(bytes);
            assert_eq!(cost.to_string(), shown, "{amount} {bytes}");
            assert_eq!(cost.micros(), micros, "{amount} {bytes}");
        }
        assert_eq!(price("0.090").to_string(), "0.090 EUR/GiB");
    }

    #[test]
    fn what_is_no_price_is_refused_in_a_sentence() {
        for amount in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1,5",
            "1.5.2",
            "0.0000000001",
            "1000000000",
            "١",
        ] {
            let written = PricePerGib {
                amount: amount.to_owned(),
                currency: "EUR".to_owned(),
            };
            let sentence = Price::parse(&written).unwrap_err();
            assert!(
                sentence.ends_with("is not a decimal number such as 0.09"),
                "{sentence}"
            );
        }
        let written = PricePerGib {
            amount: "1".to_owned(),
            currency: "eur\n".to_owned(),
        };
        assert_eq!(
            Price::parse(&written).unwrap_err(),
            r#"pricePerGiB.currency: "eur\n" is not three capital letters such as EUR"#
        );
    }

    #[test]
    fn costs_of_one_currency_add_up() {
        let euro = price("0.10").cost(1 << 30);
        assert_eq!(euro.plus(&euro).unwrap().to_string(), "0.20 EUR");
        let dollar = Price::parse(&PricePerGib {
            amount: "1".to_owned(),
            currency: "USD".to_owned(),
        });
        assert_eq!(euro.plus(&dollar.unwrap().cost(1)), None);
    }

    proptest! {
        #[test]
        fn the_cost_of_parts_is_the_cost_of_the_whole(nano in 0u64..1_000_000_000_000, parts in proptest::collection::vec(0u64..1 << 50, 1..20)) {
            let price = price(&format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000));
            prop_assert_eq!(price.nano, nano);
            let whole = price.cost(parts.iter().sum());
            let sum = parts.iter().map(|bytes| price.cost(*bytes)).reduce(|sum, cost| sum.plus(&cost).unwrap());
            prop_assert_eq!(Some(whole.clone()), sum);
            // The oracle divides by hand, with a remainder.
            let exact = u128::from(nano) * parts.iter().map(|it| u128::from(*it)).sum::<u128>();
            let per_micro = 1_000 * (1u128 << 30);
            let up = u128::from(exact % per_micro * 2 >= per_micro);
            prop_assert_eq!(u128::from(whole.micros()), exact / per_micro + up);
        }

        #[test]
        fn no_text_panics(amount in "\\PC{0,25}|[0-9.]{0,25}", currency in "\\PC{0,4}", bytes: u64) {
            if let Ok(price) = Price::parse(&PricePerGib { amount, currency }) {
                price.cost(bytes).to_string();
                price.cost(bytes).micros();
            }
        }
    }
}

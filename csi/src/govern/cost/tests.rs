//! What the metrics say, word for word.

use prometheus_client::encoding::text::encode;
use tonnage_cache::report::Report;

use super::*;
use crate::crd::PricePerGib;

const GIB: u64 = 1 << 30;

fn price(amount: &str, currency: &str) -> Price {
    Price::parse(&PricePerGib {
        amount: amount.to_owned(),
        currency: currency.to_owned(),
    })
    .unwrap()
}

/// The samples, without comments, sorted.
fn samples(cost: &Cost) -> Vec<String> {
    let mut registry = Registry::default();
    cost.register(registry.sub_registry_with_prefix("tonnage"));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The load of a pod of namespace `team` from source `models`.
fn load(cached: u64, unchanged: u64, resumed: u64) -> Load {
    let mut report = Report::default();
    report.origins.cached = cached;
    report.origins.unchanged = unchanged;
    report.origins.resumed = resumed;
    report.origins.dedup = 77;
    Load::of_a_pod(0, report)
}

#[test]
fn settled_bytes_are_counted_and_priced() {
    let cost = Cost::new();
    let eur = price("0.09", "EUR");
    cost.settled("models", "team", GIB, Some(&eur));
    cost.settled("models", "team", GIB, Some(&eur));
    cost.settled("mirror", "team", 5, None);
    assert_eq!(
        samples(&cost),
        [
            r#"tonnage_egress_bytes_total{source="mirror",namespace="team"} 5"#,
            r#"tonnage_egress_bytes_total{source="models",namespace="team"} 2147483648"#,
            r#"tonnage_egress_cost_total{source="models",namespace="team",currency="EUR"} 0.18"#,
        ]
    );
}

#[test]
fn a_thousand_runs_cost_what_their_bytes_do_and_not_a_thousand_rounded_costs() {
    let cost = Cost::new();
    let cheap = price("0.000001", "EUR");
    for _ in 0..1_024 {
        // Each of them costs a thousandth of a millionth.
        cost.settled("models", "team", GIB / 1_024, Some(&cheap));
    }
    let shown = samples(&cost);
    assert_eq!(
        shown[1],
        r#"tonnage_egress_cost_total{source="models",namespace="team",currency="EUR"} 0.000001"#
    );
}

#[test]
fn another_currency_is_another_counter_and_another_price_the_same() {
    let cost = Cost::new();
    cost.settled("models", "team", GIB, Some(&price("1", "EUR")));
    cost.settled("models", "team", GIB, Some(&price("2", "EUR")));
    cost.settled("models", "team", GIB, Some(&price("3", "USD")));
    let shown = samples(&cost);
    assert_eq!(
        shown[1..],
        [
            r#"tonnage_egress_cost_total{source="models",namespace="team",currency="EUR"} 3.0"#,
            r#"tonnage_egress_cost_total{source="models",namespace="team",currency="USD"} 3.0"#,
        ]
    );
}

#[test]
fn what_a_load_did_not_have_to_fetch_is_saved_by_what_saved_it() {
    let cost = Cost::new();
    cost.priced("models", "team", Some(&price("0.5", "EUR")));
    cost.load_ended(&load(4 * GIB, 0, 0));
    cost.load_ended(&load(0, 2 * GIB, GIB));
    assert_eq!(
        samples(&cost),
        [
            r#"tonnage_egress_saved_bytes_total{source="models",namespace="team",by="cache"} 4294967296"#,
            r#"tonnage_egress_saved_bytes_total{source="models",namespace="team",by="dedup"} 2147483648"#,
            r#"tonnage_egress_saved_bytes_total{source="models",namespace="team",by="resume"} 1073741824"#,
            r#"tonnage_egress_saved_cost_total{source="models",namespace="team",by="cache",currency="EUR"} 2.0"#,
            r#"tonnage_egress_saved_cost_total{source="models",namespace="team",by="dedup",currency="EUR"} 1.0"#,
            r#"tonnage_egress_saved_cost_total{source="models",namespace="team",by="resume",currency="EUR"} 0.5"#,
        ]
    );
}

#[test]
fn what_has_no_price_saves_bytes_and_no_money() {
    let cost = Cost::new();
    cost.load_ended(&load(7, 0, 0));
    // It had one, and has none any more.
    cost.priced("models", "team", Some(&price("1", "EUR")));
    cost.priced("models", "team", None);
    cost.load_ended(&load(7, 0, 0));
    assert_eq!(
        samples(&cost),
        [r#"tonnage_egress_saved_bytes_total{source="models",namespace="team",by="cache"} 14"#]
    );
}

#[test]
fn the_thousand_and_first_pair_is_counted_as_other() {
    let cost = Cost::new();
    for number in 0..=MOST_PAIRS {
        cost.settled("models", &format!("team-{number}"), 1, None);
    }
    cost.settled("mirror", "late", 1, Some(&price("1", "EUR")));
    cost.settled("models", "team-0", 1, None);
    let shown = samples(&cost);
    // One pair of `other` for each source that has come too late, and a cost.
    assert_eq!(shown.len(), MOST_PAIRS + 3);
    for line in [
        r#"tonnage_egress_bytes_total{source="models",namespace="other"} 1"#,
        r#"tonnage_egress_bytes_total{source="mirror",namespace="other"} 1"#,
        r#"tonnage_egress_bytes_total{source="models",namespace="team-0"} 2"#,
        r#"tonnage_egress_cost_total{source="mirror",namespace="other",currency="EUR"} 0.0"#,
    ] {
        assert!(shown.iter().any(|it| it == line), "{line}");
    }
}

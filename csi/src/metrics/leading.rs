//! What a controller tells besides: whether it leads, and, while it does, what is used of byte budgets. Both are read when Prometheus
//! asks, so that a replica that leads no more tells of no budget, and nobody has to take one away.
//!
//! **Bounded.** One pair of lines for each ledger, of which at most 2,000 are told of (`govern/ledgers/statuses.rs`). The labels
//! are names of objects of the cluster, which only administrators make.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use tokio::sync::watch::Receiver;

use crate::govern::status::BudgetFigure;

/// The metrics of whoever takes part in the election.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) leads: Receiver<bool>,
    /// Of the replica that leads; nobody else has any.
    pub(super) figures: Receiver<Vec<BudgetFigure>>,
}

/// One of the two numbers of a figure.
struct Gauge {
    name: &'static str,
    help: &'static str,
    number: fn(&BudgetFigure) -> u64,
}

const GAUGES: [Gauge; 2] = [
    Gauge {
        name: "egress_budget_limit",
        help: "Bytes that a budget of an EgressPolicy allows in its window.",
        number: |figure| figure.limit_bytes,
    },
    Gauge {
        name: "egress_budget_used",
        help: "Bytes of a budget that are settled in its window or granted to nodes.",
        number: |figure| figure.used_bytes,
    },
];

impl Collector for Leading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let leads = *self.leads.borrow();
        encoder
            .encode_descriptor(
                "leading",
                "Whether this replica of the controller acts (1) or waits (0).",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&u32::from(leads))?;
        let figures = self.figures.borrow();
        if !leads || figures.is_empty() {
            return Ok(());
        }
        let unit = Unit::Bytes;
        for Gauge { name, help, number } in &GAUGES {
            let mut family =
                encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?;
            for figure in &*figures {
                let labels = labels(figure);
                let mut line = family.encode_family(&labels)?;
                line.encode_gauge(&number(figure))?;
            }
        }
        Ok(())
    }
}

/// The namespace is told where there is none, too: a scrape that keeps a target's labels from replacing ours (`honor_labels`) would
/// write the namespace of our own pod into a line that lacks one.
fn labels(figure: &BudgetFigure) -> [(&'static str, &str); 3] {
    [
        ("policy", figure.policy.as_str()),
        ("budget", figure.budget.as_str()),
        ("namespace", figure.namespace.as_deref().unwrap_or_default()),
    ]
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch::Sender;

    use crate::govern::status::BudgetFigure;
    use crate::metrics::Metrics;

    fn figure(budget: &str, namespace: Option<&str>, used_bytes: u64) -> BudgetFigure {
        BudgetFigure {
            policy: "research".to_owned(),
            budget: budget.to_owned(),
            namespace: namespace.map(str::to_owned),
            limit_bytes: 1 << 40,
            used_bytes,
        }
    }

    fn lines(metrics: &Metrics) -> Vec<String> {
        let text = metrics.text();
        let ours = text.lines().filter(|line| {
            line.starts_with("tonnage_leading") || line.starts_with("tonnage_egress_budget")
        });
        ours.map(str::to_owned).collect()
    }

    #[test]
    fn budgets_are_told_by_the_replica_that_leads_and_by_no_other() {
        let metrics = Metrics::new();
        let (leads, figures) = (Sender::new(false), Sender::new(Vec::new()));
        metrics.follow(leads.subscribe(), figures.subscribe());
        assert_eq!(lines(&metrics), ["tonnage_leading 0"]);

        leads.send_replace(true);
        assert_eq!(lines(&metrics), ["tonnage_leading 1"]);

        figures.send_replace(vec![
            figure("daily", Some("team-a"), 7),
            figure("all", None, u64::MAX),
        ]);
        assert_eq!(
            lines(&metrics),
            [
                "tonnage_leading 1",
                "tonnage_egress_budget_limit_bytes{policy=\"research\",budget=\"daily\",namespace=\"team-a\"} 1099511627776",
                "tonnage_egress_budget_limit_bytes{policy=\"research\",budget=\"all\",namespace=\"\"} 1099511627776",
                "tonnage_egress_budget_used_bytes{policy=\"research\",budget=\"daily\",namespace=\"team-a\"} 7",
                "tonnage_egress_budget_used_bytes{policy=\"research\",budget=\"all\",namespace=\"\"} 18446744073709551615",
            ]
        );
        assert!(metrics.text().ends_with("# EOF\n"));

        // It leads no more; whoever keeps the ledgers may not have heard of it yet.
        leads.send_replace(false);
        assert_eq!(lines(&metrics), ["tonnage_leading 0"]);
    }

    #[test]
    fn a_budget_that_is_gone_is_not_told_any_more() {
        let metrics = Metrics::new();
        let (leads, figures) = (
            Sender::new(true),
            Sender::new(vec![figure("daily", Some("team-a"), 7)]),
        );
        metrics.follow(leads.subscribe(), figures.subscribe());
        assert_eq!(lines(&metrics).len(), 3);
        figures.send_replace(Vec::new());
        assert_eq!(lines(&metrics), ["tonnage_leading 1"]);
    }

    #[test]
    fn who_takes_part_in_no_election_says_nothing_of_leading() {
        assert_eq!(lines(&Metrics::new()), Vec::<String>::new());
    }
}

//! What is said of namespaces: to whoever looks, and to quotas of the cluster what they have and want.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{Seat, State};
use super::{Rule, Use};
use crate::egress::quota::Usage;
use crate::egress::reservation::{Report, Row};

impl State {
    /// What is to be said of each namespace.
    pub(super) fn uses(&mut self) -> Vec<Use> {
        let shown = self.shown();
        let mut contents: BTreeMap<&str, BTreeSet<_>> = BTreeMap::new();
        for it in &shown {
            contents
                .entry(&it.namespace)
                .or_default()
                .insert(it.manifest);
        }
        for it in &self.retained {
            for namespace in &it.namespaces {
                contents.entry(namespace).or_default().insert(it.manifest);
            }
        }
        for seat in self.seats.values().filter(|seat| seat.refusal.is_none()) {
            contents.entry(&seat.namespace).or_default();
        }
        // What is set aside for nobody is given back.
        for (namespace, rules) in self.rules.iter().flatten() {
            let holds = rules.values().any(|rule| rule.has_row);
            let claim = self.claims.get(namespace);
            if holds || claim.is_some_and(|claim| !claim.is_over()) {
                contents.entry(namespace).or_default();
            }
        }
        let is_governed = |namespace: &str| {
            let rules = self.rules_of(namespace);
            rules.is_some_and(|rules| !rules.is_empty())
        };
        let uses = contents.into_iter().map(|(namespace, contents)| {
            let wants = self.usage(&shown, namespace, Seat::asked, None);
            let it = Use {
                namespace: namespace.to_owned(),
                usage: self.usage(&shown, namespace, |seat| seat.bytes, None),
                contents,
                is_governed: is_governed(namespace),
                report: None,
            };
            (it, wants)
        });
        let uses: Vec<(Use, Usage)> = uses.collect();
        let reported = uses.into_iter().map(|(it, wants)| Use {
            report: self.report(&it, wants),
            ..it
        });
        reported.collect()
    }

    /// What is said to quotas that count the cluster, if there are some.
    fn report(&mut self, it: &Use, wants: Usage) -> Option<Report> {
        let rows = self.rows_of(&it.namespace);
        // Whoever has said something with a number goes on so.
        let is_known = self.claims.contains_key(&it.namespace);
        let speaks = self.has_looked && (is_known || !rows.is_empty());
        let floor = self.floor.filter(|_| speaks)?;
        let claim = self.claims.entry(it.namespace.clone()).or_default();
        Some(claim.report(it.usage, wants, floor, &rows))
    }

    /// What quotas of the cluster have set aside for a namespace here.
    fn rows_of(&self, namespace: &str) -> Vec<Row> {
        let rules = self.rules_of(namespace).into_iter();
        let rules = rules.flat_map(BTreeMap::values);
        rules
            .filter(|rule| rule.counts_the_cluster())
            .map(|rule| rule.row)
            .collect()
    }

    pub(super) fn counts_the_cluster(&self) -> bool {
        let counts = |namespace: &String| {
            let rules = self.rules_of(namespace);
            rules.is_some_and(|rules| rules.values().any(Rule::counts_the_cluster))
        };
        let mut seated = self.seats.values().map(|seat| &seat.namespace);
        let mut held = self.claims.iter().filter(|(_, claim)| !claim.is_over());
        let mut retained = self.retained.iter().flat_map(|it| &it.namespaces);
        seated.any(counts)
            || retained.any(counts)
            || held.any(|(namespace, _)| counts(namespace))
            || self.shown().iter().map(|it| &it.namespace).any(counts)
    }
}

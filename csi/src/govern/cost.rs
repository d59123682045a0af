//! What was fetched, what it cost, and what was saved, as metrics by source and namespace. The gate tells each run when it has
//! been settled, and a publish tells the price that holds for it; what was saved is in the account of each load.
//!
//! **Exact.** Costs are fractions until they are shown: a counter shows the sum in millionths of its currency, never a sum of
//! rounded ones. **Bounded.** There are at most 1,000 pairs of source and namespace; the bytes of further ones are those of
//! namespace `other`.
//!
//! Saved are bytes that a load needed and nobody had to send: `cache` (the whole content was here, or another load brought it),
//! `dedup` (another revision has the same files) and `resume` (an earlier attempt brought them). They are priced as the
//! namespace's bytes from that source were last. Bytes that were fetched and then found to be stored already save disk, not
//! egress, and are not among them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tonic::Code;

use crate::egress::price::{self, Price};
use crate::loads::{Load, Observer};

/// Most pairs of source and namespace.
const MOST_PAIRS: usize = 1_000;
/// Namespace of all further ones.
const OTHER: &str = "other";

/// Whose bytes from where.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pair {
    source: String,
    namespace: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SavedLabels {
    source: String,
    namespace: String,
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CostLabels {
    source: String,
    namespace: String,
    currency: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SavedCostLabels {
    source: String,
    namespace: String,
    by: &'static str,
    currency: String,
}

/// Money: the exact sum is kept beside, the counter shows it.
type Money = Counter<f64, AtomicU64>;

/// Counts bytes and their costs.
#[derive(Debug, Default)]
pub struct Cost {
    state: Mutex<State>,
    bytes: Family<Pair, Counter>,
    costs: Family<CostLabels, Money>,
    saved_bytes: Family<SavedLabels, Counter>,
    saved_costs: Family<SavedCostLabels, Money>,
}

#[derive(Debug, Default)]
struct State {
    /// The pairs that have labels of their own, and their latest prices.
    prices: HashMap<Pair, Option<Price>>,
    costs: HashMap<CostLabels, price::Cost>,
    saved: HashMap<SavedCostLabels, price::Cost>,
}

impl Cost {
    /// Nothing counted.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds the metrics to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "egress_bytes",
            "Bytes that sources have sent, by source and namespace that pays",
            self.bytes.clone(),
        );
        registry.register(
            "egress_cost",
            "Cost of those bytes at the price of the EgressPolicy that allowed them, in units of the currency",
            self.costs.clone(),
        );
        registry.register(
            "egress_saved_bytes",
            "Bytes that loads needed and no source had to send, by what saved them",
            self.saved_bytes.clone(),
        );
        registry.register(
            "egress_saved_cost",
            "What those bytes would have cost at the namespace's latest price, in units of the currency",
            self.saved_costs.clone(),
        );
    }

    /// Says which price holds for a namespace's bytes from a source from now on. To be told at each publish, so that also what
    /// is never fetched has a price.
    pub fn priced(&self, source: &str, namespace: &str, price: Option<&Price>) {
        self.lock().priced(source, namespace, price);
    }

    /// Counts the bytes of a run that has been settled, at the price at which they were allowed.
    pub fn settled(&self, source: &str, namespace: &str, bytes: u64, price: Option<&Price>) {
        let mut state = self.lock();
        let pair = state.priced(source, namespace, price);
        self.bytes.get_or_create(&pair).inc_by(bytes);
        let Some(price) = price else { return };
        let labels = CostLabels {
            source: pair.source,
            namespace: pair.namespace,
            currency: price.currency().to_owned(),
        };
        let counter = self.costs.get_or_create_owned(&labels);
        add(&mut state.costs, labels, price.cost(bytes), &counter);
    }

    fn saved(&self, pair: &Pair, by: &'static str, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let Pair { source, namespace } = pair.clone();
        let labels = SavedLabels {
            source,
            namespace,
            by,
        };
        self.saved_bytes.get_or_create(&labels).inc_by(bytes);
        let mut state = self.lock();
        let Some(price) = state.prices.get(pair).cloned().flatten() else {
            return;
        };
        let labels = SavedCostLabels {
            source: labels.source,
            namespace: labels.namespace,
            by,
            currency: price.currency().to_owned(),
        };
        let counter = self.saved_costs.get_or_create_owned(&labels);
        add(&mut state.saved, labels, price.cost(bytes), &counter);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The pair under which something is counted: its own, or the one for the rest.
    fn pair(&mut self, source: &str, namespace: &str) -> Pair {
        let pair = Pair {
            source: source.to_owned(),
            namespace: namespace.to_owned(),
        };
        if !self.prices.contains_key(&pair) {
            if self.prices.len() >= MOST_PAIRS {
                return Pair {
                    namespace: OTHER.to_owned(),
                    ..pair
                };
            }
            self.prices.insert(pair.clone(), None);
        }
        pair
    }

    fn priced(&mut self, source: &str, namespace: &str, price: Option<&Price>) -> Pair {
        let pair = self.pair(source, namespace);
        if let Some(known) = self.prices.get_mut(&pair)
            && known.as_ref() != price
        {
            *known = price.cloned();
        }
        pair
    }
}

/// Adds to an exact sum and shows it.
fn add<L: Eq + std::hash::Hash>(
    sums: &mut HashMap<L, price::Cost>,
    labels: L,
    cost: price::Cost,
    counter: &Money,
) {
    let sum = match sums.get(&labels) {
        // The labels have one currency, so that only a sum beyond all numbers has no successor.
        Some(sum) => sum.plus(&cost).unwrap_or_else(|| sum.clone()),
        None => cost,
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact to 2^53 millionths, which are nine billion units of a currency"
    )]
    let shown = sum.micros() as f64 / 1e6;
    // Under the lock of the state: it only grows.
    counter.inner().store(shown.to_bits(), Ordering::Relaxed);
    sums.insert(labels, sum);
}

impl Observer for Cost {
    fn load_ended(&self, load: &Load) {
        let namespace = load.pod.as_ref().map(|pod| pod.namespace.as_str());
        let pair = self
            .lock()
            .pair(&load.source, namespace.unwrap_or_default());
        let origins = &load.report.origins;
        self.saved(&pair, "cache", origins.cached);
        self.saved(&pair, "dedup", origins.unchanged);
        self.saved(&pair, "resume", origins.resumed);
    }

    fn call_ended(&self, _rpc: &'static str, _code: Code, _time: Duration) {}

    fn published(&self, _targets: usize) {}
}

#[cfg(test)]
mod tests;

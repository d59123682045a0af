//! Limits of speed. Those of several policies hold together, each for all that its policy selects: a stricter policy for some does not
//! let them have what a wider one gives to all.

use std::ops::Deref;

use super::Said;
use crate::egress::compiled::Rules;

/// A limit, and the policy that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The value.
    pub value: u64,
    /// Name of the policy.
    pub policy: String,
}

/// Limits of one kind that hold at once, at most one of each policy and at least one. Read as one limit it is the lowest: that is
/// what people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    lowest: Limit,
    /// In the order of their values.
    others: Vec<Limit>,
}

/// The limits of speed that hold for somebody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes per second of the node.
    pub bytes_per_second_per_node: Option<Limits>,
    /// Bytes per second of the namespace on the node.
    pub bytes_per_second_per_namespace: Option<Limits>,
    /// Connections of the node.
    pub connections_per_node: Option<Limits>,
    /// Connections of the namespace on the node.
    pub connections_per_namespace: Option<Limits>,
}

impl Limits {
    /// These limits; nothing if there are none. Of equal ones the first stays first.
    pub fn of(limits: impl IntoIterator<Item = Limit>) -> Option<Self> {
        let mut all: Vec<Limit> = limits.into_iter().collect();
        all.sort_by_key(|limit| limit.value);
        let mut all = all.into_iter();
        let lowest = all.next()?;
        Some(Self {
            lowest,
            others: all.collect(),
        })
    }

    /// Every one of them, the lowest first.
    pub fn all(&self) -> impl Iterator<Item = &Limit> {
        std::iter::once(&self.lowest).chain(&self.others)
    }
}

impl Deref for Limits {
    type Target = Limit;

    fn deref(&self) -> &Limit {
        &self.lowest
    }
}

impl Rates {
    /// Whether nothing is limited.
    pub fn is_free(&self) -> bool {
        let Self {
            bytes_per_second_per_node,
            bytes_per_second_per_namespace,
            connections_per_node,
            connections_per_namespace,
        } = self;
        let bytes = [bytes_per_second_per_node, bytes_per_second_per_namespace];
        let connections = [connections_per_node, connections_per_namespace];
        bytes
            .iter()
            .chain(&connections)
            .all(|limits| limits.is_none())
    }

    /// What the policies that bind somebody say, in the order of their names.
    pub(super) fn of(binding: &[Said<'_>]) -> Self {
        Self {
            bytes_per_second_per_node: every(binding, |rules| rules.rate.bytes_per_second_per_node),
            bytes_per_second_per_namespace: every(binding, |rules| {
                rules.rate.bytes_per_second_per_namespace
            }),
            connections_per_node: every(binding, |rules| rules.rate.connections_per_node),
            connections_per_namespace: every(binding, |rules| rules.rate.connections_per_namespace),
        }
    }
}

/// The lowest of a limit; of equal ones that of the first policy.
pub(super) fn lowest(said: &[Said<'_>], value: impl Fn(&Rules) -> Option<u64>) -> Option<Limit> {
    every(said, value).map(|limits| limits.lowest)
}

/// A limit as each of the policies that have it sets it.
fn every(said: &[Said<'_>], value: impl Fn(&Rules) -> Option<u64>) -> Option<Limits> {
    let limit = |(policy, rules): &Said<'_>| {
        value(rules).map(|value| Limit {
            value,
            policy: policy.name.clone(),
        })
    };
    Limits::of(said.iter().filter_map(limit))
}

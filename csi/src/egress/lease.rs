//! A node's leases on byte budgets: the words that nodes and controller exchange through the API server, and the node's side
//! of the protocol, the [`Purse`]. Plain values and transitions; nothing here reads a clock, a network or an object.
//!
//! **A node and the controller share one object**, the node's `EgressLease`: `spec` is written by the node ([`Demand`]), `status`
//! by the controller ([`Grant`]). Per account a node has at most one grant at a time, and demands are numbered: demand `n`
//! asks for grant `n` and says, finally, what was spent of grant `n - 1`. So whatever is read twice, late or in the wrong order
//! is either the newest word or an old one, and old ones are known by their number.
//!
//! **A start of the service spends only what was granted to that start.** Each has an [`Incarnation`] that no other has, grants
//! carry it, and what an earlier start had left is given up: the ledger counts it as spent.

use std::fmt;

use crate::egress::terms::Account;

mod holding;
mod purse;

pub use purse::{Charge, Missing, Purse, Receipt, Rules};

/// One start of a node's service: a random number that no other start has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a node asks of one account; `seq` names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Demand {
    /// The budget.
    pub account: Account,
    /// Number of the demand: grows, and is used once per account and incarnation.
    pub seq: u64,
    /// Bytes that are missing; 0 gives back without asking for more.
    pub wanted: u64,
    /// Bytes spent of the grant numbered `seq - 1`, to which nothing is added any more.
    pub spent: u64,
}

/// The controller's answer to the demand of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The budget.
    pub account: Account,
    /// Who may spend it.
    pub incarnation: Incarnation,
    /// Number of the demand that it answers.
    pub seq: u64,
    /// Bytes that may be spent; 0 says that the budget has nothing left, and that the demand stands.
    pub bytes: u64,
    /// For how long, counted by the node from before it wrote the demand.
    pub seconds: u32,
}

/// An `EgressLease` as both sides see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The node's name.
    pub node: String,
    /// Who wrote the demands.
    pub incarnation: Incarnation,
    /// What the node asks, at most [`Rules::most`] accounts.
    pub demands: Vec<Demand>,
    /// What the controller answered; may be older than the demands.
    pub grants: Vec<Grant>,
}

impl Lease {
    /// The highest number in it, whoever used it.
    pub fn highest(&self) -> u64 {
        let demands = self.demands.iter().map(|demand| demand.seq);
        let grants = self.grants.iter().map(|grant| grant.seq);
        demands.chain(grants).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;

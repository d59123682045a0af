//! What people see of an `EgressPolicy`: whether it is in force, what its budgets have left and who used most, what it denied and
//! what it cost. A roll-up of ledgers and of what nodes tell; nothing is decided by it.
//!
//! Every node watches policies, so every write of a status is read by every node: it is written when it says something new, and
//! the more nodes there are, the less often (`Board`). Whether the policy is in force is said sooner.

use crate::crd::EgressPolicyStatus;
use crate::egress::terms::PolicyUid;

mod board;
mod condition;
mod denied;
mod roll_up;

pub(crate) use board::Board;
pub(crate) use condition::OVERRULED;
pub(crate) use denied::Tally;
pub(crate) use roll_up::{Picture, roll_up};

/// A status to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusWrite {
    /// Name of the policy.
    pub policy: String,
    /// Its uid: a precondition.
    pub uid: PolicyUid,
    /// What is said of it.
    pub status: EgressPolicyStatus,
    /// Until when and why it only watches, if that was not said before.
    pub overruled: Option<String>,
}

/// What is used of a policy's budget, as its ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetFigure {
    /// Name of the policy.
    pub policy: String,
    /// Name of the budget.
    pub budget: String,
    /// Whose it is; nothing where namespaces share it.
    pub namespace: Option<String>,
    /// How many bytes it allows.
    pub limit_bytes: u64,
    /// How many were used, those granted to nodes included.
    pub used_bytes: u64,
}

#[cfg(test)]
mod tests;

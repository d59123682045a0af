//! The words of governance that policy decisions, the ledger and the nodes' leases share: who is charged, and in which
//! window. Plain values; amounts are bytes as `u64`, times are seconds since 1970 (UTC) as `i64`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Uid of an `EgressPolicy` object: a policy that was deleted and made again under its name is another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyUid(pub String);

/// Name of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Namespace(pub String);

/// One window of a budget, named by its first second; windows of one budget never overlap and follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowKey {
    /// First second that belongs to it.
    pub start_unix: i64,
}

/// Whom bytes are charged to: a policy's budget, for one namespace or for all of them together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Account {
    /// The policy.
    pub policy: PolicyUid,
    /// Name of one of its budgets: a policy may have several, whose windows may begin in the same second.
    pub budget: String,
    /// The namespace; `None` where all namespaces share the budget.
    pub namespace: Option<Namespace>,
}

impl fmt::Display for PolicyUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! Why a wait for bytes has ended without any, in words for logs; pods' events have those of the gate.

use std::time::Duration;

use crate::egress::terms::Account;

/// Why a wait for bytes has ended without any.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// The controller says that nothing is left.
    #[error("{}", exhausted(.account, .message.as_deref()))]
    Exhausted {
        /// Which budget.
        account: Account,
        /// The controller's sentence: used, limit, and when bytes come back.
        message: Option<String>,
    },
    /// The controller says nothing.
    #[error("the controller has granted no bytes of budget {} within {} s: see whether tonnage-controller runs and reaches the API server", .account.budget, .waited.as_secs())]
    Unanswered {
        /// Which budget.
        account: Account,
        /// How long the load waited in all.
        waited: Duration,
    },
}

fn exhausted(account: &Account, message: Option<&str>) -> String {
    message.map_or_else(
        || {
            let Account { budget, policy, .. } = account;
            format!(
                "budget {budget} of the EgressPolicy with uid {policy} is used up: wait until its window ends, or ask an administrator to raise it"
            )
        },
        str::to_owned,
    )
}

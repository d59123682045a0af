//! What the gate says to who reads a pod's event.

use std::time::Duration;

use tonnage_cache::path::Escaped;

use crate::crd::WhenControllerUnreachable;
use crate::egress::policy::{Charge, Decision};
use crate::egress::terms::Account;

/// A run of a load that nobody waits for.
pub(super) fn nobody() -> String {
    "no pod waits for this load any more; it goes on when one does".to_owned()
}

/// A connection that is no source's own.
pub(super) fn nobody_at(source: &str, host: &str) -> String {
    format!(
        "host {} is not that of source {}, and no pod that may use it waits for something from there",
        Escaped(host),
        Escaped(source)
    )
}

/// A budget that has nothing left.
pub(super) fn used_up(decision: &Decision, account: &Account, message: Option<&str>) -> String {
    let budget = Budget::of(decision, account);
    message.map_or_else(
        || {
            format!(
                "{budget} is used up; this goes on by itself when bytes come back, or when an administrator raises it in spec.budgets"
            )
        },
        str::to_owned,
    )
}

/// A budget of which nothing was granted.
pub(super) fn unanswered(
    decision: &Decision,
    account: &Account,
    waited: Option<Duration>,
) -> String {
    let since = waited.map_or_else(
        || "lately".to_owned(),
        |waited| format!("within {} s", waited.as_secs()),
    );
    let rule = match decision.unreachable {
        WhenControllerUnreachable::Allow => "Allow",
        WhenControllerUnreachable::SpendLease => "SpendLease",
        WhenControllerUnreachable::Deny => "Deny",
    };
    format!(
        "the controller has granted no bytes of {} {since}, and nothing more is loaded without (whenControllerUnreachable: {rule}): see whether tonnage-controller runs and reaches the API server; this goes on by itself, and content that is cached still mounts",
        Budget::of(decision, account)
    )
}

/// A second request for bytes that would have to wait.
pub(super) fn tight() -> String {
    "budgets and rate limits leave nothing for a second request".to_owned()
}

/// A budget as its owner calls it: `budget research/daily of namespace team-a`.
struct Budget<'a> {
    policy: &'a str,
    account: &'a Account,
}

impl<'a> Budget<'a> {
    fn of(decision: &'a Decision, account: &'a Account) -> Self {
        let is_it = |charge: &&Charge| charge.account == *account;
        let charge = decision.charges.iter().find(is_it);
        Self {
            policy: charge.map_or(account.policy.0.as_str(), |charge| charge.policy.as_str()),
            account,
        }
    }
}

impl std::fmt::Display for Budget<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "budget {}/{}", self.policy, self.account.budget)?;
        match &self.account.namespace {
            Some(namespace) => write!(f, " of namespace {namespace}"),
            None => Ok(()),
        }
    }
}

//! A decision for people: what `tonnage policy explain` says without loading anything. A value that goes into JSON as it is,
//! and a text; what is left of budgets is given, not looked up, and what is not known is said to be so.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonnage_cache::path::Escaped;

use super::policy::{Charge, Decision, Limit, Overruled, Rates, Rule};
use super::terms::Account;
use crate::crd::Mode;
use crate::size::{ByteSize, Rate};

pub mod tariff;

/// What is known beside a decision.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Bytes used of accounts, granted ones included, or in a sentence why that could not be read. Of an account that is not
    /// here nothing is used.
    pub used: &'a BTreeMap<Account, Result<u64, String>>,
    /// Bytes of the download, if they are known.
    pub bytes: Option<u64>,
    /// Now, in seconds since 1970 (UTC).
    pub now_unix: i64,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Whether it may be loaded now: a rule allows it, and no budget that refuses is known to have too little left.
    pub allowed: bool,
    /// By which rule, or why not: one sentence.
    pub reason: String,
    /// What policies in mode `Audit` would have denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audited: Option<String>,
    /// Policies that only watch for now, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overruled: Vec<String>,
    /// Budgets that are charged.
    pub budgets: Vec<BudgetAnswer>,
    /// Limits of speed, each in words.
    pub limits: Vec<String>,
    /// Bytes of the download, if they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What the download costs, or a GiB if its size is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
}

/// A budget that is charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetAnswer {
    /// Policy and budget: `research/daily`.
    pub budget: String,
    /// The namespace that has it for itself; absent if it is shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// How many bytes it has in the window.
    pub limit_bytes: u64,
    /// How many are left; absent if the ledger could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_bytes: Option<u64>,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// The window: `24h` or `Daily`.
    pub window: String,
    /// When the period of a calendar ends; absent for a rolling window, which gives bytes back all the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// Whether it refuses when it is used up.
    pub enforced: bool,
    /// Whether the download fits; absent if the ledger could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffices: Option<bool>,
}

/// Explains a decision.
pub fn explain(decision: &Decision, known: &Known<'_>) -> Explanation {
    let budgets: Vec<BudgetAnswer> = decision
        .charges
        .iter()
        .map(|charge| budget(charge, known))
        .collect();
    let empty = budgets
        .iter()
        .find(|budget| budget.enforced && budget.suffices == Some(false));
    let unknown = budgets.iter().find(|budget| budget.is_unknown());
    let (allowed, reason) = match (&decision.verdict, empty, unknown) {
        (Err(denial), _, _) => (false, denial.message.clone()),
        (Ok(_), Some(budget), _) => (false, budget.refusal(known.bytes)),
        (Ok(rule), None, Some(BudgetAnswer { budget, .. })) => (
            true,
            format!(
                "{}, if budget {budget} has enough left, which could not be read",
                words(rule)
            ),
        ),
        (Ok(rule), None, None) => (true, words(rule)),
    };
    Explanation {
        allowed,
        reason,
        audited: decision
            .audited
            .as_ref()
            .map(|denial| denial.message.clone()),
        overruled: decision.overruled.iter().map(exception).collect(),
        budgets,
        limits: limits(&decision.rates),
        bytes: known.bytes,
        cost: decision.price.as_ref().map(|price| match known.bytes {
            Some(bytes) => format!("{} at {price}", price.cost(bytes)),
            None => price.to_string(),
        }),
    }
}

fn words(rule: &Rule) -> String {
    match rule {
        Rule::Default => {
            "no EgressPolicy decides on the namespace, and defaultEgress is Allow".to_owned()
        }
        Rule::Entry { policy, index } => format!("EgressPolicy {policy}, spec.allow[{index}]"),
    }
}

fn exception(overruled: &Overruled) -> String {
    let Overruled { policy, overrule } = overruled;
    let until = moment(overrule.until_unix).unwrap_or_default();
    format!(
        "EgressPolicy {policy} until {until}: {}",
        Escaped(&overrule.reason)
    )
}

fn budget(charge: &Charge, known: &Known<'_>) -> BudgetAnswer {
    let Charge {
        account,
        policy,
        limit_bytes,
        window,
        mode,
    } = charge;
    let used = known.used.get(account);
    let (left_bytes, unread) = match used {
        None => (Some(*limit_bytes), None),
        Some(Ok(used)) => (Some(limit_bytes.saturating_sub(*used)), None),
        Some(Err(why)) => (None, Some(why.clone())),
    };
    BudgetAnswer {
        budget: format!("{policy}/{}", account.budget),
        namespace: account.namespace.as_ref().map(ToString::to_string),
        limit_bytes: *limit_bytes,
        left_bytes,
        unread,
        window: window.to_string(),
        ends: window.period_end(known.now_unix).and_then(moment),
        enforced: *mode == Mode::Enforce,
        suffices: left_bytes.map(|left| known.bytes.unwrap_or(1) <= left),
    }
}

/// A time as Kubernetes writes it.
fn moment(unix: i64) -> Option<String> {
    let moment = OffsetDateTime::from_unix_timestamp(unix).ok()?;
    moment.format(&Rfc3339).ok()
}

impl Explanation {
    /// Whether everything that decides could be read: no budget that could refuse is unknown.
    pub fn is_sure(&self) -> bool {
        !self.budgets.iter().any(BudgetAnswer::is_unknown)
    }
}

impl BudgetAnswer {
    /// Whether it could refuse, and nobody knows.
    const fn is_unknown(&self) -> bool {
        self.enforced && self.suffices.is_none()
    }

    /// Why a download does not fit.
    fn refusal(&self, bytes: Option<u64>) -> String {
        let Self { budget, .. } = self;
        let wanted = bytes.map_or_else(String::new, |bytes| {
            format!(" of the {} that the download has", ByteSize(bytes))
        });
        let when = match &self.ends {
            Some(ends) => format!("the window ends at {ends}"),
            None => "bytes come back as they leave the window".to_owned(),
        };
        format!(
            "budget {budget} has {} left{wanted}: {when}; it can be raised in spec.budgets",
            ByteSize(self.left_bytes.unwrap_or_default())
        )
    }
}

fn limits(rates: &Rates) -> Vec<String> {
    let Rates {
        bytes_per_second_per_node,
        bytes_per_second_per_namespace,
        connections_per_node,
        connections_per_namespace,
    } = rates;
    let rate = |limit: &Limit, of: &str| {
        let rate = Rate {
            bytes: limit.value,
            time: Duration::from_secs(1),
        };
        format!("{rate} {of} ({})", limit.policy)
    };
    let connections = |limit: &Limit, of: &str| {
        let word = if limit.value == 1 {
            "connection"
        } else {
            "connections"
        };
        format!("{} {word} {of} ({})", limit.value, limit.policy)
    };
    let of_node = "on a node";
    let of_namespace = "of the namespace on a node";
    [
        bytes_per_second_per_node
            .as_ref()
            .map(|limit| rate(limit, of_node)),
        bytes_per_second_per_namespace
            .as_ref()
            .map(|limit| rate(limit, of_namespace)),
        connections_per_node
            .as_ref()
            .map(|limit| connections(limit, of_node)),
        connections_per_namespace
            .as_ref()
            .map(|limit| connections(limit, of_namespace)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            allowed,
            reason,
            audited,
            overruled,
            budgets,
            limits,
            bytes,
            cost,
        } = self;
        write!(
            f,
            "{:<9}{reason}",
            if *allowed { "allowed" } else { "denied" }
        )?;
        if let Some(audited) = audited {
            write!(f, "\n{:<9}would deny: {audited}", "audit")?;
        }
        for overruled in overruled {
            write!(f, "\n{:<9}{overruled}", "override")?;
        }
        for budget in budgets {
            write!(f, "\n{:<9}{budget}", "budget")?;
        }
        for limit in limits {
            write!(f, "\n{:<9}at most {limit}", "rate")?;
        }
        if let Some(bytes) = bytes {
            write!(f, "\n{:<9}{}", "download", ByteSize(*bytes))?;
        }
        match cost {
            Some(cost) => write!(f, "\n{:<9}{cost}", "cost"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for BudgetAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            budget,
            namespace,
            limit_bytes,
            left_bytes,
            unread,
            window,
            ends,
            enforced,
            suffices,
        } = self;
        let limit = ByteSize(*limit_bytes);
        match left_bytes.map(ByteSize) {
            Some(left) => write!(f, "{budget}: {left} of {limit} left in {window}")?,
            None => write!(f, "{budget}: {limit} in {window}")?,
        }
        if let Some(ends) = ends {
            write!(f, " until {ends}")?;
        }
        match namespace {
            Some(namespace) => write!(f, ", namespace {namespace}")?,
            None => f.write_str(", shared")?,
        }
        match (*enforced, *suffices) {
            (true, Some(true) | None) => {}
            (true, Some(false)) => f.write_str(", not enough")?,
            (false, Some(true) | None) => f.write_str(", counted only")?,
            (false, Some(false)) => f.write_str(", counted only, would not be enough")?,
        }
        match unread {
            Some(why) => write!(f, "; what is left is not known: {why}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

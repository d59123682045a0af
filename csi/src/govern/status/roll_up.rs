//! One policy's status from its ledgers. Pure.
//!
//! **Cost** is the price times the bytes that are settled in the policy's widest budget, the one in which most bytes are settled:
//! what this policy's pods have loaded in that window, in the month if a budget is monthly. Every byte is charged to every budget
//! of the policy, so no other sum has more in it. Where another policy has a price as well, bytes that both are charged with may
//! cost that one: it is said to be at most this, and `tonnage egress` looks closer. What each namespace and source cost since when
//! is told by metrics.

use std::cmp::Reverse;

use crate::crd::{
    self, BudgetUse, BudgetWords, EgressPolicyStatus, MOST_USERS, NamespaceUse, SourceCondition,
};
use crate::egress::compiled::{Allowance, Compiled};
use crate::govern::ledgers::{BudgetObject, comes_back, time, users};
use crate::size::ByteSize;

use super::condition::ready;

/// What a status is made of.
#[derive(Debug)]
pub(crate) struct Picture<'a> {
    /// The policy.
    pub(crate) policy: &'a Compiled,
    /// Whether another policy has a price, so that some of these bytes may cost that one.
    pub(crate) has_rival: bool,
    /// Who changed it last.
    pub(crate) changed_by: Option<&'a str>,
    /// What was said before.
    pub(crate) before: Option<&'a EgressPolicyStatus>,
    /// Its ledgers.
    pub(crate) budgets: Vec<&'a BudgetObject>,
    /// What it denied.
    pub(crate) denied: Option<crd::Denials>,
    /// Now, in seconds since 1970 (UTC).
    pub(crate) now: i64,
}

/// What is used of an account.
#[derive(Debug, Clone, Copy)]
struct Used<'a> {
    allowance: &'a Allowance,
    /// The ledger, if anything was ever asked for.
    budget: Option<&'a BudgetObject>,
    bytes: u64,
}

/// The status.
pub(crate) fn roll_up(picture: Picture<'_>) -> EgressPolicyStatus {
    let Picture {
        policy,
        has_rival,
        changed_by,
        before,
        budgets,
        denied,
        now,
    } = picture;
    let conditions: &[SourceCondition] = match before {
        Some(before) => &before.conditions,
        None => &[],
    };
    let allowances: &[Allowance] = match policy.rules() {
        Ok(rules) => &rules.budgets,
        Err(_) => &[],
    };
    let by_budget: Vec<Vec<Used<'_>>> = allowances
        .iter()
        .map(|allowance| accounts(allowance, &budgets, now))
        .collect();
    let scarcest = by_budget
        .iter()
        .filter_map(|accounts| accounts.first())
        .min_by(|one, other| {
            // The shares left, compared as fractions.
            let left = |it: &Used<'_>| u128::from(it.left());
            let limit = |it: &Used<'_>| u128::from(it.allowance.limit_bytes).max(1);
            let one_is = left(one).saturating_mul(limit(other));
            one_is.cmp(&left(other).saturating_mul(limit(one)))
        });
    EgressPolicyStatus {
        observed_generation: policy.generation,
        modified_by: changed_by.map(str::to_owned),
        conditions: vec![ready(policy, conditions, now)],
        scarcest: scarcest.map(|used| used.words(now)),
        budgets: by_budget
            .iter()
            .filter_map(|accounts| Some(accounts.first()?.line(accounts, now)))
            .collect(),
        denied,
        cost: cost(policy, &by_budget, (has_rival, now)),
    }
}

/// A budget's accounts, those that used most first; one that nobody used has one account.
fn accounts<'a>(allowance: &'a Allowance, budgets: &[&'a BudgetObject], now: i64) -> Vec<Used<'a>> {
    let is_it = |budget: &&&BudgetObject| {
        budget.spec.budget == allowance.name && budget.spec.namespace.is_none() == allowance.shared
    };
    let mut accounts: Vec<Used<'a>> = budgets
        .iter()
        .filter(is_it)
        .map(|budget| Used {
            allowance,
            budget: Some(*budget),
            bytes: budget
                .ledger
                .used(&allowance.window, budget.ledger.time(now)),
        })
        .collect();
    accounts.sort_by(|one, other| {
        let name = |it: &Used<'a>| it.namespace();
        let bytes = Reverse(one.bytes).cmp(&Reverse(other.bytes));
        bytes.then_with(|| name(one).cmp(&name(other)))
    });
    if accounts.is_empty() {
        accounts.push(Used {
            allowance,
            budget: None,
            bytes: 0,
        });
    }
    accounts
}

fn cost(
    policy: &Compiled,
    by_budget: &[Vec<Used<'_>>],
    (has_rival, now): (bool, i64),
) -> Option<String> {
    let price = policy.rules().ok()?.price.as_ref()?;
    let sums = by_budget.iter().map(|accounts| {
        let settled = accounts.iter().map(|used| used.settled(now));
        settled.fold(0, u64::saturating_add)
    });
    let bytes = sums.max()?;
    let cost = price.cost(bytes);
    Some(if has_rival {
        format!("at most {cost}")
    } else {
        cost.to_string()
    })
}

impl<'a> Used<'a> {
    fn namespace(&self) -> Option<&'a str> {
        self.budget?.spec.namespace.as_deref()
    }

    fn left(&self) -> u64 {
        self.allowance.limit_bytes.saturating_sub(self.bytes)
    }

    fn settled(&self, now: i64) -> u64 {
        self.budget.map_or(0, |budget| {
            let ledger = &budget.ledger;
            ledger.settled(&self.allowance.window, ledger.time(now))
        })
    }

    fn ends(&self, now: i64) -> Option<i64> {
        let window = &self.allowance.window;
        match self.budget {
            Some(budget) => comes_back(&budget.ledger, window, budget.ledger.time(now)),
            None => window.period_end(now),
        }
    }

    fn words(&self, now: i64) -> BudgetWords {
        let name = &self.allowance.name;
        let limit = ByteSize(self.allowance.limit_bytes);
        BudgetWords {
            budget: match self.namespace() {
                Some(namespace) => format!("{name} {namespace}"),
                None => name.clone(),
            },
            used: format!("{} of {limit}", ByteSize(self.bytes)),
            left: ByteSize(self.left()).to_string(),
            window_end: self.ends(now).and_then(time),
        }
    }

    /// The line of a budget that this account used most of.
    fn line(&self, accounts: &[Used<'_>], now: i64) -> BudgetUse {
        let written = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let top_users = if self.allowance.shared {
            // Those of the last entry; what left the window since is not theirs any more.
            let users = self.budget.map(|budget| budget.users.as_slice());
            let mut users = users::add(users.unwrap_or_default(), &[], self.settled(now));
            users.truncate(MOST_USERS);
            users
        } else {
            let users = accounts.iter().filter(|used| used.bytes > 0);
            let users = users.filter_map(|used| {
                Some(NamespaceUse {
                    namespace: used.namespace()?.to_owned(),
                    bytes: written(used.bytes),
                })
            });
            users.take(MOST_USERS).collect()
        };
        BudgetUse {
            name: self.allowance.name.clone(),
            limit_bytes: written(self.allowance.limit_bytes),
            used_bytes: written(self.bytes),
            left_bytes: written(self.left()),
            window_end: self.ends(now).and_then(time),
            top_users,
        }
    }
}

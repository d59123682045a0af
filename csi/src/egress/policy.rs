//! What all policies together say of one question. Pure, and the same for every order of the policies.
//!
//! 1. Policies in mode `Enforce` decide. Those in mode `Audit` neither open nor close anything: what they would have denied is
//!    told beside, as if all enforced.
//!    A policy that is overruled in an emergency is one of those.
//! 2. A namespace that no deciding policy selects follows `defaultEgress`.
//! 3. Otherwise one allow-list must name it: they unite. A policy that is for other service accounts allows nothing, and one that
//!    is malformed denies all of the namespace.
//! 4. Every budget of every policy that is for the service account is charged, whichever allowed it; those of `Audit` are counted
//!    and never refuse.
//! 5. Every rate holds, each for all that its policy selects, so that nobody has more than the lowest; the shortest `maxStaleness`,
//!    the strictest `whenControllerUnreachable` and any `requireDigest` hold.

use std::collections::BTreeMap;

use super::compiled::{Allowance, Compiled, Rules};
use super::overrule::Overrule;
use super::price::Price;
use super::terms::{Account, Namespace};
use super::window::Window;
use crate::crd::{Mode, WhenControllerUnreachable};

mod denial;
mod rates;

pub use denial::{Cause, Denial};
pub use rates::{Limit, Limits, Rates};

use rates::lowest;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Namespace of the service account.
    pub namespace: &'a str,
    /// Labels of that namespace.
    pub labels: &'a BTreeMap<String, String>,
    /// Name of the service account.
    pub service_account: &'a str,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct What<'a> {
    /// Name of the source.
    pub source: &'a str,
    /// Host that is connected to, without port.
    pub host: &'a str,
    /// Bucket or container, `account/container` for Azure; empty for a web server.
    pub bucket: &'a str,
    /// Path from the root of the bucket or web server, without slashes at its ends: the base in the source's URL is a part
    /// of it. Empty for all of it.
    pub path: &'a str,
    /// Whether the volume names the digest of its content.
    pub has_digest: bool,
}

/// Under which circumstances.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setting {
    /// What happens in namespaces that no policy selects.
    pub default_egress: DefaultEgress,
    /// Now, in seconds since 1970 (UTC).
    pub now_unix: i64,
}

/// What happens in namespaces that no policy selects: a setting of the installation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DefaultEgress {
    /// They may load from every source whose `consumers` let them.
    #[default]
    Allow,
    /// They may load nothing.
    Deny,
}

/// What holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Allowed by which rule, or why not.
    pub verdict: Result<Rule, Denial>,
    /// What policies in mode `Audit` would have denied of what is allowed.
    pub audited: Option<Denial>,
    /// Policies that would decide, were they not overruled, and why they are.
    pub overruled: Vec<Overruled>,
    /// `Enforce` if any policy that selects the namespace enforces; `None` if none selects it.
    pub mode: Option<Mode>,
    /// Whom bytes are charged to, each with its own limit; nobody if it is denied.
    pub charges: Vec<Charge>,
    /// How fast.
    pub rates: Rates,
    /// What bytes cost: the price of the policy that allows them; if it has none, of the first by name that is for the
    /// service account and has one.
    pub price: Option<Price>,
    /// What happens while the controller is away; `Allow` where nothing enforces.
    pub unreachable: WhenControllerUnreachable,
    /// For how long rules as old as these decide, and which policy says so; without end where nothing enforces.
    pub max_staleness: Option<Limit>,
}

/// A policy that only watches, in an emergency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overruled {
    /// Its name.
    pub policy: String,
    /// Until when, and why.
    pub overrule: Overrule,
}

/// By which rule something is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// No policy selects the namespace, and the default allows.
    Default,
    /// An entry of an allow-list.
    Entry {
        /// Name of the policy.
        policy: String,
        /// Index in its `spec.allow`.
        index: usize,
    },
}

/// A budget that is charged with every byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The account.
    pub account: Account,
    /// Name of the policy.
    pub policy: String,
    /// How many bytes it may have in the window.
    pub limit_bytes: u64,
    /// The window.
    pub window: Window,
    /// Whether it refuses when it is used up, or counts only.
    pub mode: Mode,
}

/// A policy that is for somebody, with what it says.
type Said<'a> = (&'a Compiled, &'a Rules);

/// Decides.
pub fn decide(
    policies: &[Compiled],
    setting: &Setting,
    who: &Who<'_>,
    what: &What<'_>,
) -> Decision {
    let Setting {
        default_egress,
        now_unix,
    } = *setting;
    let mut selecting: Vec<&Compiled> = policies
        .iter()
        .filter(|policy| policy.selects(who.namespace, who.labels))
        .collect();
    selecting.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
    let enforcing: Vec<&Compiled> = selecting
        .iter()
        .copied()
        .filter(|policy| policy.mode(now_unix) == Mode::Enforce)
        .collect();
    let question = Question { who, what };
    let verdict = if enforcing.is_empty() {
        question.by_default(default_egress)
    } else {
        question.ask(&enforcing)
    };
    let has_audits = selecting.len() > enforcing.len();
    let audited = (verdict.is_ok() && has_audits)
        .then(|| question.ask(&selecting).err())
        .flatten();
    let said = said_to(who, &selecting);
    let binding = said_to(who, &enforcing);
    Decision {
        charges: if verdict.is_ok() {
            charges(&said, who.namespace, now_unix)
        } else {
            Vec::new()
        },
        price: price(&said, verdict.as_ref().ok()),
        verdict,
        audited,
        overruled: overruled(&selecting, now_unix),
        mode: selecting.first().map(|_| {
            if enforcing.is_empty() {
                Mode::Audit
            } else {
                Mode::Enforce
            }
        }),
        rates: Rates::of(&binding),
        unreachable: binding
            .iter()
            .map(|(_, rules)| rules.unreachable)
            .max()
            .unwrap_or(WhenControllerUnreachable::Allow),
        max_staleness: lowest(&binding, |rules| Some(rules.max_staleness_seconds)),
    }
}

impl Decision {
    /// Why nothing may be loaded although it is allowed: the rules are older than the strictest policy lets them be.
    /// `age_seconds` is the time since they were known to be the newest.
    pub fn stale(&self, age_seconds: u64) -> Option<String> {
        let Limit { value, policy } = self.max_staleness.as_ref()?;
        (age_seconds > *value).then(|| {
            format!(
                "the policies are {age_seconds} s old, because nothing newer can be read from the API server, and EgressPolicy {policy} lets nothing be loaded by policies older than {value} s (spec.maxStalenessSeconds); content that is cached still mounts"
            )
        })
    }
}

/// A question that policies are asked together.
struct Question<'a> {
    who: &'a Who<'a>,
    what: &'a What<'a>,
}

impl Question<'_> {
    fn by_default(&self, default_egress: DefaultEgress) -> Result<Rule, Denial> {
        match default_egress {
            DefaultEgress::Allow => Ok(Rule::Default),
            DefaultEgress::Deny => Err(denial::unselected(self.who)),
        }
    }

    /// What policies that select the namespace say, as if all enforced; sorted, and at least one.
    fn ask(&self, policies: &[&Compiled]) -> Result<Rule, Denial> {
        let Self { who, what } = *self;
        for policy in policies {
            if let Err(why) = policy.rules() {
                return Err(denial::malformed(policy, who, why));
            }
        }
        let said = said_to(who, policies);
        if said.is_empty() {
            return Err(denial::other_accounts(policies, who));
        }
        let entries = said.iter().flat_map(|(policy, rules)| {
            let entries = rules.allow.iter().enumerate();
            entries.map(move |(index, entry)| (*policy, index, entry))
        });
        let Some((policy, index, _)) = entries
            .clone()
            .find(|(_, _, entry)| entry.misses(what).is_empty())
        else {
            let closest = entries
                .map(|(policy, index, entry)| (policy, index, entry.misses(what)))
                .min_by_key(|(_, _, missed)| missed.len());
            return Err(denial::unnamed(&said, self, closest));
        };
        if let Some((strict, _)) = said.iter().find(|(_, rules)| rules.require_digest)
            && !what.has_digest
        {
            return Err(denial::no_digest(strict, who));
        }
        Ok(Rule::Entry {
            policy: policy.name.clone(),
            index,
        })
    }
}

/// The policies that are for somebody's service account.
fn said_to<'a>(who: &Who<'_>, policies: &[&'a Compiled]) -> Vec<Said<'a>> {
    let said = |policy: &&'a Compiled| policy.rules_for(who).map(|rules| (*policy, rules));
    policies.iter().filter_map(said).collect()
}

fn charges(said: &[Said<'_>], namespace: &str, now_unix: i64) -> Vec<Charge> {
    let charge = |policy: &Compiled, budget: &Allowance| Charge {
        account: Account {
            policy: policy.uid.clone(),
            budget: budget.name.clone(),
            namespace: (!budget.shared).then(|| Namespace(namespace.to_owned())),
        },
        policy: policy.name.clone(),
        limit_bytes: budget.limit_bytes,
        window: budget.window,
        mode: policy.mode(now_unix),
    };
    let of = |(policy, rules): &Said<'_>| {
        let budgets = rules.budgets.iter();
        budgets
            .map(|budget| charge(policy, budget))
            .collect::<Vec<_>>()
    };
    said.iter().flat_map(of).collect()
}

fn overruled(selecting: &[&Compiled], now_unix: i64) -> Vec<Overruled> {
    let overruled = |policy: &&Compiled| {
        policy.overruled(now_unix).map(|overrule| Overruled {
            policy: policy.name.clone(),
            overrule: overrule.clone(),
        })
    };
    selecting.iter().filter_map(overruled).collect()
}

fn price(said: &[Said<'_>], rule: Option<&Rule>) -> Option<Price> {
    let allows = |policy: &Compiled| match rule {
        Some(Rule::Entry { policy: name, .. }) => policy.name == *name,
        Some(Rule::Default) | None => false,
    };
    let own = said.iter().find(|(policy, _)| allows(policy));
    let own = own.and_then(|(_, rules)| rules.price.clone());
    own.or_else(|| said.iter().find_map(|(_, rules)| rules.price.clone()))
}

#[cfg(test)]
mod tests;

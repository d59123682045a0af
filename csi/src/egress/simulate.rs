//! What other policies would have made of what was decided: decisions of an audit log, in the order of time, are made again.
//!
//! * Something that was allowed and would not be is counted, and so is the opposite.
//! * Bytes that were spent are charged to the budgets of the other policies, each in the windows of its time. What does not fit
//!   any more would have been denied; what fits is used, as a download stops where a budget ends.
//! * What was denied and would be allowed is not charged: nobody knows how much of it would have been loaded.
//! * Policies in mode `Audit`, and those that are overruled, deny nothing here either.
//!
//! Namespaces have the labels that they had then.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::compiled::Compiled;
use super::policy::{
    Cause, Charge, Decision, DefaultEgress, Denial, Rule, Setting, What, Who, decide,
};
use super::terms::{Account, WindowKey};
use crate::crd::Mode;

/// A decision that was made, or bytes that were spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When, in milliseconds since 1970 (UTC).
    pub unix_millis: u64,
    /// What it was.
    pub event: Event,
    /// Namespace of the service account.
    pub namespace: String,
    /// Labels of that namespace.
    pub labels: BTreeMap<String, String>,
    /// Name of the service account.
    pub service_account: String,
    /// Uid of the pod.
    pub pod: Option<String>,
    /// Name of the source.
    pub source: String,
    /// Host that is connected to.
    pub host: String,
    /// Bucket or container.
    pub bucket: String,
    /// Path from the root of the bucket.
    pub path: String,
    /// Whether the digest was named.
    pub has_digest: bool,
    /// How many bytes it is about.
    pub bytes: u64,
}

/// What was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was allowed.
    Allowed,
    /// It was denied.
    Denied,
    /// It took these bytes.
    Spent,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// How many decisions to allow were made again.
    pub allowed: u64,
    /// How many decisions to deny were made again.
    pub denied: u64,
    /// How many bytes were spent.
    pub spent_bytes: u64,
    /// How many of the decisions the default makes, because no policy that enforces selects the namespace.
    pub by_default: u64,
    /// What would have been different: first what would be denied, and of each kind the most bytes first.
    pub changes: Vec<Change>,
}

/// What would have been different for one namespace and source, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// How it is different.
    pub change: Difference,
    /// The namespace.
    pub namespace: String,
    /// The source.
    pub source: String,
    /// By which policies, budget or rule.
    pub by: String,
    /// How many decisions; of a budget, how often it would have stopped a load.
    pub decisions: u64,
    /// Of how many pods.
    pub pods: u64,
    /// How many bytes: of what would be denied, those that were spent; of what would be allowed, those that were asked for.
    pub bytes: u64,
    /// The first of the sentences.
    pub reason: String,
}

/// In which way a decision is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Difference {
    /// What was allowed would be denied.
    WouldDeny,
    /// What was denied would be allowed.
    WouldAllow,
}

/// Makes decisions again. They are taken in the order of time, those of one moment as they stand.
pub fn simulate(
    policies: &[Compiled],
    default_egress: DefaultEgress,
    mut records: Vec<Record>,
) -> Outcome {
    records.sort_by_key(|record| record.unix_millis);
    let mut replay = Replay::default();
    for record in &records {
        let now_unix = record.unix();
        let setting = Setting {
            default_egress,
            now_unix,
        };
        let decision = decide(policies, &setting, &record.who(), &record.what());
        replay.take(record, &decision, now_unix);
    }
    replay.outcome()
}

impl Record {
    /// When it was, in seconds since 1970 (UTC).
    pub fn unix(&self) -> i64 {
        i64::try_from(self.unix_millis / 1000).unwrap_or(i64::MAX)
    }

    fn who(&self) -> Who<'_> {
        Who {
            namespace: &self.namespace,
            labels: &self.labels,
            service_account: &self.service_account,
        }
    }

    fn what(&self) -> What<'_> {
        What {
            source: &self.source,
            host: &self.host,
            bucket: &self.bucket,
            path: &self.path,
            has_digest: self.has_digest,
        }
    }
}

/// What was found so far.
#[derive(Debug, Default)]
struct Replay {
    outcome: Outcome,
    /// By difference, namespace, source and by what.
    found: BTreeMap<(Difference, String, String, String), Found>,
    books: Books,
}

#[derive(Debug, Default)]
struct Found {
    decisions: u64,
    pods: BTreeSet<String>,
    bytes: u64,
    reason: String,
}

/// One difference.
struct Finding {
    difference: Difference,
    by: String,
    reason: String,
    decisions: u64,
    bytes: u64,
}

impl Replay {
    fn take(&mut self, record: &Record, decision: &Decision, now_unix: i64) {
        let outcome = &mut self.outcome;
        match record.event {
            Event::Allowed => outcome.allowed = outcome.allowed.saturating_add(1),
            Event::Denied => outcome.denied = outcome.denied.saturating_add(1),
            Event::Spent => outcome.spent_bytes = outcome.spent_bytes.saturating_add(record.bytes),
        }
        if is_by_default(decision) && record.event != Event::Spent {
            outcome.by_default = outcome.by_default.saturating_add(1);
        }
        let finding = match (record.event, &decision.verdict) {
            (Event::Denied, Err(_)) | (Event::Allowed, Ok(_)) => None,
            (Event::Denied, Ok(rule)) => self.opens(record, decision, rule, now_unix),
            (Event::Allowed, Err(denial)) => Some(closes(denial, 1, 0)),
            (Event::Spent, Err(denial)) => Some(closes(denial, 0, record.bytes)),
            (Event::Spent, Ok(_)) => self.spend(record, decision, now_unix),
        };
        if let Some(finding) = finding {
            self.note(record, finding);
        }
    }

    /// What was denied and would be allowed, unless a budget has too little left for it.
    fn opens(
        &self,
        record: &Record,
        decision: &Decision,
        rule: &Rule,
        now_unix: i64,
    ) -> Option<Finding> {
        let tightest = self.books.tightest(decision, now_unix);
        let has_room = tightest.is_none_or(|(_, room)| room >= record.bytes.max(1));
        has_room.then(|| Finding {
            difference: Difference::WouldAllow,
            by: match rule {
                Rule::Default => "defaultEgress".to_owned(),
                Rule::Entry { policy, index } => format!("{policy} allow[{index}]"),
            },
            reason: match rule {
                Rule::Default => "no EgressPolicy decides on the namespace".to_owned(),
                Rule::Entry { policy, .. } => format!("an entry of EgressPolicy {policy} names it"),
            },
            decisions: 1,
            bytes: record.bytes,
        })
    }

    /// Charges what fits, and tells of the rest.
    fn spend(&mut self, record: &Record, decision: &Decision, now_unix: i64) -> Option<Finding> {
        let tightest = self.books.tightest(decision, now_unix);
        let fits = tightest.map_or(record.bytes, |(_, room)| room.min(record.bytes));
        let rest = record.bytes.saturating_sub(fits);
        let finding = tightest.filter(|_| rest > 0).map(|(charge, _)| Finding {
            difference: Difference::WouldDeny,
            by: format!("budget {}/{}", charge.policy, charge.account.budget),
            reason: format!(
                "budget {}/{} would have been used up in its window ({})",
                charge.policy, charge.account.budget, charge.window
            ),
            decisions: 1,
            bytes: rest,
        });
        self.books.charge(decision, now_unix, fits);
        finding
    }

    fn note(&mut self, record: &Record, finding: Finding) {
        let Finding {
            difference,
            by,
            reason,
            decisions,
            bytes,
        } = finding;
        let key = (
            difference,
            record.namespace.clone(),
            record.source.clone(),
            by,
        );
        let found = self.found.entry(key).or_default();
        if found.reason.is_empty() {
            found.reason = reason;
        }
        found.decisions = found.decisions.saturating_add(decisions);
        found.bytes = found.bytes.saturating_add(bytes);
        found.pods.extend(record.pod.clone());
    }

    fn outcome(self) -> Outcome {
        let Self { outcome, found, .. } = self;
        let change = |((change, namespace, source, by), found): (_, Found)| Change {
            change,
            namespace,
            source,
            by,
            decisions: found.decisions,
            pods: u64::try_from(found.pods.len()).unwrap_or(u64::MAX),
            bytes: found.bytes,
            reason: found.reason,
        };
        let mut changes: Vec<Change> = found.into_iter().map(change).collect();
        changes.sort_by_key(|it| (it.change, Reverse(it.bytes), Reverse(it.decisions)));
        Outcome { changes, ..outcome }
    }
}

fn is_by_default(decision: &Decision) -> bool {
    match &decision.verdict {
        Ok(rule) => *rule == Rule::Default,
        Err(denial) => denial.cause == Cause::Unselected,
    }
}

fn closes(denial: &Denial, decisions: u64, bytes: u64) -> Finding {
    Finding {
        difference: Difference::WouldDeny,
        by: if denial.policies.is_empty() {
            "defaultEgress".to_owned()
        } else {
            denial.policies.join(", ")
        },
        reason: denial.message.clone(),
        decisions,
        bytes,
    }
}

/// What is spent of each account, by the key of a window.
#[derive(Debug, Default)]
struct Books {
    spent: BTreeMap<Account, BTreeMap<WindowKey, u64>>,
}

impl Books {
    /// The budget that refuses with the least left, and how much that is.
    fn tightest<'a>(&self, decision: &'a Decision, now_unix: i64) -> Option<(&'a Charge, u64)> {
        let refusing = decision.charges.iter();
        refusing
            .filter(|charge| charge.mode == Mode::Enforce)
            .map(|charge| (charge, self.room(charge, now_unix)))
            .min_by_key(|(_, room)| *room)
    }

    fn room(&self, charge: &Charge, now_unix: i64) -> u64 {
        let spent = self.spent.get(&charge.account).into_iter().flatten();
        let spent = spent.map(|(key, bytes)| (*key, *bytes));
        charge
            .limit_bytes
            .saturating_sub(charge.window.used(spent, now_unix))
    }

    fn charge(&mut self, decision: &Decision, now_unix: i64, bytes: u64) {
        for charge in &decision.charges {
            let spent = self.spent.entry(charge.account.clone()).or_default();
            spent.retain(|key, _| charge.window.counts(*key, now_unix));
            let sum = spent.entry(charge.window.key(now_unix)).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }
}

#[cfg(test)]
mod tests;

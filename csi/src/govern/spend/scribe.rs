//! What the node asks of budgets and is answered, for the audit log: a line for each demand, once it stands in the node's object, and
//! one for each answer. How many there are depends on the pace of demands, not on loads.

use std::collections::BTreeMap;

use crate::egress::compiled::Compiled;
use crate::egress::lease::Demand;
use crate::egress::terms::{Account, PolicyUid};
use crate::govern::audit::{Audit, Entry, Event, PolicyLine};
use crate::govern::rules::Rulebook;

/// Who writes it down.
#[derive(Debug)]
pub struct Scribe {
    /// Where.
    pub audit: Audit,
    /// Tells which policies have the budgets.
    pub rulebook: Rulebook,
    /// Name of this node.
    pub node: String,
}

/// The controller's word on a demand, when it is new.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) account: Account,
    pub(super) bytes: u64,
    pub(super) message: Option<String>,
}

/// Demands as they were handed out last, and which of them were written down.
#[derive(Debug, Default)]
pub(super) struct Asked {
    newest: Vec<Demand>,
    told: BTreeMap<Account, u64>,
}

impl Asked {
    /// These will be written into the object.
    pub(super) fn hand_out(&mut self, demands: &[Demand]) {
        let asking = demands.iter().filter(|demand| demand.wanted > 0);
        self.newest = asking.cloned().collect();
    }

    /// They stand in it: those that were not told yet. A demand is written as often as the object is.
    pub(super) fn written(&mut self) -> Vec<Demand> {
        let newest = self.newest.iter();
        let is_new = |demand: &&Demand| self.told.get(&demand.account) != Some(&demand.seq);
        let new = newest.clone().filter(is_new).cloned().collect();
        self.told = newest
            .map(|demand| (demand.account.clone(), demand.seq))
            .collect();
        new
    }
}

impl Scribe {
    /// Bytes were asked for.
    pub(super) fn asked(&self, demands: &[Demand], now_unix_millis: u64) {
        for demand in demands {
            let entry = self.entry(Event::Reserve, &demand.account, now_unix_millis);
            self.audit.record(&Entry {
                bytes: demand.wanted,
                ..entry
            });
        }
    }

    /// Bytes were granted, or none, in the controller's words.
    pub(super) fn answered(&self, answers: Vec<Answer>, now_unix_millis: u64) {
        for answer in answers {
            let entry = self.entry(Event::Grant, &answer.account, now_unix_millis);
            self.audit.record(&Entry {
                bytes: answer.bytes,
                reason: answer.message,
                ..entry
            });
        }
    }

    fn entry(&self, event: Event, account: &Account, now_unix_millis: u64) -> Entry {
        Entry {
            policies: self.policies(&account.policy),
            account: Some(account.clone()),
            node: Some(self.node.clone()),
            ..Entry::of(event, now_unix_millis)
        }
    }

    fn policies(&self, uid: &PolicyUid) -> Vec<PolicyLine> {
        let rules = self.rulebook.snapshot();
        let has_it = |policy: &&Compiled| policy.uid == *uid;
        let found = rules.policies.iter().find(has_it);
        found.map(PolicyLine::of).into_iter().collect()
    }
}

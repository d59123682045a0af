//! The gate's part of a publish: whether a pod may load a volume, before anything is begun or joined for it.

use std::sync::Arc;

use tonnage_cache::digest::Digest;
use tonnage_cache::report::Progress;

use super::{EgressGate, Shared};
use crate::govern::rules::Snapshot;
use crate::govern::tabs::{Decided, Seat, Tab, Waiter, Wanted};
use crate::policy::Refusal;
use crate::volume::Attributes;

/// A pod that may load a volume by the rules as they were a moment ago.
#[derive(Debug)]
pub struct Admission {
    shared: Arc<Shared>,
    waiter: Arc<Waiter>,
    wanted: Wanted,
    decided: Decided,
    rules: Snapshot,
}

/// The tab of a load that runs; its end is told when this is dropped.
#[derive(Debug)]
pub struct Opened {
    shared: Arc<Shared>,
    tab: Arc<Tab>,
}

impl EgressGate {
    /// What a volume's attributes ask for, in the words of the rules.
    pub fn wanted(&self, attributes: &Attributes, revision: Option<Digest>) -> Wanted {
        let location = self.shared.parts.locations.find(&attributes.source);
        let location = location.unwrap_or_default();
        Wanted {
            source: attributes.source.clone(),
            host: location.host.clone(),
            bucket: location.bucket.clone(),
            path: location.path(&attributes.path),
            has_digest: attributes.digest.is_some(),
            revision: revision.map(|revision| revision.to_string()),
        }
    }

    /// Whether somebody may load something. What budgets have, how old the rules are and whether the controller answers is not
    /// asked: that matters only where bytes are missing.
    pub fn judge(&self, waiter: Waiter, wanted: Wanted) -> Result<Admission, Refusal> {
        let shared = &self.shared;
        let rules = shared.rules();
        if rules.age.is_none() {
            return Err(Refusal::Unavailable(
                "the EgressPolicies are being read from the API server; this is tried again by itself"
                    .to_owned(),
            ));
        }
        let decided = Decided::by(&rules, shared.now_unix(), &waiter, &wanted);
        if let Err(denial) = &decided.decision.verdict {
            shared.tell_denied(&rules, (&waiter, &wanted), denial);
            return Err(Refusal::Denied(denial.message.clone()));
        }
        Ok(Admission {
            shared: Arc::clone(shared),
            waiter: Arc::new(waiter),
            wanted,
            decided,
            rules,
        })
    }
}

impl Admission {
    /// Opens the tab of a load that begins for this pod, with a seat for it.
    pub fn open(&self, load: &str, progress: Arc<Progress>) -> (Opened, Seat) {
        let tabs = &self.shared.tabs;
        let tab = tabs.open(load, self.wanted.clone(), progress);
        let seat = self.sit(&tab);
        let shared = Arc::clone(&self.shared);
        (Opened { shared, tab }, seat)
    }

    /// A seat at the tab of a load that runs; nothing if it has ended.
    pub fn join(&self, load: &str) -> Option<Seat> {
        let tab = self.shared.tabs.find(load)?;
        Some(self.sit(&tab))
    }

    fn sit(&self, tab: &Arc<Tab>) -> Seat {
        tab.sit(Arc::clone(&self.waiter), Some(self.decided.clone()))
    }

    /// Tells of the decision. To be called once for each pod, when it waits for a load, also for one that needs no bytes.
    pub fn tell(&self, load: &str) {
        let Self {
            shared,
            waiter,
            wanted,
            decided,
            rules,
        } = self;
        let decision = &decided.decision;
        let tab = shared.tabs.find(load);
        shared.tell_allowed(rules, (waiter, wanted), decision);
        shared.tell_audited(rules, (waiter, wanted), (decision, tab.as_deref()));
        let price = decision.price.as_ref();
        let cost = &shared.parts.cost;
        cost.priced(&wanted.source, &waiter.namespace, price);
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.shared.tabs.close(&self.tab);
        self.shared.parts.spender.forget(self.tab.number);
        self.shared.tell_settled(&self.tab);
    }
}

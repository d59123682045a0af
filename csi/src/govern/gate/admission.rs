//! The gate's part of a publish: whether a pod may load a volume, before anything is begun or joined for it, and why not when its
//! load has been refused.
//!
//! **Each is told its own.** A load may be that of several namespaces, and the gate's last word about it is about one of them. So
//! whoever waited is asked about by itself, by its own rules and budgets; what was said of another is never shown.

use std::sync::Arc;

use tonnage_cache::digest::Digest;
use tonnage_cache::gate;
use tonnage_cache::report::Progress;

use super::{EgressGate, Shared, words};
use crate::crd::{Mode, WhenControllerUnreachable};
use crate::egress::policy::Decision;
use crate::egress::quota::Exceeded;
use crate::egress::terms::Account;
use crate::govern::rules::Snapshot;
use crate::govern::tabs::{Decided, Seat, Tab, Waiter, Wanted};
use crate::policy::Refusal;
use crate::volume::Attributes;

/// Bytes of a usual run (`fetch::Settings::run_parts`): a budget that has not so many is short.
const RUN: u64 = 8 << 20;

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
        let Waiter {
            namespace, labels, ..
        } = &*self.waiter;
        let interest = self.shared.parts.rulebook.meet(namespace, labels);
        let waiter = Arc::clone(&self.waiter);
        tab.sit(waiter, Some(self.decided.clone()), Some(interest))
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

    /// Tells that there is no room for the volume. To be called for each call of the pod that ends so.
    pub fn tell_no_room(&self, exceeded: &Exceeded) {
        let who_and_what = (&*self.waiter, &self.wanted);
        self.shared.tell_no_room(who_and_what, exceeded);
    }
}

impl Admission {
    /// Namespace and service account of the pod.
    pub fn account(&self) -> (&str, &str) {
        (&self.waiter.namespace, &self.waiter.service_account)
    }

    /// Why this pod gets no more bytes of its load, of which the gate has said so much last. Nothing if that is another's matter.
    pub fn refusal_of_bytes(&self, said: &gate::Refusal) -> Option<gate::Refusal> {
        let sentence = said.to_string();
        if words::is_about(&sentence, &self.waiter) {
            return Some(said.clone());
        }
        // A redirect that is refused for now ends a load as bytes do.
        if words::host_of(&sentence).is_some() {
            return self.refusal_of_host(said);
        }
        let rules = self.shared.rules();
        let decision = self.decision_at(&rules, &self.wanted.host);
        refused(&rules, &decision).or_else(|| self.shared.shortage(&decision))
    }

    /// The same of a connection or a redirect, by what the rules say to this pod of that host. What address rules say of one is the
    /// same for all.
    pub fn refusal_of_host(&self, said: &gate::Refusal) -> Option<gate::Refusal> {
        let sentence = said.to_string();
        if words::names_no_policy(&sentence) || words::is_about(&sentence, &self.waiter) {
            return Some(said.clone());
        }
        let rules = self.shared.rules();
        let own = refused(&rules, &self.decision_at(&rules, &self.wanted.host));
        let Some(host) = words::host_of(&sentence) else {
            return own;
        };
        own.or_else(|| match self.decision_at(&rules, host).verdict {
            Ok(_) => None,
            Err(denial) => {
                let sentence = words::at_host(&denial.message, host);
                Some(gate::Refusal::Denied(sentence))
            }
        })
    }

    /// What the rules say to this pod now, at a host.
    fn decision_at(&self, rules: &Snapshot, host: &str) -> Decision {
        let relabelled = self.waiter.relabelled(rules);
        let waiter = relabelled.as_ref().unwrap_or(&self.waiter);
        let what = self.wanted.what_at(host);
        rules.decide(self.shared.now_unix(), &waiter.who(), &what)
    }
}

/// Why rules let nothing through, whatever budgets have.
fn refused(rules: &Snapshot, decision: &Decision) -> Option<gate::Refusal> {
    match &decision.verdict {
        Err(denial) => Some(gate::Refusal::Denied(denial.message.clone())),
        Ok(_) => rules.stale(decision).map(gate::Refusal::Exhausted),
    }
}

impl Shared {
    /// What the budgets of a decision say to who would ask for bytes now. It is looked at what is known: nothing is charged, asked for
    /// or waited for, and a budget of which nothing was granted yet says nothing.
    fn shortage(&self, decision: &Decision) -> Option<gate::Refusal> {
        let charges = decision.charges.iter();
        let charges = charges.filter(|charge| charge.mode == Mode::Enforce);
        let accounts: Vec<&Account> = charges.map(|charge| &charge.account).collect();
        let spender = &self.parts.spender;
        if let Some(account) = accounts
            .iter()
            .find(|account| spender.is_exhausted(account))
        {
            let word = spender.word(account);
            let sentence = words::used_up(decision, account, word.as_deref());
            return Some(gate::Refusal::Exhausted(sentence));
        }
        if !self.is_silent() {
            return None;
        }
        let is_short = |account: &&&Account| spender.left(account) < RUN;
        let short = match decision.unreachable {
            WhenControllerUnreachable::Allow => None,
            WhenControllerUnreachable::SpendLease => accounts.iter().find(is_short),
            WhenControllerUnreachable::Deny => accounts.first(),
        };
        let sentence = words::unanswered(decision, short?, None);
        Some(gate::Refusal::Exhausted(sentence))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.shared.tabs.close(&self.tab);
        self.shared.parts.spender.forget(self.tab.number);
        self.shared.tell_settled(&self.tab);
    }
}

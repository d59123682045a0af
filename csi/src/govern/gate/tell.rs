//! What the gate tells the audit log and the controller of its decisions.

use std::collections::BTreeSet;

use tonnage_cache::clock::unix_millis;
use tonnage_cache::gate::Refusal;

use super::Shared;
use crate::egress::policy::{Decision, Denial, Rule};
use crate::egress::quota::Exceeded;
use crate::egress::terms::Account;
use crate::govern::audit::{Entry, Event, PolicyLine, WhatLine, WhoLine};
use crate::govern::rules::Snapshot;
use crate::govern::tabs::{Guest, News, Tab, Waiter, Wanted};

/// What stops a load and passes by itself.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop<'a> {
    /// The rules are older than a policy lets them be.
    Stale,
    /// The controller says nothing about this budget.
    Unanswered(&'a Account),
    /// This budget has nothing left.
    UsedUp(&'a Account),
}

impl Stop<'_> {
    fn word(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Unanswered(_) => "unanswered",
            Self::UsedUp(_) => "budget",
        }
    }

    fn news(self) -> News {
        match self {
            Self::Stale => News::Stale,
            Self::Unanswered(_) => News::Unanswered,
            Self::UsedUp(_) => News::UsedUp,
        }
    }
}

impl Shared {
    /// An entry about somebody who wants something.
    fn entry(&self, event: Event, waiter: &Waiter, wanted: &Wanted) -> Entry {
        let now = unix_millis(self.parts.clock.now());
        Entry {
            who: Some(WhoLine::of(&waiter.who(), waiter.pod.as_deref())),
            what: Some(WhatLine::of(&wanted.what(), wanted.revision.as_deref())),
            node: Some(self.parts.node.clone()),
            ..Entry::of(event, now)
        }
    }

    /// Something was allowed.
    pub(super) fn tell_allowed(
        &self,
        rules: &Snapshot,
        (waiter, wanted): (&Waiter, &Wanted),
        decision: &Decision,
    ) {
        let mut entry = self.entry(Event::Allow, waiter, wanted);
        entry.rule = decision.verdict.as_ref().ok().map(rule_words);
        entry.policies = lines(rules, &involved(decision));
        self.parts.audit.record(&entry);
        for overruled in &decision.overruled {
            let mut entry = self.entry(Event::Override, waiter, wanted);
            entry.policies = lines(rules, &BTreeSet::from([overruled.policy.as_str()]));
            entry.reason = Some(overruled.overrule.reason.clone());
            self.parts.audit.record(&entry);
        }
    }

    /// Something was denied: to the audit log, and for the controller by each policy that says so.
    pub(super) fn tell_denied(
        &self,
        rules: &Snapshot,
        (waiter, wanted): (&Waiter, &Wanted),
        denial: &Denial,
    ) {
        let entry = self.entry(Event::Deny, waiter, wanted);
        self.record_denial(rules, entry, denial);
        let now = self.now_unix();
        let named = rules.by_name();
        for policy in &denial.policies {
            if let Some(policy) = named.get(policy.as_str()) {
                let denials = &self.parts.denials;
                denials.note(&policy.uid, &waiter.namespace, &denial.message, now);
            }
        }
    }

    /// The same in the middle of a load, once for each load and namespace.
    pub(super) fn denied_midway(
        &self,
        rules: &Snapshot,
        tab: &Tab,
        guest: &Guest,
        denial: &Denial,
    ) {
        if tab.is_news(News::Denied, &guest.waiter.namespace) {
            self.tell_denied(rules, (&guest.waiter, &tab.found()), denial);
        }
    }

    /// The same of a host that its source leads to.
    pub(super) fn denied_at(
        &self,
        rules: &Snapshot,
        (tab, guest): (&Tab, &Guest),
        (host, denial): (&str, &Denial),
    ) {
        if tab.is_news(News::Denied, &guest.waiter.namespace) {
            let wanted = Wanted {
                host: host.to_owned(),
                ..tab.found()
            };
            self.tell_denied(rules, (&guest.waiter, &wanted), denial);
        }
    }

    /// What policies in mode `Audit` would have denied, once for each load and namespace.
    pub(super) fn tell_audited(
        &self,
        rules: &Snapshot,
        (waiter, wanted): (&Waiter, &Wanted),
        (decision, tab): (&Decision, Option<&Tab>),
    ) {
        if let Some(denial) = &decision.audited
            && tab.is_none_or(|tab| tab.is_news(News::WouldDeny, &waiter.namespace))
        {
            let entry = self.entry(Event::WouldDeny, waiter, wanted);
            self.record_denial(rules, entry, denial);
        }
    }

    fn record_denial(&self, rules: &Snapshot, mut entry: Entry, denial: &Denial) {
        entry.rule = Some(denial.cause.word().to_owned());
        entry.policies = lines(rules, &denial.policies.iter().map(String::as_str).collect());
        entry.reason = Some(denial.message.clone());
        self.parts.audit.record(&entry);
    }

    /// A namespace has no room for a volume, which is no matter of policies.
    pub(super) fn tell_no_room(&self, (waiter, wanted): (&Waiter, &Wanted), exceeded: &Exceeded) {
        self.parts.audit.record(&Entry {
            rule: Some("quota".to_owned()),
            quota: Some(exceeded.quota.clone()),
            reason: Some(exceeded.message.clone()),
            ..self.entry(Event::Deny, waiter, wanted)
        });
    }

    /// What passes by itself stops a load for somebody, in this sentence: to the audit log once for each load, namespace and cause, and
    /// a budget that is used up also for the controller.
    pub(super) fn stopped(
        &self,
        tab: &Tab,
        guest: &Guest,
        (stop, sentence): (Stop<'_>, String),
    ) -> Refusal {
        let namespace = &guest.waiter.namespace;
        if tab.is_news(stop.news(), namespace) {
            if let Stop::UsedUp(account) = stop {
                let (denials, now) = (&self.parts.denials, self.now_unix());
                denials.note(&account.policy, namespace, &sentence, now);
            }
            let entry = self.stop_entry(tab, guest, (stop, &sentence));
            self.parts.audit.record(&entry);
        }
        Refusal::Exhausted(sentence)
    }

    fn stop_entry(&self, tab: &Tab, guest: &Guest, (stop, sentence): (Stop<'_>, &str)) -> Entry {
        let decision = &guest.decision;
        let (account, policies) = match stop {
            Stop::Stale => {
                let strictest = decision.max_staleness.iter();
                (None, strictest.map(|limit| limit.policy.as_str()).collect())
            }
            Stop::Unanswered(account) | Stop::UsedUp(account) => {
                (Some(account.clone()), involved(decision))
            }
        };
        Entry {
            rule: Some(stop.word().to_owned()),
            policies: lines(&self.rules(), &policies),
            account,
            reason: Some(sentence.to_owned()),
            ..self.entry(Event::Deny, &guest.waiter, &tab.found())
        }
    }

    /// A run is charged: what is set aside for its load, which is told once and not for each run.
    pub(super) fn tell_reserved(&self, tab: &Tab, guest: &Guest, (bytes, foreseen): (u64, u64)) {
        if let Some(bytes) = tab.reserve(&guest.waiter.namespace, bytes, foreseen) {
            self.parts.audit.record(&Entry {
                rule: guest.decision.verdict.as_ref().ok().map(rule_words),
                policies: lines(&self.rules(), &involved(&guest.decision)),
                bytes,
                ..self.entry(Event::Reserve, &guest.waiter, &tab.found())
            });
        }
    }

    /// What each has paid of a load that is over.
    pub(super) fn tell_settled(&self, tab: &Tab) {
        let (rules, found) = (self.rules(), tab.found());
        for paid in tab.take_paid() {
            let mut entry = self.entry(Event::Settle, &paid.waiter, &found);
            entry.rule = paid.decision.verdict.as_ref().ok().map(rule_words);
            entry.policies = lines(&rules, &involved(&paid.decision));
            entry.bytes = paid.bytes;
            self.parts.audit.record(&entry);
        }
    }
}

fn rule_words(rule: &Rule) -> String {
    match rule {
        Rule::Default => "default".to_owned(),
        Rule::Entry { policy, index } => format!("{policy} allow[{index}]"),
    }
}

/// The policy that allows, and those that are charged.
fn involved(decision: &Decision) -> BTreeSet<&str> {
    let allows = match &decision.verdict {
        Ok(Rule::Entry { policy, .. }) => Some(policy.as_str()),
        Ok(Rule::Default) | Err(_) => None,
    };
    let charged = decision.charges.iter().map(|charge| charge.policy.as_str());
    allows.into_iter().chain(charged).collect()
}

fn lines(rules: &Snapshot, names: &BTreeSet<&str>) -> Vec<PolicyLine> {
    let policies = rules.policies.iter();
    let found = policies.filter(|policy| names.contains(policy.name.as_str()));
    found.map(PolicyLine::of).collect()
}

//! What rules of egress refuse to claims, as the audit log is told: lines `Deny` like those of nodes, without a node and a pod and with an
//! empty service account, because a claim has none of them.
//!
//! **Once an hour.** The provisioner asks again as long as the claim is there, every few seconds to minutes, and every claim of a workload
//! asks the same. So the same sentence about the same namespace, source and path is told once, and again after an hour.
//!
//! Bounded: the last [`MOST_KNOWN`] are remembered. One that is forgotten may be told again before its hour is over; none is withheld.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonnage_cache::clock::{Clock, unix_millis};
use tonnage_cache::digest::Digest;

use super::egress::Tenant;
use crate::egress::policy::{Denial, What, Who};
use crate::govern::audit::{Audit, Entry, Event, PolicyLine, WhatLine, WhoLine};
use crate::govern::rules::Snapshot;

/// After how long the same is told again.
const AGAIN: Duration = Duration::from_hours(1);
/// Most refusals that are remembered, about 48 bytes each.
const MOST_KNOWN: usize = 1024;

/// Tells the audit log of them.
#[derive(Debug)]
pub(super) struct Refusals {
    audit: Audit,
    clock: Arc<dyn Clock>,
    /// When each was told last, on the monotonic clock, by the digest of what it is about.
    told: Mutex<BTreeMap<Digest, Duration>>,
}

impl Refusals {
    pub(super) fn new(audit: Audit, clock: Arc<dyn Clock>) -> Self {
        Self {
            audit,
            clock,
            told: Mutex::default(),
        }
    }

    /// A claim of a namespace was denied something by these rules.
    pub(super) fn tell(
        &self,
        rules: &Snapshot,
        (tenant, what): (Tenant<'_>, &What<'_>),
        denial: &Denial,
    ) {
        let subject = (tenant.namespace, what.source, what.path, &denial.message);
        // Texts are quoted there, so that no two subjects look the same.
        if !self.is_news(Digest::of(format!("{subject:?}").as_bytes())) {
            return;
        }
        let who = Who {
            namespace: tenant.namespace,
            labels: tenant.labels,
            service_account: "",
        };
        let policies = rules.policies.iter();
        let saying = policies.filter(|policy| denial.policies.contains(&policy.name));
        self.audit.record(&Entry {
            who: Some(WhoLine::of(&who, None)),
            what: Some(WhatLine::of(what, None)),
            policies: saying.map(PolicyLine::of).collect(),
            rule: Some(denial.cause.word().to_owned()),
            reason: Some(denial.message.clone()),
            ..Entry::of(Event::Deny, unix_millis(self.clock.now()))
        });
    }

    /// Whether this is to be told now, which counts as told.
    fn is_news(&self, subject: Digest) -> bool {
        let now = self.clock.monotonic();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.saturating_sub(*at) < AGAIN);
        if told.contains_key(&subject) {
            return false;
        }
        if told.len() >= MOST_KNOWN {
            let oldest = told.iter().min_by_key(|(_, at)| **at);
            if let Some(subject) = oldest.map(|(subject, _)| *subject) {
                told.remove(&subject);
            }
        }
        told.insert(subject, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tonnage_cache::clock::ManualClock;

    use super::*;

    fn refusals() -> (Refusals, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
        let seam: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        (Refusals::new(Audit::to(std::io::sink()), seam), clock)
    }

    fn subject(number: usize) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    #[test]
    fn the_same_is_news_again_after_an_hour_whatever_is_asked_meanwhile() {
        let (refusals, clock) = refusals();
        assert!(refusals.is_news(subject(1)));
        clock.advance(AGAIN / 2);
        assert!(!refusals.is_news(subject(1)));
        assert!(refusals.is_news(subject(2)));
        clock.advance(AGAIN / 2);
        assert!(refusals.is_news(subject(1)));
        assert!(!refusals.is_news(subject(2)));
    }

    #[test]
    fn only_the_last_are_remembered_and_what_is_forgotten_is_news() {
        let (refusals, clock) = refusals();
        for number in 0..=MOST_KNOWN {
            assert!(refusals.is_news(subject(number)), "{number}");
            clock.advance(Duration::from_millis(1));
        }
        assert_eq!(refusals.told.lock().unwrap().len(), MOST_KNOWN);
        assert!(!refusals.is_news(subject(1)));
        assert!(!refusals.is_news(subject(MOST_KNOWN)));
        assert!(refusals.is_news(subject(0)));
        assert_eq!(refusals.told.lock().unwrap().len(), MOST_KNOWN);
        assert!(refusals.is_news(subject(1)), "it was the oldest");
    }
}

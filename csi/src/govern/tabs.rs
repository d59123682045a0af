//! On whose behalf a load runs. A load has a tab as long as it runs, and on the tab a seat for each waiter, as long as that one
//! waits. Who sat down first pays first; what the rules say to each is remembered until the rules change, or the labels of the namespace.
//!
//! Invariants: a tab is closed with its load, so that what is fetched later under the same name has another; bytes are on the
//! tab of their load, by who paid them, exactly once; nothing here waits, and no lock is held while rules are asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonnage_cache::report::Progress;

use super::rules::{Interest, Snapshot};
use crate::egress::policy::{Decision, What, Who};
use crate::inflight::WaiterId;

mod told;

use told::Told;

pub(super) use told::News;

/// Who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiter {
    /// Which volume at which target.
    pub id: WaiterId,
    /// Namespace of the service account.
    pub namespace: String,
    /// Labels of that namespace when it came; at a tab, as they are now.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Name of the service account.
    pub service_account: String,
    /// Uid of the pod, if it is one.
    pub pod: Option<String>,
}

/// What is loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the source.
    pub source: String,
    /// Its own host.
    pub host: String,
    /// Its bucket.
    pub bucket: String,
    /// Path from the root of the bucket.
    pub path: String,
    /// Whether the volume names the digest of its content.
    pub has_digest: bool,
    /// The revision that is pinned or, at a tab, that was found; for the audit log.
    pub revision: Option<String>,
}

/// What the rules say to somebody, for as long as it holds.
#[derive(Debug, Clone)]
pub struct Decided {
    /// What they say.
    pub decision: Arc<Decision>,
    version: u64,
    /// From when until when, in seconds since 1970 (UTC): a policy that is overruled is in force again after that.
    from: i64,
    until: i64,
}

/// Somebody at a tab, and what the rules say to them.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) waiter: Arc<Waiter>,
    pub(super) decision: Arc<Decision>,
}

/// All loads that run.
#[derive(Debug, Default)]
pub struct Tabs {
    open: Mutex<BTreeMap<String, Arc<Tab>>>,
    last: AtomicU64,
}

/// A load.
#[derive(Debug)]
pub(super) struct Tab {
    /// A number that no other load has.
    pub(super) number: u64,
    pub(super) wanted: Wanted,
    load: String,
    progress: Arc<Progress>,
    state: Mutex<State>,
    /// How often it was asked what is foreseen.
    #[cfg(test)]
    pub(super) looks: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    seats: Vec<Place>,
    last: u64,
    /// Bytes of runs that are charged and not settled.
    open: u64,
    /// What each has paid.
    paid: BTreeMap<String, Paid>,
    /// What was told of it already.
    told: Told,
    /// Whether the load has ended.
    is_closed: bool,
}

#[derive(Debug)]
struct Place {
    number: u64,
    waiter: Arc<Waiter>,
    decided: Option<Decided>,
}

/// What a namespace has paid of a load.
#[derive(Debug, Clone)]
pub(super) struct Paid {
    /// Who of the namespace was the first.
    pub(super) waiter: Arc<Waiter>,
    /// By which decision, the last one.
    pub(super) decision: Arc<Decision>,
    pub(super) bytes: u64,
}

/// Somebody's place at a tab; it is free again when this is dropped.
#[derive(Debug)]
pub struct Seat {
    tab: Arc<Tab>,
    number: u64,
    /// While it is taken, the labels of the namespace are looked after.
    _interest: Option<Interest>,
}

impl Waiter {
    /// Who asks.
    pub fn who(&self) -> Who<'_> {
        Who {
            namespace: &self.namespace,
            labels: &self.labels,
            service_account: &self.service_account,
        }
    }

    /// The same with the labels that its namespace has now, if they are others.
    pub(super) fn relabelled(&self, rules: &Snapshot) -> Option<Self> {
        let labels = rules.labels_of(&self.namespace)?;
        (*labels != self.labels).then(|| Self {
            labels: Arc::clone(labels),
            ..self.clone()
        })
    }
}

impl Wanted {
    /// What is asked for.
    pub fn what(&self) -> What<'_> {
        self.what_at(&self.host)
    }

    /// The same at another host.
    pub fn what_at<'a>(&'a self, host: &'a str) -> What<'a> {
        What {
            source: &self.source,
            host,
            bucket: &self.bucket,
            path: &self.path,
            has_digest: self.has_digest,
        }
    }
}

impl Decided {
    /// Asks the rules.
    pub fn by(rules: &Snapshot, now_unix: i64, waiter: &Waiter, wanted: &Wanted) -> Self {
        let decision = rules.decide(now_unix, &waiter.who(), &wanted.what());
        let overruled = decision.overruled.iter();
        let until = overruled.map(|overruled| overruled.overrule.until_unix);
        Self {
            until: until.min().unwrap_or(i64::MAX),
            decision: Arc::new(decision),
            version: rules.version,
            from: now_unix,
        }
    }

    fn holds(&self, rules: &Snapshot, now_unix: i64) -> bool {
        self.version == rules.version && (self.from..self.until).contains(&now_unix)
    }
}

impl Tabs {
    /// Opens the tab of a load that begins, in place of an earlier load's of that name.
    pub(super) fn open(&self, load: &str, wanted: Wanted, progress: Arc<Progress>) -> Arc<Tab> {
        let tab = Arc::new(Tab {
            number: self.number(),
            wanted,
            load: load.to_owned(),
            progress,
            state: Mutex::default(),
            #[cfg(test)]
            looks: AtomicU64::new(0),
        });
        self.lock().insert(load.to_owned(), Arc::clone(&tab));
        tab
    }

    /// The tab of a load that runs.
    pub(super) fn find(&self, load: &str) -> Option<Arc<Tab>> {
        self.lock().get(load).map(Arc::clone)
    }

    /// Tabs of loads from a source.
    pub(super) fn of_source(&self, source: &str) -> Vec<Arc<Tab>> {
        let open = self.lock();
        let tabs = open.values().filter(|tab| tab.wanted.source == source);
        tabs.map(Arc::clone).collect()
    }

    /// Closes a tab whose load has ended.
    pub(super) fn close(&self, tab: &Arc<Tab>) {
        let mut open = self.lock();
        let own = open.get(&tab.load);
        if own.is_some_and(|own| Arc::ptr_eq(own, tab)) {
            open.remove(&tab.load);
        }
        drop(open);
        tab.lock().is_closed = true;
    }

    /// A number that no load has.
    pub(super) fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed)
    }

    /// How many loads run.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Tab>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tab {
    /// Somebody waits for this load from now on. Who comes back has the place from before, also beside the old seat.
    pub(super) fn sit(
        self: &Arc<Self>,
        waiter: Arc<Waiter>,
        decided: Option<Decided>,
        interest: Option<Interest>,
    ) -> Seat {
        let mut state = self.lock();
        state.last = state.last.saturating_add(1);
        let number = state.last;
        let mut seats = state.seats.iter();
        let before = seats.position(|place| place.waiter.id == waiter.id);
        let index = before.unwrap_or(state.seats.len());
        let place = Place {
            number,
            waiter,
            decided,
        };
        state.seats.insert(index, place);
        drop(state);
        Seat {
            tab: Arc::clone(self),
            number,
            _interest: interest,
        }
    }

    /// Who waits, first come first, each with what the rules say to them now.
    pub(super) fn guests(&self, rules: &Snapshot, now_unix: i64) -> Vec<Guest> {
        let seats: Vec<(u64, Arc<Waiter>, Option<Decided>)> = {
            let state = self.lock();
            let seats = state.seats.iter();
            let copy = |place: &Place| {
                let waiter = Arc::clone(&place.waiter);
                (place.number, waiter, place.decided.clone())
            };
            seats.map(copy).collect()
        };
        let guest = |(number, waiter, known): (u64, Arc<Waiter>, Option<Decided>)| {
            let (waiter, known) = match waiter.relabelled(rules) {
                Some(other) => (Arc::new(other), None),
                None => (waiter, known),
            };
            let decided = match known.filter(|known| known.holds(rules, now_unix)) {
                Some(known) => known,
                None => self.decide(number, rules, now_unix, &waiter),
            };
            Guest {
                waiter,
                decision: decided.decision,
            }
        };
        seats.into_iter().map(guest).collect()
    }

    fn decide(
        &self,
        number: u64,
        rules: &Snapshot,
        now_unix: i64,
        waiter: &Arc<Waiter>,
    ) -> Decided {
        let decided = Decided::by(rules, now_unix, waiter, &self.wanted);
        let mut state = self.lock();
        let place = state.seats.iter_mut().find(|place| place.number == number);
        if let Some(place) = place {
            place.waiter = Arc::clone(waiter);
            place.decided = Some(decided.clone());
        }
        decided
    }

    /// What is loaded, with its revision once the load has found it out.
    pub(super) fn found(&self) -> Wanted {
        let found = self.progress.revision();
        let pinned = || self.wanted.revision.clone();
        Wanted {
            revision: found.map_or_else(pinned, |found| Some(found.to_string())),
            ..self.wanted.clone()
        }
    }

    /// What the load will still have to ask for, as far as it is known, and at least this run.
    pub(super) fn foreseen(&self, run: u64) -> u64 {
        #[cfg(test)]
        self.looks.fetch_add(1, Ordering::Relaxed);
        let known = self.progress.snapshot();
        let open = self.lock().open;
        let rest = known.total.saturating_sub(known.done);
        rest.saturating_sub(open).max(run)
    }

    /// A run is charged.
    pub(super) fn charged(&self, bytes: u64) {
        let mut state = self.lock();
        state.open = state.open.saturating_add(bytes);
    }

    /// A run of so many bytes has ended, after so many of them. Whether nobody will ask later what was paid.
    pub(super) fn settled(&self, guest: &Guest, bytes: u64, received: u64) -> bool {
        let mut state = self.lock();
        state.open = state.open.saturating_sub(bytes);
        if received == 0 {
            return false;
        }
        let namespace = guest.waiter.namespace.clone();
        let paid = state.paid.entry(namespace).or_insert_with(|| Paid {
            waiter: Arc::clone(&guest.waiter),
            decision: Arc::clone(&guest.decision),
            bytes: 0,
        });
        paid.bytes = paid.bytes.saturating_add(received);
        paid.decision = Arc::clone(&guest.decision);
        state.is_closed
    }

    /// What was paid since this was last asked.
    pub(super) fn take_paid(&self) -> Vec<Paid> {
        let paid = std::mem::take(&mut self.lock().paid);
        paid.into_values().collect()
    }

    /// Whether this is to be told: once for each load and namespace.
    pub(super) fn is_news(&self, news: News, namespace: &str) -> bool {
        self.lock().told.is_news(news, namespace)
    }

    /// Bytes were taken from budgets of a namespace. How many are to be told as set aside for it: what is foreseen, if these go beyond
    /// what was told before. For people; nothing is decided by it.
    pub(super) fn reserve(&self, namespace: &str, bytes: u64, foreseen: u64) -> Option<u64> {
        self.lock().told.reserve(namespace, bytes, foreseen)
    }

    /// So many of them did not come.
    pub(super) fn release(&self, namespace: &str, unused: u64) {
        self.lock().told.release(namespace, unused);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.tab.lock();
        state.seats.retain(|place| place.number != self.number);
    }
}

#[cfg(test)]
mod tests;

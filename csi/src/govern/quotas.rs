//! `CacheQuota` on a node: whether a namespace may have one volume more. Decided twice, and before a byte is fetched: when a pod
//! asks (is there room for a volume at all?), and when its load knows how much it is about ([`SizeCheck`]).
//!
//! ```text
//! publish ── enter ─► seat ── load: size_check ─► sized or refused ── mount ─► record ── (the Stay is dropped) ─► no seat
//! ```
//!
//! A waiter of a publish has a *seat* until its volume is published or given up ([`Stay`]); what is published is read from the
//! records every time, so that there is one truth and a restart changes nothing. All of it is decided under one lock: of two
//! loads for which there is room for one, one is refused. Loads are shared by namespaces, and each of them is decided about by itself: who
//! has no room is refused alone ([`Quotas::refused`]), and the load fails only if that is everybody.
//!
//! **What counts.** A volume counts once on a node, however many pods show it, with the bytes that it shows; so a further pod of a
//! volume that is here already is let in whatever the quota has become. Retained content counts as a volume where none of the
//! namespace's volumes shows the same place ([`place_of`]). What has been let in stays: nothing here looks back.
//!
//! **In the cluster** a node lets in only what the controller has set aside for it (`egress::reservation`). A volume for which there is
//! room and nothing is set aside waits: the node says in its `NodeCache` what it wants, and the quota's status answers.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tonnage_cache::cache::SizeCheck;
use tonnage_cache::digest::Digest;
use tonnage_cache::error::Kind;
use tonnage_cache::gate::Refusal;

use crate::egress::quota::{Exceeded, Usage};
use crate::egress::reservation::Report;
use crate::inflight::WaiterId;
use crate::volume::VolumeId;

mod place;
mod retained;
mod rule;
mod said;
mod state;
mod stay;
mod watch;

pub use place::{is_of, place, place_of};
pub use retained::keep_looking;
use rule::{Rule, Rules};
use state::{Outcome, State};
pub use stay::Stay;
pub use watch::{Parts, run};

/// How long a volume waits for the controller to set something aside.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pod's publish that wants a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The volume, and where.
    pub waiter: WaiterId,
    /// Name of the load that it waits for.
    pub load: String,
    /// The pod's namespace.
    pub namespace: String,
    /// What it shows, as [`place_of`] writes it.
    pub place: String,
}

/// A volume that is published on this node, as its record says. Equal volumes at several targets are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The volume.
    pub volume: VolumeId,
    /// Namespace of the pod.
    pub namespace: String,
    /// What it shows, as [`place_of`] writes it.
    pub place: String,
    /// Bytes that it shows.
    pub bytes: u64,
    /// The content.
    pub manifest: Digest,
}

/// What a namespace has on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The namespace.
    pub namespace: String,
    /// Bytes and volumes, with those that are being loaded and were let in.
    pub usage: Usage,
    /// What is published or retained.
    pub contents: BTreeSet<Digest>,
    /// Whether it has a `CacheQuota`.
    pub is_governed: bool,
    /// What quotas of the cluster are to know; nothing where there are none, or while the number of the last report is not known.
    pub report: Option<Report>,
}

/// Why a volume is not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not known what is allowed.
    #[error(
        "the CacheQuotas of the cluster could not be read yet; this goes on by itself when the API server answers"
    )]
    Unread,
    /// There is no room.
    #[error("{}", .0.message)]
    Exceeded(Exceeded),
    /// There is room that may be another node's a moment later.
    #[error(
        "CacheQuota {quota} has room in the cluster for this volume, which the controller has not set aside for this node yet; this goes on by itself when it has"
    )]
    NotSetAside {
        /// Name of the quota.
        quota: String,
    },
}

impl Refused {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unread | Self::NotSetAside { .. } => Kind::Transient,
            Self::Exceeded(_) => Kind::Exhausted,
        }
    }
}

impl From<Exceeded> for Refused {
    fn from(exceeded: Exceeded) -> Self {
        Self::Exceeded(exceeded)
    }
}

/// Looks at the records of what is published.
type Look = dyn Fn() -> Vec<Shown> + Send + Sync;

/// All quotas, and what they are about on this node.
pub struct Quotas {
    /// Name of this node in status objects.
    node: String,
    state: Mutex<State>,
    /// Held while records of what is retained are read or written, so that nobody drops a note whose pin is just being made.
    notes: Mutex<()>,
    /// About somebody was decided.
    decisions: Notify,
    /// Something was learned that decides about who waits.
    news: Notify,
    /// What is used has changed.
    changes: Notify,
    /// Somebody waits for the controller.
    wishes: Notify,
}

impl fmt::Debug for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quotas")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Quotas {
    /// Quotas of a cluster, which are read by [`run`]; until then nothing is let in.
    pub fn awaited(node: &str) -> Arc<Self> {
        Self::with(node, None)
    }

    /// No quotas at all.
    pub fn none() -> Arc<Self> {
        Self::with("", Some(Rules::new()))
    }

    fn with(node: &str, rules: Option<Rules>) -> Arc<Self> {
        Arc::new(Self {
            node: node.to_owned(),
            state: Mutex::new(State::new(rules)),
            notes: Mutex::default(),
            decisions: Notify::new(),
            news: Notify::new(),
            changes: Notify::new(),
            wishes: Notify::new(),
        })
    }

    /// Says how to look at what is published. To be called once, before the first [`Quotas::enter`].
    pub fn looks_at(&self, look: impl Fn() -> Vec<Shown> + Send + Sync + 'static) {
        self.lock().look = Some(Arc::new(look));
    }

    /// Takes a seat for a waiter, or keeps the one that it has. Called before the load is joined, so that the load finds the seat
    /// when it knows its size. The seat is the waiter's as long as one of its stays is kept.
    pub fn enter(self: &Arc<Self>, asked: Asked) -> Result<Stay, Refused> {
        let waiter = asked.waiter.clone();
        let (serial, waits) = self.lock().enter(asked)?;
        if waits {
            self.wishes.notify_one();
        }
        Ok(Stay::new(Arc::clone(self), waiter, serial))
    }

    /// What the load of this name is to ask when it knows its size.
    pub fn size_check(self: &Arc<Self>, load: &str) -> SizeCheck {
        let (this, load) = (Arc::clone(self), load.to_owned());
        SizeCheck::new(move |bytes| {
            let (this, load) = (Arc::clone(&this), load.clone());
            async move { this.sized(&load, bytes).await }
        })
    }

    /// Decides about everyone who waits for a load. Refuses the load if nobody may have it, and waits for the controller if nobody may
    /// have it yet.
    async fn sized(&self, load: &str, bytes: u64) -> Result<(), Refusal> {
        let last = Instant::now() + PATIENCE;
        loop {
            let told = self.news.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            let (outcome, waits) = {
                let mut state = self.lock();
                let outcome = state.sized(load, bytes);
                let mut seats = state.seats.values().filter(|seat| seat.load == load);
                (outcome, seats.any(|seat| seat.wish.is_some()))
            };
            self.decisions.notify_waiters();
            self.changes.notify_one();
            if waits {
                self.wishes.notify_one();
            }
            match outcome {
                Outcome::Go => return Ok(()),
                Outcome::Refused(refused) => return Err(Refusal::Exhausted(refused.to_string())),
                Outcome::Waits => {}
            }
            if timeout_at(last, told).await.is_err() {
                self.lock().give_up(|_, seat| seat.load == load);
            }
        }
    }

    /// Waits until it is decided whether a waiter may have what its load has brought, so many bytes; which may be later than for others
    /// of it, or the first time. `left` is how long the waiter's call can be held.
    pub async fn settled(
        &self,
        waiter: &WaiterId,
        bytes: u64,
        left: Duration,
    ) -> Result<(), Refused> {
        let last = Instant::now() + PATIENCE.min(left);
        loop {
            let told = self.decisions.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            let outcome = self.lock().settle(waiter, bytes);
            match outcome {
                Outcome::Go => return Ok(()),
                Outcome::Refused(refused) => return Err(refused),
                Outcome::Waits => self.wishes.notify_one(),
            }
            if timeout_at(last, told).await.is_err() {
                self.lock().give_up(|other, _| other == waiter);
            }
        }
    }

    /// The quotas themselves are others. What is here is to be known before anything is set aside by one that is new.
    fn are_others(&self) {
        self.changes.notify_one();
        self.wishes.notify_one();
    }

    /// Something was learned, or is free.
    fn reconsider(&self) {
        self.lock().reconsider();
        self.decisions.notify_waiters();
        self.news.notify_waiters();
    }

    /// The highest number of a report of this node that others may know of. Until it is told, nothing is reported, and nothing let in by
    /// quotas of the cluster.
    pub fn begins_above(&self, number: u64) {
        let mut state = self.lock();
        state.floor = state.floor.max(Some(number));
    }

    /// Waits until somebody waits for the controller.
    pub async fn wished(&self) {
        self.wishes.notified().await;
    }

    /// Waits until the waiter is refused; for ever, if it is not. Its load may go on for others.
    pub async fn refused(&self, waiter: &WaiterId) -> Refused {
        loop {
            let told = self.decisions.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if let Some(refused) = self.refusal(waiter) {
                return refused;
            }
            told.await;
        }
    }

    /// Why a waiter was refused, if it was.
    pub fn refusal(&self, waiter: &WaiterId) -> Option<Refused> {
        self.lock().refusal(waiter)
    }

    /// Namespace of a waiter that has a seat, for the record of its volume.
    pub fn namespace_of(&self, waiter: &WaiterId) -> Option<String> {
        let state = self.lock();
        state.seats.get(waiter).map(|seat| seat.namespace.clone())
    }

    /// What every namespace has here, by name.
    pub fn uses(&self) -> Vec<Use> {
        self.lock().uses()
    }

    /// Waits until something may be used that was not, or not any more; what has changed since the last wait counts.
    pub async fn changed(&self) {
        self.changes.notified().await;
    }

    /// Whether some quota of a namespace that has something here counts what it has elsewhere, so that other nodes should learn
    /// of it soon.
    pub fn counts_the_cluster(&self) -> bool {
        self.lock().counts_the_cluster()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Quotas {
    /// Learns of a quota, for tests.
    pub(crate) fn learn(&self, object: &crate::crd::CacheQuota) {
        let rule = Rule::of(object, &self.node);
        let (namespace, name) = (object.metadata.namespace.clone(), rule.quota.name.clone());
        let mut state = self.lock();
        state.has_looked = true;
        let rules = state.rules.get_or_insert_default();
        let quotas = rules.entry(namespace.unwrap_or_default()).or_default();
        quotas.insert(name, rule);
    }

    /// Says how large a load is, for tests; nothing if that is not decided at once.
    pub(crate) fn size_is(&self, load: &str, bytes: u64) -> Option<Result<(), Refusal>> {
        futures::FutureExt::now_or_never(self.sized(load, bytes))
    }
}

#[cfg(test)]
mod tests;

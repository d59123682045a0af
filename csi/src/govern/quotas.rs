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
//! In the cluster, other nodes' use is what the controller last wrote (`quota_status`); `docs/governance.md` says what this
//! cannot see.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tonnage_cache::cache::SizeCheck;
use tonnage_cache::digest::Digest;
use tonnage_cache::error::Kind;
use tonnage_cache::gate::Refusal;

use crate::egress::quota::{Exceeded, Usage};
use crate::inflight::WaiterId;
use crate::volume::VolumeId;

mod place;
mod retained;
mod rule;
mod state;
mod stay;
mod watch;

pub use place::{is_of, place, place_of};
pub use retained::keep_looking;
use rule::{Rule, Rules};
use state::State;
pub use stay::Stay;
pub use watch::{Parts, run};

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
    /// Bytes and volumes, with those that are being loaded.
    pub usage: Usage,
    /// What is published or retained.
    pub contents: BTreeSet<Digest>,
    /// Whether it has a `CacheQuota`.
    pub is_governed: bool,
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
}

impl Refused {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unread => Kind::Transient,
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
    /// A seat was refused.
    refusals: Notify,
    /// What is used has changed.
    changes: Notify,
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
            refusals: Notify::new(),
            changes: Notify::new(),
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
        let serial = self.lock().enter(asked)?;
        Ok(Stay::new(Arc::clone(self), waiter, serial))
    }

    /// What the load of this name is to ask when it knows its size.
    pub fn size_check(self: &Arc<Self>, load: &str) -> SizeCheck {
        let (this, load) = (Arc::clone(self), load.to_owned());
        SizeCheck::new(move |bytes| this.sized(&load, bytes))
    }

    /// Decides about everyone who waits for a load. Refuses the load if nobody may have it.
    fn sized(&self, load: &str, bytes: u64) -> Result<(), Refusal> {
        let decided = self.lock().sized(load, bytes);
        self.refusals.notify_waiters();
        self.changes.notify_one();
        decided.map_err(|exceeded| Refusal::Exhausted(exceeded.message))
    }

    /// Waits until the waiter is refused; for ever, if it is not. Its load may go on for others.
    pub async fn refused(&self, waiter: &WaiterId) -> Refused {
        loop {
            let told = self.refusals.notified();
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
        let refusal = self.lock().refusal(waiter);
        refusal.map(Refused::from)
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
        let rules = state.rules.get_or_insert_default();
        let quotas = rules.entry(namespace.unwrap_or_default()).or_default();
        quotas.insert(name, rule);
    }

    /// Says how large a load is, for tests.
    pub(crate) fn size_is(&self, load: &str, bytes: u64) {
        self.sized(load, bytes).unwrap();
    }
}

#[cfg(test)]
mod tests;

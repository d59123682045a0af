//! Where the time of a load went: phases that follow each other and add up to the wall time, bytes by
//! origin, and live progress. Plain values and atomics; who shows them is decided elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::digest::Digest;

/// A stretch of a load. Phases follow each other; `Transfer` is where receiving, hashing and writing overlap.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for other work.
    Queue,
    /// Deciding whether this principal may read.
    Authorize,
    /// Listing the source, or reading the cached revision.
    Resolve,
    /// From the first request to the first body byte.
    FirstByte,
    /// From the first body byte to the last.
    Transfer,
    /// Making objects durable and naming them.
    Sync,
    /// Laying out the tree.
    View,
    /// Mounting it.
    Mount,
}

impl Phase {
    /// All phases in their order.
    pub const ALL: [Self; 8] = [
        Self::Queue,
        Self::Authorize,
        Self::Resolve,
        Self::FirstByte,
        Self::Transfer,
        Self::Sync,
        Self::View,
        Self::Mount,
    ];

    /// The phase's name in metrics, traces and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Authorize => "authorize",
            Self::Resolve => "resolve",
            Self::FirstByte => "first_byte",
            Self::Transfer => "transfer",
            Self::Sync => "sync",
            Self::View => "view",
            Self::Mount => "mount",
        }
    }
}

/// Bytes of a load by where they came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Origins {
    /// Content bytes received from the source, each once.
    pub source: u64,
    /// Bytes received again after failures.
    pub retry: u64,
    /// Bytes received by hedged requests.
    pub hedge: u64,
    /// Bytes of a partial file of an earlier attempt that were verified and kept.
    pub resumed: u64,
    /// Bytes not fetched because an earlier revision of the same source holds the same object version.
    pub unchanged: u64,
    /// Bytes fetched and then found to be stored already.
    pub dedup: u64,
    /// Bytes of a view that was already complete.
    pub cached: u64,
}

/// Busy time inside `Transfer`, summed over connections and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Busy {
    /// Waiting for and receiving bytes, nanoseconds.
    pub receive_nanos: u64,
    /// Hashing, nanoseconds.
    pub hash_nanos: u64,
    /// Writing, nanoseconds.
    pub write_nanos: u64,
}

/// The finished account of one load.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// Each phase that took place, in order, with its nanoseconds.
    pub phases: Vec<(Phase, u64)>,
    /// Bytes by origin.
    pub origins: Origins,
    /// Busy time inside `Transfer`.
    pub busy: Busy,
    /// Files of the volume.
    pub files: u64,
    /// Bytes of the volume.
    pub bytes: u64,
    /// Most connections in use at once.
    pub connections: u64,
    /// How pages were treated: `direct` or `warm`, with the reason.
    pub page_cache: String,
}

impl Report {
    /// Wall time: the sum of the phases.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.phases.iter().map(|(_, nanos)| nanos).sum())
    }

    /// Time of one phase.
    pub fn phase(&self, phase: Phase) -> Duration {
        Duration::from_nanos(
            self.phases
                .iter()
                .filter(|(name, _)| *name == phase)
                .map(|(_, nanos)| nanos)
                .sum(),
        )
    }

    /// Adds time to a phase. Phases stand in their order, each once.
    pub fn add_phase(&mut self, phase: Phase, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match self.phases.binary_search_by_key(&phase, |(name, _)| *name) {
            Ok(found) => {
                if let Some((_, total)) = self.phases.get_mut(found) {
                    *total = total.saturating_add(nanos);
                }
            }
            Err(place) => self.phases.insert(place, (phase, nanos)),
        }
    }
}

/// Live figures of a running load; every number only grows, but for `total` which is set once known.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
    files_total: AtomicU64,
    files_done: AtomicU64,
    phase: Mutex<Option<Phase>>,
    revision: Mutex<Option<Digest>>,
}

/// One look at a [`Progress`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Bytes of the volume; 0 while unknown.
    pub total: u64,
    /// Bytes that are verified and on disk.
    pub done: u64,
    /// Files of the volume.
    pub files_total: u64,
    /// Files complete.
    pub files_done: u64,
    /// What is being done.
    pub phase: Option<Phase>,
}

impl Progress {
    /// Sets the expected totals.
    pub fn expect(&self, bytes: u64, files: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        self.files_total.store(files, Ordering::Relaxed);
    }

    /// Names the revision that is fetched; a load that starts over may have another.
    pub fn name(&self, revision: Digest) {
        let mut named = self.revision.lock().unwrap_or_else(PoisonError::into_inner);
        *named = Some(revision);
    }

    /// Fingerprint of the revision that is fetched; `None` before it is known, and where nothing is to be fetched.
    pub fn revision(&self) -> Option<Digest> {
        *self.revision.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes that are verified and on disk (or were there).
    pub fn add_bytes(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts one complete file.
    pub fn add_file(&self) {
        self.files_done.fetch_add(1, Ordering::Relaxed);
    }

    /// Names the running phase.
    pub fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = Some(phase);
    }

    /// The figures now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            total: self.total.load(Ordering::Relaxed),
            done: self.done.load(Ordering::Relaxed),
            files_total: self.files_total.load(Ordering::Relaxed),
            files_done: self.files_done.load(Ordering::Relaxed),
            phase: *self.phase.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_to_the_total() {
        let mut report = Report::default();
        report.add_phase(Phase::Resolve, Duration::from_millis(3));
        report.add_phase(Phase::Transfer, Duration::from_millis(40));
        report.add_phase(Phase::Transfer, Duration::from_millis(2));
        assert_eq!(report.total(), Duration::from_millis(45));
        assert_eq!(report.phase(Phase::Transfer), Duration::from_millis(42));
    }
}

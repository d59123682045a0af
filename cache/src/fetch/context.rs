//! What all requests of one job share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::buffer::Share;
use crate::clock::Clock;
use crate::digest::Digest;
use crate::gate::Gate;
use crate::path::RelPath;
use crate::report::{Phase, Progress};
use crate::source::{Entry, Source};
use crate::store::{self, PartialKey, Store};

use super::pace::Pace;
use super::settings::Settings;

/// The parts of the machine, the job, and live counters.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) store: Arc<Store>,
    pub(super) gate: Arc<dyn Gate>,
    /// What the payer may have of the node's buffers.
    pub(super) buffers: Share,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Settings,
    pub(super) pace: Option<Arc<Pace>>,
    pub(super) source: Arc<dyn Source>,
    pub(super) payer: String,
    pub(super) load: String,
    pub(super) entries: Arc<Vec<Entry>>,
    pub(super) expected: Option<HashMap<RelPath, Digest>>,
    pub(super) progress: Arc<Progress>,
    /// Ends every request of the job.
    pub(super) stop: CancellationToken,
    pub(super) started: Duration,
    pub(super) first_byte: OnceLock<Duration>,
    pub(super) last_byte: AtomicU64,
    /// Bytes of parts of large files received, for the controller.
    pub(super) received: AtomicU64,
}

impl Context {
    /// The entry of an index that the plan gave out.
    pub(super) fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// The size of an entry; 0 if there is none.
    pub(super) fn size(&self, index: usize) -> u64 {
        self.entry(index).map_or(0, |entry| entry.size)
    }

    /// The object key of an entry; empty if there is none.
    pub(super) fn key_of(&self, index: usize) -> &str {
        self.entry(index).map_or("", |entry| &entry.key)
    }

    /// The digest that an entry must have, if one is known.
    pub(super) fn expected(&self, entry: &Entry) -> Option<Digest> {
        self.expected.as_ref()?.get(&entry.path).copied()
    }

    /// The store's key of an entry's object version.
    pub(super) fn key(&self, entry: &Entry) -> PartialKey {
        super::partial_key(&*self.source, entry)
    }

    /// Notes in the stage log that an object version is complete.
    pub(super) fn note(&self, entry: &Entry, digest: Digest) -> Result<(), store::Error> {
        self.store
            .note_object(self.source.uid(), &self.key(entry), digest, entry.size)
    }

    /// When the write-rate cap lets `bytes` be written; `None` if there is none, or now.
    pub(super) fn book(&self, bytes: usize) -> Option<Instant> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.pace.as_ref()?.book(bytes)
    }

    /// Waits until the write-rate cap lets `bytes` be written.
    pub(super) async fn turn(&self, bytes: usize) {
        if let Some(turn) = self.book(bytes) {
            sleep_until(turn).await;
        }
    }

    /// Counts bytes of content as they arrive.
    pub(super) fn saw(&self, bytes: u64) {
        let now = self.clock.monotonic().saturating_sub(self.started);
        if self.first_byte.set(now).is_ok() {
            self.progress.enter(Phase::Transfer);
        }
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.last_byte.fetch_max(nanos, Ordering::Relaxed);
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Time since the job began.
    pub(super) fn elapsed(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.started)
    }
}

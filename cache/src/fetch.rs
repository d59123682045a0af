//! Where sources and the store meet: brings a list of objects into the store, each byte once.
//!
//! A [`Job`] names a source and its entries; [`Fetcher::fetch`] returns their digests in order. Large files are
//! asked for in runs of parts over many connections, small ones one request each; every request passes the
//! gate first. Content lives only in buffers of the one pool. Invariants: nothing is named in the store
//! before all of it is verified; a failed or cancelled job leaves its verified parts for the next one and no
//! task behind; a source that changed in the middle ends the job and is never mixed. Retries live here and
//! nowhere else. This module lists nothing, lays out nothing and reserves no space.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::buffer::Pool;
use crate::clock::Clock;
use crate::digest::Digest;
use crate::error::Kind;
use crate::gate::{Gate, Refusal};
use crate::path::RelPath;
use crate::report::{Busy, Origins, Phase, Progress};
use crate::source::{self, Entry, Source};
use crate::store::{self, PartialKey, Store};

mod body;
mod connections;
mod context;
mod file;
mod grant;
mod hedge;
mod job;
mod lane;
mod pace;
mod page_cache;
mod plan;
mod retry;
mod run;
mod settings;
mod slots;

pub use page_cache::PageCache;
pub use settings::{BUFFERS_MAX, BUFFERS_START, RUN_PARTS_MAX, Settings, buffers_for};

use context::Context;
use job::{Driver, Setup};
use pace::Pace;
use slots::{Party, Slots};

/// What to bring into the store.
#[derive(Debug)]
pub struct Job {
    /// Where from.
    pub source: Arc<dyn Source>,
    /// Who pays: a namespace, or empty on the command line.
    pub payer: String,
    /// By what name the gate knows the load; empty where nobody governs.
    pub load: String,
    /// The objects, each path once.
    pub entries: Arc<Vec<Entry>>,
    /// Digests that the entries of these paths must have.
    pub expected: Option<HashMap<RelPath, Digest>>,
    /// How pages are treated.
    pub page_cache: PageCache,
    /// Told of every verified byte and complete file. Totals are the caller's to set.
    pub progress: Arc<Progress>,
    /// Ends the job; verified parts stay.
    pub cancel: CancellationToken,
}

/// What a job brought, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// One digest per entry, in their order.
    pub digests: Vec<Digest>,
    /// Bytes by origin: `source` + `resumed` + `unchanged` is the content, `dedup` the share of `source` and
    /// `resumed` that was stored already.
    pub origins: Origins,
    /// Busy time of all requests together.
    pub busy: Busy,
    /// From the start to the first body byte; zero if none came.
    pub first_byte: Duration,
    /// From the first body byte to the last.
    pub transfer: Duration,
    /// From the last body byte to the end: last writes and commits.
    pub sync: Duration,
    /// Most requests under way at once.
    pub connections: u64,
    /// `direct` or `warm`, with the reason.
    pub page_cache: String,
}

/// Why a job failed. Its verified parts are kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source refuses, or fails in a way that will not pass.
    #[error(transparent)]
    Source(source::Error),
    /// An object is another one now: start over from a new listing.
    #[error("{key} changed at the source while it was fetched")]
    Changed {
        /// The object's key, escaped.
        key: String,
        /// What showed it.
        source: source::Error,
    },
    /// An object's content is not what was asked for.
    #[error("{path} has the digest {found}, but {expected} was expected")]
    Mismatch {
        /// The file.
        path: RelPath,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The gate refuses the bytes, or the budget is used up.
    #[error(transparent)]
    Refused(Refusal),
    /// Requests kept failing.
    #[error("gave up after {attempts} failed requests without progress")]
    GaveUp {
        /// Failed requests since the last verified part.
        attempts: u32,
        /// The last failure.
        #[source]
        last: source::Error,
    },
    /// The job was cancelled.
    #[error("the download was cancelled")]
    Cancelled,
    /// A task of the job panicked.
    #[error("a download task ended unexpectedly")]
    Task(#[source] tokio::task::JoinError),
    /// Files were left over.
    #[error("{missing} files were not fetched")]
    Incomplete {
        /// How many.
        missing: usize,
    },
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Source(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Refused(refusal) => refusal.kind(),
            Self::Changed { .. } | Self::GaveUp { .. } => Kind::Transient,
            Self::Mismatch { .. } => Kind::Corrupt,
            Self::Cancelled => Kind::Busy,
            Self::Task(_) | Self::Incomplete { .. } => Kind::Internal,
        }
    }
}

/// Fetches for all jobs of a node: one gate, one pool of buffers, one set of connections.
pub struct Fetcher {
    store: Arc<Store>,
    gate: Arc<dyn Gate>,
    pool: Pool,
    clock: Arc<dyn Clock>,
    settings: Settings,
    slots: Slots,
    pace: Option<Arc<Pace>>,
    jobs: AtomicU64,
    running: AtomicUsize,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("settings", &self.settings)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Fetcher {
    /// A fetcher into `store`; `clock` measures, scheduling is by the runtime's time.
    pub fn new(
        store: Arc<Store>,
        gate: Arc<dyn Gate>,
        pool: Pool,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Arc<Self> {
        let large = connections_of(pool.limit()).min(settings.connections_max);
        Arc::new(Self {
            slots: Slots::new(large, settings.connections_max),
            pace: settings.write_rate.map(|rate| Arc::new(Pace::new(rate))),
            store,
            gate,
            pool,
            clock,
            settings,
            jobs: AtomicU64::new(0),
            running: AtomicUsize::new(0),
        })
    }

    /// Brings all entries of the job into the store and returns their digests in order. Nothing is left
    /// running when it returns; dropping the future aborts the requests and keeps what was verified.
    pub async fn fetch(&self, job: Job) -> Result<Outcome, Error> {
        let _running = Running::enter(self);
        job.progress.enter(Phase::FirstByte);
        let party = Party {
            payer: job.payer.as_str().into(),
            job: self.jobs.fetch_add(1, Ordering::Relaxed),
        };
        let context = Arc::new(Context {
            store: Arc::clone(&self.store),
            gate: Arc::clone(&self.gate),
            buffers: self.pool.share(&party.payer),
            clock: Arc::clone(&self.clock),
            settings: self.settings.clone(),
            pace: self.pace.clone(),
            source: job.source,
            payer: job.payer,
            load: job.load,
            entries: job.entries,
            expected: job.expected,
            progress: job.progress,
            stop: CancellationToken::new(),
            started: self.clock.monotonic(),
            first_byte: OnceLock::new(),
            last_byte: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        let setup = Setup {
            cancel: job.cancel,
            slots: self.slots.clone(),
            party,
            page_cache: job.page_cache,
        };
        Box::pin(Driver::new(context, setup).drive()).await
    }
}

/// Counts a running job; the last one to end gives the pool's idle memory back.
struct Running<'a>(&'a Fetcher);

impl<'a> Running<'a> {
    fn enter(fetcher: &'a Fetcher) -> Self {
        fetcher.running.fetch_add(1, Ordering::AcqRel);
        Self(fetcher)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.pool.trim();
        }
    }
}

/// Connections for large files that `buffers` allow: one buffer receives while half of one is written.
fn connections_of(buffers: usize) -> usize {
    (buffers.saturating_mul(2) / 3).max(1)
}

/// Buffers that `connections` need.
fn buffers_of(connections: usize) -> usize {
    connections.saturating_mul(3).div_ceil(2)
}

/// The store's name for one object version of one source.
pub fn partial_key(source: &dyn Source, entry: &Entry) -> PartialKey {
    let version = &entry.version;
    PartialKey::new(
        source.uid(),
        &entry.key,
        version.etag.as_deref().unwrap_or_default(),
        version.version.as_deref().unwrap_or_default(),
        version.modified_pin(),
        entry.size,
    )
}

#[cfg(test)]
mod tests;

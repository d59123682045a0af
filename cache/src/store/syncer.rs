//! The threads that make verified files durable: many at a time by one sync of the filesystem.
//!
//! ```text
//! files wait ──► a thread takes all of them ──► fewer than 8: a sync each
//!                                           └─► else: one sync of the filesystem, then each descriptor is asked
//!                                               whether writing it back failed
//! then, file by file: rename into objects/
//! ```
//! Invariants: a file gets its name in `objects/` only after a sync that began after it was queued, and only if its
//! own descriptor, which wrote it, reports no error. If the filesystem's sync fails, each file is synced by itself: a
//! descriptor remembers errors since it was opened, so that this is no second try of a failed sync, and only what
//! reports an error is lost. The filesystem's sync also waits for what others wrote: after one that took long, files
//! are synced one by one for a while. A permit is given back only when its file is settled.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::damage::Cause;
use super::error::{Error, error_at};
use super::probe::is_unsupported;
use crate::digest::Digest;
use crate::disk::{Crew, Handle, Queue};
use crate::error::{IoContext, chain};

/// Fewest files, or directories, for which the whole filesystem is synced.
pub(super) const TOGETHER: usize = 8;
/// Longest sync of the filesystem that is not held against it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Rounds that do without it after a longer one.
const ROUNDS_ALONE: u64 = 16;

/// A verified file in `fresh/` that is not durable yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// The descriptor that wrote it: an error of write-back may be reported to it alone.
    pub(super) writer: Arc<Handle>,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// The running threads; dropping them settles what is queued and joins them.
#[derive(Debug)]
pub(super) struct Syncer(Crew<Pending>);

impl Syncer {
    /// Starts `count` threads (at least one).
    pub(super) fn start(shared: &Arc<Shared>, count: usize) -> io::Result<Self> {
        let shared = Arc::clone(shared);
        let work = move |queue: &Queue<Pending>| {
            while let Some(batch) = queue.all() {
                if catch_unwind(AssertUnwindSafe(|| shared.settle(batch))).is_err() {
                    tracing::error!("a syncing thread panicked; its files wait for the next start");
                }
            }
        };
        Crew::start("tonnage-sync", count, work).map(Self)
    }

    /// Queues a file; its permit bounds the queue.
    pub(super) fn submit(&self, pending: Pending) {
        self.0.submit(pending);
    }
}

/// Whether a sync of the whole filesystem is worth asking for.
#[derive(Debug, Default)]
pub(super) struct Together {
    rounds_alone: AtomicU64,
}

impl Together {
    /// Whether `count` files or directories are to be synced together; counts the rounds that do without.
    fn choose(&self, count: usize) -> bool {
        let fewer = |rounds: u64| rounds.checked_sub(1);
        count >= TOGETHER
            && self
                .rounds_alone
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer)
                .is_err()
    }

    fn took(&self, time: Duration) {
        if time > PATIENCE {
            self.rounds_alone.store(ROUNDS_ALONE, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn settle(&self, batch: VecDeque<Pending>) {
        fail::fail_point!("store::fresh::before_sync");
        let first = batch.front().map(|pending| &*pending.writer);
        let together = first.is_some_and(|first| self.sync_together(first, batch.len()));
        for pending in batch {
            let synced = if together {
                self.disk.check_written(&pending.writer)
            } else {
                self.disk.sync_data(&pending.writer)
            };
            if let Err(error) = self.settle_one(&pending, synced) {
                tracing::error!(digest = %pending.digest, error = %chain(&error), "a fresh object was not made durable");
            }
            drop(pending);
        }
    }

    /// Syncs the filesystem for `count` files or directories of it; false if each is to be synced by itself.
    pub(super) fn sync_together(&self, file: &Handle, count: usize) -> bool {
        if !self.together.choose(count) {
            return false;
        }
        let start = self.clock.monotonic();
        let synced = self.disk.sync_filesystem(file);
        self.together
            .took(self.clock.monotonic().saturating_sub(start));
        match synced {
            Ok(()) => true,
            Err(error) if is_unsupported(&error) => false,
            Err(error) => {
                tracing::warn!(error = %error, "the filesystem was not synced; each file is asked for itself");
                false
            }
        }
    }

    fn settle_one(&self, pending: &Pending, synced: io::Result<()>) -> Result<(), Error> {
        let Pending { digest, size, .. } = pending;
        let fresh = self.layout.fresh_object(&self.boot_id, digest);
        if let Err(error) = synced {
            let error = error_at("sync", &fresh, error);
            self.report_damage(digest, *size, Cause::Sync, Vec::new());
            self.disk.unlink(&fresh).at("remove", &fresh)?;
            return Err(Error::Sync(error));
        }
        fail::fail_point!("store::fresh::after_sync");
        self.name_object(&fresh, digest, *size)?;
        fail::fail_point!("store::fresh::after_rename");
        Ok(())
    }
}

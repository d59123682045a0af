//! Room for what is coming: reservations, the floor, the watermarks and the store's own limit.
//!
//! Invariants: free = what the filesystem gives an unprivileged process, less the floor, less what is reserved and not
//! yet written; one thread at a time makes room; making room ends when it made no progress. A reservation shrinks
//! as files are begun (the oldest first), so that nothing is counted twice for long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::evict::{Freed, Goal};
use super::{Config, Shared, Store};
use crate::disk::Space;
use crate::error::IoContext;

/// What is reserved, and what the store occupies.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    state: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    next: u64,
    reserved: BTreeMap<u64, (u64, u64)>,
    /// Bytes that the store occupies: counted by a walk, then kept up to date; `None` before the first.
    used: Option<u64>,
}

/// Room that was promised; dropping it gives back what was not used.
#[derive(Debug)]
pub struct Reservation {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.accounts.lock().reserved.remove(&self.id);
    }
}

impl Accounts {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, bytes: u64, files: u64) -> u64 {
        let mut ledger = self.lock();
        ledger.next = ledger.next.saturating_add(1);
        let id = ledger.next;
        ledger.reserved.insert(id, (bytes, files));
        id
    }

    /// What is reserved and not yet written: bytes and files.
    pub(super) fn outstanding(&self) -> (u64, u64) {
        self.lock()
            .reserved
            .values()
            .fold((0, 0), |(bytes, files), (b, f)| {
                (bytes.saturating_add(*b), files.saturating_add(*f))
            })
    }

    /// Takes written bytes and files out of the reservations.
    pub(super) fn spend(&self, bytes: u64, files: u64) {
        let (mut bytes_left, mut files_left) = (bytes, files);
        let mut ledger = self.lock();
        for (reserved_bytes, reserved_files) in ledger.reserved.values_mut() {
            let (b, f) = (
                bytes_left.min(*reserved_bytes),
                files_left.min(*reserved_files),
            );
            *reserved_bytes = reserved_bytes.saturating_sub(b);
            *reserved_files = reserved_files.saturating_sub(f);
            bytes_left = bytes_left.saturating_sub(b);
            files_left = files_left.saturating_sub(f);
        }
        ledger.used = ledger.used.map(|used| used.saturating_add(bytes));
    }

    fn free(&self, bytes: u64) {
        let mut ledger = self.lock();
        ledger.used = ledger.used.map(|used| used.saturating_sub(bytes));
    }
}

impl Store {
    /// Promises room for `bytes` in `files`, evicting what must go; fails with [`Error::NoSpace`] or
    /// [`Error::NoInodes`] if that is not enough. Room that is reserved is not held against others on the filesystem.
    pub async fn reserve(&self, bytes: u64, files: u64) -> Result<Reservation, Error> {
        let shared = Arc::clone(&self.shared);
        self.threads
            .run(move || {
                let _turn = shared
                    .reclaiming
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                shared.make_room(bytes, files)?;
                let id = shared.accounts.reserve(bytes, files);
                Ok(Reservation {
                    shared: Arc::clone(&shared),
                    id,
                })
            })
            .await?
    }

    /// Evicts until the goal is met or nothing is left that may go.
    pub async fn evict(&self, goal: Goal) -> Result<Freed, Error> {
        let shared = Arc::clone(&self.shared);
        self.threads
            .run(move || {
                let _turn = shared
                    .reclaiming
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                shared.tidy_quarantine()?;
                let freed = shared.reclaim(goal)?;
                shared.accounts.free(freed.bytes);
                Ok(freed)
            })
            .await?
    }
}

/// What is short of a demand.
struct Shortage {
    bytes: u64,
    files: u64,
    /// Bytes that may be used now.
    usable: u64,
    usable_files: u64,
}

impl Shared {
    fn space(&self) -> Result<Space, Error> {
        let root = self.layout.root();
        Ok(self.disk.space(root).at("read the free space of", root)?)
    }

    /// What a demand lacks, reservations, floor and limit considered.
    fn shortage(&self, bytes: u64, files: u64) -> Result<Shortage, Error> {
        let space = self.space()?;
        let (reserved, reserved_files) = self.accounts.outstanding();
        let mut usable = space.free.saturating_sub(self.config.floor_bytes);
        if let Some(limit) = self.config.max_bytes {
            usable = usable.min(limit.saturating_sub(self.used(bytes, limit)?));
        }
        let usable = usable.saturating_sub(reserved);
        let usable_files = space.free_files.saturating_sub(reserved_files);
        Ok(Shortage {
            bytes: bytes.saturating_sub(usable),
            files: files.saturating_sub(usable_files),
            usable,
            usable_files,
        })
    }

    /// Bytes that the store occupies. The running count is trusted while it says that there is room.
    fn used(&self, wanted: u64, limit: u64) -> Result<u64, Error> {
        let counted = self.accounts.lock().used;
        if let Some(used) = counted.filter(|used| used.saturating_add(wanted) <= limit) {
            return Ok(used);
        }
        let walked = super::usage::occupied(&*self.disk, &self.layout)?;
        self.accounts.lock().used = Some(walked);
        Ok(walked)
    }

    fn make_room(&self, bytes: u64, files: u64) -> Result<(), Error> {
        let mut before = None;
        loop {
            let short = self.shortage(bytes, files)?;
            if short.bytes == 0 && short.files == 0 {
                return self.respect_watermarks(bytes);
            }
            let usable = (short.usable, short.usable_files);
            if before.is_some_and(|before| before >= usable) {
                return Err(self.refusal(bytes, files, &short));
            }
            let goal = Goal {
                bytes: short.bytes,
                files: short.files,
                idle_partials: true,
            };
            let freed = self.reclaim(goal)?;
            self.accounts.free(freed.bytes);
            if freed == Freed::default() {
                return Err(self.refusal(bytes, files, &short));
            }
            self.await_freed(short.usable.saturating_add(freed.bytes / 2))?;
            before = Some(usable);
        }
    }

    /// XFS gives blocks back in the background: waits briefly until they show, so that no more than needed goes.
    fn await_freed(&self, expected: u64) -> Result<(), Error> {
        const LOOKS: u32 = 20;
        const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
        for _ in 0..LOOKS {
            if self.shortage(0, 0)?.usable >= expected {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn refusal(&self, bytes: u64, files: u64, short: &Shortage) -> Error {
        if short.bytes > 0 {
            Error::NoSpace {
                needed: bytes,
                free: short.usable,
                floor: self.config.floor_bytes,
            }
        } else {
            Error::NoInodes {
                needed: files,
                free: short.usable_files,
            }
        }
    }

    /// Above the high watermark, evicts down to the low one as far as that goes.
    fn respect_watermarks(&self, bytes: u64) -> Result<(), Error> {
        let space = self.space()?;
        let (reserved, _) = self.accounts.outstanding();
        let used = space
            .total
            .saturating_sub(space.free)
            .saturating_add(reserved)
            .saturating_add(bytes);
        if used <= share(space.total, self.config.high_watermark) {
            return Ok(());
        }
        let excess = used.saturating_sub(share(space.total, self.config.low_watermark));
        let goal = Goal {
            bytes: excess,
            files: 0,
            idle_partials: false,
        };
        let freed = self.reclaim(goal)?;
        self.accounts.free(freed.bytes);
        Ok(())
    }

    /// Frees a little after a write met a full disk, so that a retry can succeed.
    pub(super) fn free_some(&self, wanted: u64) -> Result<(), Error> {
        const SOME: u64 = 64 << 20;
        let _turn = self
            .reclaiming
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let freed = self.reclaim(Goal::bytes(wanted.max(SOME)))?;
        self.accounts.free(freed.bytes);
        Ok(())
    }
}

impl Config {
    /// Most bytes that the store can come to occupy: its limit, or what eviction leaves it of the file system.
    pub fn capacity(&self, space: &Space) -> u64 {
        let room = space
            .total
            .saturating_sub(self.floor_bytes)
            .min(share(space.total, self.high_watermark));
        self.max_bytes.map_or(room, |limit| limit.min(room))
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a watermark is a rough share; the conversion saturates"
)]
fn share(total: u64, part: f64) -> u64 {
    (total as f64 * part.clamp(0.0, 1.0)) as u64
}

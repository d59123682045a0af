//! The content-addressed store: one file per object, named by its BLAKE3, hard-linked into views.
//!
//! ```text
//! <root>/meta.json                 format version, features, store id, home
//! <root>/objects/ab/<hex>          0444, complete, verified, synced, immutable
//! <root>/parts/ab/<hex>            part table (parts.rs)
//! <root>/fresh/<boot-id>/<hex>     verified, not synced yet; trusted only in this boot and process
//! <root>/manifests/<hex>           canonical bytes (manifest.rs)
//! <root>/views/<hex>.<gen>/…       hard links (view.rs builds, this module evicts)
//! <root>/partial/<key>/            data and journal of an unfinished download (partial.rs)
//! <root>/quarantine/ trash/ tmp/   damaged files; names on their way out; names on their way in
//! <root>/records/<kind>/<name>     small checked files (records.rs)
//! <root>/lock  control.sock        one owner writes; the socket is the command line's
//! ```
//! Invariants: a name in `objects/` hashes to itself; nothing that is held is evicted; nothing temporary is left when
//! the store is idle; a start after any crash needs no repair by hand. This module never downloads.
//!
//! Failpoints (feature `failpoints`): `store::open::{after_lock, after_meta, after_layout, after_fresh}`,
//! `store::partial::{before_create, after_create, before_write, after_write}`,
//! `store::commit::{before_truncate, before_sync, after_sync, before_rename, after_rename, after_fresh}`,
//! `store::small::{before_write, after_fresh}`, `store::fresh::{before_sync, after_sync, after_rename}`,
//! `store::link::before_link`, `store::manifest::before_rename`, `store::evict::{before_trash, after_trash}`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::digest::Digest;
use crate::disk::{Disk, Handle, Open, Threads, absent_is_none};
use crate::error::{IoContext, chain};
use crate::manifest::Manifest;

mod begin;
mod commit;
mod config;
mod damage;
mod error;
pub mod evict;
mod flusher;
mod fresh;
mod history;
mod layout;
mod lease;
mod link;
mod lock;
mod meta;
mod open;
mod partial;
pub mod parts;
mod probe;
mod reclaim;
mod records;
mod scrub;
mod seeds;
mod small;
mod space;
mod syncer;
mod usage;
mod verify;
mod warmer;
mod write_back;

pub use config::{Config, Env};
pub use damage::{Cause, Damage};
pub use error::Error;
pub use evict::{Freed, Goal};
pub use layout::Layout;
pub use lease::{Holder, Lease, Leases, StageGuard};
pub use meta::{Home, Meta};
pub use partial::{Committed, Part, PartWrite, Partial, PartialKey, Writing, Wrote};
pub use probe::Probe;
pub use records::Records;
pub use scrub::ScrubReport;
pub use small::Stored;
pub use space::Reservation;
pub use usage::{Tally, Usage, ViewUsage, each_file};

/// A store that this process owns.
///
/// Dropping it finishes what is queued and releases the lock.
#[derive(Debug)]
pub struct Store {
    // Threads are joined, in this order, before the lock in `shared` is released.
    threads: Threads,
    write_back: Arc<write_back::WriteBack>,
    syncer: Arc<syncer::Syncer>,
    _flusher: flusher::Flusher,
    warmer: warmer::Warmer,
    syncing: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// What jobs on the threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    config: Config,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    boot_id: String,
    id: String,
    layout: Layout,
    probe: Probe,
    serial: AtomicU64,
    records: Records,
    leases: Leases,
    history: history::History,
    accounts: space::Accounts,
    active: begin::Active,
    dirty: Mutex<HashSet<PathBuf>>,
    damages: Mutex<damage::Damages>,
    /// Held while a name is given where renames cannot refuse to replace.
    naming: Mutex<()>,
    /// Held while an object at its link limit is replaced.
    copying: Mutex<()>,
    /// Held while room is made.
    reclaiming: Mutex<()>,
    together: syncer::Together,
    _lock: lock::Lock,
}

impl Store {
    /// The root directory.
    pub fn root(&self) -> &Path {
        self.shared.layout.root()
    }

    /// The store's random id.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// The boot that fresh data is trusted in.
    pub fn boot_id(&self) -> &str {
        &self.shared.boot_id
    }

    /// The paths below the root.
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// The file verbs.
    pub fn disk(&self) -> &dyn Disk {
        &*self.shared.disk
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// What the filesystem can do.
    pub fn probe(&self) -> Probe {
        self.shared.probe
    }

    /// Why things may not be evicted.
    pub fn leases(&self) -> &Leases {
        &self.shared.leases
    }

    /// Small checked files.
    pub fn records(&self) -> &Records {
        &self.shared.records
    }

    /// Keeps a manifest's bytes and returns its name. Idempotent.
    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<Digest, Error> {
        let bytes = manifest.encode();
        let shared = Arc::clone(&self.shared);
        self.threads
            .run(move || shared.write_manifest(&bytes))
            .await?
    }

    /// The manifest of this name; `None` if it is absent or damaged.
    pub async fn get_manifest(&self, digest: Digest) -> Result<Option<Manifest>, Error> {
        let shared = Arc::clone(&self.shared);
        self.threads
            .run(move || shared.read_manifest(&digest))
            .await?
    }

    /// Removes a directory that was being built below `tmp/`, with all that is in it; a failure is logged, because
    /// the next start clears `tmp/`. Blocking.
    pub fn discard_tree(&self, path: &Path) {
        self.shared.remove_quietly(path);
    }
}

impl Shared {
    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// A new name in `tmp/`.
    fn temporary(&self) -> PathBuf {
        let serial = self.next_serial();
        self.layout.top("tmp").join(format!("file-{serial}"))
    }

    /// A new name in `trash/`.
    fn trash_path(&self) -> PathBuf {
        let serial = self.next_serial();
        self.layout.top("trash").join(format!("{serial}"))
    }

    /// Removes a file or tree; absent is fine.
    fn discard(&self, path: &Path) -> Result<(), Error> {
        Ok(self.disk.remove_tree(path).at("remove", path)?)
    }

    /// Removes what is left of something that failed: the first error says more.
    fn remove_quietly(&self, path: &Path) {
        if let Err(error) = self.disk.remove_tree(path) {
            tracing::warn!(path = %path.display(), error = %error, "a temporary file was not removed");
        }
    }

    fn is_active(&self, name: &str) -> bool {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        active.iter().any(|key| key.to_hex() == name)
    }

    fn write_manifest(&self, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let path = self.layout.manifest(&digest);
        let fresh = self.temporary();
        let written = write_file(&*self.disk, &fresh, bytes).and_then(|_| {
            fail::fail_point!("store::manifest::before_rename");
            Ok(self.disk.rename(&fresh, &path).at("rename to", &path)?)
        });
        if let Err(error) = written {
            self.remove_quietly(&fresh);
            return Err(error);
        }
        Ok(digest)
    }

    fn read_manifest(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        let path = self.layout.manifest(digest);
        let Some(bytes) = absent_is_none(self.disk.read(&path)).at("read", &path)? else {
            return Ok(None);
        };
        if Digest::of(&bytes) == *digest
            && let Ok(manifest) = Manifest::decode(&bytes)
        {
            return Ok(Some(manifest));
        }
        tracing::warn!(manifest = %digest, "a damaged manifest is dropped");
        absent_is_none(self.disk.unlink(&path)).at("remove", &path)?;
        Ok(None)
    }

    fn mark_dirty(&self, directory: Option<&Path>) {
        if let Some(directory) = directory {
            let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
            dirty.insert(directory.to_path_buf());
        }
    }

    /// Syncs every directory that got a name since the last time.
    fn sync_directories(&self) {
        let dirty = {
            let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *dirty)
        };
        if dirty.len() >= syncer::TOGETHER
            && let Ok(root) = self.disk.open(self.layout.root(), Open::Read)
            && self.sync_together(&root, dirty.len())
        {
            return;
        }
        for directory in dirty {
            if let Err(error) = self.disk.sync_dir(&directory).at("sync", &directory) {
                // A lost name costs a refetch, never correctness.
                tracing::warn!(error = %chain(&error), "a directory was not synced");
            }
        }
    }
}

/// Writes a new small file; on failure what was written stays.
fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<Handle, Error> {
    let file = disk.open(path, Open::Create).at("create", path)?;
    disk.append(&file, bytes).at("write", path)?;
    Ok(file)
}

#[cfg(test)]
mod tests;

//! Opening a store: refuse before touching, then lock, lay out, probe, clear what a crash left, verify what was
//! fresh.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use super::error::Error;
use super::flusher::Flusher;
use super::fresh::QUEUE;
use super::history::History;
use super::layout::{Layout, ensure_directory};
use super::lease::Leases;
use super::lock::Lock;
use super::meta::{Home, Meta};
use super::probe::{Probe, probe};
use super::records::Records;
use super::syncer::{Syncer, Together};
use super::warmer::Warmer;
use super::write_back::WriteBack;
use super::{Config, Env, Shared, Store};
use crate::disk::{Disk, Threads, find};
use crate::error::{IoContext, PathError};
use crate::path::Escaped;

impl Store {
    /// Opens the store at the configured root, or makes one in an empty or absent directory.
    ///
    /// Fails with [`Error::Locked`] if another process owns it, and before anything is touched if it was written by
    /// a later version. Removes what a crash left; re-hashes what was not durable. Blocking.
    pub fn open(config: Config, env: Env) -> Result<Arc<Self>, Error> {
        let disk = &*env.disk;
        let root = &config.root;
        std::fs::create_dir_all(root).map_err(|error| unreachable(root, "created", error))?;
        if Meta::read(disk, root)?.is_none() {
            refuse_foreign(disk, root)?;
        }
        let lock = Lock::take(root).map_err(|error| explain(root, error))?;
        fail::fail_point!("store::open::after_lock");
        let layout = Layout::new(root);
        let (id, probe) = prepare(disk, &config, &layout).map_err(|error| explain(root, error))?;
        fail::fail_point!("store::open::after_layout");
        let shared = Shared {
            records: Records::new(Arc::clone(&env.disk), layout.clone()),
            leases: Leases::new(Arc::clone(&env.clock)),
            history: History::new(Arc::clone(&env.disk), layout.clone()),
            disk: env.disk,
            clock: env.clock,
            boot_id: env.boot_id,
            id,
            layout,
            probe,
            config,
            serial: AtomicU64::new(0),
            accounts: super::space::Accounts::default(),
            active: Mutex::default(),
            dirty: Mutex::default(),
            damages: Mutex::default(),
            naming: Mutex::default(),
            copying: Mutex::default(),
            reclaiming: Mutex::default(),
            together: Together::default(),
            _lock: lock,
        };
        shared.recover_fresh()?;
        shared.ensure_fresh()?;
        shared.load_damages()?;
        shared.tidy_quarantine()?;
        fail::fail_point!("store::open::after_fresh");
        start(Arc::new(shared))
    }
}

fn start(shared: Arc<Shared>) -> Result<Arc<Store>, Error> {
    let root = shared.layout.root().to_path_buf();
    let failed = |error: io::Error| Error::Unusable {
        root: root.clone(),
        reason: format!("its threads cannot be started ({error}); raise the limit of processes"),
    };
    let threads = Threads::start("tonnage-io", shared.config.io_threads).map_err(failed)?;
    let write_back = WriteBack::start(&shared).map_err(failed)?;
    let syncer = Syncer::start(&shared, shared.config.sync_threads).map_err(failed)?;
    let flusher = Flusher::start(Arc::clone(&shared)).map_err(failed)?;
    let warmer = Warmer::start(&shared).map_err(failed)?;
    Ok(Arc::new(Store {
        threads,
        write_back: Arc::new(write_back),
        syncer: Arc::new(syncer),
        _flusher: flusher,
        warmer,
        syncing: Arc::new(Semaphore::new(QUEUE as usize)),
        shared,
    }))
}

/// Brings the directory into shape; returns the store's id and what the filesystem can do.
fn prepare(disk: &dyn Disk, config: &Config, layout: &Layout) -> Result<(String, Probe), Error> {
    let root = &config.root;
    let home = Home::here(disk, config)?;
    // Read again under the lock: another process may have made the store meanwhile.
    let meta = if let Some(meta) = Meta::read(disk, root)? {
        meta
    } else {
        let meta = Meta::new(home.clone());
        meta.write(disk, root)?;
        meta
    };
    fail::fail_point!("store::open::after_meta");
    layout.ensure(disk)?;
    for name in ["tmp", "trash"] {
        clear(disk, &layout.top(name))?;
    }
    let mut found = probe(disk, root)?;
    found.direct &= config.direct;
    if meta.home.is_same(&home) {
        return Ok((meta.store_id, found));
    }
    let meta = take_over(disk, layout, &meta, home)?;
    Ok((meta.store_id, found))
}

/// Makes a copied store our own: nothing that it says about this machine is believed, and its objects must be
/// verified before use. The new id is written last, so that a crash in between starts over.
fn take_over(disk: &dyn Disk, layout: &Layout, old: &Meta, home: Home) -> Result<Meta, Error> {
    tracing::warn!(
        store_id = old.store_id,
        "the store is a copy: its records are dropped and its objects are verified before use"
    );
    let unverified = layout.top("unverified");
    let objects = layout.top("objects");
    if find(disk, &unverified).at("read", &unverified)?.is_none() {
        disk.rename(&objects, &unverified)
            .at("rename to", &unverified)?;
        ensure_directory(disk, &objects)?;
    }
    for name in ["records", "views", "fresh", "partial", "quarantine"] {
        clear(disk, &layout.top(name))?;
    }
    let meta = Meta {
        store_id: Meta::new(home.clone()).store_id,
        home,
        ..old.clone()
    };
    meta.write(disk, layout.root())?;
    Ok(meta)
}

fn clear(disk: &dyn Disk, directory: &Path) -> Result<(), PathError> {
    for name in disk.list(directory).at("list", directory)? {
        let path = directory.join(name.name);
        disk.remove_tree(&path).at("remove", &path)?;
    }
    Ok(())
}

/// Refuses a directory that holds something else; what a start that was cut short leaves is fine.
fn refuse_foreign(disk: &dyn Disk, root: &Path) -> Result<(), Error> {
    let ours = ["lock", "control.sock", "meta.json.new", "lost+found"];
    let names = disk
        .list(root)
        .map_err(|error| unreachable(root, "read", error))?;
    match names
        .iter()
        .find(|name| !ours.iter().any(|ours| name.name == *ours))
    {
        Some(name) => Err(Error::Unusable {
            root: root.to_path_buf(),
            reason: format!(
                "it holds {} and no cache; choose an empty directory",
                Escaped(&name.name.to_string_lossy())
            ),
        }),
        None => Ok(()),
    }
}

fn unreachable(root: &Path, verb: &'static str, source: io::Error) -> Error {
    Error::Unreachable {
        root: root.to_path_buf(),
        verb,
        source,
    }
}

/// A refusal somewhere below the root is one of the root.
fn explain(root: &Path, error: Error) -> Error {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let refused = matches!(
        &error,
        Error::Path(at) if matches!(at.source.kind(), PermissionDenied | ReadOnlyFilesystem)
    );
    match (refused, error) {
        (true, Error::Path(PathError { source, .. })) => unreachable(root, "written", source),
        (_, error) => error,
    }
}

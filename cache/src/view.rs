//! Views: a manifest laid out as a read-only directory tree of hard links into the store.
//!
//! ```text
//! <root>/views/<manifest digest: 64 hex>.<generation>/…   directories 0555, files are links to objects
//! ```
//! Invariants: a name in `views/` is a complete tree, because it is built in `tmp/` (directories 0755) and
//! renamed into place; a view is never renamed while it is mounted; a damaged view is never mended: it is removed,
//! or left to its readers where it has some, and the next generation is built beside it. Views are never synced: after a power cut they are checked
//! and rebuilt. This file never downloads and knows nothing of mounts.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::Digest;
use crate::disk;
use crate::error::{IoContext, Kind, PathError, chain};
use crate::manifest::{File, Manifest};
use crate::store::{self, Store};

/// How many threads link one large view.
const LINKERS: usize = 4;
/// Views of fewer files are linked by one thread.
const FEW_FILES: usize = 2_000;
/// Generations that may be missing below the newest one because they were evicted.
const GAP: u64 = 2;

/// What went wrong with a view.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory could not be made, read or renamed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// An object could not be linked.
    #[error("link the objects of a view")]
    Store(#[from] store::Error),
    /// A helper thread died.
    #[error("a view's thread ended early")]
    Thread,
}

impl Error {
    /// The kind of the cause.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Path(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Thread => Kind::Internal,
        }
    }
}

/// Builds and finds views of one store.
#[derive(Debug)]
pub struct Views {
    store: Arc<Store>,
    checked: Mutex<HashSet<PathBuf>>,
    builds: AtomicU64,
}

impl Views {
    /// Views of `store`; nothing is read yet.
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            checked: Mutex::new(HashSet::new()),
            builds: AtomicU64::new(0),
        }
    }

    /// The newest view of the manifest that is whole, if there is one. Its first use in this process compares
    /// every file with its object by inode and size. Blocking.
    pub fn find(&self, digest: &Digest, manifest: &Manifest) -> Result<Option<PathBuf>, Error> {
        let Some(generation) = self.newest(digest)? else {
            return Ok(None);
        };
        let view = self.path(digest, generation);
        if self.lock().contains(&view) {
            return Ok(Some(view));
        }
        if !self.is_whole(&view, manifest)? {
            tracing::warn!(view = %view.display(), "a view is damaged and will be built anew");
            return Ok(None);
        }
        self.lock().insert(view.clone());
        Ok(Some(view))
    }

    /// The view of the manifest, built now if no whole one exists. All objects must be in the store and
    /// held by a lease, which the calling thread has until this returns, and the manifest's turn with it: a damaged view that
    /// nobody else holds is removed here. Idempotent; blocking.
    pub fn ensure(&self, digest: &Digest, manifest: &Manifest) -> Result<PathBuf, Error> {
        if let Some(view) = self.find(digest, manifest)? {
            return Ok(view);
        }
        if let Err(error) = self.retire_damaged(digest) {
            tracing::warn!(view = %digest, error = %chain(&error), "a damaged view is left");
        }
        let staging = self.staging_path(digest);
        let built = self.build(&staging, manifest);
        if let Err(error) = built {
            return Err(self.abandon(&staging, error));
        }
        loop {
            let generation = self
                .newest(digest)?
                .map_or(0, |newest| newest.saturating_add(1));
            let view = self.path(digest, generation);
            match self.store.disk().rename_noreplace(&staging, &view) {
                Ok(()) => {
                    self.store
                        .disk()
                        .set_mode(&view, 0o555)
                        .at("change the mode of", &view)?;
                    self.lock().insert(view.clone());
                    return Ok(view);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let error = PathError {
                        operation: "rename into",
                        path: view,
                        source: error,
                    };
                    return Err(self.abandon(&staging, error.into()));
                }
            }
        }
    }

    /// Removes damaged views of a manifest that nobody but the caller holds. A view that a pod may have mounted
    /// stays until it is evicted, and the next generation is built beside it.
    fn retire_damaged(&self, digest: &Digest) -> Result<(), Error> {
        while let Some(generation) = self.newest(digest)? {
            let view = self.path(digest, generation);
            if !self.store.retire_view(&view, digest)? {
                break;
            }
            tracing::info!(view = %view.display(), "a damaged view was removed");
        }
        Ok(())
    }

    /// Forgets that a view was found whole: it will be checked at its next use.
    pub fn distrust(&self, digest: &Digest) {
        let prefix = digest.to_hex();
        self.lock().retain(|view| {
            !view
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        });
    }

    fn path(&self, digest: &Digest, generation: u64) -> PathBuf {
        self.store
            .root()
            .join("views")
            .join(format!("{digest}.{generation}"))
    }

    fn staging_path(&self, digest: &Digest) -> PathBuf {
        let build = self.builds.fetch_add(1, Ordering::Relaxed);
        self.store
            .root()
            .join("tmp")
            .join(format!("view-{digest}-{}-{build}", std::process::id()))
    }

    fn newest(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        // Generations are few; probing upwards is cheaper than listing a directory of thousands of views.
        let mut newest = None;
        let mut next = 0u64;
        while next <= newest.map_or(GAP, |found: u64| found.saturating_add(GAP)) {
            let view = self.path(digest, next);
            if disk::find(self.store.disk(), &view)
                .at("read", &view)?
                .is_some()
            {
                newest = Some(next);
            }
            next = next.saturating_add(1);
        }
        Ok(newest)
    }

    /// Removes a tree that was not finished; what remains in `tmp/` is removed at the next start.
    fn abandon(&self, staging: &Path, error: Error) -> Error {
        if let Err(left) = self.store.disk().remove_tree(staging) {
            tracing::warn!(tree = %staging.display(), error = %left, "an unfinished view is left until the next start");
        }
        error
    }

    fn build(&self, staging: &Path, manifest: &Manifest) -> Result<(), Error> {
        let disk = self.store.disk();
        let directories = directories(manifest);
        disk.create_dir(staging, 0o755).at("create", staging)?;
        for directory in &directories {
            let path = staging.join(directory);
            disk.create_dir(&path, 0o755).at("create", &path)?;
        }
        self.link_all(staging, manifest.files())?;
        for directory in directories.iter().rev() {
            let path = staging.join(directory);
            disk.set_mode(&path, 0o555)
                .at("change the mode of", &path)?;
        }
        Ok(())
    }

    fn link_all(&self, staging: &Path, files: &[File]) -> Result<(), Error> {
        let link = |slice: &[File]| -> Result<(), Error> {
            for file in slice {
                self.store
                    .link(&file.digest, file.size, &file.path.below(staging))?;
            }
            Ok(())
        };
        if files.len() < FEW_FILES {
            return link(files);
        }
        let share = files.len().div_ceil(LINKERS);
        std::thread::scope(|scope| {
            let threads: Vec<_> = files
                .chunks(share)
                .map(|slice| scope.spawn(move || link(slice)))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| Error::Thread)?)
        })
    }

    fn is_whole(&self, view: &Path, manifest: &Manifest) -> Result<bool, Error> {
        for file in manifest.files() {
            let path = file.path.below(view);
            let Some(linked) = disk::find(self.store.disk(), &path).at("read", &path)? else {
                return Ok(false);
            };
            let Some(object) = self.store.object_stat(&file.digest)? else {
                return Ok(false);
            };
            if linked.size != file.size || linked.inode != object.inode {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every directory of the tree, parents before children.
fn directories(manifest: &Manifest) -> BTreeSet<&str> {
    let mut all = BTreeSet::new();
    for file in manifest.files() {
        let mut parent = file.path.parent();
        while let Some(directory) = parent {
            if !all.insert(directory) {
                break;
            }
            parent = directory.rsplit_once('/').map(|(above, _)| above);
        }
    }
    all
}

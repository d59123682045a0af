//! Verified files that are not durable yet: the bound of the queue that makes them so, and what a crash leaves.
//!
//! Invariants: at most [`QUEUE`] files wait for their sync (a descriptor each), so memory and descriptors stay
//! bounded for any number of small files; whatever a start finds in `fresh/` is read from the device and hashed
//! before it becomes an object.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::error::Error;
use super::layout::ensure_directory;
use super::verify::hash_file;
use super::{Shared, Store};
use crate::digest::Digest;
use crate::disk::{Open, Stopped};
use crate::error::{IoContext, chain};

/// Most files that wait for their sync.
pub(super) const QUEUE: u32 = 256;

impl Store {
    /// Waits until everything queued so far is durable, with its directories.
    pub async fn sync_now(&self) {
        // Permits are given in order: all of them are free once every earlier file is settled.
        let all = Arc::clone(&self.syncing).acquire_many_owned(QUEUE).await;
        let shared = Arc::clone(&self.shared);
        let synced = self.threads.run(move || shared.sync_directories()).await;
        if synced.is_err() {
            tracing::warn!("the store closed while directories were synced");
        }
        drop(all);
    }

    /// A place in the queue of files that wait for their sync.
    pub(super) async fn sync_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let permit = Arc::clone(&self.syncing).acquire_owned().await;
        permit.map_err(|_| Error::Stopped(Stopped))
    }
}

impl Shared {
    /// Makes this boot's directory.
    pub(super) fn ensure_fresh(&self) -> Result<(), Error> {
        Ok(ensure_directory(
            &*self.disk,
            &self.layout.fresh(&self.boot_id),
        )?)
    }

    /// Hashes whatever any boot left in `fresh/`, on several threads; good files become objects, others go.
    pub(super) fn recover_fresh(&self) -> Result<(), Error> {
        let top = self.layout.top("fresh");
        let mut files = Vec::new();
        let boots = self.disk.list(&top).at("list", &top)?;
        for boot in &boots {
            let directory = top.join(&boot.name);
            for name in self.disk.list(&directory).at("list", &directory)? {
                files.push(directory.join(name.name));
            }
        }
        let threads = self.config.io_threads.clamp(1, files.len().max(1));
        let queue = Mutex::new(files);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || -> Result<(), Error> {
            while let Some(path) = next() {
                self.recover_one(&path)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().map_err(|_| Error::Stopped(Stopped))?)
        })?;
        for boot in boots {
            let directory = top.join(boot.name);
            self.disk.remove_tree(&directory).at("remove", &directory)?;
        }
        Ok(())
    }

    fn recover_one(&self, path: &Path) -> Result<(), Error> {
        match self.promote(path) {
            Ok(Some(digest)) => {
                tracing::info!(digest = %digest, "a fresh object of an earlier run was verified");
                return Ok(());
            }
            Ok(None) => {
                tracing::warn!(file = %path.display(), "a fresh object of an earlier run is not whole and is dropped");
            }
            // Reading or syncing failed: the content cannot be trusted.
            Err(error) => {
                tracing::warn!(file = %path.display(), error = %chain(&error), "a fresh object of an earlier run is dropped");
            }
        }
        Ok(self.disk.remove_tree(path).at("remove", path)?)
    }

    fn promote(&self, path: &Path) -> Result<Option<Digest>, Error> {
        let digest = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse::<Digest>().ok());
        let Some(digest) = digest else {
            return Ok(None);
        };
        self.promote_as(path, &digest)
            .map(|named| named.then_some(digest))
    }

    /// Verifies a file on the device, syncs it and names it; false if it does not hash to `digest`.
    pub(super) fn promote_as(&self, path: &Path, digest: &Digest) -> Result<bool, Error> {
        let size = self.disk.stat(path).at("read", path)?.size;
        let hashed = hash_file(&*self.disk, path, size, self.probe.direct)?;
        let Some(hashed) = hashed.filter(|hashed| hashed.digest == *digest) else {
            return Ok(false);
        };
        // Read-only is enough: a sync covers the inode, whoever wrote it.
        let file = self.disk.open(path, Open::Read).at("open", path)?;
        self.disk.seal(&file).at("seal", path)?;
        self.disk.sync_data(&file).at("sync", path)?;
        self.keep_parts(digest, size, &hashed.parts);
        self.name_object(path, digest, size)?;
        Ok(true)
    }
}

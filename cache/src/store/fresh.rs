//! Verified files that are not durable yet: small ones, the queue that makes them so, and what a crash leaves.
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
use crate::buffer::Buffer;
use crate::digest::{Digest, PART_SIZE};
use crate::disk::{Handle, Open, Stopped};
use crate::error::{IoContext, chain};

/// Most files that wait for their sync.
pub(super) const QUEUE: u32 = 256;

/// What putting a small file yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// It was there already.
    pub deduplicated: bool,
}

impl Store {
    /// Stores a verified file of at most one part. It may be linked at once and becomes durable soon after. The
    /// first `length` bytes of `buffer` must hash to `digest`.
    pub async fn put_small(
        &self,
        buffer: Buffer,
        length: usize,
        digest: Digest,
    ) -> Result<(Stored, Buffer), Error> {
        if length as u64 > PART_SIZE {
            return Err(Error::Part {
                index: 0,
                length: length as u64,
                size: PART_SIZE,
            });
        }
        self.shared.leases.touch(digest);
        let permit = self.sync_permit().await?;
        let shared = Arc::clone(&self.shared);
        let syncers = Arc::clone(&self.syncers);
        self.threads
            .run(move || shared.put(buffer, length, digest, permit, &syncers))
            .await?
    }

    /// Waits until everything queued so far is durable, with its directories.
    pub async fn sync_now(&self) {
        // Permits are given in order: all of them are free once every earlier job has ended.
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
    fn put(
        self: &Arc<Self>,
        buffer: Buffer,
        length: usize,
        digest: Digest,
        permit: OwnedSemaphorePermit,
        syncers: &crate::disk::Threads,
    ) -> Result<(Stored, Buffer), Error> {
        let size = length as u64;
        if self.has_object(&digest, size)? || self.has_fresh(&digest, size)? {
            return Ok((Stored { deduplicated: true }, buffer));
        }
        let path = self.temporary();
        let written = self.write_small(&path, buffer, length);
        let (writer, buffer) = match written {
            Ok(written) => written,
            Err(error) => {
                self.remove_quietly(&path);
                return Err(error);
            }
        };
        self.accounts.spend(size, 1);
        let named = self.name_fresh(&path, &digest)?;
        fail::fail_point!("store::small::after_fresh");
        if named {
            syncers.submit(self.sync_job(Arc::new(writer), digest, size, permit));
        } else {
            self.disk.unlink(&path).at("remove", &path)?;
        }
        let stored = Stored {
            deduplicated: !named,
        };
        Ok((stored, buffer))
    }

    fn write_small(
        &self,
        path: &Path,
        buffer: Buffer,
        length: usize,
    ) -> Result<(Handle, Buffer), Error> {
        fail::fail_point!("store::small::before_write");
        let first = self.write_small_once(path, buffer, length);
        match first {
            Err(error) if error.is_full() => {
                tracing::info!("the disk is full; evicting for a small file");
                self.remove_quietly(path);
                self.free_some(length as u64)?;
                Err(error)
            }
            other => other,
        }
    }

    fn write_small_once(
        &self,
        path: &Path,
        buffer: Buffer,
        length: usize,
    ) -> Result<(Handle, Buffer), Error> {
        let file = self.disk.open(path, Open::Create).at("create", path)?;
        let buffer = self
            .disk
            .write_at(&file, buffer, length, 0)
            .at("write", path)?;
        self.disk.seal(&file).at("seal", path)?;
        Ok((file, buffer))
    }

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

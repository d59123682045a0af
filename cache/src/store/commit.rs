//! The last steps of a file on its way to be an object.
//!
//! ```text
//! direct:  write … truncate, check length, seal → fdatasync → rename into objects/
//! warm:    write … truncate, check length, seal → rename into fresh/<boot> → [background, syncer.rs] sync →
//!          rename into objects/
//! ```
//! Invariants: a name in `objects/` is complete, verified and synced; names are given by one rename that refuses to
//! replace, never by link and unlink; if the name is taken, ours is dropped; after a failed sync the data counts as
//! lost and is never synced again. Directories are synced within seconds, because a lost name costs a refetch only.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::damage::Cause;
use super::error::{Error, error_at};
use super::layout::ensure_directory;
use super::partial::{Body, Committed};
use super::syncer::{Pending, Syncer};
use super::verify::hash_file;
use crate::digest::{Digest, PartHash};
use crate::disk::{FileKind, find};
use crate::error::{IoContext, PathError};

impl Body {
    pub(super) fn discard(&self) -> Result<(), Error> {
        self.shared.discard(&self.directory)
    }

    /// Puts content that nobody asked for into quarantine and returns why.
    pub(super) fn refuse<T>(&self, found: &Digest, error: Error) -> Result<T, Error> {
        self.shared.quarantine(self.buffered.path(), found)?;
        self.discard()?;
        Err(error)
    }

    pub(super) fn commit_direct(
        &self,
        digest: Digest,
        parts: &[PartHash],
    ) -> Result<Committed, Error> {
        let shared = &self.shared;
        if shared.has_object(&digest, self.size)? {
            return self.deduplicate(digest);
        }
        self.finish()?;
        fail::fail_point!("store::commit::before_sync");
        if let Err(error) = shared.disk.sync_data(&self.buffered) {
            return Err(self.lose("sync", error));
        }
        fail::fail_point!("store::commit::after_sync");
        shared.keep_parts(&digest, self.size, parts);
        let path = self.buffered.path();
        let deduplicated = !shared.name_object(path, &digest, self.size)?;
        fail::fail_point!("store::commit::after_rename");
        self.discard()?;
        Ok(Committed {
            digest,
            deduplicated,
        })
    }

    pub(super) fn commit_warm(
        &self,
        digest: Digest,
        parts: &[PartHash],
        permit: OwnedSemaphorePermit,
        syncer: &Syncer,
    ) -> Result<Committed, Error> {
        let shared = &self.shared;
        if shared.has_object(&digest, self.size)? || shared.has_fresh(&digest, self.size)? {
            return self.deduplicate(digest);
        }
        self.finish()?;
        shared.keep_parts(&digest, self.size, parts);
        let moved = shared.name_fresh(self.buffered.path(), &digest)?;
        fail::fail_point!("store::commit::after_fresh");
        if moved {
            syncer.submit(Pending {
                writer: Arc::clone(&self.buffered),
                digest,
                size: self.size,
                _permit: permit,
            });
        }
        self.discard()?;
        Ok(Committed {
            digest,
            deduplicated: !moved,
        })
    }

    fn deduplicate(&self, digest: Digest) -> Result<Committed, Error> {
        self.discard()?;
        Ok(Committed {
            digest,
            deduplicated: true,
        })
    }

    /// Cuts the pad off, checks the length and seals.
    fn finish(&self) -> Result<(), Error> {
        let (disk, path) = (&*self.shared.disk, self.buffered.path());
        fail::fail_point!("store::commit::before_truncate");
        disk.truncate(&self.buffered, self.size)
            .at("truncate", path)?;
        let found = disk.stat(path).at("read", path)?.size;
        if found != self.size {
            let error = io::Error::other(format!("the file has {found} bytes, not {}", self.size));
            return Err(self.lose("check", error));
        }
        disk.seal(&self.buffered).at("seal", path)?;
        Ok(())
    }

    /// Drops the data: what was in the page cache is gone.
    fn lose(&self, operation: &'static str, error: io::Error) -> Error {
        let error = error_at(operation, self.buffered.path(), error);
        if let Err(left) = self.discard() {
            tracing::warn!(error = %crate::error::chain(&left), "data that could not be synced was not removed");
        }
        Error::Sync(error)
    }
}

impl Shared {
    /// Whether an object of this size has its name. One of another size is set aside, unless it is whole: then it
    /// is the question that is wrong.
    pub(super) fn has_object(&self, digest: &Digest, size: u64) -> Result<bool, Error> {
        let path = self.layout.object(digest);
        match find(&*self.disk, &path).at("read", &path)? {
            None => Ok(false),
            Some(stat) if stat.kind == FileKind::File && stat.size == size => Ok(true),
            Some(stat) => {
                let hashed = hash_file(&*self.disk, &path, stat.size, self.probe.direct)?;
                if hashed.is_none_or(|hashed| hashed.digest != *digest) {
                    self.retire(digest, size, Cause::Length, Vec::new())?;
                }
                Ok(false)
            }
        }
    }

    /// Whether this boot has verified an object of this size that is not durable yet.
    pub(super) fn has_fresh(&self, digest: &Digest, size: u64) -> Result<bool, PathError> {
        let path = self.layout.fresh_object(&self.boot_id, digest);
        let found = find(&*self.disk, &path).at("read", &path)?;
        Ok(found.is_some_and(|stat| stat.kind == FileKind::File && stat.size == size))
    }

    /// Gives a synced file its name in `objects/`; false if the name is taken by a file of that size, and `from` is
    /// removed then.
    pub(super) fn name_object(
        &self,
        from: &Path,
        digest: &Digest,
        size: u64,
    ) -> Result<bool, Error> {
        let path = self.layout.object(digest);
        fail::fail_point!("store::commit::before_rename");
        let mut named = self.rename_noreplace(from, &path).at("rename to", &path)?;
        if !named && !self.has_object(digest, size)? {
            named = self.rename_noreplace(from, &path).at("rename to", &path)?;
        }
        if named {
            self.mark_dirty(path.parent());
            self.heal(digest);
        } else {
            self.disk.unlink(from).at("remove", from)?;
        }
        Ok(named)
    }

    /// Gives a verified file its name in `fresh/`; false if the name is taken.
    pub(super) fn name_fresh(&self, from: &Path, digest: &Digest) -> Result<bool, PathError> {
        let path = self.layout.fresh_object(&self.boot_id, digest);
        let named = self.rename_noreplace(from, &path).at("rename to", &path)?;
        if named {
            self.heal(digest);
        }
        Ok(named)
    }

    /// Renames unless the new name is taken; false if it is. Makes the directory of the new name if it is the first there.
    pub(super) fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<bool> {
        match self.in_fan(to, || self.try_rename_noreplace(from, to)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives a name below `objects/` or `parts/`: if that fails because its directory is missing, makes the directory and
    /// tries again.
    pub(super) fn in_fan(&self, to: &Path, rename: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match rename() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        if let Some(directory) = to.parent() {
            ensure_directory(&*self.disk, directory).map_err(|error| error.source)?;
            self.mark_dirty(directory.parent());
        }
        rename()
    }

    fn try_rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.probe.noreplace {
            self.disk.rename_noreplace(from, to)
        } else {
            // The store has one owner, and this lock makes its threads take turns.
            let _turn = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
            match find(&*self.disk, to)? {
                Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
                None => self.disk.rename(from, to),
            }
        }
    }
}

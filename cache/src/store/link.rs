//! Finding objects and manifests, and giving objects further names.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use rustix::io::Errno;

use super::error::{Error, error_at};
use super::verify::hash_file;
use super::{Shared, Store};
use crate::buffer::{Buffer, CAPACITY};
use crate::digest::Digest;
use crate::disk::{Open, Stat, find};
use crate::error::{IoContext, PathError};
use crate::manifest::Manifest;

impl Store {
    /// Whether an object of this size can be linked. One that lies in a seed, or is left unverified from a cloned
    /// disk, is verified and brought in first.
    pub async fn find(&self, digest: Digest, size: u64) -> Result<bool, Error> {
        self.shared.leases.touch(digest);
        let shared = Arc::clone(&self.shared);
        self.threads.run(move || shared.find(&digest, size)).await?
    }

    /// Facts about an object, in `objects/` or `fresh/`. While a stage runs, what was looked at is kept: the stage
    /// counts on it, and making room for the rest must not take it away. Blocking.
    pub fn object_stat(&self, digest: &Digest) -> Result<Option<Stat>, Error> {
        let shared = &self.shared;
        shared.leases.touch(*digest);
        for path in shared.homes(digest) {
            if let Some(stat) = find(&*shared.disk, &path).at("read", &path)? {
                return Ok(Some(stat));
            }
        }
        Ok(None)
    }

    /// The manifest of this name; `None` if it is absent or damaged. Blocking.
    pub fn find_manifest(&self, digest: &Digest) -> Result<Option<Manifest>, Error> {
        self.shared.read_manifest(digest)
    }

    /// Gives an object the further name `to`; fails with [`Error::Missing`] if it is not here in this size. On a
    /// filesystem's link limit the object is replaced by a copy, which is linked. Blocking.
    pub fn link(&self, digest: &Digest, size: u64, to: &Path) -> Result<(), Error> {
        self.shared.link(digest, size, to)
    }
}

impl Shared {
    /// Where an object may be. It moves from `fresh/` to `objects/`, so the last look is at the first place again.
    fn homes(&self, digest: &Digest) -> [std::path::PathBuf; 3] {
        let object = self.layout.object(digest);
        let fresh = self.layout.fresh_object(&self.boot_id, digest);
        [object.clone(), fresh, object]
    }

    fn find(&self, digest: &Digest, size: u64) -> Result<bool, Error> {
        let here = self.has_object(digest, size)?
            || self.has_fresh(digest, size)?
            || self.has_object(digest, size)?;
        Ok(here || self.adopt_unverified(digest, size)? || self.bring_from_seed(digest, size)?)
    }

    fn link(&self, digest: &Digest, size: u64, to: &Path) -> Result<(), Error> {
        match self.link_once(digest, size, to)? {
            Some(Errno::MLINK) => {}
            Some(_) => return Err(Error::Missing { digest: *digest }),
            None => return Ok(()),
        }
        let _turn = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have replaced it while this one waited.
        if let Some(Errno::MLINK) = self.link_once(digest, size, to)? {
            self.replace_by_copy(digest, size)?;
            if self.link_once(digest, size, to)?.is_some() {
                return Err(Error::Missing { digest: *digest });
            }
        }
        Ok(())
    }

    /// Links the first of the object's homes; `NOENT` or `MLINK` are answers.
    fn link_once(&self, digest: &Digest, size: u64, to: &Path) -> Result<Option<Errno>, Error> {
        for path in self.homes(digest) {
            let Some(stat) = find(&*self.disk, &path).at("read", &path)? else {
                continue;
            };
            if stat.size != size {
                return Ok(Some(Errno::NOENT));
            }
            fail::fail_point!("store::link::before_link");
            let Err(error) = self.disk.link(&path, to) else {
                return Ok(None);
            };
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::MLINK) => return Ok(Some(Errno::MLINK)),
                // Moved or evicted meanwhile, unless it is the new name's directory that is missing.
                Some(Errno::NOENT) if find(&*self.disk, &path).at("read", &path)?.is_none() => {}
                _ => return Err(Error::Path(error_at("link to", to, error))),
            }
        }
        Ok(Some(Errno::NOENT))
    }

    /// Puts a verified, synced copy in an object's place; the old inode stays with its readers.
    fn replace_by_copy(&self, digest: &Digest, size: u64) -> Result<(), Error> {
        let [object, fresh, _] = self.homes(digest);
        let home = if find(&*self.disk, &object).at("read", &object)?.is_some() {
            object
        } else {
            fresh
        };
        let copy = self.temporary();
        let made = self
            .copy(&home, &copy)
            .and_then(|()| self.check_copy(&copy, digest, size))
            .and_then(|()| Ok(self.disk.rename(&copy, &home).at("rename to", &home)?));
        if made.is_err() {
            self.remove_quietly(&copy);
        }
        made
    }

    fn check_copy(&self, copy: &Path, digest: &Digest, size: u64) -> Result<(), Error> {
        match hash_file(&*self.disk, copy, size, self.probe.direct)? {
            Some(hashed) if hashed.digest == *digest => Ok(()),
            _ => Err(Error::Missing { digest: *digest }),
        }
    }

    /// Writes a sealed, synced copy: by reflink where possible.
    pub(super) fn copy(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let disk = &*self.disk;
        let source = disk.open(from, Open::Read).at("open", from)?;
        let target = disk.open(to, Open::Create).at("create", to)?;
        if disk.reflink(&source, &target).is_err() {
            let mut buffer = Buffer::unpooled();
            let mut offset = 0u64;
            loop {
                let (back, read) = disk
                    .read_at(&source, buffer, CAPACITY, offset)
                    .at("read", from)?;
                if read == 0 {
                    break;
                }
                buffer = disk.write_at(&target, back, read, offset).at("write", to)?;
                offset = offset.saturating_add(read as u64);
            }
        }
        let sealed: Result<(), PathError> = disk.seal(&target).at("seal", to);
        sealed?;
        disk.sync_data(&target)
            .map_err(|error| Error::Sync(error_at("sync", to, error)))
    }
}

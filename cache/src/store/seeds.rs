//! Objects that lie elsewhere and may be taken over: in read-only seeds (other stores' roots, for example baked
//! into a node image), and in `unverified/` (this store's own objects, after its disk was cloned).
//!
//! Invariants: nothing is taken over before its bytes hash to its name; a seed is never written; a seed's file is
//! reflinked or copied, not linked, because a shared inode would count as referenced for ever and could be
//! changed by the seed's owner.

use std::path::Path;

use super::error::Error;
use super::layout::{Layout, fanned};
use super::{Shared, Store};
use crate::digest::Digest;
use crate::disk::{FileKind, find};
use crate::error::{IoContext, chain};

impl Store {
    /// The seeds that are searched.
    pub fn seeds(&self) -> &[std::path::PathBuf] {
        &self.shared.config.seeds
    }
}

impl Shared {
    /// Verifies an object of a cloned disk and names it; a bad one is removed.
    pub(super) fn adopt_unverified(&self, digest: &Digest, size: u64) -> Result<bool, Error> {
        let path = self.layout.unverified(digest);
        if !self.is_file(&path, size)? {
            return Ok(false);
        }
        let adopted = self.promote_as(&path, digest)?;
        if !adopted {
            tracing::warn!(digest = %digest, "an object of the cloned store is damaged and is dropped");
            self.disk.remove_tree(&path).at("remove", &path)?;
        }
        Ok(adopted)
    }

    /// Copies an object from the first seed that holds it whole.
    pub(super) fn bring_from_seed(&self, digest: &Digest, size: u64) -> Result<bool, Error> {
        for seed in &self.config.seeds {
            let path = fanned(&Layout::new(seed).top("objects"), digest);
            if !self.is_file(&path, size)? {
                continue;
            }
            let copy = self.temporary();
            let brought = self
                .copy(&path, &copy)
                .and_then(|()| self.promote_as(&copy, digest));
            match brought {
                Ok(true) => return Ok(true),
                Ok(false) => {
                    tracing::warn!(seed = %seed.display(), digest = %digest, "an object of the seed is damaged and is not used");
                }
                Err(error) => {
                    tracing::warn!(seed = %seed.display(), digest = %digest, error = %chain(&error), "an object of the seed cannot be used");
                }
            }
            self.remove_quietly(&copy);
        }
        Ok(false)
    }

    fn is_file(&self, path: &Path, size: u64) -> Result<bool, Error> {
        let found = find(&*self.disk, path).at("read", path)?;
        Ok(found.is_some_and(|stat| stat.kind == FileKind::File && stat.size == size))
    }
}

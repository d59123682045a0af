//! Where everything lies below the root, and the directories that must exist. The picture is in `store.rs`.

use std::path::{Path, PathBuf};

use super::PartialKey;
use crate::digest::Digest;
use crate::disk::Disk;
use crate::error::{IoContext, PathError};

/// The paths of one store.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

const TOPS: [&str; 10] = [
    "objects",
    "parts",
    "fresh",
    "manifests",
    "views",
    "partial",
    "quarantine",
    "trash",
    "tmp",
    "records",
];

impl Layout {
    /// The layout below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// One top-level name.
    pub fn top(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes whatever top-level directory is missing. The 256 below `objects` and `parts` are made when the first name
    /// goes into them: all at once they took a third of a second of every first pull.
    pub(super) fn ensure(&self, disk: &dyn Disk) -> Result<(), PathError> {
        TOPS.iter()
            .try_for_each(|name| ensure_directory(disk, &self.top(name)))
    }

    /// A complete, verified, synced object.
    pub fn object(&self, digest: &Digest) -> PathBuf {
        fanned(&self.top("objects"), digest)
    }

    /// An object taken over from a cloned disk and not verified yet.
    pub fn unverified(&self, digest: &Digest) -> PathBuf {
        fanned(&self.top("unverified"), digest)
    }

    /// An object's part table.
    pub fn parts(&self, digest: &Digest) -> PathBuf {
        fanned(&self.top("parts"), digest)
    }

    /// The directory of this boot's verified, unsynced objects.
    pub fn fresh(&self, boot_id: &str) -> PathBuf {
        self.top("fresh").join(boot_id)
    }

    /// A verified, unsynced object.
    pub fn fresh_object(&self, boot_id: &str, digest: &Digest) -> PathBuf {
        self.fresh(boot_id).join(digest.to_hex())
    }

    /// A manifest.
    pub fn manifest(&self, digest: &Digest) -> PathBuf {
        self.top("manifests").join(digest.to_hex())
    }

    /// The directory of a partial file.
    pub fn partial(&self, key: &PartialKey) -> PathBuf {
        self.top("partial").join(key.to_hex())
    }
}

/// The path of an object's file below a directory that is fanned out by the first two digits.
pub(super) fn fanned(directory: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.to_hex();
    directory.join(hex.get(..2).unwrap_or("00")).join(hex)
}

/// Makes a directory unless it is there.
pub(super) fn ensure_directory(disk: &dyn Disk, path: &Path) -> Result<(), PathError> {
    match disk.create_dir(path, 0o755) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.at("create", path),
    }
}

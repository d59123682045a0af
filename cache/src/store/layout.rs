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

const FANNED: [&str; 2] = ["objects", "parts"];
const FLAT: [&str; 8] = [
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

    /// Makes whatever directory is missing.
    pub(super) fn ensure(&self, disk: &dyn Disk) -> Result<(), PathError> {
        for name in FLAT {
            ensure_directory(disk, &self.top(name))?;
        }
        for name in FANNED {
            ensure_fan(disk, &self.top(name))?;
        }
        Ok(())
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

/// Makes a directory and its 256 subdirectories `00` to `ff`.
pub(super) fn ensure_fan(disk: &dyn Disk, directory: &Path) -> Result<(), PathError> {
    ensure_directory(disk, directory)?;
    for byte in 0..=u8::MAX {
        ensure_directory(disk, &directory.join(format!("{byte:02x}")))?;
    }
    Ok(())
}

/// Makes a directory unless it is there.
pub(super) fn ensure_directory(disk: &dyn Disk, path: &Path) -> Result<(), PathError> {
    match disk.create_dir(path, 0o755) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.at("create", path),
    }
}

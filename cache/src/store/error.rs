//! What can go wrong in the store, and what its receiver can do about it.

use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::disk::Stopped;
use crate::error::{Kind, PathError};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A verb failed on a path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The directory cannot hold a store.
    #[error("{} cannot be used as a cache directory: {reason}", root.display())]
    Unusable {
        /// The directory.
        root: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The directory cannot be made, read or written.
    #[error("the cache directory {} cannot be {verb}", root.display())]
    Unreachable {
        /// The directory.
        root: PathBuf,
        /// `created`, `read` or `written`.
        verb: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Another process owns the store.
    #[error("the cache at {} is in use by {}",
        root.display(), pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    Locked {
        /// The directory.
        root: PathBuf,
        /// The owner, if it left its number.
        pid: Option<u32>,
    },
    /// The store was written by a later version.
    #[error("the cache at {} has format version {found}, this program knows {known}; upgrade it, or use another directory", root.display())]
    Version {
        /// The directory.
        root: PathBuf,
        /// What `meta.json` says.
        found: u64,
        /// What this program can read.
        known: u64,
    },
    /// The store needs a feature that this program lacks.
    #[error("the cache at {} needs the feature {feature:?}, which this program does not know; upgrade it, or use another directory", root.display())]
    Feature {
        /// The directory.
        root: PathBuf,
        /// The first unknown name.
        feature: String,
    },
    /// The same object version is being written.
    #[error("this object version is being written already")]
    Busy,
    /// A part does not fit the file.
    #[error("part {index} of {length} bytes does not fit a file of {size} bytes")]
    Part {
        /// Its index.
        index: u64,
        /// The length given.
        length: u64,
        /// The file's length.
        size: u64,
    },
    /// A commit came before all parts were written.
    #[error("{missing} parts of the file are missing")]
    Incomplete {
        /// How many.
        missing: u64,
    },
    /// The content is not what was expected.
    #[error("content with digest {expected} was expected, but {found} was received")]
    Mismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// An object that should be here is not.
    #[error("object {digest} is not in the cache")]
    Missing {
        /// Its name.
        digest: Digest,
    },
    /// Data could not be made durable; it was dropped and must be fetched again.
    #[error("data could not be made durable and was dropped")]
    Sync(#[source] PathError),
    /// The disk, or the configured limit, is full even after eviction.
    #[error("{} are needed, but {} can be used after eviction ({} are kept free); remove pins or unused volumes, or enlarge the cache",
        Bytes(*needed), Bytes(*free), Bytes(*floor))]
    NoSpace {
        /// Bytes asked for.
        needed: u64,
        /// Bytes that may be used.
        free: u64,
        /// Bytes that stay free.
        floor: u64,
    },
    /// The filesystem has no inodes left for this many files.
    #[error(
        "{needed} files are needed, but the filesystem has room for {free} after eviction; remove unused volumes, or use a filesystem with more inodes"
    )]
    NoInodes {
        /// Files asked for.
        needed: u64,
        /// Files that may be made.
        free: u64,
    },
    /// A record's kind or name is not a plain file name.
    #[error("{name:?} cannot name a record")]
    Name {
        /// The offending text.
        name: String,
    },
    /// A record's content cannot be written as JSON.
    #[error("write a record as JSON")]
    Json(#[from] serde_json::Error),
    /// The store is closing.
    #[error("the store is closing")]
    Stopped(#[from] Stopped),
}

impl Error {
    /// Whether the disk, or a limit, is full.
    pub(super) fn is_full(&self) -> bool {
        self.kind() == Kind::NoSpace
    }

    /// What its receiver can do.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Path(error) | Self::Sync(error) => error.kind(),
            Self::Unreachable { source, .. } if Kind::of_io(source) == Kind::NoSpace => {
                Kind::NoSpace
            }
            Self::Unreachable { .. }
            | Self::Unusable { .. }
            | Self::Version { .. }
            | Self::Feature { .. }
            | Self::Name { .. } => Kind::Invalid,
            Self::Locked { .. } | Self::Busy => Kind::Busy,
            Self::Part { .. } | Self::Incomplete { .. } | Self::Json(_) | Self::Stopped(_) => {
                Kind::Internal
            }
            Self::Mismatch { .. } => Kind::Corrupt,
            Self::Missing { .. } => Kind::NotFound,
            Self::NoSpace { .. } | Self::NoInodes { .. } => Kind::NoSpace,
        }
    }
}

/// An I/O error with its verb and path.
pub(super) fn error_at(operation: &'static str, path: &Path, source: std::io::Error) -> PathError {
    PathError {
        operation,
        path: path.to_path_buf(),
        source,
    }
}

/// Shows bytes in binary units with one decimal.
struct Bytes(u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            if self.0 >> shift > 0 {
                let tenths = (u128::from(self.0) * 10) >> shift;
                return write!(f, "{}.{} {unit}", tenths / 10, tenths % 10);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_space_is_one_sentence_with_all_figures() {
        let error = Error::NoSpace {
            needed: 3 << 29,
            free: 700,
            floor: 1 << 30,
        };
        assert_eq!(
            error.to_string(),
            "1.5 GiB are needed, but 700 bytes can be used after eviction (1.0 GiB are kept free); \
             remove pins or unused volumes, or enlarge the cache"
        );
        assert_eq!(error.kind(), Kind::NoSpace);
    }
}

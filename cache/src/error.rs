//! What a caller can do about an error: every public error of this crate answers `kind()`. The only table
//! from kinds to gRPC codes is `csi/src/status.rs`; the only table to exit codes is the command line's.

use std::path::{Path, PathBuf};

/// The class of an error, by what its receiver can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The request is malformed; changing it is the only cure.
    Invalid,
    /// The named source, path, version or object does not exist.
    NotFound,
    /// A policy, a grant or the store refuses this principal.
    Denied,
    /// Credentials are missing, expired or meant for someone else.
    Unauthenticated,
    /// What was found contradicts what was asked for (another revision, wrong lifecycle).
    Conflict,
    /// Work on the same thing is in progress; ask again.
    Busy,
    /// The local disk is full after eviction.
    NoSpace,
    /// A budget, quota or limit is used up.
    Exhausted,
    /// Content differs from what it must be.
    Corrupt,
    /// A remote party failed in a way that may pass.
    Transient,
    /// A bug or a local I/O error.
    Internal,
}

impl Kind {
    /// Every kind, for tables that must be exhaustive.
    pub const ALL: [Self; 11] = [
        Self::Invalid,
        Self::NotFound,
        Self::Denied,
        Self::Unauthenticated,
        Self::Conflict,
        Self::Busy,
        Self::NoSpace,
        Self::Exhausted,
        Self::Corrupt,
        Self::Transient,
        Self::Internal,
    ];

    /// The kind of a local I/O error: full disks are `NoSpace`, all else is `Internal`.
    pub fn of_io(error: &std::io::Error) -> Self {
        match error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error)
        {
            Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Self::NoSpace,
            _ => Self::Internal,
        }
    }
}

/// An I/O error with the path it happened on.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct PathError {
    /// The verb that failed, in the infinitive (`open`, `rename`).
    pub operation: &'static str,
    /// What it was applied to.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: std::io::Error,
}

impl PathError {
    /// The kind of the underlying I/O error.
    pub fn kind(&self) -> Kind {
        Kind::of_io(&self.source)
    }
}

/// Adds the verb and the path to an I/O result.
pub trait IoContext<T> {
    /// Names the verb (infinitive) and the path that an I/O error belongs to.
    fn at(self, operation: &'static str, path: &Path) -> Result<T, PathError>;
}

impl<T, E: Into<std::io::Error>> IoContext<T> for Result<T, E> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, PathError> {
        self.map_err(|source| PathError {
            operation,
            path: path.to_path_buf(),
            source: source.into(),
        })
    }
}

/// Joins an error and its sources into one sentence: `a: b: c`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if !part.is_empty() && !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}

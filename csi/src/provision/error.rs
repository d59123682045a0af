//! Why a volume is not made: what its author reads in the claim's events.

use std::fmt;
use std::sync::Arc;

use tonnage_cache::error::Kind;
use tonnage_cache::path::Escaped;
use tonnage_cache::source;

use crate::status::Cause;
use crate::volume::Attributes;
use crate::volumes::Volume;
use crate::{claims, policy, sources, volume, volumes};

/// Why a volume is not made, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request's words.
    #[error(transparent)]
    Volume(#[from] volume::Error),
    /// The source's name.
    #[error(transparent)]
    Sources(#[from] sources::Error),
    /// The include and exclude patterns.
    #[error(transparent)]
    Selection(#[from] source::Error),
    /// The records.
    #[error(transparent)]
    Records(#[from] volumes::Error),
    /// The claim.
    #[error(transparent)]
    Claims(#[from] claims::Error),
    /// The claim's namespace cannot be known, or rules of egress forbid it the volume.
    #[error(transparent)]
    Refused(#[from] policy::Refusal),
    /// The name is taken.
    #[error(
        "volume {} exists with other parameters or another size",
        Escaped(name)
    )]
    Exists {
        /// The name.
        name: String,
    },
    /// Nobody may use the source.
    #[error(
        "nobody may use source {}: its administrator has to add this namespace to its consumers",
        Escaped(name)
    )]
    NoConsumers {
        /// The source.
        name: String,
    },
    /// The namespace may not use the source.
    #[error(
        "namespace {namespace} may not use source {}: its administrator has to add the namespace to its consumers",
        Escaped(name)
    )]
    Namespace {
        /// The claim's.
        namespace: String,
        /// The source.
        name: String,
    },
    /// The namespace may use the source, but not there.
    #[error(
        "namespace {namespace} may not read {place}: its administrator has to add the path to the source's consumers"
    )]
    Path {
        /// The claim's.
        namespace: String,
        /// Where.
        place: Place,
    },
    /// The source takes pinned volumes only, and nothing here can pin this one.
    #[error(
        "source {} takes pinned volumes only and is read with the pods' own keys, so that no revision can be found out here: set revision or digest in the StorageClass (`tonnage resolve` prints them)",
        Escaped(name)
    )]
    Unpinned {
        /// The source.
        name: String,
    },
    /// There are no files.
    #[error(
        "{place} has no files; check the path in the StorageClass and in the claim's annotation tonnage.dev/path"
    )]
    Nothing {
        /// Where.
        place: Place,
        /// What the source says.
        #[source]
        error: Arc<source::Error>,
    },
    /// The files cannot be listed.
    #[error("{place} cannot be listed")]
    List {
        /// Where.
        place: Place,
        /// Why not.
        #[source]
        error: Arc<source::Error>,
    },
    /// The listing goes on.
    #[error("{place} is still being listed; the provisioner asks again by itself")]
    Slow {
        /// Where.
        place: Place,
    },
    /// The claim is smaller than its files.
    #[error("{place} holds {bytes} bytes, more than the {limit} bytes that the claim asks for")]
    TooLarge {
        /// Where.
        place: Place,
        /// Bytes of the revision.
        bytes: u64,
        /// The claim's size, or the limit of its class.
        limit: u64,
    },
    /// A background task died.
    #[error("a background task ended early")]
    Task,
}

impl Error {
    /// The row of the code table.
    pub fn cause(&self) -> Cause {
        Cause::Kind(match self {
            Self::Volume(error) => error.kind(),
            Self::Sources(error) => error.kind(),
            Self::Selection(error) => error.kind(),
            Self::Records(error) => error.kind(),
            Self::Claims(error) => error.kind(),
            Self::Refused(error) => error.kind(),
            Self::NoConsumers { .. }
            | Self::Namespace { .. }
            | Self::Path { .. }
            | Self::Unpinned { .. } => Kind::Denied,
            Self::Nothing { error, .. } | Self::List { error, .. } => error.kind(),
            Self::Slow { .. } => Kind::Transient,
            // As a node says it of a volume with a limit.
            Self::TooLarge { .. } => Kind::Conflict,
            Self::Task => Kind::Internal,
            Self::Exists { .. } => return Cause::Exists,
        })
    }

    pub(super) fn exists(volume: &Volume) -> Self {
        Self::Exists {
            name: volume.name.clone(),
        }
    }
}

/// A path of a source, for people: `source "models" at "llama"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    source: String,
    path: String,
}

impl Place {
    pub(super) fn of(attributes: &Attributes) -> Self {
        Self {
            source: attributes.source.clone(),
            path: attributes.path.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "source {}", Escaped(&self.source))?;
        if self.path.is_empty() {
            return Ok(());
        }
        write!(f, " at {}", Escaped(&self.path))
    }
}

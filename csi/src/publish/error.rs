//! Why a volume is not published, or not taken away.

use std::path::PathBuf;
use std::sync::Arc;

use tonnage_cache::digest::Digest;
use tonnage_cache::error::{Kind, PathError};
use tonnage_cache::{cache, gate, source, store};

use crate::govern::quotas;
use crate::inflight::{self, Rate};
use crate::status::Cause;
use crate::{mount, policy, sources, target, upkeep, volume};

/// An error of publish, unpublish or statistics.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Pinning.
    #[error(transparent)]
    Upkeep(#[from] upkeep::Error),
    /// A file.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The request's words.
    #[error(transparent)]
    Volume(#[from] volume::Error),
    /// The target.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// The mount.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// The store's records.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The source's name.
    #[error(transparent)]
    Sources(#[from] sources::Error),
    /// The include and exclude patterns.
    #[error(transparent)]
    Selection(#[from] source::Error),
    /// The principal may not, or cannot be known.
    #[error(transparent)]
    Refused(#[from] policy::Refusal),
    /// The namespace has no room.
    #[error(transparent)]
    Quota(#[from] quotas::Refused),
    /// The authorizer did not answer in time.
    #[error("it could not be decided within {seconds} s whether this pod may use the source")]
    Undecided {
        /// The limit.
        seconds: u64,
    },
    /// The content could not be brought here.
    #[error(transparent)]
    Load(Arc<cache::Error>),
    /// The gate lets this very pod have no more bytes.
    #[error(transparent)]
    Gate(gate::Refusal),
    /// The gate or the quotas refused the load to others who waited for it, for reasons that are theirs.
    #[error(
        "the load that this pod waited for has ended, because those who waited for it before may not have more of it; it is begun again for this pod by itself"
    )]
    OthersRefused,
    /// The source is away, overloaded or silent.
    #[error("source {name} cannot be read at the moment; this goes on by itself when it can")]
    Away {
        /// Of the source, escaped.
        name: String,
        /// What happened.
        #[source]
        error: Arc<cache::Error>,
    },
    /// The fetch task died.
    #[error("the load ended without a result, which is a bug; it is begun again")]
    LoadDied,
    /// The fetch goes on.
    #[error("{0}")]
    InProgress(Rate),
    /// Another call for this target is at work.
    #[error(transparent)]
    Busy(#[from] inflight::Busy),
    /// Unpublished while it was waited for.
    #[error("the target was unpublished while this call waited")]
    Unpublished,
    /// The target shows something else of ours.
    #[error("{} already shows another volume, or this volume with other attributes", path.display())]
    Taken {
        /// The target.
        path: PathBuf,
    },
    /// The target shows something that is not ours.
    #[error("something else is mounted on {}; it was left alone", path.display())]
    Foreign {
        /// The target.
        path: PathBuf,
    },
    /// A second target under `SINGLE_NODE_SINGLE_WRITER`.
    #[error(
        "the volume is in use by another pod of this node, and its access mode (ReadWriteOncePod) allows one"
    )]
    SecondTarget,
    /// A claim's pods must all see one revision.
    #[error(
        "the claim is bound to revision {bound} on this node, but revision {found} was loaded; restore the files or make a new claim"
    )]
    OtherRevision {
        /// The first that was published here.
        bound: Digest,
        /// What there is now.
        found: Digest,
    },
    /// The runtime would relabel a read-only mount, and fail.
    #[error(
        "set readOnly: true on the volume: on this SELinux node the container runtime would otherwise try to relabel it"
    )]
    SeLinux,
    /// There is no such published volume.
    #[error("the volume is not published at {path}")]
    NotPublished {
        /// The path that was asked about, escaped.
        path: String,
    },
    /// Unwinding after an error failed too.
    #[error("{first}; what it left behind could not be removed: {second}")]
    LeftBehind {
        /// What went wrong.
        first: String,
        /// What went wrong after that.
        second: String,
    },
    /// A background task died.
    #[error("a background task ended early")]
    Task,
}

impl Error {
    /// Why the content of a source could not be brought here.
    pub(super) fn of_load(source: &str, error: Arc<cache::Error>) -> Self {
        match error.kind() {
            Kind::Transient => Self::Away {
                name: source.escape_default().to_string(),
                error,
            },
            Kind::Invalid
            | Kind::NotFound
            | Kind::Denied
            | Kind::Unauthenticated
            | Kind::Busy
            | Kind::Conflict
            | Kind::NoSpace
            | Kind::Exhausted
            | Kind::Corrupt
            | Kind::Internal => Self::Load(error),
        }
    }

    /// The row of the code table.
    pub fn cause(&self) -> Cause {
        Cause::Kind(match self {
            Self::Upkeep(error) => error.kind(),
            Self::Path(error) => error.kind(),
            Self::Volume(error) => error.kind(),
            Self::Target(error) => error.kind(),
            Self::Mount(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Sources(error) => error.kind(),
            Self::Selection(error) => error.kind(),
            Self::Refused(error) => error.kind(),
            Self::Quota(error) => error.kind(),
            Self::Gate(refusal) => refusal.kind(),
            Self::OthersRefused => Kind::Exhausted,
            Self::Load(error) | Self::Away { error, .. } => error.kind(),
            Self::Undecided { .. } | Self::LoadDied => Kind::Transient,
            Self::InProgress(_) | Self::Busy(_) | Self::Unpublished => Kind::Busy,
            Self::Foreign { .. } | Self::SecondTarget | Self::OtherRevision { .. } => {
                Kind::Conflict
            }
            Self::SeLinux => Kind::Invalid,
            Self::NotPublished { .. } => Kind::NotFound,
            Self::Task => Kind::Internal,
            Self::Taken { .. } => return Cause::Exists,
            Self::LeftBehind { .. } => return Cause::LeftBehind,
        })
    }
}

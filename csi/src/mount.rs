//! Mounting views where pods see them. This file owns the seam ([`Mounter`]) and its words; the kernel's way is
//! in `mount/kernel.rs`, the mount table in `mount/table.rs`, the strict twin for tests in `mount/fake.rs`.
//!
//! Architecture invariant: every mount is `ro,nosuid,nodev` from the moment that it can be seen.

use std::fmt;
use std::path::{Path, PathBuf};

use tonnage_cache::error::{Kind, PathError};

use crate::target::{self, Spot};
use crate::volume::MountFlags;

mod fake;
mod kernel;
mod nobody;
mod setattr;
mod table;

pub use fake::{Call, FakeMounter};
pub use kernel::KernelMounter;
pub use table::{Mount, Table};

/// Attaches views to directories and takes them off again. Blocking.
pub trait Mounter: fmt::Debug + Send + Sync {
    /// Mounts the directory `view` on `spot`, which must be an existing directory. Not idempotent: a second
    /// attach is a second mount on top.
    fn attach(&self, view: &Path, spot: &Spot, flags: MountFlags) -> Result<(), Error>;

    /// Whether a guarded mount of `directory` could be made; [`Error::Unguarded`] if not. Nothing is mounted.
    fn check_guard(&self, directory: &Path) -> Result<(), Error>;

    /// Takes the topmost mount off `spot`. Nothing mounted there is [`Error::NotMounted`].
    fn detach(&self, spot: &Spot) -> Result<(), Error>;

    /// Looks at `spot` for the directory `view`. What that costs does not depend on how many mounts there are.
    fn look(&self, spot: &Spot, view: Option<&Path>) -> Result<Sight, Error>;

    /// The mounts there are now: as much work as there are mounts on the node.
    fn mounts(&self) -> Result<Table, Error>;
}

/// What a look at a spot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Nothing is mounted there; there may be no directory either.
    Nothing,
    /// The topmost mount has the view as its root; `sound` says whether it is `ro,nosuid,nodev`.
    View {
        /// Whether it is `ro,nosuid,nodev`.
        sound: bool,
    },
    /// Something else is topmost, or one look does not tell: the table does.
    Other,
}

/// What went wrong with a mount.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The directory cannot be used.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// There is no mount to take off.
    #[error("nothing is mounted on {}", path.display())]
    NotMounted {
        /// Where.
        path: PathBuf,
    },
    /// The process may not mount.
    #[error("this process may not mount on {} (CAP_SYS_ADMIN in this mount namespace is needed)", path.display())]
    NotPermitted {
        /// Where.
        path: PathBuf,
    },
    /// A container that mounts the volume writable could not be held off.
    #[error(
        "set readOnly: true on the volume: a container that mounts it writable cannot be kept from writing here, because the kernel or the cache's file system maps no owners"
    )]
    Unguarded {
        /// Why the owners cannot be mapped.
        source: std::io::Error,
    },
    /// The mount table cannot be understood.
    #[error("line {line} of the mount table cannot be read")]
    Table {
        /// Counted from 1.
        line: usize,
    },
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Path(error) => error.kind(),
            Self::Target(error) => error.kind(),
            Self::Unguarded { .. } => Kind::Invalid,
            Self::NotMounted { .. } | Self::NotPermitted { .. } | Self::Table { .. } => {
                Kind::Internal
            }
        }
    }
}

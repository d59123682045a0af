//! Why a service cannot run.

use std::net::SocketAddr;
use std::path::PathBuf;

use tonnage_cache::error::{Kind, PathError};
use tonnage_cache::{cache, store};

use crate::status::Cause;
use crate::{control, publish, server, sources, target, trace, volumes};

/// Why a service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The HTTP address.
    #[error("listen on {address}")]
    Http {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A source.
    #[error(transparent)]
    Sources(#[from] sources::Error),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The store's records.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Kubelet's directory.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// What is published cannot be known.
    #[error(transparent)]
    Publish(#[from] publish::Error),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] control::Error),
    /// The collector.
    #[error(transparent)]
    Trace(#[from] trace::Error),
    /// The volume records.
    #[error(transparent)]
    Volumes(#[from] volumes::Error),
    /// A file.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Neither a service account nor a configuration says where the API server is and who this is.
    #[error(
        "the API server cannot be used ({0}): run in a pod with a service account token, or name a configuration in KUBECONFIG"
    )]
    ApiServer(String),
    /// A full cache would fill kubelet's file system.
    #[error(
        "the cache {} lies on kubelet's file system, where a full cache makes kubelet evict pods: give it a disk of its own, or force it with --force-root-filesystem (nodeGroups[].forceRootFilesystem in the chart)",
        cache.display()
    )]
    KubeletDisk {
        /// Its directory.
        cache: PathBuf,
    },
    /// A background task died.
    #[error("a background task ended early")]
    Task,
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Server(server::Error::InUse { .. }) => Kind::Busy,
            Self::Server(server::Error::Path(error)) | Self::Path(error) => error.kind(),
            Self::Http { .. } | Self::Task => Kind::Internal,
            Self::Sources(error) => error.kind(),
            Self::Cache(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Target(error) => error.kind(),
            Self::Publish(error) => match error.cause() {
                Cause::Kind(kind) => kind,
                Cause::Exists | Cause::OutOfRange | Cause::LeftBehind => Kind::Internal,
            },
            Self::Control(error) => error.kind(),
            Self::Trace(_) | Self::ApiServer(_) | Self::KubeletDisk { .. } => Kind::Invalid,
            Self::Volumes(error) => error.kind(),
        }
    }
}

//! Places that weights are read from. This module owns the seam ([`Source`]) and the words for what a
//! source yields: [`Entry`], [`Listing`], [`Body`]. It never touches the store; `fetch` is where they meet.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::digest::Digest;
use crate::error::Kind;
use crate::path::{self, RelPath};

pub mod config;
pub mod credentials;
pub mod exchange;
pub mod location;
pub mod select;

mod answer;
mod azure;
mod body;
mod collect;
mod connector;
mod date;
mod gcs;
mod http;
mod local;
mod outcome;
mod place;
mod remote;
mod s3;

pub use body::{Body, Read, frames, read, read_to_end};

/// What identifies the bytes of an object at the source, beside its key and size.
#[derive(
    Debug,
    Clone,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Version {
    /// `ETag` as the store writes it, quotes included.
    pub etag: Option<String>,
    /// Version or generation id.
    pub version: Option<String>,
    /// `Last-Modified` in milliseconds since the Unix epoch; the pin of last resort.
    pub modified_millis: Option<u64>,
}

impl Version {
    /// The modification time where nothing better pins the bytes, else 0: stores may touch it without a change.
    pub fn modified_pin(&self) -> u64 {
        match (&self.etag, &self.version) {
            (None, None) => self.modified_millis.unwrap_or_default(),
            (Some(_), _) | (_, Some(_)) => 0,
        }
    }
}

/// One file of a listing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// Where it will lie in the view: the key below the reference's prefix.
    pub path: RelPath,
    /// The object's full key at the source.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// What pins its bytes.
    pub version: Version,
}

/// One observed state of a prefix: entries sorted by path, each path once, forming a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Sorted by path.
    pub entries: Vec<Entry>,
    /// Folder markers that were skipped.
    pub markers: u64,
}

impl Listing {
    /// Sum of all sizes.
    pub fn total_bytes(&self) -> u64 {
        self.entries
            .iter()
            .fold(0, |sum, entry| sum.saturating_add(entry.size))
    }

    /// The [`fingerprint`] of its entries.
    pub fn fingerprint(&self) -> Digest {
        fingerprint(&self.entries)
    }
}

/// The fingerprint that pins a listing: BLAKE3 over path, size and version of every entry, each field preceded by
/// its length.
pub fn fingerprint(entries: &[Entry]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"tonnage revision 1\n");
    for entry in entries {
        for field in [
            entry.path.as_str(),
            entry.version.etag.as_deref().unwrap_or_default(),
            entry.version.version.as_deref().unwrap_or_default(),
        ] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field.as_bytes());
        }
        hasher.update(&entry.size.to_le_bytes());
        hasher.update(&entry.version.modified_pin().to_le_bytes());
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

/// Limits that hold while a source is listed and read, not after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most objects of one listing.
    pub objects: u64,
    /// Most bytes of one listing's objects together.
    pub bytes: u64,
    /// Most pages of one listing.
    pub pages: u64,
    /// Longest time one listing may take.
    pub listing_time: Duration,
}

impl Default for Limits {
    /// 1,000,000 objects, 4 TiB, 10,000 pages, 5 minutes.
    fn default() -> Self {
        Self {
            objects: 1_000_000,
            bytes: 4 << 40,
            pages: 10_000,
            listing_time: Duration::from_mins(5),
        }
    }
}

/// A place to read from, bound to its credentials. Implementations never retry: retries live in `fetch`.
pub trait Source: fmt::Debug + Send + Sync {
    /// The admin's name of the source, or the URL's scheme and authority on the command line; for messages
    /// and metrics.
    fn name(&self) -> &str;

    /// What makes equal keys of this source the same object: scheme, endpoint, bucket or container. Never
    /// contains credentials. Revision records and partial files are keyed by it.
    fn uid(&self) -> &str;

    /// What every key begins with: the path in the source's URL, without slashes at its ends. Sources of one uid with different
    /// bases share objects, and no path.
    #[expect(
        clippy::unnecessary_literal_bound,
        reason = "a source that has a base lends it"
    )]
    fn base(&self) -> &str {
        ""
    }

    /// The same source, with the same connections, that asks the gate on behalf of a load; `None` if it asks nothing that
    /// differs from load to load.
    fn on_behalf_of(&self, _load: &str) -> Option<Arc<dyn Source>> {
        None
    }

    /// Lists every file below `prefix` (a relative path of the source, or `""` for all of it; a `prefix` that
    /// is itself an object lists that one file). Entries' paths are relative to `prefix`.
    ///
    /// Bad keys are refused by name. An empty result is [`Error::NotFound`].
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Listing, Error>>;

    /// Opens `range` of the entry's bytes, pinned to the entry's version. Resolves when the response header
    /// has been checked: status, range, total size and `ETag`. The body then yields exactly `range`'s bytes: short or long
    /// bodies end in an error.
    fn open<'a>(
        &'a self,
        entry: &'a Entry,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Body, Error>>;
}

/// What went wrong at a source. Texts never carry URLs' queries, server bodies or credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference is malformed.
    #[error("{0}")]
    Reference(String),
    /// A key cannot become a path.
    #[error("the source lists a key that cannot become a file: {0}")]
    Key(#[from] path::Error),
    /// Bucket, prefix, object or version does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The store refuses these credentials (403), or there are none where some are needed.
    #[error("{subject}: the store refuses access ({code})")]
    Denied {
        /// Bucket or key.
        subject: String,
        /// The store's code (`AccessDenied`).
        code: String,
    },
    /// The credentials themselves are not valid (401, expired, unknown key, wrong signature).
    #[error("{subject}: the store does not accept the credentials ({code})")]
    Unauthenticated {
        /// Bucket or key.
        subject: String,
        /// The store's code (`ExpiredToken`).
        code: String,
    },
    /// The service that gives temporary keys for an identity gives none.
    #[error("no temporary keys from {service}: {what}")]
    Identity {
        /// Host of the service.
        service: String,
        /// Why, with its code, and what to do.
        what: String,
        /// What a caller can do about it.
        kind: Kind,
    },
    /// The gate, the address rules or the source's proxy refuse the host.
    #[error("{0}")]
    Gate(#[from] crate::gate::Refusal),
    /// The object is no longer the one that was listed (412, 404, other `ETag`, other size).
    #[error("{key} changed at the source while it was read")]
    Changed {
        /// The object's key, escaped.
        key: String,
    },
    /// The server answered something that it must not (wrong range, extra bytes, encoded body).
    #[error("{key}: the server's answer is wrong: {what}")]
    Protocol {
        /// The object's key, escaped, or the bucket.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// Throttled (429, 503 `SlowDown`).
    #[error("{subject}: the store asks to slow down ({code})")]
    Throttled {
        /// Bucket or key.
        subject: String,
        /// Status or the store's code.
        code: String,
    },
    /// 5xx, connection refused or cut, time-out, name resolution.
    #[error("{subject}: {what}")]
    Unavailable {
        /// Bucket or key, or the host.
        subject: String,
        /// What happened.
        what: String,
    },
    /// TLS cannot vouch for the server. Asking again does not help; a new certificate does.
    #[error("{host}: {what}")]
    Untrusted {
        /// Host and port.
        host: String,
        /// What is wrong with its certificate.
        what: String,
    },
    /// A limit of the listing was passed.
    #[error("{0}")]
    Limit(String),
    /// A local file could not be read.
    #[error(transparent)]
    Local(#[from] crate::error::PathError),
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Reference(_) | Self::Key(_) => Kind::Invalid,
            Self::NotFound(_) => Kind::NotFound,
            Self::Denied { .. } | Self::Untrusted { .. } => Kind::Denied,
            Self::Unauthenticated { .. } => Kind::Unauthenticated,
            Self::Identity { kind, .. } => *kind,
            Self::Gate(refusal) => refusal.kind(),
            Self::Changed { .. }
            | Self::Protocol { .. }
            | Self::Throttled { .. }
            | Self::Unavailable { .. } => Kind::Transient,
            Self::Limit(_) => Kind::Exhausted,
            Self::Local(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
                Kind::NotFound
            }
            Self::Local(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => {
                Kind::Denied
            }
            Self::Local(error) => error.kind(),
        }
    }

    /// Whether the same request may succeed if it is sent again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Protocol { .. } | Self::Throttled { .. } | Self::Unavailable { .. } => true,
            Self::Identity { kind, .. } => *kind == Kind::Transient,
            Self::Reference(_)
            | Self::Key(_)
            | Self::NotFound(_)
            | Self::Denied { .. }
            | Self::Unauthenticated { .. }
            | Self::Gate(_)
            | Self::Changed { .. }
            | Self::Untrusted { .. }
            | Self::Limit(_)
            | Self::Local(_) => false,
        }
    }
}

/// The listing's wall time is used up.
fn took_too_long(place: &str, limits: &Limits) -> Error {
    Error::Limit(format!(
        "listing {place} takes longer than {:?}",
        limits.listing_time
    ))
}

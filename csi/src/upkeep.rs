//! What is done to a cache by its owner on request: evict, verify, pin and unpin. The command line performs it
//! where it holds the lock itself, and sends it through `control` where a node service does: the same request
//! has the same effect either way.

use std::sync::{Arc, Mutex, PoisonError};

use tonnage_cache::digest::Digest;
use tonnage_cache::error::Kind;
use tonnage_cache::store::{self, Goal, Lease, Store};

use crate::pin;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Evict what nobody holds.
    Evict(Extent),
    /// Hash stored content again.
    Verify {
        /// Only this object.
        only: Option<Digest>,
        /// At most this many bytes per second.
        rate: Option<u64>,
    },
    /// Keep content under a name.
    Pin {
        /// The name.
        name: String,
        /// The manifest digest.
        digest: Digest,
    },
    /// Let a pin go.
    Unpin {
        /// The name.
        name: String,
    },
}

/// How much to evict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// What has expired: unfinished downloads and quarantine past their time.
    Expired,
    /// Until this many bytes were freed.
    Bytes(u64),
    /// Everything that nobody holds.
    All,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Evicted.
    Freed {
        /// Bytes of disk.
        bytes: u64,
        /// Views that went.
        views: u64,
        /// Objects that went.
        objects: u64,
        /// Unfinished downloads that went.
        partials: u64,
    },
    /// Hashed.
    Verified {
        /// Objects read.
        objects: u64,
        /// Bytes read.
        bytes: u64,
        /// Objects whose content is not what their name says; they are in quarantine.
        damaged: Vec<Digest>,
    },
    /// Pinned.
    Pinned,
    /// Let go.
    Unpinned {
        /// The content that the pin kept.
        digest: Digest,
    },
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Pinning failed.
    #[error(transparent)]
    Pin(#[from] pin::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Pin(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}

/// The owner's side: it keeps the leases of all pins as long as it lives.
#[derive(Debug)]
pub struct Upkeep {
    store: Arc<Store>,
    pins: Mutex<Vec<Lease>>,
}

impl Upkeep {
    /// Takes the leases of all recorded pins. To be made right after the store is opened, before anything can
    /// be evicted. Blocking.
    pub fn new(store: Arc<Store>) -> Result<Arc<Self>, store::Error> {
        let pins = pin::hold_all(&store)?;
        Ok(Arc::new(Self {
            store,
            pins: Mutex::new(pins),
        }))
    }

    /// The store that is looked after.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Does what is wanted.
    pub async fn perform(&self, request: Request) -> Result<Answer, Error> {
        match request {
            Request::Evict(extent) => self.evict(extent).await,
            Request::Verify { only, rate } => self.verify(only, rate).await,
            Request::Pin { name, digest } => {
                let lease = pin::add(&self.store, &name, digest).await?;
                self.lock().push(lease);
                Ok(Answer::Pinned)
            }
            Request::Unpin { name } => {
                let pin = pin::remove(&self.store, &name)?;
                let holder = pin::holder(&name);
                self.lock().retain(|lease| *lease.holder() != holder);
                Ok(Answer::Unpinned { digest: pin.digest })
            }
        }
    }

    async fn evict(&self, extent: Extent) -> Result<Answer, Error> {
        let goal = match extent {
            Extent::Expired => Goal::EXPIRED,
            Extent::Bytes(bytes) => Goal::bytes(bytes),
            Extent::All => Goal::ALL,
        };
        let freed = self.store.evict(goal).await?;
        Ok(Answer::Freed {
            bytes: freed.bytes,
            views: freed.views,
            objects: freed.objects,
            partials: freed.partials,
        })
    }

    async fn verify(&self, only: Option<Digest>, rate: Option<u64>) -> Result<Answer, Error> {
        let report = self.store.scrub(rate, only).await?;
        Ok(Answer::Verified {
            objects: report.objects,
            bytes: report.bytes,
            damaged: report.bad.into_iter().map(|(digest, _)| digest).collect(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Lease>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The front door: a reference goes in, a view comes out, and every second in between is accounted for.
//!
//! [`Cache::load`] resolves a [`Reference`] to a [`Revision`], finds what is already here (a whole view; objects of
//! earlier revisions; objects that another load is fetching right now), fetches the rest through the gate,
//! and lays out the view under a lease. Two loads never fetch the same object version: each claims
//! the ones it fetches, waits for those that others claimed, and takes over where they fail.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::buffer::Pool;
use crate::clock::Clock;
use crate::digest::Digest;
use crate::error::Kind;
use crate::fetch::{self, Fetcher, PageCache};
use crate::gate::{Gate, Refusal};
use crate::manifest::{self, Manifest};
use crate::path::RelPath;
use crate::report::{Phase, Progress, Report};
use crate::source::select::Selection;
use crate::source::{self, Entry, Limits, Source};
use crate::store::{self, Holder, Lease, Store};
use crate::view::{self, Views};

mod claims;
mod complete;
mod gather;
mod layouts;
mod resolve;
mod size_check;
mod stage;

use claims::Claims;
use layouts::Layouts;
use resolve::Revisions;
pub use size_check::SizeCheck;

/// What the cache needs to know at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where and how to store.
    pub store: store::Config,
    /// How to fetch.
    pub fetch: fetch::Settings,
    /// Most 1 MiB buffers at start; they grow to `fetch`'s maximum while more connections still pay. Default 48.
    pub buffers: usize,
    /// How long a listing is shared by loads of the same reference. Default 60 s; zero lists every time.
    pub revision_ttl: Duration,
    /// Limits of a listing.
    pub limits: Limits,
}

impl Config {
    /// Defaults for a store at `root`.
    pub fn new(root: impl Into<std::path::PathBuf>) -> Self {
        Self {
            store: store::Config::new(root),
            fetch: fetch::Settings::default(),
            buffers: 48,
            revision_ttl: Duration::from_mins(1),
            limits: Limits::default(),
        }
    }
}

/// What a user asks for.
#[derive(Debug, Clone)]
pub struct Reference {
    /// Where to read from.
    pub source: Arc<dyn Source>,
    /// Path below the source; `""` for all of it.
    pub path: String,
    /// Which files of it.
    pub selection: Selection,
    /// Only this revision will do.
    pub revision: Option<Digest>,
    /// Only content with this manifest digest will do.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Everything below `path` of `source`, whatever its revision.
    pub fn new(source: Arc<dyn Source>, path: impl Into<String>) -> Self {
        Self {
            source,
            path: path.into(),
            selection: Selection::default(),
            revision: None,
            digest: None,
        }
    }

    /// The path from the root of the bucket, container or server: the source's base is a part of it. Equal paths of sources with
    /// different bases are different places, whatever the sources share.
    pub fn root(&self) -> String {
        match (self.source.base(), self.path.as_str()) {
            ("", path) => path.to_owned(),
            (base, "") => base.to_owned(),
            (base, path) => format!("{base}/{path}"),
        }
    }

    /// The reference as a load reads it, if that makes a difference to its source.
    fn on_behalf_of(&self, load: &str) -> Option<Self> {
        let source = self.source.on_behalf_of(load)?;
        Some(Self {
            source,
            ..self.clone()
        })
    }
}

/// One observed listing of a reference, filtered.
#[derive(Debug, Clone)]
pub struct Revision {
    /// What pins it.
    pub fingerprint: Digest,
    /// Its files, sorted by path.
    pub entries: Arc<Vec<Entry>>,
    /// Their bytes together.
    pub total_bytes: u64,
}

/// How to load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// How pages are treated.
    pub page_cache: PageCache,
    /// Who pays for the bytes.
    pub payer: String,
    /// By what name the gate knows this load; empty where nobody governs.
    pub load: String,
    /// Who holds the resulting lease.
    pub holder: Holder,
    /// Live figures.
    pub progress: Arc<Progress>,
    /// Stops the load; verified parts stay.
    pub cancel: CancellationToken,
    /// Refuse a revision of more bytes.
    pub limit_bytes: Option<u64>,
    /// Asked when the size is known.
    pub size_check: Option<SizeCheck>,
}

impl LoadOptions {
    /// Defaults for `holder`.
    pub fn new(holder: Holder) -> Self {
        Self {
            page_cache: PageCache::Auto,
            payer: String::new(),
            load: String::new(),
            holder,
            progress: Arc::default(),
            cancel: CancellationToken::new(),
            limit_bytes: None,
            size_check: None,
        }
    }
}

/// A view that is ready to be used, for as long as its lease is held.
#[derive(Debug)]
pub struct Loaded {
    /// What pins the revision.
    pub fingerprint: Digest,
    /// The files.
    pub manifest: Arc<Manifest>,
    /// The content's name.
    pub manifest_digest: Digest,
    /// Root of the tree.
    pub view: std::path::PathBuf,
    /// Where the time went.
    pub report: Report,
    /// Keeps the view from eviction.
    pub lease: Lease,
}

/// What went wrong with a load.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source could not be listed or read.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The bytes could not be brought.
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The view failed.
    #[error(transparent)]
    View(#[from] view::Error),
    /// The files do not form a manifest.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// Include and exclude leave nothing.
    #[error("no file of {path} is left after include and exclude")]
    NothingSelected {
        /// The reference's path.
        path: String,
    },
    /// The source shows another revision than the pinned one.
    #[error(
        "revision {pinned} was asked for, but the source now shows revision {found}; pin that one or restore the files"
    )]
    OtherRevision {
        /// What was asked for.
        pinned: Digest,
        /// What is there.
        found: Digest,
    },
    /// The content is not what the reference's digest says.
    #[error("content with digest {expected} was asked for, but the source holds {found}")]
    OtherContent {
        /// What was asked for.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// The source changed faster than it could be read.
    #[error(
        "the source changed during each of {attempts} attempts; pin a revision or wait until the upload is complete"
    )]
    KeepsChanging {
        /// How many loads were begun.
        attempts: u32,
    },
    /// The revision is larger than allowed.
    #[error("the revision holds {bytes} bytes, more than the {limit} bytes that were asked for")]
    TooLarge {
        /// Bytes of the revision.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// So much may not be shown.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Stopped by the caller.
    #[error("stopped")]
    Cancelled,
    /// A background task died.
    #[error("a background task ended early")]
    Task,
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Source(error) => error.kind(),
            Self::Fetch(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::View(error) => error.kind(),
            Self::Manifest(error) => error.kind(),
            Self::Refused(refusal) => refusal.kind(),
            Self::NothingSelected { .. } => Kind::NotFound,
            Self::OtherRevision { .. } | Self::TooLarge { .. } => Kind::Conflict,
            Self::OtherContent { .. } => Kind::Corrupt,
            Self::KeepsChanging { .. } | Self::Cancelled => Kind::Transient,
            Self::Task => Kind::Internal,
        }
    }

    fn is_change(&self) -> bool {
        matches!(
            self,
            Self::Fetch(
                fetch::Error::Changed { .. } | fetch::Error::Source(source::Error::Changed { .. })
            ) | Self::Source(source::Error::Changed { .. })
        )
    }
}

/// A store with a fetcher: the library's one entry point.
#[derive(Debug)]
pub struct Cache {
    store: Arc<Store>,
    fetcher: Arc<Fetcher>,
    views: Arc<Views>,
    clock: Arc<dyn Clock>,
    gate: Arc<dyn Gate>,
    revisions: Revisions,
    claims: Claims,
    layouts: Layouts,
    limits: Limits,
}

/// How often a load starts over because the source changed under it.
const ATTEMPTS: u32 = 3;

impl Cache {
    /// Opens or creates the store at the configured root and gets ready to fetch.
    ///
    /// Fails with [`store::Error`] when the directory cannot be used or another process owns it.
    pub async fn open(
        config: Config,
        env: store::Env,
        gate: Arc<dyn Gate>,
    ) -> Result<Arc<Self>, Error> {
        let clock = Arc::clone(&env.clock);
        let store_config = config.store;
        let store = tokio::task::spawn_blocking(move || Store::open(store_config, env))
            .await
            .map_err(|_| Error::Task)??;
        let fetcher = Fetcher::new(
            Arc::clone(&store),
            Arc::clone(&gate),
            Pool::new(config.buffers),
            Arc::clone(&clock),
            config.fetch,
        );
        Ok(Arc::new(Self {
            views: Arc::new(Views::new(Arc::clone(&store))),
            revisions: Revisions::new(Arc::clone(&clock), config.revision_ttl),
            claims: Claims::default(),
            layouts: Layouts::default(),
            limits: config.limits,
            store,
            fetcher,
            clock,
            gate,
        }))
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The gate that every byte passes.
    pub fn gate(&self) -> &Arc<dyn Gate> {
        &self.gate
    }

    /// Lists the reference, or shares a listing of the last [`Config::revision_ttl`], and checks its pin.
    pub async fn resolve(&self, reference: &Reference) -> Result<Revision, Error> {
        self.revisions.resolve(reference, &self.limits).await
    }

    /// Brings the reference's content here and lays it out, starting over when the source changes under an
    /// unpinned reference. A reference whose pinned revision is complete here is served without the network.
    pub async fn load(
        &self,
        reference: &Reference,
        options: &LoadOptions,
    ) -> Result<Loaded, Error> {
        let own = reference.on_behalf_of(&options.load);
        let reference = own.as_ref().unwrap_or(reference);
        for _ in 0..ATTEMPTS {
            match self.attempt(reference, options).await {
                Err(error) if error.is_change() => {
                    tracing::warn!(
                        source = reference.source.name(),
                        path = reference.path,
                        "the source changed during a load; starting over"
                    );
                    self.revisions.forget(reference);
                }
                outcome => return outcome,
            }
        }
        Err(Error::KeepsChanging { attempts: ATTEMPTS })
    }

    async fn attempt(&self, reference: &Reference, options: &LoadOptions) -> Result<Loaded, Error> {
        let started = self.clock.monotonic();
        options.progress.enter(Phase::Resolve);
        if let Some(pin) = reference.revision
            && let Some(mut loaded) = self.find_complete(reference, pin, options).await?
        {
            let found = loaded.report.total();
            let resolved = self.since(started).saturating_sub(found);
            loaded.report.add_phase(Phase::Resolve, resolved);
            return Ok(loaded);
        }
        let revision = tokio::select! {
            revision = self.resolve(reference) => revision?,
            () = options.cancel.cancelled() => return Err(Error::Cancelled),
        };
        let resolved = self.since(started);
        let mut loaded = self.stage(reference, &revision, options).await?;
        loaded.report.add_phase(Phase::Resolve, resolved);
        Ok(loaded)
    }

    fn since(&self, start: Duration) -> Duration {
        self.clock.monotonic().saturating_sub(start)
    }
}

/// Which digests a pinned manifest demands of which paths, when that manifest is known here.
type Expected = HashMap<RelPath, Digest>;

//! Bundles: content of a cache as a plain directory, for the other side of an air gap or for a node image.
//!
//! ```text
//! <bundle>/objects/ab/<hex>            one file's bytes, named by their BLAKE3
//! <bundle>/manifests/<hex>             canonical bytes of a manifest
//! <bundle>/records/revisions/<name>    which revisions of which sources the manifests are
//! ```
//! The layout is a cache's, so a bundle also serves as a `--seed`. A name in `objects/` or `manifests/` is complete,
//! because it is written beside itself and renamed; manifests come last. Nothing in a bundle is believed: on its
//! way in, every object is hashed by the store.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonnage_cache::digest::Digest;
use tonnage_cache::disk::OsDisk;
use tonnage_cache::error::{IoContext as _, Kind, PathError};
use tonnage_cache::manifest::{self, Manifest};
use tonnage_cache::report::{Phase, Progress};
use tonnage_cache::store::{self, Holder, Layout, Lease, Records, Store};
use tonnage_cache::view::{self, Views};

const REVISIONS: &str = "revisions";
const CHUNK: usize = 1 << 20;

/// What went wrong with a bundle.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Nothing with this manifest digest is stored.
    #[error("no content with manifest digest {0} is stored here")]
    Absent(Digest),
    /// The directory is no bundle.
    #[error("{} is not a bundle: it has no manifests", .0.display())]
    NotABundle(PathBuf),
    /// A manifest of the bundle cannot be read.
    #[error("manifest {digest} of the bundle is damaged")]
    Manifest {
        /// Its name.
        digest: Digest,
        /// Why, unless its bytes are not those of its name.
        source: Option<manifest::Error>,
    },
    /// A file of a manifest is neither in the bundle nor in the cache, or it is damaged.
    #[error("{path} is missing from the bundle, or damaged in it")]
    Missing {
        /// Where it lies in the view.
        path: String,
    },
    /// An object of this cache is not what its name says.
    #[error("object {0} of this cache is damaged; run `tonnage cache verify` and load it again")]
    Damaged(Digest),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The view failed.
    #[error(transparent)]
    View(#[from] view::Error),
    /// Stopped by the caller.
    #[error("stopped")]
    Cancelled,
    /// A thread died.
    #[error("a thread ended early")]
    Thread,
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Path(error) => error.kind(),
            Self::Absent(_) => Kind::NotFound,
            Self::NotABundle(_) => Kind::Invalid,
            Self::Manifest { .. } | Self::Missing { .. } | Self::Damaged(_) => Kind::Corrupt,
            Self::Store(error) => error.kind(),
            Self::View(error) => error.kind(),
            Self::Cancelled => Kind::Transient,
            Self::Thread => Kind::Internal,
        }
    }
}

/// How a long copy is watched and stopped.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Live figures.
    pub progress: Arc<Progress>,
    /// Stops at the next megabyte.
    pub cancel: CancellationToken,
}

/// Content that came in.
#[derive(Debug)]
pub struct Imported {
    /// The manifest digest.
    pub digest: Digest,
    /// The content.
    pub manifest: Manifest,
    /// Root of its read-only tree.
    pub view: PathBuf,
    /// Keeps it from eviction.
    pub lease: Lease,
}

/// Writes the content of a manifest to a bundle; what the bundle holds already is left as it is.
pub async fn export(
    store: &Arc<Store>,
    digest: Digest,
    bundle: &Path,
    watch: Watch,
) -> Result<Manifest, Error> {
    let lease = store.leases().hold(
        Holder::new(format!("export:{}", std::process::id())),
        digest,
    );
    let manifest = store
        .get_manifest(digest)
        .await?
        .ok_or(Error::Absent(digest))?;
    // What is verified but not yet synced lies elsewhere until it is.
    store.sync_now().await;
    let store = Arc::clone(store);
    let bundle = bundle.to_path_buf();
    tokio::task::spawn_blocking(move || {
        let _lease = lease;
        watch
            .progress
            .expect(manifest.total_bytes(), manifest.files().len() as u64);
        watch.progress.enter(Phase::Transfer);
        let out = Layout::new(&bundle);
        for name in ["manifests", "records", "tmp"] {
            let directory = out.top(name);
            std::fs::create_dir_all(&directory).at("create", &directory)?;
        }
        for file in manifest.files() {
            copy_object(&store, &out, &file.digest, &watch)?;
            watch.progress.add_file();
        }
        copy_revisions(&store, &out, digest)?;
        write_new(&out.manifest(&digest), |target| {
            target.write_all(&manifest.encode())
        })?;
        let tmp = out.top("tmp");
        std::fs::remove_dir(&tmp).at("remove", &tmp)?;
        Ok(manifest)
    })
    .await
    .map_err(|_| Error::Thread)?
}

fn copy_object(store: &Store, out: &Layout, digest: &Digest, watch: &Watch) -> Result<(), Error> {
    let to = out.object(digest);
    if let Ok(facts) = std::fs::metadata(&to) {
        watch.progress.add_bytes(facts.len());
        return Ok(());
    }
    let directory = to.parent().unwrap_or(out.root());
    std::fs::create_dir_all(directory).at("create", directory)?;
    let from = Layout::new(store.root()).object(digest);
    let mut source = File::open(&from).at("open", &from)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0u8; CHUNK];
    let mut stopped = false;
    write_new(&to, |target| {
        loop {
            if watch.cancel.is_cancelled() {
                stopped = true;
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            let length = source.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            hasher.update(bytes);
            target.write_all(bytes)?;
            watch.progress.add_bytes(length as u64);
        }
        if hasher.finalize().as_bytes() == digest.as_bytes() {
            Ok(())
        } else {
            Err(std::io::ErrorKind::InvalidData.into())
        }
    })
    .map_err(|error| {
        if stopped {
            Error::Cancelled
        } else if error.source.kind() == std::io::ErrorKind::InvalidData {
            Error::Damaged(*digest)
        } else {
            error.into()
        }
    })
}

/// Writes a file beside its name, syncs it and renames it; a failed one is removed.
fn write_new(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<(), PathError> {
    let fresh = path.with_extension("part");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&fresh)
        .at("create", &fresh)?;
    let written = write(&mut file)
        .and_then(|()| file.sync_data())
        .and_then(|()| std::fs::rename(&fresh, path));
    if written.is_err()
        && let Err(error) = std::fs::remove_file(&fresh)
    {
        tracing::warn!(path = %fresh.display(), %error, "an unfinished file stays in the bundle");
    }
    written.at("write", path)
}

/// Records are copied as they are: what a later version adds to them is kept.
fn copy_revisions(store: &Store, out: &Layout, digest: Digest) -> Result<(), Error> {
    let target = Records::new(Arc::new(OsDisk::new()), out.clone());
    for (name, record) in revisions(store.records(), digest)? {
        target.write(REVISIONS, &name, &record)?;
    }
    Ok(())
}

fn revisions(records: &Records, digest: Digest) -> Result<Vec<(String, serde_json::Value)>, Error> {
    let hex = digest.to_hex();
    let mut found = Vec::new();
    for name in records.list(REVISIONS)? {
        if let Some(record) = records.read::<serde_json::Value>(REVISIONS, &name)?
            && record.get("manifest").and_then(serde_json::Value::as_str) == Some(&hex)
        {
            found.push((name, record));
        }
    }
    Ok(found)
}

/// Brings everything of a bundle into the store, which must have been opened with the bundle among its seeds,
/// and lays it out.
pub async fn import(
    store: &Arc<Store>,
    bundle: &Path,
    watch: Watch,
) -> Result<Vec<Imported>, Error> {
    let mut imported = Vec::new();
    for digest in manifests(bundle)? {
        let manifest = read_manifest(bundle, digest)?;
        watch
            .progress
            .expect(manifest.total_bytes(), manifest.files().len() as u64);
        watch.progress.enter(Phase::Transfer);
        imported.push(import_one(store, bundle, manifest, &watch).await?);
    }
    Ok(imported)
}

async fn import_one(
    store: &Arc<Store>,
    bundle: &Path,
    manifest: Manifest,
    watch: &Watch,
) -> Result<Imported, Error> {
    let digest = manifest.digest();
    let lease = store.leases().hold(
        Holder::new(format!("import:{}", std::process::id())),
        digest,
    );
    let stage = store.leases().guard_stage();
    let reservation = store
        .reserve(manifest.total_bytes(), manifest.files().len() as u64)
        .await?;
    for file in manifest.files() {
        if watch.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if !store.find(file.digest, file.size).await? {
            return Err(Error::Missing {
                path: file.path.to_string(),
            });
        }
        watch.progress.add_bytes(file.size);
        watch.progress.add_file();
    }
    store.put_manifest(&manifest).await?;
    drop(reservation);
    let bundled = Records::new(Arc::new(OsDisk::new()), Layout::new(bundle));
    for (name, record) in revisions(&bundled, digest)? {
        store.records().write(REVISIONS, &name, &record)?;
    }
    watch.progress.enter(Phase::View);
    let views = Views::new(Arc::clone(store));
    let (view, manifest) = tokio::task::spawn_blocking(move || {
        views
            .ensure(&digest, &manifest)
            .map(|view| (view, manifest))
    })
    .await
    .map_err(|_| Error::Thread)??;
    drop(stage);
    Ok(Imported {
        digest,
        manifest,
        view,
        lease,
    })
}

fn manifests(bundle: &Path) -> Result<Vec<Digest>, Error> {
    let directory = bundle.join("manifests");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && bundle.is_dir() => {
            return Err(Error::NotABundle(bundle.to_path_buf()));
        }
        Err(error) => {
            return Err(Err::<(), _>(error)
                .at("list", &directory)
                .err()
                .map_or(Error::Thread, Error::Path));
        }
    };
    let mut digests: Vec<Digest> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    digests.sort();
    if digests.is_empty() {
        return Err(Error::NotABundle(bundle.to_path_buf()));
    }
    Ok(digests)
}

fn read_manifest(bundle: &Path, digest: Digest) -> Result<Manifest, Error> {
    let path = bundle.join("manifests").join(digest.to_hex());
    let bytes = std::fs::read(&path).at("read", &path)?;
    if Digest::of(&bytes) != digest {
        return Err(Error::Manifest {
            digest,
            source: None,
        });
    }
    Manifest::decode(&bytes).map_err(|error| Error::Manifest {
        digest,
        source: Some(error),
    })
}

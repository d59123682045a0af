//! The controller's records of volumes: one per `CreateVolume` name, written once, immutable. This file owns the seam
//! ([`VolumeRecords`]), what a volume is, and the implementation over files; [`VolumeObjects`] is the one of a cluster.
//!
//! ```text
//! <directory>/<volume id>.json     {"name":…,"attributes":{…},"capacity_bytes":…,"claim":{…}}
//! volume id = "v1-" + the first 32 characters of the base32 (RFC 4648, lower case) BLAKE3 of the name
//! ```

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tonnage_cache::digest::Digest;
use tonnage_cache::error::{IoContext, Kind, PathError};

use crate::volume::{Attributes, VolumeId};

mod objects;

pub use objects::VolumeObjects;

const ID_PREFIX: &str = "v1-";
const ID_LENGTH: usize = 32;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A volume as it was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Name of the `CreateVolume` request.
    pub name: String,
    /// What it shows.
    pub attributes: Attributes,
    /// Size that the claim asked for, in bytes; 0 if none.
    pub capacity_bytes: u64,
    /// The claim that it was made for, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
}

/// A claim of some namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Volume {
    /// The id that follows from the name.
    pub fn id(&self) -> VolumeIdText {
        id_of(&self.name)
    }
}

/// Text of a volume id made here.
pub type VolumeIdText = String;

/// The volume id for a `CreateVolume` name.
pub fn id_of(name: &str) -> VolumeIdText {
    let digest = Digest::of(name.as_bytes());
    let mut text = ID_PREFIX.to_owned();
    let mut bits = 0u32;
    let mut held = 0u32;
    for byte in digest.as_bytes() {
        bits = (bits << 8) | u32::from(*byte);
        held = held.saturating_add(8);
        while held >= 5 && text.len() < ID_PREFIX.len() + ID_LENGTH {
            held = held.saturating_sub(5);
            let index = usize::try_from((bits >> held) & 31).unwrap_or_default();
            text.push(char::from(BASE32.get(index).copied().unwrap_or(b'a')));
        }
        bits &= 0xffff;
    }
    text
}

/// Whether an id has the shape of those made here; any other text is not known to be safe in a path.
fn is_made_here(id: &str) -> bool {
    id.strip_prefix(ID_PREFIX).is_some_and(|rest| {
        rest.len() == ID_LENGTH && rest.bytes().all(|byte| BASE32.contains(&byte))
    })
}

/// What went wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A record cannot be read.
    #[error("the record {} cannot be read", path.display())]
    Damaged {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A Volume object cannot be understood.
    #[error("the Volume {name} cannot be understood ({why}): delete it and make its claim again")]
    Object {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The API server refuses a Volume object for what is in it.
    #[error("the API server refuses the Volume {name}: {why}")]
    Refused {
        /// Its name.
        name: String,
        /// What the API server says.
        why: String,
    },
    /// The controller's service account may not.
    #[error(
        "the API server does not let the controller {verb} Volumes: its ClusterRole needs the verb {verb} for volumes.tonnage.dev"
    )]
    Forbidden {
        /// The verb that is missing.
        verb: &'static str,
    },
    /// The API server did not do it now.
    #[error("the API server did not {verb} the Volume ({why}); this is tried again by itself")]
    Unavailable {
        /// What it was asked to do.
        verb: &'static str,
        /// Why it did not.
        why: String,
    },
    /// A background task died.
    #[error("a background task ended early")]
    Task,
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Path(error) => error.kind(),
            Self::Damaged { .. } | Self::Object { .. } => Kind::Corrupt,
            Self::Refused { .. } => Kind::Invalid,
            Self::Forbidden { .. } => Kind::Denied,
            Self::Unavailable { .. } => Kind::Transient,
            Self::Task => Kind::Internal,
        }
    }
}

/// Where volumes are recorded.
pub trait VolumeRecords: fmt::Debug + Send + Sync {
    /// Records a volume unless its id is taken; returns what is recorded now. Of concurrent calls one wins, and
    /// all see its volume.
    fn create<'a>(&'a self, volume: &'a Volume) -> BoxFuture<'a, Result<Volume, Error>>;

    /// The volume with this id.
    fn find<'a>(&'a self, id: &'a VolumeId) -> BoxFuture<'a, Result<Option<Volume>, Error>>;

    /// Removes the record; absent is fine. Nothing at the source is touched.
    fn delete<'a>(&'a self, id: &'a VolumeId) -> BoxFuture<'a, Result<(), Error>>;
}

/// Records as files of one directory.
#[derive(Debug, Clone)]
pub struct VolumeFiles {
    directory: PathBuf,
    serial: Arc<AtomicU64>,
}

impl VolumeFiles {
    /// Uses, and if need be makes, `directory`. What an interrupted write has left there is removed. Blocking.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(directory).at("make", directory)?;
        for entry in std::fs::read_dir(directory).at("list", directory)? {
            let path = entry.at("list", directory)?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                std::fs::remove_file(&path).at("remove", &path)?;
            }
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            serial: Arc::default(),
        })
    }

    /// `None` for an id that was not made here: its text is not known to be safe.
    fn path(&self, id: &str) -> Option<PathBuf> {
        is_made_here(id).then(|| self.directory.join(format!("{id}.json")))
    }

    fn create_now(&self, volume: &Volume) -> Result<Volume, Error> {
        let path = self.directory.join(format!("{}.json", volume.id()));
        if let Some(known) = read(&path)? {
            return Ok(known);
        }
        let fresh = self
            .directory
            .join(format!("{}.{}.new", volume.id(), self.unique()));
        let linked = write(&fresh, volume).and_then(|()| match std::fs::hard_link(&fresh, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => Ok(result.at("link", &path)?),
        });
        let removed = std::fs::remove_file(&fresh).at("remove", &fresh);
        linked?;
        removed?;
        sync_directory(&self.directory)?;
        read(&path)?.ok_or_else(|| {
            PathError {
                operation: "read",
                path,
                source: io::ErrorKind::NotFound.into(),
            }
            .into()
        })
    }

    /// Different for every call of every process on this machine.
    fn unique(&self) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{}-{serial}", std::process::id())
    }

    fn delete_now(&self, path: &Path) -> Result<(), Error> {
        match std::fs::remove_file(path) {
            Ok(()) => sync_directory(&self.directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Err::<(), _>(error)
                .at("remove", path)
                .err()
                .map_or(Error::Task, Error::from)),
        }
    }
}

fn read(path: &Path) -> Result<Option<Volume>, Error> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.at("read", path)?,
    };
    let damaged = |source| Error::Damaged {
        path: path.to_path_buf(),
        source,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

fn write(path: &Path, volume: &Volume) -> Result<(), Error> {
    let damaged = |source| Error::Damaged {
        path: path.to_path_buf(),
        source,
    };
    let bytes = serde_json::to_vec(volume).map_err(damaged)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .at("make", path)?;
    file.write_all(&bytes).at("write", path)?;
    Ok(file.sync_all().at("sync", path)?)
}

fn sync_directory(directory: &Path) -> Result<(), Error> {
    let file = File::open(directory).at("open", directory)?;
    Ok(file.sync_all().at("sync", directory)?)
}

impl VolumeRecords for VolumeFiles {
    fn create<'a>(&'a self, volume: &'a Volume) -> BoxFuture<'a, Result<Volume, Error>> {
        let (this, volume) = (self.clone(), volume.clone());
        blocking(move || this.create_now(&volume))
    }

    fn find<'a>(&'a self, id: &'a VolumeId) -> BoxFuture<'a, Result<Option<Volume>, Error>> {
        let path = self.path(id.as_str());
        blocking(move || path.map_or(Ok(None), |path| read(&path)))
    }

    fn delete<'a>(&'a self, id: &'a VolumeId) -> BoxFuture<'a, Result<(), Error>> {
        let (this, path) = (self.clone(), self.path(id.as_str()));
        blocking(move || path.map_or(Ok(()), |path| this.delete_now(&path)))
    }
}

fn blocking<'a, T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> BoxFuture<'a, Result<T, Error>> {
    Box::pin(async move {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Error::Task)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, path: &str) -> Volume {
        let attributes = Attributes {
            source: "models".to_owned(),
            path: path.to_owned(),
            ..Attributes::default()
        };
        Volume {
            name: name.to_owned(),
            attributes,
            capacity_bytes: 7,
            claim: None,
        }
    }

    #[test]
    fn ids_are_golden() {
        // Independent: python3 -c "import base64, blake3; print(base64.b32encode(blake3.blake3(b'pvc-1').digest())[:32].lower())"
        let id = id_of("pvc-1");
        assert_eq!(id.len(), 35);
        let digest = Digest::of(b"pvc-1");
        let mut expected = 0u128;
        for byte in &digest.as_bytes()[..15] {
            expected = expected << 8 | u128::from(*byte);
        }
        let text = &id[3..27];
        let decoded = text.bytes().fold(0u128, |sum, byte| {
            sum << 5 | BASE32.iter().position(|it| *it == byte).unwrap() as u128
        });
        assert_eq!(decoded, expected);
        assert_ne!(id_of("pvc-2"), id);
    }

    #[tokio::test]
    async fn the_first_of_a_name_wins_and_lasts_until_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let files = VolumeFiles::open(directory.path()).unwrap();
        let first = volume("pvc-1", "a");
        assert_eq!(files.create(&first).await.unwrap(), first);
        assert_eq!(files.create(&volume("pvc-1", "b")).await.unwrap(), first);
        let id = VolumeId::parse(&first.id()).unwrap();
        let reopened = VolumeFiles::open(directory.path()).unwrap();
        assert_eq!(reopened.find(&id).await.unwrap(), Some(first));
        files.delete(&id).await.unwrap();
        files.delete(&id).await.unwrap();
        assert_eq!(files.find(&id).await.unwrap(), None);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn records_from_before_claims_were_recorded_can_still_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let files = VolumeFiles::open(directory.path()).unwrap();
        let first = volume("pvc-1", "a");
        files.create(&first).await.unwrap();
        let path = directory.path().join(format!("{}.json", first.id()));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(!text.contains("claim"), "{text}");
        let claim = Claim {
            namespace: "team".to_owned(),
            name: "llama".to_owned(),
        };
        let second = Volume {
            claim: Some(claim),
            ..volume("pvc-2", "a")
        };
        assert_eq!(files.create(&second).await.unwrap(), second);
    }

    #[tokio::test]
    async fn of_many_at_once_one_wins_and_all_see_it() {
        let directory = tempfile::tempdir().unwrap();
        let files = VolumeFiles::open(directory.path()).unwrap();
        let volumes: Vec<Volume> = (0..16).map(|n| volume("pvc-1", &format!("p{n}"))).collect();
        let created =
            futures::future::join_all(volumes.iter().map(|volume| files.create(volume))).await;
        let winner = created[0].as_ref().unwrap();
        assert!(
            created
                .iter()
                .all(|volume| volume.as_ref().unwrap() == winner)
        );
    }

    #[tokio::test]
    async fn an_id_from_elsewhere_is_absent_and_names_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let files = VolumeFiles::open(&directory.path().join("volumes")).unwrap();
        std::fs::write(directory.path().join("x.json"), "keep").unwrap();
        for id in ["../x", "v1-../x", "fake-vol-id", "/etc/passwd"] {
            let id = VolumeId::parse(id).unwrap();
            assert_eq!(files.find(&id).await.unwrap(), None);
            files.delete(&id).await.unwrap();
        }
        assert!(directory.path().join("x.json").exists());
    }
}

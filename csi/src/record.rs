//! What is published on this node: one record per target, in memory and as store records of kind `volumes`, each with the
//! lease that keeps its view from eviction.
//!
//! Invariants: a record is written before its mount is made and removed after it is gone, so no mount of ours lacks
//! one; a record of another boot is dropped, because its mounts died with that boot. A volume that outlives its pods
//! (a claim) has a pin beside it: the first revision that was published here is its only one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tonnage_cache::digest::Digest;
use tonnage_cache::store::{self, Holder, Lease, Leases, Records};

use crate::volume::{PublishIdentity, VolumeId};

/// Kind of the records of published targets.
pub const VOLUMES: &str = "volumes";
/// Kind of the records that pin a claim to its revision.
pub const CLAIMS: &str = "claims";
/// A claim that no pod used for this long is forgotten: 90 days.
const CLAIM_MILLIS: u64 = 90 * 24 * 3600 * 1000;

/// One published target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Target, below kubelet's directory.
    pub target: PathBuf,
    /// What was asked for; `None` if the record was rebuilt from a mount.
    pub identity: Option<PublishIdentity>,
    /// Name of the view's directory.
    pub view: String,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Fingerprint of the revision.
    pub fingerprint: Option<Digest>,
    /// Bytes of the volume.
    pub bytes: u64,
    /// Files of the volume.
    pub files: u64,
    /// Boot in which it was mounted.
    pub boot_id: String,
    /// When, in milliseconds since the Unix epoch.
    pub since_millis: u64,
    /// Namespace of the pod; `None` if the record was rebuilt from a mount, or written before there were quotas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Record {
    /// Whether the record is of this volume; a rebuilt one is of any.
    pub fn is_of(&self, volume: &VolumeId) -> bool {
        self.identity
            .as_ref()
            .is_none_or(|identity| identity.volume_id == *volume)
    }

    fn name(target: &Path) -> String {
        Digest::of(target.as_os_str().as_encoded_bytes()).to_hex()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    volume_id: VolumeId,
    fingerprint: Digest,
    used_millis: u64,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    _lease: Lease,
}

/// All published targets of this node.
#[derive(Debug)]
pub struct Published {
    records: Records,
    leases: Leases,
    entries: Mutex<HashMap<PathBuf, Entry>>,
}

impl Published {
    /// Reads the records of this boot and drops those of others. Blocking.
    pub fn open(
        records: Records,
        leases: Leases,
        boot_id: &str,
        now_millis: u64,
    ) -> Result<Self, store::Error> {
        let published = Self {
            records,
            leases,
            entries: Mutex::default(),
        };
        for name in published.records.list(VOLUMES)? {
            let Some(record) = published.records.read::<Record>(VOLUMES, &name)? else {
                continue;
            };
            if record.boot_id == boot_id && Record::name(&record.target) == name {
                published.keep(record);
            } else {
                published.records.remove(VOLUMES, &name)?;
            }
        }
        for name in published.records.list(CLAIMS)? {
            let claim = published.records.read::<Claim>(CLAIMS, &name)?;
            if claim
                .is_some_and(|claim| now_millis.saturating_sub(claim.used_millis) > CLAIM_MILLIS)
            {
                published.records.remove(CLAIMS, &name)?;
            }
        }
        Ok(published)
    }

    /// The record of a target.
    pub fn find(&self, target: &Path) -> Option<Record> {
        self.lock().get(target).map(|entry| entry.record.clone())
    }

    /// All records.
    pub fn all(&self) -> Vec<Record> {
        self.lock()
            .values()
            .map(|entry| entry.record.clone())
            .collect()
    }

    /// Targets of a volume.
    pub fn targets_of(&self, volume: &VolumeId) -> Vec<PathBuf> {
        let of_it = |entry: &&Entry| {
            entry
                .record
                .identity
                .as_ref()
                .is_some_and(|it| it.volume_id == *volume)
        };
        self.lock()
            .values()
            .filter(of_it)
            .map(|entry| entry.record.target.clone())
            .collect()
    }

    /// How many targets are published.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Writes a record and takes its lease. Blocking.
    pub fn insert(&self, record: Record) -> Result<(), store::Error> {
        self.records
            .write(VOLUMES, &Record::name(&record.target), &record)?;
        self.keep(record);
        Ok(())
    }

    /// Removes a record and gives its lease back; absent is fine. Blocking.
    pub fn remove(&self, target: &Path) -> Result<(), store::Error> {
        self.records.remove(VOLUMES, &Record::name(target))?;
        let removed = self.lock().remove(target);
        drop(removed);
        Ok(())
    }

    /// The revision that a claim is bound to on this node. Blocking.
    pub fn claimed(&self, volume: &VolumeId) -> Result<Option<Digest>, store::Error> {
        let claim = self.records.read::<Claim>(CLAIMS, &volume.file_name())?;
        Ok(claim
            .filter(|claim| claim.volume_id == *volume)
            .map(|claim| claim.fingerprint))
    }

    /// Binds a claim to a revision, or notes that it was used. Blocking.
    pub fn claim(
        &self,
        volume: &VolumeId,
        fingerprint: Digest,
        now_millis: u64,
    ) -> Result<(), store::Error> {
        let claim = Claim {
            volume_id: volume.clone(),
            fingerprint,
            used_millis: now_millis,
        };
        self.records.write(CLAIMS, &volume.file_name(), &claim)
    }

    fn keep(&self, record: Record) {
        let holder = Holder::new(format!("volume:{}", Record::name(&record.target)));
        let lease = self.leases.hold(holder, record.manifest);
        let replaced = self.lock().insert(
            record.target.clone(),
            Entry {
                record,
                _lease: lease,
            },
        );
        drop(replaced);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

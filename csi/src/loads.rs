//! Finished loads: what each pod waited for. A [`Load`] goes to every [`Observer`] (metrics, traces, the log)
//! and the newest are kept as store records of kind `loads`, which `tonnage loads` reads without the lock.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::Code;
use tonnage_cache::digest::Digest;
use tonnage_cache::report::Report;
use tonnage_cache::store::{self, Records};

use crate::volume::PodInfo;

/// Kind of the records.
pub const RECORDS: &str = "loads";
/// How many are kept.
const KEPT: usize = 100;

/// The account of one load: from the first call to the mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// When it ended, in milliseconds since the Unix epoch.
    pub ended_millis: u64,
    /// Volume id; empty on the command line.
    pub volume: String,
    /// The pod, as kubelet describes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<PodInfo>,
    /// Name of the source.
    pub source: String,
    /// Path at the source.
    pub path: String,
    /// Fingerprint of the revision.
    pub revision: Digest,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Where the time went; the phases add up to the wall time.
    #[serde(flatten)]
    pub report: Report,
}

impl Load {
    /// Wall time.
    pub fn total(&self) -> Duration {
        self.report.total()
    }
}

#[cfg(test)]
impl Load {
    /// The load of a pod, for tests.
    pub(crate) fn of_a_pod(ended_millis: u64, report: Report) -> Self {
        Self {
            ended_millis,
            volume: "csi-1".to_owned(),
            pod: Some(PodInfo {
                name: "server-0".to_owned(),
                namespace: "team".to_owned(),
                uid: "3f2a".to_owned(),
                service_account: "default".to_owned(),
            }),
            source: "models".to_owned(),
            path: "llama-3.1-8b".to_owned(),
            revision: Digest::of(b"r"),
            digest: Digest::of(b"m"),
            report,
        }
    }
}

/// Learns of what happened. Called from blocking threads; must not block for long.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A volume was published that was not before.
    fn load_ended(&self, load: &Load);

    /// A call was answered.
    fn call_ended(&self, rpc: &'static str, code: Code, time: Duration);

    /// The number of published targets changed.
    fn published(&self, targets: usize);
}

/// Keeps the newest loads in the store.
#[derive(Debug)]
pub struct Journal {
    records: Records,
    serial: Mutex<u32>,
}

impl Journal {
    /// A journal in these records.
    pub fn new(records: Records) -> Self {
        Self {
            records,
            serial: Mutex::default(),
        }
    }

    /// Adds a load and drops the oldest beyond the limit. Blocking.
    pub fn add(&self, load: &Load) -> Result<(), store::Error> {
        let mut serial = self
            .serial
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *serial = serial.wrapping_add(1);
        let process = std::process::id();
        let name = format!("{:016}-{process}-{:08}", load.ended_millis, *serial);
        self.records.write(RECORDS, &name, load)?;
        let names = self.records.list(RECORDS)?;
        let excess = names.len().saturating_sub(KEPT);
        for name in names.iter().take(excess) {
            self.records.remove(RECORDS, name)?;
        }
        Ok(())
    }
}

impl Observer for Journal {
    fn load_ended(&self, load: &Load) {
        if let Err(error) = self.add(load) {
            // A report is worth less than the volume that it is about.
            tracing::warn!(error = %tonnage_cache::error::chain(&error), "a load report could not be kept");
        }
    }

    fn call_ended(&self, _rpc: &'static str, _code: Code, _time: Duration) {}

    fn published(&self, _targets: usize) {}
}

/// The newest loads, newest first, at most `count`. Blocking; needs no lock.
pub fn recent(records: &Records, count: usize) -> Result<Vec<Load>, store::Error> {
    let names = records.list(RECORDS)?;
    let mut loads = Vec::new();
    for name in names.iter().rev().take(count) {
        loads.extend(records.read(RECORDS, name)?);
    }
    Ok(loads)
}

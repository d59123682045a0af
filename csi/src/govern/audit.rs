//! The audit log: one JSON line for every decision, about who, what, by which policy, and how many bytes.
//!
//! ```text
//! {"audit":"v1","time":"2026-11-27T03:44:23.5Z","event":"Deny","timeUnixMillis":1795751063500,"who":{…},"what":{…},…}
//! {"audit":"v1","dropped":17,"timeUnixMillis":1795751063600}
//! ```
//!
//! * **A line is a line**: printable ASCII (everything else is escaped, so that no key forges a line or moves a cursor), at most
//!   4 KiB. What does not fit is cut, and `cut` says what; the event, its time and its bytes never are.
//! * **It is told from the service's own log**, which is JSON on standard error and never begins with `{"audit":`:
//!   `kubectl logs … | grep '^{"audit":'`.
//! * **No load waits for it**: lines go through a bounded queue to a thread of their own. A line that finds the queue full is
//!   dropped and counted, and the next one that is written is preceded by how many were.
//!
//! It decides nothing, and it is not the ledger: what it says of bytes is for people and for `tonnage policy simulate`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonnage_cache::error::{IoContext as _, PathError};

use crate::egress::compiled::Compiled;
use crate::egress::policy::{What, Who};
use crate::egress::terms::{Account, PolicyUid};

mod line;

pub use line::{LONGEST, Line, Read, read};

/// Most lines that wait to be written.
const WAITING: usize = 1024;
/// How long the end of the service waits for lines that are not written yet.
const GRACE: Duration = Duration::from_secs(2);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Event {
    /// Something may be loaded.
    Allow,
    /// Something may not be loaded.
    Deny,
    /// With who asked: bytes of budgets were set aside for a load, as many as it foresees. With an account and without: the node has asked
    /// the controller for bytes of that budget.
    Reserve,
    /// By a node: a load is over, or paused, and this is what it took. By the controller, with an account and without who asked:
    /// this is what was spent of a grant, the same bytes.
    Settle,
    /// By the controller: a node was granted bytes of a budget. By the node: it has the answer, which may be none and says why.
    Grant,
    /// A policy only watched, in an emergency.
    Override,
    /// A policy in mode `Audit` would have denied it.
    WouldDeny,
}

/// Who asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhoLine {
    /// Namespace of the service account.
    pub namespace: String,
    /// Labels of that namespace at that time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Name of the service account.
    pub service_account: String,
    /// Uid of the pod, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhatLine {
    /// Name of the source.
    pub source: String,
    /// Host that is connected to.
    #[serde(default)]
    pub host: String,
    /// Bucket or container; empty for a web server.
    #[serde(default)]
    pub bucket: String,
    /// Path from the root of the bucket or web server.
    #[serde(default)]
    pub path: String,
    /// Whether the volume names the digest of its content.
    #[serde(default)]
    pub has_digest: bool,
    /// Fingerprint of the revision, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// A policy that took part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyLine {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: PolicyUid,
    /// The generation that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// When, in milliseconds since 1970 (UTC).
    pub time_unix_millis: u64,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<WhoLine>,
    /// For what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<WhatLine>,
    /// Which policies took part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyLine>,
    /// By which rule: `research allow[0]`, or one word for why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The budget that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// Name of the `CacheQuota` in the namespace of who asked, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<String>,
    /// The node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How many bytes it is about.
    #[serde(default)]
    pub bytes: u64,
    /// The sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Entry {
    /// An event about nothing yet.
    pub const fn of(event: Event, time_unix_millis: u64) -> Self {
        Self {
            event,
            time_unix_millis,
            who: None,
            what: None,
            policies: Vec::new(),
            rule: None,
            account: None,
            quota: None,
            node: None,
            bytes: 0,
            reason: None,
        }
    }
}

impl WhoLine {
    /// Who asks, as a decision takes it.
    pub fn of(who: &Who<'_>, pod_uid: Option<&str>) -> Self {
        Self {
            namespace: who.namespace.to_owned(),
            labels: who.labels.clone(),
            service_account: who.service_account.to_owned(),
            pod_uid: pod_uid.map(str::to_owned),
        }
    }
}

impl WhatLine {
    /// What is asked for, as a decision takes it.
    pub fn of(what: &What<'_>, revision: Option<&str>) -> Self {
        Self {
            source: what.source.to_owned(),
            host: what.host.to_owned(),
            bucket: what.bucket.to_owned(),
            path: what.path.to_owned(),
            has_digest: what.has_digest,
            revision: revision.map(str::to_owned),
        }
    }
}

impl PolicyLine {
    /// A policy as it decides now.
    pub fn of(policy: &Compiled) -> Self {
        Self {
            name: policy.name.clone(),
            uid: policy.uid.clone(),
            generation: policy.generation,
        }
    }
}

/// Where decisions are written. Clones share the queue; when the last one goes, what waits is written, for at most two
/// seconds.
#[derive(Debug, Clone)]
pub struct Audit {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` at the end, which ends the thread.
    queue: Option<SyncSender<Waiting>>,
    dropped: Arc<AtomicU64>,
    /// Says nothing, and is closed when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

/// A line that is to be written.
#[derive(Debug)]
struct Waiting {
    time_unix_millis: u64,
    text: String,
}

impl Audit {
    /// Writes to standard output, which `kubectl logs` shows beside the log.
    pub fn to_log() -> Self {
        Self::to(std::io::stdout())
    }

    /// Appends to a file, which only its owner and group may read if it is made now.
    pub fn to_file(path: &Path) -> Result<Self, PathError> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o640);
        Ok(Self::to(options.open(path).at("open", path)?))
    }

    /// Writes to anything, on a thread of its own.
    pub fn to(sink: impl Write + Send + 'static) -> Self {
        let (queue, lines) = sync_channel(WAITING);
        let (end, ended) = channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            sink,
            dropped: Arc::clone(&dropped),
            told: 0,
            fails: false,
            _end: end,
        };
        let thread = std::thread::Builder::new().name("audit".to_owned());
        if let Err(error) = thread.spawn(move || writer.run(&lines)) {
            // The queue has no reader then: every line is counted as dropped.
            tracing::error!(%error, "the audit log cannot be written");
        }
        Self {
            shared: Arc::new(Shared {
                queue: Some(queue),
                dropped,
                ended: Mutex::new(ended),
            }),
        }
    }

    /// Writes a line soon; never waits.
    pub fn record(&self, entry: &Entry) {
        let waiting = Waiting {
            time_unix_millis: entry.time_unix_millis,
            text: line::written(entry),
        };
        let queue = self.shared.queue.as_ref();
        if queue.is_none_or(|queue| queue.try_send(waiting).is_err()) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines were dropped since the start, because they came faster than they could be written.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.queue.take());
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        // An error in any case: that the thread has ended, or that it takes too long.
        let _ended = ended.recv_timeout(GRACE);
    }
}

/// The thread's part.
struct Writer<W> {
    sink: W,
    dropped: Arc<AtomicU64>,
    /// How many of the dropped lines were told of.
    told: u64,
    /// Whether the last line could not be written, so that it is told once.
    fails: bool,
    _end: Sender<()>,
}

impl<W: Write> Writer<W> {
    fn run(mut self, lines: &Receiver<Waiting>) {
        let mut time_unix_millis = 0;
        for waiting in lines {
            time_unix_millis = waiting.time_unix_millis;
            self.tell_dropped(time_unix_millis);
            if !self.write(waiting.text) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.tell_dropped(time_unix_millis);
    }

    fn tell_dropped(&mut self, time_unix_millis: u64) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let news = dropped.saturating_sub(self.told);
        if news > 0 && self.write(line::dropped(news, time_unix_millis)) {
            self.told = dropped;
        }
    }

    /// Writes a line in one piece, so that two writers of one file do not mix, and says whether it could be.
    fn write(&mut self, mut text: String) -> bool {
        text.push('\n');
        let written = self.sink.write_all(text.as_bytes());
        let written = written.and_then(|()| self.sink.flush());
        if let Err(error) = &written
            && !self.fails
        {
            tracing::warn!(%error, "a line of the audit log cannot be written");
        }
        self.fails = written.is_err();
        !self.fails
    }
}

#[cfg(test)]
pub(crate) mod paper;
#[cfg(test)]
mod tests;

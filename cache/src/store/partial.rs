//! Files that are being written: preallocated data and a journal of finished parts, kept for resume.
//!
//! ```text
//! partial/<key>/data      the file, as long as it will be, rounded up to 4 KiB
//! partial/<key>/journal   see journal.rs
//! ```
//! Invariants: one writer per key; a part counts as written only if its write returned (this process) or if reading
//! it again gives the journal's hash (an earlier one); a dropped [`Partial`] stays for resume.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::begin::Claim;
use super::error::Error;
use super::write_back::WriteBack;
use super::{Shared, Store};
use crate::buffer::{Buffer, CAPACITY};
use crate::digest::{Digest, PART_SIZE, PartHash, combine, part_length};
use crate::disk::{Desk, Handle, Job, Running};
use crate::error::IoContext;
use crate::journal;

/// Names one version of one object of one source.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct PartialKey(Digest);

impl PartialKey {
    /// The BLAKE3 of all that tells one object version from another; each text is preceded by its length.
    pub fn new(uid: &str, key: &str, etag: &str, version: &str, modified: u64, size: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"tonnage partial 1");
        for text in [uid, key, etag, version] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&modified.to_le_bytes());
        hasher.update(&size.to_le_bytes());
        Self(Digest::from_bytes(*hasher.finalize().as_bytes()))
    }

    /// Wraps 32 bytes that were a key.
    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Digest::from_bytes(bytes))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// 64 hexadecimal digits: the directory's name.
    pub fn to_hex(&self) -> String {
        self.0.to_hex()
    }
}

/// How pages are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// Past the page cache; durable before it is named.
    Direct,
    /// Through the page cache, with early write-back; named first, durable soon after.
    Warm,
}

/// A file that is being written.
#[derive(Debug)]
pub struct Partial {
    pub(super) store: Arc<Store>,
    pub(super) body: Arc<Body>,
    pub(super) verified: Vec<Option<PartHash>>,
}

/// A part that is complete in memory.
#[derive(Debug)]
pub struct Part {
    /// Its number in the file.
    pub index: u64,
    /// Its bytes, which must be those that were hashed.
    pub buffer: Buffer,
    /// How many bytes of the buffer.
    pub length: usize,
    /// Their hash.
    pub hash: PartHash,
}

/// A part that has been written.
#[derive(Debug)]
pub struct Wrote {
    /// The part's buffer.
    pub buffer: Buffer,
    /// Processor time of writing it to memory; `None` if it went past the page cache.
    pub memory_time: Option<Duration>,
}

/// The write of one part, as an I/O thread does it.
#[derive(Debug)]
pub struct PartWrite {
    body: Arc<Body>,
    part: Part,
    write_back: Arc<WriteBack>,
}

impl Job for PartWrite {
    type Answer = Result<Wrote, Error>;

    fn run(self) -> Self::Answer {
        self.body.write(self.part, &self.write_back)
    }
}

/// What a commit yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The object's name.
    pub digest: Digest,
    /// It was there already; the new bytes were dropped.
    pub deduplicated: bool,
}

/// The part of a [`Partial`] that jobs on the I/O threads share; the key is busy until the last of them ends.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) _claim: Claim,
    pub(super) shared: Arc<Shared>,
    pub(super) size: u64,
    pub(super) directory: PathBuf,
    pub(super) buffered: Arc<Handle>,
    pub(super) direct: Option<Handle>,
    pub(super) journal: Handle,
    pub(super) parts: Mutex<Vec<Option<PartHash>>>,
    pub(super) writes_direct: AtomicBool,
    pub(super) wrote_warm: AtomicBool,
}
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Body {
    fn write(&self, part: Part, write_back: &WriteBack) -> Result<Wrote, Error> {
        let Part {
            index,
            mut buffer,
            length,
            hash,
        } = part;
        if length == 0 || length as u64 != part_length(self.size, index) {
            return Err(Error::Part {
                index,
                length: length as u64,
                size: self.size,
            });
        }
        let disk = &*self.shared.disk;
        let offset = index.saturating_mul(PART_SIZE);
        let handle = self
            .direct
            .as_ref()
            .filter(|_| self.writes_direct.load(Ordering::Relaxed));
        let path = self.buffered.path();
        fail::fail_point!("store::partial::before_write");
        let mut memory_time = None;
        let buffer = if let Some(direct) = handle {
            let rounded = length.next_multiple_of(4096).min(CAPACITY);
            if let Some(pad) = buffer.bytes_mut().get_mut(length..rounded) {
                pad.fill(0);
            }
            disk.write_at(direct, buffer, rounded, offset)
                .at("write", path)?
        } else {
            self.wrote_warm.store(true, Ordering::Relaxed);
            let clock = &*self.shared.clock;
            let start = clock.thread_cpu();
            let buffer = disk
                .write_at(&self.buffered, buffer, length, offset)
                .at("write", path)?;
            memory_time = Some(clock.thread_cpu().saturating_sub(start));
            write_back.begin(&self.buffered, offset, length as u64);
            buffer
        };
        fail::fail_point!("store::partial::after_write");
        self.note(index, hash);
        Ok(Wrote {
            buffer,
            memory_time,
        })
    }

    fn note(&self, index: u64, hash: PartHash) {
        // Without its record the part is only fetched once more after a crash.
        let record = journal::encode_record(index, &hash);
        if let Err(error) = self.shared.disk.append(&self.journal, &record) {
            tracing::warn!(path = %self.journal.path().display(), error = %error, "a part was not journalled");
        }
        let mut parts = lock(&self.parts);
        if let Some(part) = usize::try_from(index)
            .ok()
            .and_then(|index| parts.get_mut(index))
        {
            *part = Some(hash);
        }
    }

    /// All parts and the digest they make.
    fn combine(&self) -> Result<(Digest, Vec<PartHash>), Error> {
        let parts = lock(&self.parts);
        let missing = parts.iter().filter(|part| part.is_none()).count() as u64;
        let whole: Vec<PartHash> = parts.iter().flatten().copied().collect();
        combine(self.size, &whole)
            .filter(|_| missing == 0)
            .map(|digest| (digest, whole))
            .ok_or(Error::Incomplete { missing })
    }
}

impl Partial {
    /// For each part its hash if an earlier attempt wrote it: read again and believed.
    pub fn verified(&self) -> &[Option<PartHash>] {
        &self.verified
    }

    /// Begins to write a part and journal it. Several may be under way; the write ends even if nobody waits for it.
    pub fn begin_write(&self, desk: Desk<PartWrite>, part: Part) -> Running<PartWrite> {
        let write = PartWrite {
            body: Arc::clone(&self.body),
            part,
            write_back: Arc::clone(&self.store.write_back),
        };
        desk.begin(&self.store.threads, write)
    }

    /// Writes one part on a desk of its own, as [`Partial::begin_write`] does.
    pub async fn write(
        &self,
        index: u64,
        buffer: Buffer,
        length: usize,
        hash: PartHash,
    ) -> Result<Buffer, Error> {
        let part = Part {
            index,
            buffer,
            length,
            hash,
        };
        let (_desk, written) = self.begin_write(Desk::default(), part).await;
        Ok(written??.buffer)
    }

    /// Switches how the next parts are written; may change in mid-file.
    pub fn set_writing(&self, writing: Writing) {
        let direct = writing == Writing::Direct && self.body.direct.is_some();
        self.body.writes_direct.store(direct, Ordering::Relaxed);
    }

    /// Whether parts bypass the page cache now.
    pub fn is_direct(&self) -> bool {
        self.body.writes_direct.load(Ordering::Relaxed)
    }

    /// Makes the file an object. If any part was written warm, it may be linked at once and becomes durable soon
    /// after; otherwise it is durable when this returns. After a failed sync all of it is gone.
    pub async fn commit(self, expected: Option<Digest>) -> Result<Committed, Error> {
        let (digest, parts) = self.body.combine()?;
        let Self { store, body, .. } = self;
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            let error = Error::Mismatch {
                expected,
                found: digest,
            };
            return store
                .threads
                .run(move || body.refuse(&digest, error))
                .await?;
        }
        store.shared.leases.touch(digest);
        let permit = if body.wrote_warm.load(Ordering::Relaxed) {
            Some(store.sync_permit().await?)
        } else {
            None
        };
        let syncer = Arc::clone(&store.syncer);
        store
            .threads
            .run(move || match permit {
                Some(permit) => body.commit_warm(digest, &parts, permit, &syncer),
                None => body.commit_direct(digest, &parts),
            })
            .await?
    }

    /// Drops the file and its journal.
    pub async fn discard(self) -> Result<(), Error> {
        let Self { store, body, .. } = self;
        store.threads.run(move || body.discard()).await?
    }
}

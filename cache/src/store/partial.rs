//! Files that are being written: preallocated data and a journal of finished parts, kept for resume.
//!
//! ```text
//! partial/<key>/data      the file, as long as it will be, rounded up to 4 KiB
//! partial/<key>/journal   see journal.rs
//! ```
//! Invariants: one writer per key; a part counts as written only if its write returned (this process) or if reading
//! it again gives the journal's hash (an earlier one); a dropped [`Partial`] stays for resume.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::layout::ensure_directory;
use super::probe::is_unsupported;
use super::verify::{hash_one, open_direct};
use super::{Shared, Store, write_file};
use crate::buffer::{Buffer, CAPACITY};
use crate::digest::{Digest, PART_SIZE, PartHash, combine, part_count, part_length};
use crate::disk::{BLOCK, Handle, Open, Stat, absent_is_none, find};
use crate::error::{IoContext, Kind};
use crate::journal::{self, Journal};

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
    store: Arc<Store>,
    body: Arc<Body>,
    verified: Vec<Option<PartHash>>,
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
    _claim: Claim,
    pub(super) shared: Arc<Shared>,
    pub(super) size: u64,
    pub(super) directory: PathBuf,
    pub(super) buffered: Arc<Handle>,
    direct: Option<Handle>,
    journal: Handle,
    parts: Mutex<Vec<Option<PartHash>>>,
    writes_direct: AtomicBool,
    wrote_warm: AtomicBool,
}

/// The keys that are being written.
pub(super) type Active = Mutex<HashSet<PartialKey>>;

/// One key of them.
#[derive(Debug)]
struct Claim {
    shared: Arc<Shared>,
    key: PartialKey,
}

impl Claim {
    fn take(shared: &Arc<Shared>, key: PartialKey) -> Result<Self, Error> {
        let is_free = lock(&shared.active).insert(key);
        is_free
            .then(|| Self {
                shared: Arc::clone(shared),
                key,
            })
            .ok_or(Error::Busy)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.shared.active).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Starts or resumes the file `key` of `size` bytes; fails with [`Error::Busy`] while it is being written.
    pub async fn begin(
        self: &Arc<Self>,
        key: PartialKey,
        size: u64,
        writing: Writing,
    ) -> Result<Partial, Error> {
        let claim = Claim::take(&self.shared, key)?;
        let shared = Arc::clone(&self.shared);
        let opened = self
            .threads
            .run(move || open(&shared, claim, size))
            .await??;
        let verified = self.believe(&opened).await?;
        let shared = Arc::clone(&self.shared);
        let kept = verified.clone();
        let body = self
            .threads
            .run(move || prepare_or_evict(&shared, opened, kept, writing))
            .await??;
        self.shared.accounts.spend(size, 1);
        Ok(Partial {
            store: Arc::clone(self),
            body: Arc::new(body),
            verified,
        })
    }

    /// Reads every part that the journal claims, on all threads, and keeps those that hold what it says.
    async fn believe(&self, opened: &Opened) -> Result<Vec<Option<PartHash>>, Error> {
        let claimed: Vec<_> = (0u64..)
            .zip(&opened.claims)
            .filter_map(|(index, claim)| claim.map(|hash| (index, hash)))
            .collect();
        let mut believed = vec![None; opened.claims.len()];
        if claimed.is_empty() {
            return Ok(believed);
        }
        let share = claimed.len().div_ceil(self.threads.count());
        let jobs: Vec<_> = claimed
            .chunks(share)
            .map(|slice| {
                let shared = Arc::clone(&self.shared);
                let (path, size, slice) = (opened.data.clone(), opened.size, slice.to_vec());
                self.threads
                    .run(move || reread(&shared, &path, size, slice))
            })
            .collect();
        for job in jobs {
            for (index, hash) in job.await?? {
                if let Some(part) = usize::try_from(index)
                    .ok()
                    .and_then(|i| believed.get_mut(i))
                {
                    *part = Some(hash);
                }
            }
        }
        Ok(believed)
    }
}

/// A partial directory that was found or made.
struct Opened {
    claim: Claim,
    size: u64,
    data: PathBuf,
    claims: Vec<Option<PartHash>>,
    is_new: bool,
}

fn open(shared: &Shared, claim: Claim, size: u64) -> Result<Opened, Error> {
    let directory = shared.layout.partial(&claim.key);
    let data = directory.join("data");
    shared.restore_quarantined(&claim.key, size)?;
    let found = find(&*shared.disk, &data).at("read", &data)?;
    let claims = match found {
        Some(stat) => read_journal(shared, &claim.key, size, &stat)?,
        None => None,
    };
    let is_new = claims.is_none();
    if is_new {
        shared.discard(&directory)?;
    }
    let count = usize::try_from(part_count(size)).unwrap_or(usize::MAX);
    Ok(Opened {
        claim,
        size,
        data,
        claims: claims.unwrap_or_else(|| vec![None; count]),
        is_new,
    })
}

fn read_journal(
    shared: &Shared,
    key: &PartialKey,
    size: u64,
    data: &Stat,
) -> Result<Option<Vec<Option<PartHash>>>, Error> {
    let path = shared.layout.partial(key).join("journal");
    let bytes = absent_is_none(shared.disk.read(&path)).at("read", &path)?;
    let fits = |journal: &Journal| {
        journal.key == *key.as_bytes() && journal.length == size && data.size >= size
    };
    Ok(bytes
        .and_then(|bytes| journal::decode(&bytes))
        .filter(fits)
        .map(|journal| journal.parts))
}

fn reread(
    shared: &Shared,
    path: &std::path::Path,
    size: u64,
    claims: Vec<(u64, PartHash)>,
) -> Result<Vec<(u64, PartHash)>, Error> {
    let file = open_direct(&*shared.disk, path, shared.probe.direct)?;
    let mut buffer = Buffer::unpooled();
    let mut believed = Vec::new();
    for (index, claim) in claims {
        let (back, found) = hash_one(&*shared.disk, &file, buffer, size, index)?;
        buffer = back;
        if found == Some(claim) {
            believed.push((index, claim));
        }
    }
    Ok(believed)
}

/// Makes the files ready; a full disk gets one eviction and a second try.
fn prepare_or_evict(
    shared: &Arc<Shared>,
    opened: Opened,
    parts: Vec<Option<PartHash>>,
    writing: Writing,
) -> Result<Body, Error> {
    let directory = shared.layout.partial(&opened.claim.key);
    let mut made = handles(shared, &opened, &directory, &parts);
    if made.as_ref().is_err_and(is_full) {
        if opened.is_new {
            shared.discard(&directory)?;
        }
        shared.free_some(opened.size)?;
        made = handles(shared, &opened, &directory, &parts);
    }
    match made {
        Ok((buffered, direct, journal)) => Ok(Body {
            _claim: opened.claim,
            shared: Arc::clone(shared),
            size: opened.size,
            directory,
            writes_direct: AtomicBool::new(writing == Writing::Direct && direct.is_some()),
            // Parts of an earlier process may still be in the page cache; the sync in the commit covers them.
            wrote_warm: AtomicBool::new(false),
            buffered: Arc::new(buffered),
            direct,
            journal,
            parts: Mutex::new(parts),
        }),
        Err(error) => {
            if opened.is_new {
                shared.remove_quietly(&directory);
            }
            Err(error)
        }
    }
}

type Handles = (Handle, Option<Handle>, Handle);

fn handles(
    shared: &Shared,
    opened: &Opened,
    directory: &std::path::Path,
    parts: &[Option<PartHash>],
) -> Result<Handles, Error> {
    let disk = &*shared.disk;
    let data = &opened.data;
    fail::fail_point!("store::partial::before_create");
    ensure_directory(disk, directory)?;
    let open = if opened.is_new {
        Open::Create
    } else {
        Open::Write
    };
    let buffered = disk.open(data, open).at("open", data)?;
    let rounded = opened.size.next_multiple_of(BLOCK);
    if shared.probe.allocate {
        disk.allocate(&buffered, rounded).at("allocate", data)?;
    } else {
        disk.truncate(&buffered, rounded).at("extend", data)?;
    }
    let direct = if shared.probe.direct {
        match disk.open(data, Open::WriteDirect) {
            Ok(handle) => Some(handle),
            Err(error) if is_unsupported(&error) => None,
            Err(error) => return Err(Error::Path(error_at("open", data, error))),
        }
    } else {
        None
    };
    let path = directory.join("journal");
    let fresh = directory.join("journal.new");
    let mut bytes = journal::encode_header(opened.claim.key.as_bytes(), opened.size);
    for (index, part) in (0u64..).zip(parts) {
        if let Some(hash) = part {
            bytes.extend(journal::encode_record(index, hash));
        }
    }
    absent_is_none(disk.unlink(&fresh)).at("remove", &fresh)?;
    drop(write_file(disk, &fresh, &bytes)?);
    disk.rename(&fresh, &path).at("rename to", &path)?;
    let journal = disk.open(&path, Open::Append).at("open", &path)?;
    fail::fail_point!("store::partial::after_create");
    Ok((buffered, direct, journal))
}

/// An I/O error with its verb and path.
pub(super) fn error_at(
    operation: &'static str,
    path: &std::path::Path,
    source: std::io::Error,
) -> crate::error::PathError {
    crate::error::PathError {
        operation,
        path: path.to_path_buf(),
        source,
    }
}

impl Body {
    fn write(
        &self,
        index: u64,
        mut buffer: Buffer,
        length: usize,
        hash: PartHash,
    ) -> Result<Buffer, Error> {
        let disk = &*self.shared.disk;
        let offset = index.saturating_mul(PART_SIZE);
        let handle = self
            .direct
            .as_ref()
            .filter(|_| self.writes_direct.load(Ordering::Relaxed));
        let path = self.buffered.path();
        fail::fail_point!("store::partial::before_write");
        let buffer = if let Some(direct) = handle {
            let rounded = length.next_multiple_of(4096).min(CAPACITY);
            if let Some(pad) = buffer.bytes_mut().get_mut(length..rounded) {
                pad.fill(0);
            }
            disk.write_at(direct, buffer, rounded, offset)
                .at("write", path)?
        } else {
            self.wrote_warm.store(true, Ordering::Relaxed);
            let buffer = disk
                .write_at(&self.buffered, buffer, length, offset)
                .at("write", path)?;
            self.start_write_back(offset, length as u64);
            buffer
        };
        fail::fail_point!("store::partial::after_write");
        self.note(index, hash);
        Ok(buffer)
    }

    /// Early write-back is only an advice; what it could report, the sync will.
    fn start_write_back(&self, offset: u64, length: u64) {
        if let Err(error) = self.shared.disk.write_back(&self.buffered, offset, length) {
            tracing::debug!(error = %error, "early write-back failed");
        }
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

    /// Writes part `index`, then journals it. Concurrent calls for different parts are fine; the write ends even
    /// if the future is dropped. The bytes must be those that were hashed.
    pub async fn write(
        &self,
        index: u64,
        buffer: Buffer,
        length: usize,
        hash: PartHash,
    ) -> Result<Buffer, Error> {
        let body = Arc::clone(&self.body);
        let size = body.size;
        if length == 0 || length as u64 != part_length(size, index) {
            return Err(Error::Part {
                index,
                length: length as u64,
                size,
            });
        }
        self.store
            .threads
            .run(move || body.write(index, buffer, length, hash))
            .await?
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
        let syncers = Arc::clone(&store.syncers);
        store
            .threads
            .run(move || match permit {
                Some(permit) => body.commit_warm(digest, &parts, permit, &syncers),
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

/// Whether an error means that the disk is full.
pub(super) fn is_full(error: &Error) -> bool {
    error.kind() == Kind::NoSpace
}

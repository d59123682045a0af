//! Starting or resuming a file: claim its key, read the journal, believe what reading again confirms, make the
//! files ready. The formats and invariants are in `partial.rs`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::error::{Error, error_at};
use super::layout::ensure_directory;
use super::partial::{Body, Partial, PartialKey, Writing, lock};
use super::probe::is_unsupported;
use super::verify::{hash_one, open_direct};
use super::{Shared, Store, write_file};
use crate::buffer::Buffer;
use crate::digest::{PartHash, part_count};
use crate::disk::{BLOCK, Handle, Open, Stat, absent_is_none, find};
use crate::error::IoContext;
use crate::journal::{self, Journal};

/// The keys that are being written.
pub(super) type Active = Mutex<HashSet<PartialKey>>;

/// One key of them.
#[derive(Debug)]
pub(super) struct Claim {
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
    path: &Path,
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
    if made.as_ref().is_err_and(Error::is_full) {
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
    directory: &Path,
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

//! Which object versions are complete: an append-only log per source, so that a killed stage of many files, or a
//! new revision with few changes, fetches only what is missing.
//!
//! ```text
//! records/history/<first 32 digits of BLAKE3(source uid)>
//! record (80 bytes): [u8;32] key  [u8;32] digest  u64 size  [u8;8] check (BLAKE3 of what precedes it)
//! ```
//! Invariants: a record is a claim, believed only if the object exists; a torn or damaged record is skipped; logs
//! are never synced; a log that is mostly repetition is rewritten when it is read.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::layout::{Layout, ensure_directory};
use super::partial::PartialKey;
use super::{Store, write_file};
use crate::digest::Digest;
use crate::disk::{Disk, Handle, Open, absent_is_none, find};
use crate::error::IoContext;

const RECORD: usize = 80;
/// Most logs kept open.
const OPEN: usize = 16;
/// Repetitions that a log may hold before it is rewritten.
const SLACK: usize = 4096;

/// The logs of one store.
pub(super) struct History {
    disk: Arc<dyn Disk>,
    layout: Layout,
    open: Mutex<HashMap<PathBuf, Handle>>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

impl Store {
    /// Notes that an object version is complete. Blocking, one small append.
    pub fn note_object(
        &self,
        uid: &str,
        key: &PartialKey,
        digest: Digest,
        size: u64,
    ) -> Result<(), Error> {
        self.shared.history.note(uid, key, digest, size)
    }

    /// The object versions of a source that were complete once; believe one only if [`Store::find`] does. Blocking.
    pub fn known_objects(&self, uid: &str) -> Result<HashMap<PartialKey, (Digest, u64)>, Error> {
        self.shared.history.known(uid)
    }
}

impl History {
    pub(super) fn new(disk: Arc<dyn Disk>, layout: Layout) -> Self {
        Self {
            disk,
            layout,
            open: Mutex::default(),
        }
    }

    fn directory(&self) -> PathBuf {
        self.layout.top("records").join("history")
    }

    fn path(&self, uid: &str) -> PathBuf {
        let name = Digest::of(uid.as_bytes()).to_hex();
        self.directory().join(name.get(..32).unwrap_or(&name))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Handle>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, uid: &str, key: &PartialKey, digest: Digest, size: u64) -> Result<(), Error> {
        let path = self.path(uid);
        let mut open = self.lock();
        if !open.contains_key(&path) {
            if open.len() >= OPEN {
                open.clear();
            }
            open.insert(path.clone(), self.open_log(&path)?);
        }
        let record = encode(key, &digest, size);
        let appended = match open.get(&path) {
            Some(log) => self.disk.append(log, &record).at("write", &path),
            None => Ok(()),
        };
        if appended.is_err() {
            // Part of the record may be there: the next append must look at the length again.
            open.remove(&path);
        }
        Ok(appended?)
    }

    /// Opens a log and cuts a torn record off.
    fn open_log(&self, path: &Path) -> Result<Handle, Error> {
        ensure_directory(&*self.disk, &self.directory())?;
        let log = self.disk.open(path, Open::Append).at("open", path)?;
        let size = self.disk.stat(path).at("read", path)?.size;
        let torn = size % RECORD as u64;
        if torn != 0 {
            self.disk
                .truncate(&log, size.saturating_sub(torn))
                .at("truncate", path)?;
        }
        Ok(log)
    }

    fn known(&self, uid: &str) -> Result<HashMap<PartialKey, (Digest, u64)>, Error> {
        let path = self.path(uid);
        let mut open = self.lock();
        let Some(bytes) = absent_is_none(self.disk.read(&path)).at("read", &path)? else {
            return Ok(HashMap::new());
        };
        let known: HashMap<_, _> = decode(&bytes).collect();
        if bytes.len() / RECORD > known.len().saturating_mul(2).saturating_add(SLACK) {
            open.remove(&path);
            self.rewrite(&path, &known)?;
        }
        Ok(known)
    }

    fn rewrite(
        &self,
        path: &Path,
        known: &HashMap<PartialKey, (Digest, u64)>,
    ) -> Result<(), Error> {
        let bytes: Vec<u8> = known
            .iter()
            .flat_map(|(key, (digest, size))| encode(key, digest, *size))
            .collect();
        let fresh = path.with_extension("new");
        absent_is_none(self.disk.unlink(&fresh)).at("remove", &fresh)?;
        drop(write_file(&*self.disk, &fresh, &bytes)?);
        Ok(self.disk.rename(&fresh, path).at("rename to", path)?)
    }

    /// Every object version, of any source, that had this content.
    pub(super) fn keys_of(&self, digest: &Digest) -> Result<Vec<PartialKey>, Error> {
        let directory = self.directory();
        if find(&*self.disk, &directory)
            .at("read", &directory)?
            .is_none()
        {
            return Ok(Vec::new());
        }
        let mut keys = Vec::new();
        for name in self.disk.list(&directory).at("list", &directory)? {
            let path = directory.join(name.name);
            let bytes = absent_is_none(self.disk.read(&path)).at("read", &path)?;
            let bytes = bytes.unwrap_or_default();
            let matching = decode(&bytes).filter(|(_, (found, _))| found == digest);
            keys.extend(matching.map(|(key, _)| key));
        }
        keys.sort();
        keys.dedup();
        Ok(keys)
    }
}

fn encode(key: &PartialKey, digest: &Digest, size: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD);
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(digest.as_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    let check = blake3::hash(&bytes);
    bytes.extend(check.as_bytes().iter().take(8));
    bytes
}

fn decode(bytes: &[u8]) -> impl Iterator<Item = (PartialKey, (Digest, u64))> {
    bytes.chunks_exact(RECORD).filter_map(|record| {
        let (claimed, check) = record.split_last_chunk::<8>()?;
        let good = blake3::hash(claimed).as_bytes().starts_with(check);
        let (key, rest) = claimed.split_first_chunk::<32>()?;
        let (digest, size) = rest.split_first_chunk::<32>()?;
        let size = u64::from_le_bytes(size.try_into().ok()?);
        good.then_some((
            PartialKey::from_bytes(*key),
            (Digest::from_bytes(*digest), size),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;

    fn history() -> (tempfile::TempDir, History) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        layout.ensure(&OsDisk::new()).unwrap();
        let history = History::new(Arc::new(OsDisk::new()), layout);
        (root, history)
    }

    fn key(name: &str) -> PartialKey {
        PartialKey::new("s3://b", name, "\"e\"", "", 0, 1)
    }

    #[test]
    fn what_is_noted_is_known_per_source_and_the_last_word_counts() {
        let (_root, history) = history();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        history.note("s", &key("a"), one, 1).unwrap();
        history.note("s", &key("a"), two, 1).unwrap();
        history.note("t", &key("b"), two, 9).unwrap();
        assert_eq!(
            history.known("s").unwrap(),
            HashMap::from([(key("a"), (two, 1))])
        );
        assert_eq!(history.known("none").unwrap(), HashMap::new());
        let mut keys = vec![key("a"), key("b")];
        keys.sort();
        assert_eq!(history.keys_of(&two).unwrap(), keys);
    }

    #[test]
    fn a_torn_record_is_cut_off_and_a_damaged_one_skipped() {
        let (_root, history) = history();
        for name in ["a", "b", "c"] {
            history
                .note("s", &key(name), Digest::of(name.as_bytes()), 1)
                .unwrap();
        }
        let path = history.path("s");
        let mut bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 240);
        bytes[3] ^= 1;
        std::fs::write(&path, &bytes[..200]).unwrap();
        let again = History::new(Arc::clone(&history.disk), history.layout.clone());
        again.note("s", &key("d"), Digest::of(b"d"), 1).unwrap();
        let known = again.known("s").unwrap();
        let mut expected = vec![key("b"), key("d")];
        expected.sort();
        let mut found: Vec<_> = known.into_keys().collect();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_log_of_repetitions_is_rewritten() {
        let (_root, history) = history();
        for _ in 0..SLACK + 10 {
            history.note("s", &key("a"), Digest::of(b"a"), 1).unwrap();
        }
        assert_eq!(history.known("s").unwrap().len(), 1);
        assert_eq!(std::fs::metadata(history.path("s")).unwrap().len(), 80);
        history.note("s", &key("b"), Digest::of(b"b"), 1).unwrap();
        assert_eq!(history.known("s").unwrap().len(), 2);
    }
}

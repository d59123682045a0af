//! Small checked files: `records/<kind>/<name>`, one line of JSON and one line with its BLAKE3.
//!
//! Invariants: a record is replaced by rename, so a reader sees the old or the new one; a record whose check does
//! not fit (a torn write after a power cut, a flipped bit) is removed and reported as absent. Records are never
//! synced.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;
use super::layout::{Layout, ensure_directory};
use super::write_file;
use crate::disk::{Disk, FileKind, absent_is_none};
use crate::error::IoContext;

/// The records of one store.
#[derive(Clone)]
pub struct Records {
    disk: Arc<dyn Disk>,
    layout: Layout,
    serial: Arc<AtomicU64>,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl Records {
    /// The records below a root; also for readers that do not own the store.
    pub fn new(disk: Arc<dyn Disk>, layout: Layout) -> Self {
        Self {
            disk,
            layout,
            serial: Arc::default(),
        }
    }

    /// Writes or replaces a record. Blocking.
    pub fn write<T: Serialize + ?Sized>(
        &self,
        kind: &str,
        name: &str,
        value: &T,
    ) -> Result<(), Error> {
        let path = self.path(kind, name)?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let fresh = self.layout.top("tmp").join(format!("record-{serial}"));
        let written = write_file(&*self.disk, &fresh, &encode(value)?);
        if let Err(error) = written {
            // The write's error says more than that of clearing up after it.
            let _unused = self.disk.unlink(&fresh);
            return Err(error);
        }
        self.put(&fresh, kind, &path)
    }

    /// Renames into the kind's directory, which is made for its first record.
    fn put(&self, fresh: &Path, kind: &str, path: &Path) -> Result<(), Error> {
        match self.disk.rename(fresh, path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ensure_directory(&*self.disk, &self.directory(kind)?)?;
                self.disk.rename(fresh, path).at("rename to", path)?;
            }
            result => result.at("rename to", path)?,
        }
        Ok(())
    }

    /// Reads a record; `None` if it is absent or damaged. Blocking.
    pub fn read<T: DeserializeOwned>(&self, kind: &str, name: &str) -> Result<Option<T>, Error> {
        let path = self.path(kind, name)?;
        let Some(bytes) = absent_is_none(self.disk.read(&path)).at("read", &path)? else {
            return Ok(None);
        };
        if let Some(value) = decode(&bytes) {
            return Ok(Some(value));
        }
        tracing::warn!(record = %path.display(), "a damaged record is dropped");
        self.remove(kind, name)?;
        Ok(None)
    }

    /// Removes a record; absent is fine. Blocking.
    pub fn remove(&self, kind: &str, name: &str) -> Result<(), Error> {
        let path = self.path(kind, name)?;
        absent_is_none(self.disk.unlink(&path)).at("remove", &path)?;
        Ok(())
    }

    /// The names of all records of a kind, sorted. Blocking.
    pub fn list(&self, kind: &str) -> Result<Vec<String>, Error> {
        let directory = self.directory(kind)?;
        let names = absent_is_none(self.disk.list(&directory)).at("list", &directory)?;
        let mut names: Vec<String> = names
            .unwrap_or_default()
            .into_iter()
            .filter(|name| name.kind == FileKind::File)
            .filter_map(|name| name.name.into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    fn directory(&self, kind: &str) -> Result<PathBuf, Error> {
        check_name(kind)?;
        Ok(self.layout.top("records").join(kind))
    }

    fn path(&self, kind: &str, name: &str) -> Result<PathBuf, Error> {
        check_name(name)?;
        Ok(self.directory(kind)?.join(name))
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    let good =
        !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.bytes().all(plain);
    if good {
        Ok(())
    } else {
        Err(Error::Name {
            name: name.to_owned(),
        })
    }
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = serde_json::to_vec(value)?;
    let check = blake3::hash(&bytes).to_hex();
    bytes.push(b'\n');
    bytes.extend_from_slice(check.as_bytes());
    bytes.push(b'\n');
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let json = lines.next()?;
    let check = lines.next()?;
    (blake3::hash(json).to_hex().as_bytes() == check).then_some(())?;
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OsDisk;

    fn records() -> (tempfile::TempDir, Records) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        layout.ensure(&OsDisk::new()).unwrap();
        let records = Records::new(Arc::new(OsDisk::new()), layout);
        (root, records)
    }

    #[test]
    fn what_is_written_is_read_and_listed_until_removed() {
        let (root, records) = records();
        records.write("pins", "b", &vec![1, 2]).unwrap();
        records.write("pins", "a", "text").unwrap();
        records.write("pins", "a", "again").unwrap();
        assert_eq!(records.list("pins").unwrap(), ["a", "b"]);
        assert_eq!(records.read("pins", "a").unwrap(), Some("again".to_owned()));
        records.remove("pins", "a").unwrap();
        records.remove("pins", "a").unwrap();
        assert_eq!(records.read::<String>("pins", "a").unwrap(), None);
        assert_eq!(records.list("none").unwrap(), Vec::<String>::new());
        assert_eq!(
            std::fs::read_dir(root.path().join("tmp")).unwrap().count(),
            0
        );
    }

    #[test]
    fn bytes_are_golden() {
        let (root, records) = records();
        records
            .write("pins", "a", &serde_json::json!({"n": 1}))
            .unwrap();
        let text = std::fs::read_to_string(root.path().join("records/pins/a")).unwrap();
        let check = blake3::hash(br#"{"n":1}"#).to_hex();
        assert_eq!(text, format!("{{\"n\":1}}\n{check}\n"));
    }

    #[test]
    fn a_damaged_record_is_absent_and_gone() {
        let (root, records) = records();
        records.write("pins", "a", "text").unwrap();
        let path = root.path().join("records/pins/a");
        let good = std::fs::read(&path).unwrap();
        for length in 0..good.len() - 1 {
            std::fs::write(&path, &good[..length]).unwrap();
            assert_eq!(
                records.read::<String>("pins", "a").unwrap(),
                None,
                "{length}"
            );
            assert!(!path.exists());
        }
        for at in 0..6 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(records.read::<String>("pins", "a").unwrap(), None, "{at}");
        }
    }

    #[test]
    fn a_name_cannot_leave_the_directory() {
        let (_root, records) = records();
        for name in ["", "..", "../a", "a/b", ".hidden", "a\0", "ä"] {
            assert!(
                matches!(records.write("pins", name, "x"), Err(Error::Name { .. })),
                "{name:?}"
            );
            assert!(
                matches!(records.list(name), Err(Error::Name { .. })),
                "{name:?}"
            );
        }
    }
}

//! Buckets and objects: directories and files below a root, looked at anew for every request.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A listing's row.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) etag: String,
}

/// Files below a root. Listings of a bucket are read once per run: its files must not change under a running server.
#[derive(Debug)]
pub struct Objects {
    root: PathBuf,
    listings: Mutex<BTreeMap<String, Arc<Vec<Row>>>>,
}

impl Objects {
    /// Objects below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            listings: Mutex::default(),
        }
    }

    /// Opens `bucket/key`; nothing if there is no such file.
    pub(super) fn open(&self, path: &str) -> io::Result<Option<(File, Metadata)>> {
        let relative = Path::new(path);
        if !relative
            .components()
            .all(|component| matches!(component, Component::Normal(_)))
        {
            return Ok(None);
        }
        match File::open(self.root.join(relative)) {
            Ok(file) => {
                let metadata = file.metadata()?;
                Ok(metadata.is_file().then_some((file, metadata)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All rows of a bucket in order of their keys.
    pub(super) fn rows(&self, bucket: &str) -> io::Result<Arc<Vec<Row>>> {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rows) = listings.get(bucket) {
            return Ok(Arc::clone(rows));
        }
        let mut rows = Vec::new();
        let top = self.root.join(bucket);
        let mut left = vec![top.clone()];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(&directory)? {
                let (path, metadata) = entry.and_then(|it| Ok((it.path(), it.metadata()?)))?;
                if metadata.is_dir() {
                    left.push(path);
                } else if let Some(key) = path.strip_prefix(&top).ok().and_then(Path::to_str) {
                    rows.push(Row {
                        key: key.to_owned(),
                        size: metadata.len(),
                        etag: etag(&metadata),
                    });
                }
            }
        }
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        let rows = Arc::new(rows);
        listings.insert(bucket.to_owned(), Arc::clone(&rows));
        Ok(rows)
    }
}

/// A strong entity tag in the form of a multipart upload's, which no client takes for an MD5.
pub(super) fn etag(metadata: &Metadata) -> String {
    format!(
        "\"{:016x}{:08x}{:08x}-1\"",
        metadata.len(),
        metadata.mtime() & 0xffff_ffff,
        metadata.ino() & 0xffff_ffff
    )
}

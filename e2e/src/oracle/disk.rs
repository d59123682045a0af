//! What the oracle reads from disk: which files there are, their hashes by a plain hasher, and the space they take.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every path below `dir` that is not a directory, relative and sorted; none where `dir` does not exist.
pub fn list_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        let entries = match std::fs::read_dir(dir.join(&below)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                pending.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Plain BLAKE3 of a file.
pub fn hash_file(path: &Path) -> io::Result<blake3::Hash> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(hasher.finalize());
        }
        hasher.update(buffer.get(..length).unwrap_or_default());
    }
}

/// Bytes of the blocks below `dir`, once per inode, and the number of inodes.
pub fn allocated(dir: &Path) -> io::Result<(u64, u64)> {
    let mut seen = HashSet::new();
    let mut bytes = 0u64;
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let facts = match path.symlink_metadata() {
            Ok(facts) => facts,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if seen.insert(facts.ino()) {
            bytes = bytes.saturating_add(facts.blocks().saturating_mul(512));
        }
        if facts.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        }
    }
    let inodes = u64::try_from(seen.len()).unwrap_or(u64::MAX);
    Ok((bytes, inodes))
}

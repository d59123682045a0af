//! Reading content back from the device and hashing it: the only proof of what a file holds.

use std::path::Path;

use crate::buffer::{Buffer, CAPACITY};
use crate::digest::{Digest, PART_SIZE, PartHash, combine, hash_part, part_count, part_length};
use crate::disk::{Disk, Handle, Open};
use crate::error::{IoContext, PathError};

/// What a file was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hashed {
    /// Its digest.
    pub(super) digest: Digest,
    /// The hash of each part, as of a file of the length that was asked for.
    pub(super) parts: Vec<PartHash>,
}

/// Opens a file for reading from the device where that is possible, else through the page cache.
pub(super) fn open_direct(disk: &dyn Disk, path: &Path, direct: bool) -> Result<Handle, PathError> {
    if direct && let Ok(handle) = disk.open(path, Open::ReadDirect) {
        return Ok(handle);
    }
    disk.open(path, Open::Read).at("open", path)
}

/// Hashes a file that should have `size` bytes; `None` if it is shorter or longer.
pub(super) fn hash_file(
    disk: &dyn Disk,
    path: &Path,
    size: u64,
    direct: bool,
) -> Result<Option<Hashed>, PathError> {
    let file = open_direct(disk, path, direct)?;
    if disk.stat(path).at("read", path)?.size != size {
        return Ok(None);
    }
    let mut buffer = Buffer::unpooled();
    let mut parts = Vec::new();
    for index in 0..part_count(size) {
        let (back, hash) = hash_one(disk, &file, buffer, size, index)?;
        buffer = back;
        match hash {
            Some(hash) => parts.push(hash),
            None => return Ok(None),
        }
    }
    Ok(combine(size, &parts).map(|digest| Hashed { digest, parts }))
}

/// Hashes part `index` of a file of `size` bytes; no hash if it cannot be read in full.
pub(super) fn hash_one(
    disk: &dyn Disk,
    file: &Handle,
    buffer: Buffer,
    size: u64,
    index: u64,
) -> Result<(Buffer, Option<PartHash>), PathError> {
    let wanted = usize::try_from(part_length(size, index)).unwrap_or(CAPACITY);
    // A direct read must ask for whole blocks; what lies beyond the part is not hashed.
    let asked = if file.is_direct() {
        wanted.next_multiple_of(4096).min(CAPACITY)
    } else {
        wanted
    };
    let offset = index.saturating_mul(PART_SIZE);
    let (buffer, read) = disk
        .read_at(file, buffer, asked, offset)
        .at("read", file.path())?;
    let hash = (read >= wanted)
        .then(|| buffer.bytes().get(..wanted))
        .flatten()
        .map(|bytes| hash_part(size, index, bytes));
    Ok((buffer, hash))
}

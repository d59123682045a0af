//! The consumer: reads every byte of some files and adds them up, so that no byte can have been left out.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use tonnage_cache::buffer::{Buffer, CAPACITY};

use crate::limits;

/// How a consumer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Lane {
    /// Map the file and touch every byte.
    Mmap,
    /// Read into one buffer.
    Copy,
    /// Read past the page cache (`O_DIRECT`), eight parts at a time, as loaders do that feed an accelerator.
    Direct,
}

/// Reads that a direct loader keeps under way: one alone would measure the disk's latency.
const READERS: usize = 8;

/// What was read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// Sum of all little-endian 64-bit words and of the bytes that are left over, modulo 2⁶⁴.
    pub sum: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Reads files, and the files below directories.
pub fn all(mut left: Vec<PathBuf>, lane: Lane) -> io::Result<Total> {
    let mut total = Total::default();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                left.push(entry?.path());
            }
            continue;
        }
        let file = open(&path, lane)?;
        let size = file.metadata()?.len();
        let sum = match lane {
            Lane::Mmap => mapped(&file, size)?,
            Lane::Copy => copied(&file, size)?,
            Lane::Direct => bypassed(&file, size)?,
        };
        total.sum = total.sum.wrapping_add(sum);
        total.bytes = total.bytes.saturating_add(size);
    }
    Ok(total)
}

fn open(path: &Path, lane: Lane) -> io::Result<File> {
    let flags = match lane {
        Lane::Mmap | Lane::Copy => OFlags::empty(),
        Lane::Direct => OFlags::DIRECT,
    };
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Parts begin at multiples of a part, so that words are whole but for the file's last bytes.
fn bypassed(file: &File, size: u64) -> io::Result<u64> {
    let (sum, next) = (AtomicU64::new(0), AtomicU64::new(0));
    limits::in_parallel(READERS, || {
        let mut buffer = Buffer::unpooled();
        loop {
            let offset = next.fetch_add(CAPACITY as u64, Ordering::Relaxed);
            if offset >= size {
                return Ok(());
            }
            let part = usize::try_from(size - offset)
                .unwrap_or(CAPACITY)
                .min(CAPACITY);
            // The last read asks beyond the end: lengths are whole blocks, too.
            if file.read_at(buffer.bytes_mut(), offset)? != part {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let bytes = buffer.bytes().get(..part).unwrap_or_default();
            sum.fetch_add(add(bytes), Ordering::Relaxed);
        }
    })?;
    Ok(sum.into_inner())
}

fn copied(file: &File, size: u64) -> io::Result<u64> {
    let mut buffer = Buffer::unpooled();
    let (mut sum, mut offset) = (0u64, 0u64);
    while offset < size {
        let count = file.read_at(buffer.bytes_mut(), offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sum = sum.wrapping_add(add(buffer.bytes().get(..count).unwrap_or_default()));
        offset += count as u64;
    }
    Ok(sum)
}

#[expect(unsafe_code, reason = "mapping a file is what is measured")]
fn mapped(file: &File, size: u64) -> io::Result<u64> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let length = usize::try_from(size).map_err(io::Error::other)?;
    if length == 0 {
        return Ok(0);
    }
    // SAFETY: a new read-only mapping of a file that nothing changes while this program runs.
    let start = unsafe {
        mmap(
            std::ptr::null_mut(),
            length,
            ProtFlags::READ,
            MapFlags::SHARED,
            file.as_fd(),
            0,
        )
    }?;
    // SAFETY: the mapping has `length` bytes and lives until it is unmapped below.
    let sum = add(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) });
    // SAFETY: nothing refers to the mapping any more.
    unsafe { munmap(start, length) }?;
    Ok(sum)
}

/// The sum of the bytes, eight at a time.
fn add(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(0u64, |sum, word| {
        sum.wrapping_add(u64::from_le_bytes(*word))
    });
    rest.iter()
        .fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

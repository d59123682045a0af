//! Small files on their way in: written in one go, named in `fresh/`, and queued for their sync.
//!
//! Invariants: nothing is left in `tmp/` whatever fails; the permit of a file is taken before it is written, so that
//! the queue bounds descriptors. Past the page cache, the last block is padded and cut off again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::error::Error;
use super::partial::Writing;
use super::syncer::{Pending, Syncer};
use super::{Shared, Store};
use crate::buffer::{Buffer, CAPACITY};
use crate::digest::{Digest, PART_SIZE};
use crate::disk::{Handle, Open};
use crate::error::IoContext;

/// Smallest file that can be written past the page cache: for less, a trip to the device costs more than a copy.
const DIRECT_MIN: usize = 64 << 10;

/// What putting a small file yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// It was there already.
    pub deduplicated: bool,
    /// Processor time of writing it to memory, as if it were a whole part; `None` if it went past the page cache, or is
    /// too small to tell.
    pub memory_time: Option<Duration>,
}

/// A verified file on its way in: the first `length` bytes of `buffer`, which hash to `digest`.
#[derive(Debug)]
struct Small {
    buffer: Buffer,
    length: usize,
    digest: Digest,
    writing: Writing,
}

impl Store {
    /// Stores a verified file of at most one part through the page cache; see [`Store::put_small_as`].
    pub async fn put_small(
        &self,
        buffer: Buffer,
        length: usize,
        digest: Digest,
    ) -> Result<(Stored, Buffer), Error> {
        self.put_small_as(Writing::Warm, buffer, length, digest)
            .await
    }

    /// Stores a verified file of at most one part. It may be linked at once and becomes durable soon after. The
    /// first `length` bytes of `buffer` must hash to `digest`. Files below 64 KiB always go through the page cache.
    pub async fn put_small_as(
        &self,
        writing: Writing,
        buffer: Buffer,
        length: usize,
        digest: Digest,
    ) -> Result<(Stored, Buffer), Error> {
        if length as u64 > PART_SIZE {
            return Err(Error::Part {
                index: 0,
                length: length as u64,
                size: PART_SIZE,
            });
        }
        self.shared.leases.touch(digest);
        let permit = self.sync_permit().await?;
        let shared = Arc::clone(&self.shared);
        let syncer = Arc::clone(&self.syncer);
        let small = Small {
            buffer,
            length,
            digest,
            writing,
        };
        self.threads
            .run(move || shared.put(small, permit, &syncer))
            .await?
    }
}

/// The writer, the buffer, and the processor time of writing to memory.
type Written = (Handle, Buffer, Option<Duration>);

impl Shared {
    fn put(
        &self,
        small: Small,
        permit: OwnedSemaphorePermit,
        syncer: &Syncer,
    ) -> Result<(Stored, Buffer), Error> {
        let (digest, size) = (small.digest, small.length as u64);
        let mut stored = Stored {
            deduplicated: true,
            memory_time: None,
        };
        if self.has_object(&digest, size)? || self.has_fresh(&digest, size)? {
            return Ok((stored, small.buffer));
        }
        let path = self.temporary();
        let (writer, buffer, memory_time) = match self.write_small(&path, small) {
            Ok(written) => written,
            Err(error) => {
                self.remove_quietly(&path);
                return Err(error);
            }
        };
        self.accounts.spend(size, 1);
        stored.memory_time = memory_time;
        stored.deduplicated = !self.name_fresh(&path, &digest)?;
        fail::fail_point!("store::small::after_fresh");
        if stored.deduplicated {
            self.disk.unlink(&path).at("remove", &path)?;
        } else {
            syncer.submit(Pending {
                writer: Arc::new(writer),
                digest,
                size,
                _permit: permit,
            });
        }
        Ok((stored, buffer))
    }

    fn write_small(&self, path: &Path, small: Small) -> Result<Written, Error> {
        fail::fail_point!("store::small::before_write");
        let length = small.length;
        let first = if small.writing == Writing::Direct && self.probe.direct && length >= DIRECT_MIN
        {
            self.write_small_direct(path, small)
        } else {
            self.write_small_warm(path, small)
        };
        match first {
            Err(error) if error.is_full() => {
                tracing::info!("the disk is full; evicting for a small file");
                self.remove_quietly(path);
                self.free_some(length as u64)?;
                Err(error)
            }
            other => other,
        }
    }

    fn write_small_warm(&self, path: &Path, small: Small) -> Result<Written, Error> {
        let Small { buffer, length, .. } = small;
        let file = self.disk.open(path, Open::Create).at("create", path)?;
        let start = self.clock.thread_cpu();
        let buffer = self
            .disk
            .write_at(&file, buffer, length, 0)
            .at("write", path)?;
        let time = self.clock.thread_cpu().saturating_sub(start);
        self.disk.seal(&file).at("seal", path)?;
        Ok((file, buffer, as_part(time, length)))
    }

    fn write_small_direct(&self, path: &Path, small: Small) -> Result<Written, Error> {
        let Small {
            mut buffer, length, ..
        } = small;
        let rounded = length.next_multiple_of(4096).min(CAPACITY);
        if let Some(pad) = buffer.bytes_mut().get_mut(length..rounded) {
            pad.fill(0);
        }
        let open = Open::CreateDirect;
        let file = self.disk.open(path, open).at("create", path)?;
        let buffer = self
            .disk
            .write_at(&file, buffer, rounded, 0)
            .at("write", path)?;
        if rounded != length {
            self.disk
                .truncate(&file, length as u64)
                .at("truncate", path)?;
        }
        self.disk.seal(&file).at("seal", path)?;
        Ok((file, buffer, None))
    }
}

/// The time that a whole part would have taken; `None` for what is too small to tell.
fn as_part(time: Duration, length: usize) -> Option<Duration> {
    let length = u32::try_from(length)
        .ok()
        .filter(|_| length >= DIRECT_MIN)?;
    let part = u32::try_from(PART_SIZE).ok()?;
    time.saturating_mul(part).checked_div(length)
}

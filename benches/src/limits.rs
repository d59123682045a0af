//! What this machine allows: the network alone, the disk alone, the hash alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonnage_cache::buffer::Buffer;
use tonnage_cache::clock::{Clock as _, SystemClock};

const CHUNK: u64 = 8 << 20;
const BLOCK: usize = 1 << 20;

/// Receives every byte of `path` (of `size` bytes) once over `connections` connections into one reused buffer each, and
/// throws it away.
pub fn network(
    address: SocketAddr,
    (path, size): (&str, u64),
    connections: usize,
) -> io::Result<Duration> {
    let clock = SystemClock::new();
    let next = AtomicU64::new(0);
    in_parallel(connections, || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut buffer = Buffer::unpooled();
        loop {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            if first >= size {
                return Ok(());
            }
            let last = (first + CHUNK).min(size) - 1;
            // One write: pieces would wait for each other's acknowledgements.
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nRange: bytes={first}-{last}\r\n\r\n"
            );
            stream.write_all(request.as_bytes())?;
            discard(&mut stream, buffer.bytes_mut(), last - first + 1)?;
        }
    })?;
    Ok(clock.monotonic())
}

fn discard(stream: &mut TcpStream, buffer: &mut [u8], length: u64) -> io::Result<()> {
    read_head(stream)?;
    let mut left = length;
    while left > 0 {
        let count = stream.read(buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

/// Reads the head of an answer and no byte more; it must be one to a ranged request.
pub(crate) fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut ahead = [0u8; 1024];
    loop {
        let seen = stream.peek(&mut ahead)?;
        let head = ahead.get(..seen).unwrap_or_default();
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            if !head.starts_with(b"HTTP/1.1 206") {
                return Err(io::Error::other("the server does not answer with 206"));
            }
            return stream.read_exact(ahead.get_mut(..end + 4).unwrap_or_default());
        }
        if seen == 0 || seen == ahead.len() {
            return Err(io::Error::other("the answer has no head"));
        }
    }
}

/// Writes `size` random bytes to a new file at `path` past the page cache, preallocated, with `writers` writes under way,
/// makes them durable, and removes the file.
pub fn disk(path: &Path, size: u64, writers: usize) -> io::Result<Duration> {
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(direct)
        .open(path)?;
    let timed = write_all(&file, size, writers);
    std::fs::remove_file(path)?;
    timed
}

fn write_all(file: &File, size: u64, writers: usize) -> io::Result<Duration> {
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut block = Buffer::unpooled();
    noise.fill(block.bytes_mut());
    let block = block.bytes();
    let clock = SystemClock::new();
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size)?;
    let next = AtomicU64::new(0);
    in_parallel(writers, || {
        loop {
            let offset = next.fetch_add(BLOCK as u64, Ordering::Relaxed);
            if offset >= size {
                return Ok(());
            }
            file.write_all_at(block, offset)?;
        }
    })?;
    file.sync_data()?;
    Ok(clock.monotonic())
}

/// Hashes `size` bytes of cached memory on one thread, in slices of 256 KiB.
pub fn hash(size: u64) -> Duration {
    let block = vec![7u8; 256 << 10];
    let clock = SystemClock::new();
    let mut hasher = blake3::Hasher::new();
    let mut done = 0;
    while done < size {
        hasher.update(&block);
        done += block.len() as u64;
    }
    std::hint::black_box(hasher.finalize());
    clock.monotonic()
}

pub(crate) fn in_parallel(
    threads: usize,
    work: impl Fn() -> io::Result<()> + Sync,
) -> io::Result<()> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .map_err(|_| io::Error::other("a measuring thread panicked"))?
        })
    })
}

//! What this machine allows, measured in the same run: bytes received from the same server and thrown away, and
//! random bytes written past the page cache to the same directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonnage_cache::clock::{Clock, SystemClock};

use crate::generate::Noise;

const CONNECTIONS: usize = 8;
const CHUNK: u64 = 8 << 20;
const BLOCK: usize = 1 << 20;
const DISK_BYTES: u64 = 512 << 20;

/// Bytes per second from the server at `address`, each byte of the objects (path, size) asked for once, with
/// eight connections that read and discard.
pub(super) fn network(address: SocketAddr, objects: &[(String, u64)]) -> io::Result<f64> {
    let chunks: Vec<(&str, u64, u64)> = objects
        .iter()
        .flat_map(|(path, size)| {
            let starts = (0..*size).step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX));
            starts.map(|start| (path.as_str(), start, size.min(&(start + CHUNK)) - 1))
        })
        .collect();
    let next = AtomicU64::new(0);
    let clock = SystemClock::new();
    let received = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTIONS)
            .map(|_| scope.spawn(|| discard(address, &chunks, &next)))
            .collect();
        sum(workers.into_iter().map(std::thread::ScopedJoinHandle::join))
    })?;
    Ok(rate(received, clock.monotonic()))
}

fn discard(address: SocketAddr, chunks: &[(&str, u64, u64)], next: &AtomicU64) -> io::Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    let mut buffer = vec![0; 256 << 10];
    let mut received = 0u64;
    loop {
        let index = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
        let Some((path, first, last)) = chunks.get(index) else {
            return Ok(received);
        };
        // One write: pieces would wait for each other's acknowledgements.
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nRange: bytes={first}-{last}\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        received = received.saturating_add(one_body(&mut stream, &mut buffer, last - first + 1)?);
    }
}

/// Reads a head and `length` body bytes.
fn one_body(stream: &mut TcpStream, buffer: &mut [u8], length: u64) -> io::Result<u64> {
    let mut head = Vec::new();
    let mut body = loop {
        let count = stream.read(buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break (head.len() - end - 4) as u64;
        }
    };
    if !head.starts_with(b"HTTP/1.1 206") {
        return Err(io::Error::other(
            "the server does not answer a range with 206",
        ));
    }
    while body < length {
        let count = stream.read(buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        body += count as u64;
    }
    Ok(body)
}

/// Bytes per second written to a new file below `dir` and made durable: preallocated, `O_DIRECT` where the
/// filesystem has it, four threads, 512 MiB of random bytes.
pub(super) fn disk(dir: &Path) -> io::Result<f64> {
    let path = dir.join("limit");
    let file = open_direct(&path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, DISK_BYTES)?;
    let next = AtomicU64::new(0);
    let noise = Noise::new(1, "limit");
    let clock = SystemClock::new();
    let written = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| fill(&file, &noise, &next)))
            .collect();
        sum(workers.into_iter().map(std::thread::ScopedJoinHandle::join))
    })?;
    file.sync_data()?;
    let rate = rate(written, clock.monotonic());
    std::fs::remove_file(&path)?;
    Ok(rate)
}

fn fill(file: &File, noise: &Noise, next: &AtomicU64) -> io::Result<u64> {
    let mut room = vec![0u8; BLOCK + 4096];
    let skip = room.as_ptr().align_offset(4096);
    let block = room.get_mut(skip..skip + BLOCK).unwrap_or_default();
    noise.fill(0, block);
    let mut written = 0u64;
    loop {
        let offset = next.fetch_add(BLOCK as u64, Ordering::Relaxed);
        if offset >= DISK_BYTES {
            return Ok(written);
        }
        file.write_all_at(block, offset)?;
        written = written.saturating_add(BLOCK as u64);
    }
}

fn open_direct(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or_default();
    match options.clone().custom_flags(direct).open(path) {
        Ok(file) => Ok(file),
        Err(_) => options.open(path),
    }
}

fn sum(results: impl Iterator<Item = std::thread::Result<io::Result<u64>>>) -> io::Result<u64> {
    let mut total = 0u64;
    for result in results {
        let count = result.map_err(|_| io::Error::other("a measuring thread panicked"))??;
        total = total.saturating_add(count);
    }
    Ok(total)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate is shown with two digits"
)]
fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-9)
}

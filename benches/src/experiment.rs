//! The page-cache experiment: a stager reduced to receiving and writing, so that only the way of writing differs. It decides
//! what the policy `auto` does; the table is in `docs/performance.md`.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::ReadWriteFlags;
use tonnage_cache::buffer::{Buffer, CAPACITY};
use tonnage_cache::clock::{Clock as _, SystemClock};

use crate::limits;

mod uring;

/// How content is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// `O_DIRECT`.
    Direct,
    /// `O_DIRECT`, and `POSIX_FADV_WILLNEED` on every range whose write has returned.
    DirectReadahead,
    /// `O_DIRECT` by `io_uring` with registered buffers, one ring per connection.
    Uring,
    /// Through the page cache, and `sync_file_range(SYNC_FILE_RANGE_WRITE)` at once.
    Buffered,
    /// Through the page cache with `RWF_DONTCACHE`: pages go when they are written back.
    Dontcache,
}

/// Bytes asked for in one request: parts of one run.
const RUN: u64 = 8 << 20;

/// Receives `path` of `size` bytes over eight connections and writes it to `to` in one way; returns the time to the last
/// write, without a sync.
pub fn stage(
    address: SocketAddr,
    (path, size): (&str, u64),
    to: &Path,
    mode: Mode,
) -> io::Result<Duration> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let buffered = options.open(to)?;
    rustix::fs::fallocate(&buffered, FallocateFlags::empty(), 0, size)?;
    let file = match mode {
        Mode::Direct | Mode::DirectReadahead | Mode::Uring => {
            options.custom_flags(direct).open(to)?
        }
        Mode::Buffered | Mode::Dontcache => buffered.try_clone()?,
    };
    // The second open has truncated the file again.
    rustix::fs::fallocate(&buffered, FallocateFlags::empty(), 0, size)?;
    let files = (&file, &buffered);
    let clock = SystemClock::new();
    let next = AtomicU64::new(0);
    limits::in_parallel(8, || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut buffer = Buffer::unpooled();
        let mut writer = match mode {
            Mode::Uring => Some(uring::Writer::new(&file)?),
            Mode::Direct | Mode::DirectReadahead | Mode::Buffered | Mode::Dontcache => None,
        };
        loop {
            let first = next.fetch_add(RUN, Ordering::Relaxed);
            if first >= size {
                return writer.as_mut().map_or(Ok(()), uring::Writer::finish);
            }
            let last = (first + RUN).min(size) - 1;
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nRange: bytes={first}-{last}\r\n\r\n"
            );
            stream.write_all(request.as_bytes())?;
            limits::read_head(&mut stream)?;
            let mut offset = first;
            while offset <= last {
                let length = (CAPACITY as u64).min(last + 1 - offset);
                let part = usize::try_from(length).unwrap_or(CAPACITY);
                if let Some(writer) = &mut writer {
                    writer.part(&mut stream, part, offset)?;
                } else {
                    stream.read_exact(buffer.bytes_mut().get_mut(..part).unwrap_or_default())?;
                    let bytes = buffer.bytes().get(..part).unwrap_or_default();
                    write(files, bytes, offset, mode)?;
                }
                offset += length;
            }
        }
    })?;
    Ok(clock.monotonic())
}

fn write(
    (file, buffered): (&File, &File),
    bytes: &[u8],
    offset: u64,
    mode: Mode,
) -> io::Result<()> {
    let flags = match mode {
        // Linux 6.14; rustix has no name for it yet.
        Mode::Dontcache => ReadWriteFlags::from_bits_retain(0x80),
        Mode::Direct | Mode::DirectReadahead | Mode::Buffered | Mode::Uring => {
            ReadWriteFlags::empty()
        }
    };
    let mut done = 0;
    while let Some(left) = bytes.get(done..).filter(|left| !left.is_empty()) {
        let at = offset + done as u64;
        done += rustix::io::pwritev2(file, &[IoSlice::new(left)], at, flags)?;
    }
    match mode {
        Mode::Direct | Mode::Uring | Mode::Dontcache => Ok(()),
        Mode::DirectReadahead => {
            let length = std::num::NonZeroU64::new(bytes.len() as u64);
            Ok(rustix::fs::fadvise(
                buffered,
                offset,
                length,
                Advice::WillNeed,
            )?)
        }
        Mode::Buffered => write_back(file, offset, bytes.len()),
    }
}

#[expect(unsafe_code, reason = "no safe binding of sync_file_range exists")]
fn write_back(file: &File, offset: u64, length: usize) -> io::Result<()> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    let length = i64::try_from(length).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the call takes no pointers.
    let answer = unsafe {
        libc::sync_file_range(
            file.as_fd().as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

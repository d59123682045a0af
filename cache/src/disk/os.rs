//! The real disk: each verb is one system call, or a loop of it until all is done.
//!
//! The one unsafe call here is `sync_file_range`, which no safe binding offers; the crate's others are in `buffer/slab.rs`
//! and `source/connector/wire.rs`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FileType, Mode, OFlags, RenameFlags, StatxFlags, Timespec,
    Timestamps,
};
use rustix::io::Errno;

use super::{Disk, FileKind, Handle, Name, Open, SEALED_SECONDS, Space, Stat, tree};
use crate::buffer::Buffer;

/// The machine's disk.
#[derive(Debug, Default, Clone, Copy)]
pub struct OsDisk;

impl OsDisk {
    /// The machine's disk.
    pub const fn new() -> Self {
        Self
    }
}

/// Most that is written to memory at once. The kernel takes pages of up to the size of a write: larger ones come from memory that
/// has lain fallow and, in a virtual machine, may have to be brought by the host first, while smaller ones come from what was used
/// a moment ago, as long as there is any (`docs/performance.md`).
const PIECE: usize = 256 << 10;

fn again<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Filesystems whose `syncfs` leaves content on the device, by their magic numbers: ext4, XFS, btrfs, tmpfs. Others
/// (FUSE, network and stacked ones) may only hand it on.
const SYNCED_WHOLE: [u32; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994];

#[expect(unsafe_code, reason = "no safe binding of sync_file_range exists")]
fn sync_file_range(file: &Handle, offset: u64, length: u64, flags: u32) -> io::Result<()> {
    let offset = i64::try_from(offset).map_err(|_| out_of_range())?;
    let length = i64::try_from(length).map_err(|_| out_of_range())?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; the call takes no pointers.
    let answer = unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), offset, length, flags) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn out_of_range() -> io::Error {
    io::Error::from(Errno::INVAL)
}

impl Disk for OsDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Handle> {
        let flags = match open {
            Open::Read => OFlags::RDONLY,
            Open::ReadDirect => OFlags::RDONLY | OFlags::DIRECT,
            Open::Write => OFlags::RDWR,
            Open::WriteDirect => OFlags::RDWR | OFlags::DIRECT,
            Open::Create => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            Open::CreateDirect => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::DIRECT,
            Open::Append => OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND,
        };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = again(|| rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR))?;
        Ok(Handle::new(fd, path, flags.contains(OFlags::DIRECT)))
    }

    fn allocate(&self, file: &Handle, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        again(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, length))
    }

    fn write_at(
        &self,
        file: &Handle,
        buffer: Buffer,
        length: usize,
        offset: u64,
    ) -> io::Result<Buffer> {
        let mut left = buffer.bytes().get(..length).ok_or_else(out_of_range)?;
        let mut position = offset;
        let most = if file.is_direct() { length } else { PIECE };
        while !left.is_empty() {
            let piece = left.get(..most).unwrap_or(left);
            let written = again(|| rustix::io::pwrite(file, piece, position))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left = left.get(written..).unwrap_or_default();
            position = position.saturating_add(written as u64);
        }
        Ok(buffer)
    }

    fn read_at(
        &self,
        file: &Handle,
        mut buffer: Buffer,
        length: usize,
        offset: u64,
    ) -> io::Result<(Buffer, usize)> {
        let room = buffer
            .bytes_mut()
            .get_mut(..length)
            .ok_or_else(out_of_range)?;
        let mut done = 0usize;
        while let Some(left) = room.get_mut(done..).filter(|left| !left.is_empty()) {
            let position = offset.saturating_add(done as u64);
            let read = again(|| rustix::io::pread(file, &mut *left, position))?;
            done = done.saturating_add(read);
            // A direct read that ends inside a block is at the end of the file.
            if read == 0 || (file.is_direct() && read % 512 != 0) {
                break;
            }
        }
        Ok((buffer, done))
    }

    fn append(&self, file: &Handle, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            let written = again(|| rustix::io::write(file, left))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left = left.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, Open::Read)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(file.fd), &mut bytes)?;
        Ok(bytes)
    }

    fn truncate(&self, file: &Handle, length: u64) -> io::Result<()> {
        again(|| rustix::fs::ftruncate(file, length))
    }

    fn seal(&self, file: &Handle) -> io::Result<()> {
        let time = Timespec {
            tv_sec: SEALED_SECONDS,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        again(|| rustix::fs::fchmod(file, Mode::from_raw_mode(0o444)))?;
        again(|| rustix::fs::futimens(file, &times))
    }

    fn sync_data(&self, file: &Handle) -> io::Result<()> {
        // Not repeated on EINTR: a second call could report success for data that the first one lost.
        Ok(rustix::fs::fdatasync(file)?)
    }

    fn sync_filesystem(&self, file: &Handle) -> io::Result<()> {
        let kind = again(|| rustix::fs::fstatfs(file))?.f_type;
        if !SYNCED_WHOLE
            .iter()
            .any(|whole| i128::from(*whole) == i128::from(kind))
        {
            return Err(io::Error::from(Errno::OPNOTSUPP));
        }
        Ok(rustix::fs::syncfs(file)?)
    }

    fn check_written(&self, file: &Handle) -> io::Result<()> {
        // Waits for write-back that is under way, of all of the file, and reports the descriptor's own errors.
        sync_file_range(file, 0, 0, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = again(|| rustix::fs::open(path, flags, Mode::empty()))?;
        Ok(rustix::fs::fsync(&fd)?)
    }

    fn write_back(&self, file: &Handle, offset: u64, length: u64) -> io::Result<()> {
        sync_file_range(file, offset, length, libc::SYNC_FILE_RANGE_WRITE)
    }

    fn forget(&self, file: &Handle) -> io::Result<()> {
        Ok(rustix::fs::fadvise(
            file,
            0,
            None,
            rustix::fs::Advice::DontNeed,
        )?)
    }

    fn reflink(&self, from: &Handle, to: &Handle) -> io::Result<()> {
        Ok(rustix::fs::ioctl_ficlone(to, from)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        again(|| rustix::fs::rename(from, to))
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        again(|| rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        again(|| rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty()))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        again(|| rustix::fs::unlink(path))
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        again(|| rustix::fs::mkdir(path, Mode::from_raw_mode(mode)))?;
        // The process's umask must not decide who can read a view.
        self.set_mode(path, mode)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        again(|| rustix::fs::rmdir(path))
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        tree::remove(path)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        again(|| rustix::fs::chmod(path, Mode::from_raw_mode(mode)))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let facts = again(|| rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted))?;
        let born = if facts.stx_mask & StatxFlags::BTIME.bits() == 0 {
            0
        } else {
            millis(&facts.stx_btime)
        };
        Ok(Stat {
            kind: kind_of(FileType::from_raw_mode(u32::from(facts.stx_mode))),
            size: facts.stx_size,
            occupied: facts.stx_blocks.saturating_mul(512),
            inode: facts.stx_ino,
            device: (facts.stx_dev_major, facts.stx_dev_minor),
            links: facts.stx_nlink,
            mode: u32::from(facts.stx_mode) & 0o7777,
            modified_millis: millis(&facts.stx_mtime),
            changed_millis: millis(&facts.stx_ctime),
            born_millis: born,
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Name>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = again(|| rustix::fs::open(path, flags, Mode::empty()))?;
        let mut names = Vec::new();
        for entry in Dir::new(fd)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = if entry.file_type() == FileType::Unknown {
                self.stat(&path.join(name))?.kind
            } else {
                kind_of(entry.file_type())
            };
            names.push(Name {
                name: name.to_owned(),
                kind,
            });
        }
        Ok(names)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let facts = again(|| rustix::fs::statvfs(path))?;
        Ok(Space {
            total: facts.f_blocks.saturating_mul(facts.f_frsize),
            free: facts.f_bavail.saturating_mul(facts.f_frsize),
            // btrfs counts no inodes and says 0 of 0.
            free_files: if facts.f_files == 0 {
                u64::MAX
            } else {
                facts.f_favail
            },
        })
    }

    fn direct_alignment(&self, path: &Path) -> io::Result<Option<u32>> {
        let facts = again(|| {
            rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::DIOALIGN)
        })?;
        if facts.stx_mask & StatxFlags::DIOALIGN.bits() != 0 {
            return Ok(Some(facts.stx_dio_offset_align).filter(|align| *align > 0));
        }
        // Kernels before 6.1 do not say; every disk they drive takes 4 KiB if it takes the flag.
        match self.open(path, Open::ReadDirect) {
            Ok(_) => Ok(Some(4096)),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn kind_of(file_type: FileType) -> FileKind {
    if file_type.is_file() {
        FileKind::File
    } else if file_type.is_dir() {
        FileKind::Directory
    } else {
        FileKind::Other
    }
}

fn millis(time: &rustix::fs::StatxTimestamp) -> u64 {
    u64::try_from(time.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1000)
        .saturating_add(u64::from(time.tv_nsec / 1_000_000))
}

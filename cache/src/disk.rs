//! The file verbs that durability rests on, as one blocking trait over paths and open files.
//!
//! Invariants: whatever the store must not lose or must not show too early goes through [`Disk`], so that a test
//! can count the verbs and fail, or cut the power at, any of them ([`FaultyDisk`]). Content is written from an
//! *owned* aligned [`Buffer`] that comes back with the answer, so that another way of submitting (`io_uring`) fits
//! the same seam. Names are never followed if they are symbolic links. The verbs block: [`Threads`] runs them.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::buffer::Buffer;

mod faulty;
mod os;
mod threads;
mod tree;

pub use faulty::{Fault, FaultyDisk, Verb};
pub use os::OsDisk;
pub(crate) use threads::{Crew, Queue};
pub use threads::{Desk, Job, Running, Stopped, Threads};

/// Block size that lengths and offsets of direct I/O are rounded to.
pub const BLOCK: u64 = 4096;

/// The modification time of every sealed file: 1980-01-01T00:00:00Z, the earliest that every archive format knows.
pub const SEALED_SECONDS: i64 = 315_532_800;

/// An open file.
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
    path: PathBuf,
    direct: bool,
}

impl Handle {
    /// Wraps a descriptor.
    pub fn new(fd: OwnedFd, path: &Path, direct: bool) -> Self {
        Self {
            fd,
            path: path.to_path_buf(),
            direct,
        }
    }

    /// The path it was opened at; it may have been renamed since.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether reads and writes bypass the page cache: lengths and offsets are then multiples of [`BLOCK`].
    pub fn is_direct(&self) -> bool {
        self.direct
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Existing, to be read through the page cache.
    Read,
    /// Existing, to be read from the device.
    ReadDirect,
    /// Existing, to be written through the page cache.
    Write,
    /// Existing, to be written to the device.
    WriteDirect,
    /// Must not exist; mode 0600.
    Create,
    /// Must not exist, to be written to the device; mode 0600.
    CreateDirect,
    /// Created if absent (mode 0600); writes go to the end.
    Append,
}

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else, symbolic links included.
    Other,
}

/// Facts about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes.
    pub size: u64,
    /// Bytes of disk that it occupies.
    pub occupied: u64,
    /// Inode number.
    pub inode: u64,
    /// Device, as major and minor number.
    pub device: (u32, u32),
    /// Number of names of the inode.
    pub links: u32,
    /// Permission bits.
    pub mode: u32,
    /// Last change of content, milliseconds since 1970.
    pub modified_millis: u64,
    /// Last change of the inode (link count included), milliseconds since 1970.
    pub changed_millis: u64,
    /// Creation, milliseconds since 1970; 0 where the filesystem does not say.
    pub born_millis: u64,
}

/// Space of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All bytes.
    pub total: u64,
    /// Bytes that an unprivileged process may still use.
    pub free: u64,
    /// Inodes that an unprivileged process may still use; `u64::MAX` where they are not counted.
    pub free_files: u64,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The last component.
    pub name: OsString,
    /// What it is.
    pub kind: FileKind,
}

/// File verbs. Every method blocks; every error carries the kernel's number.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens a file. Where the filesystem refuses direct I/O the answer is `EINVAL`.
    fn open(&self, path: &Path, open: Open) -> io::Result<Handle>;
    /// Reserves blocks up to `length` and makes the file that long; `EOPNOTSUPP` where that is impossible.
    fn allocate(&self, file: &Handle, length: u64) -> io::Result<()>;
    /// Writes all of the first `length` bytes of `buffer` at `offset`.
    fn write_at(
        &self,
        file: &Handle,
        buffer: Buffer,
        length: usize,
        offset: u64,
    ) -> io::Result<Buffer>;
    /// Reads up to `length` bytes at `offset`; fewer only at the end of the file.
    fn read_at(
        &self,
        file: &Handle,
        buffer: Buffer,
        length: usize,
        offset: u64,
    ) -> io::Result<(Buffer, usize)>;
    /// Writes all of `bytes` at the file's position (at its end for [`Open::Append`]).
    fn append(&self, file: &Handle, bytes: &[u8]) -> io::Result<()>;
    /// Reads a whole small file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Cuts or extends a file.
    fn truncate(&self, file: &Handle, length: u64) -> io::Result<()>;
    /// Makes a file mode 0444 with the time [`SEALED_SECONDS`].
    fn seal(&self, file: &Handle) -> io::Result<()>;
    /// Returns once the content is on the device. After a failure the content must be taken as lost.
    fn sync_data(&self, file: &Handle) -> io::Result<()>;
    /// Returns once all that was written so far to the file's filesystem, by anyone, is on the device; `EOPNOTSUPP`
    /// where the filesystem does not promise that. Success says nothing about a single file: ask it by
    /// [`Disk::check_written`]. After a failure, each file is to be synced by itself.
    fn sync_filesystem(&self, file: &Handle) -> io::Result<()>;
    /// Fails if writing back any of the file's content failed since it was opened, and this was not reported to it
    /// yet: the content must be taken as lost. Writes nothing.
    fn check_written(&self, file: &Handle) -> io::Result<()>;
    /// Returns once the directory's names are on the device.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Starts writing a range back without waiting.
    fn write_back(&self, file: &Handle, offset: u64, length: u64) -> io::Result<()>;
    /// Lets the page cache drop a file's clean pages.
    fn forget(&self, file: &Handle) -> io::Result<()>;
    /// Makes `to` share all blocks of `from`; `EOPNOTSUPP`, `EXDEV` or `EINVAL` where that is impossible.
    fn reflink(&self, from: &Handle, to: &Handle) -> io::Result<()>;
    /// Renames, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames; `EEXIST` if the new name is taken.
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name that is no directory.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory of exactly this mode.
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file or a directory with all that is in it, following no link; absent is fine.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;
    /// Sets the permission bits.
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Facts about a name.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// The names in a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<Name>>;
    /// Space of the filesystem that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Offset alignment of direct I/O on a file; `None` where the kernel or the filesystem has none.
    fn direct_alignment(&self, path: &Path) -> io::Result<Option<u32>>;
}

/// Facts about a name; `None` if it is absent.
pub fn find(disk: &dyn Disk, path: &Path) -> io::Result<Option<Stat>> {
    absent_is_none(disk.stat(path))
}

/// Turns "no such file" into `None`.
pub fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod conformance;

//! Deleting a tree by directory descriptors: no symbolic link is followed and no path is resolved twice, so
//! nothing outside the tree can be reached, whatever is renamed meanwhile.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// Names handled per look at a directory: bounds memory for directories of a million names.
const BATCH: usize = 1024;
/// Deepest tree that is deleted: each level holds a descriptor.
const DEPTH: usize = 256;

/// Removes `path` and all below it; absent is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match remove_at(CWD, path, 0) {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

fn remove_at<P: Arg + Copy>(
    parent: BorrowedFd<'_>,
    name: P,
    depth: usize,
) -> rustix::io::Result<()> {
    if depth > DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    // Directories of views are 0555; without root, entries can only be removed from a writable one.
    rustix::fs::fchmod(&directory, Mode::RWXU)?;
    loop {
        let names = batch(&directory)?;
        if names.is_empty() {
            break;
        }
        for name in &names {
            remove_at(directory.as_fd(), name.as_c_str(), depth.saturating_add(1))?;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn batch(directory: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    Dir::read_from(directory)?
        .filter(|entry| {
            !entry
                .as_ref()
                .is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."))
        })
        .take(BATCH)
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .collect()
}

//! One owner writes: an advisory lock on `<root>/lock`, which holds the owner's process id for the message that
//! a second process gives. The kernel drops the lock when the owner dies.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::{Error, error_at};
use crate::error::IoContext;

/// The held lock; dropping it releases it.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says who holds it.
    pub(super) fn take(root: &Path) -> Result<Self, Error> {
        let path = root.join("lock");
        let open = |writes: bool| {
            OpenOptions::new()
                .read(true)
                .write(writes)
                .create(writes)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
                .at("open", &path)
        };
        let mut writer = open(true)?;
        // What is held is open for reading only, so that the filesystem can be remounted read-only.
        let mut file = open(false)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Locked {
                    root: root.to_path_buf(),
                    pid: owner(&mut file),
                });
            }
            Err(error) => return Err(error_at("lock", &path, error.into()).into()),
        }
        writer.set_len(0).at("write", &path)?;
        writeln!(writer, "{}", std::process::id()).at("write", &path)?;
        Ok(Self { _file: file })
    }
}

fn owner(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

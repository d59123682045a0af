//! One owner writes: an advisory lock on `<root>/lock`, which holds the owner's process id for the message that
//! a second process gives. The kernel drops the lock when the owner dies.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::Error;
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
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .at("open", &path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Locked {
                    root: root.to_path_buf(),
                    pid: owner(&mut file),
                });
            }
            Err(error) => {
                return Err(Err::<(), _>(error)
                    .at("lock", &path)
                    .err()
                    .map_or(Error::Busy, Error::Path));
            }
        }
        file.set_len(0).at("write", &path)?;
        file.rewind().at("write", &path)?;
        writeln!(file, "{}", std::process::id()).at("write", &path)?;
        Ok(Self { _file: file })
    }
}

fn owner(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

//! What the filesystem can do, tried once at start in `tmp/`.
//!
//! | missing | what happens |
//! |---|---|
//! | hard links | refused: views are hard links |
//! | `RENAME_NOREPLACE` | names are given by one thread at a time after a look (the store has one owner) |
//! | `fallocate` | files are extended by truncation |
//! | direct I/O, or an alignment over 4 KiB | the page cache is used, with early write-back |
//!
//! The link limit is not tried: `EMLINK` itself is handled.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::error::Error;
use super::write_file;
use crate::disk::{BLOCK, Disk, Open};
use crate::error::IoContext;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Renames can refuse to replace.
    pub noreplace: bool,
    /// Blocks can be reserved.
    pub allocate: bool,
    /// The page cache can be bypassed in 4 KiB steps.
    pub direct: bool,
}

/// Whether an error means that the filesystem lacks the feature.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS)
    )
}

/// Tries each feature; leaves nothing behind unless it fails half-way, which the next start clears.
pub(super) fn probe(disk: &dyn Disk, root: &Path) -> Result<Probe, Error> {
    let directory = root.join("tmp");
    let [file, link, moved] = ["probe-a", "probe-b", "probe-c"].map(|name| directory.join(name));
    let handle = write_file(disk, &file, b"")?;
    let allocate = supported(disk.allocate(&handle, BLOCK)).at("allocate", &file)?;
    let direct = match disk.direct_alignment(&file).at("read", &file)? {
        Some(align) if u64::from(align) <= BLOCK => {
            supported(disk.open(&file, Open::WriteDirect).map(drop)).at("open", &file)?
        }
        _ => false,
    };
    let unlinkable = |source: io::Error| Error::Unusable {
        root: root.to_path_buf(),
        reason: format!(
            "its filesystem makes no hard links ({source}); use ext4, XFS, btrfs or tmpfs"
        ),
    };
    disk.link(&file, &link).map_err(unlinkable)?;
    let noreplace = supported(disk.rename_noreplace(&link, &moved)).at("rename", &link)?;
    for path in [&file, if noreplace { &moved } else { &link }] {
        disk.unlink(path).at("remove", path)?;
    }
    Ok(Probe {
        noreplace,
        allocate,
        direct,
    })
}

fn supported(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if is_unsupported(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

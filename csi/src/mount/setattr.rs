//! `mount_setattr(2)`, which rustix 1.1 does not have.

use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Attributes of a mount, as the kernel's `struct mount_attr` has them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attributes<'a> {
    /// To set (`MOUNT_ATTR_*`).
    pub(super) set: u64,
    /// To clear.
    pub(super) clear: u64,
    /// The user namespace to map owners by.
    pub(super) owners: Option<BorrowedFd<'a>>,
}

/// Changes attributes of the one mount that `tree` is the root of and makes it private.
#[expect(
    unsafe_code,
    reason = "rustix has no mount_setattr; Linux 5.12 has, and only it can change a detached mount"
)]
pub(super) fn restrict(tree: impl AsFd, attributes: Attributes<'_>) -> io::Result<()> {
    let Attributes { set, clear, owners } = attributes;
    let owners = owners.map(|namespace| namespace.as_raw_fd());
    let wanted = libc::mount_attr {
        attr_set: set | owners.map_or(0, |_| libc::MOUNT_ATTR_IDMAP),
        attr_clr: clear,
        propagation: libc::MS_PRIVATE,
        userns_fd: owners
            .map_or(Ok(0), u64::try_from)
            .map_err(io::Error::other)?,
    };
    let descriptor: c_int = tree.as_fd().as_raw_fd();
    let flags: c_uint = libc::AT_EMPTY_PATH.unsigned_abs();
    // SAFETY: the descriptor is borrowed for the call; the path is a NUL-terminated constant; `wanted` is a
    // fully initialized `struct mount_attr` that outlives the call, and its true size is passed. The kernel only
    // reads these and keeps no pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            descriptor,
            c"".as_ptr(),
            flags,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

//! Mounts by the kernel: `open_tree` clones the view's mount where nobody sees it, `mount_setattr` makes the clone
//! read-only, nosuid, nodev and private, `move_mount` shows it. No moment exists in which it can be written. A guarded
//! one is id-mapped besides (`nobody.rs`), so that it stays unwritable where a container runtime takes `ro` away.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, StatxAttributes, StatxFlags, fstatvfs, statx};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use tonnage_cache::error::{IoContext, PathError};

use super::setattr::{self, Attributes};
use super::{Error, Mounter, Sight, Table, nobody};
use crate::target::{self, Spot};
use crate::volume::MountFlags;

/// The real mounter; needs `CAP_SYS_ADMIN` over its mount namespace.
#[derive(Debug, Default)]
pub struct KernelMounter {
    /// The namespace of guarded mounts, made for the first of them.
    nobody: OnceLock<OwnedFd>,
}

impl KernelMounter {
    /// A mounter for the calling process's mount namespace.
    pub fn new() -> Self {
        Self::default()
    }

    fn nobody(&self) -> std::io::Result<BorrowedFd<'_>> {
        if let Some(namespace) = self.nobody.get() {
            return Ok(namespace.as_fd());
        }
        let made = nobody::namespace()?;
        Ok(self.nobody.get_or_init(|| made).as_fd())
    }

    /// A clone of the mount that `directory` lies on, with it as the root, where nobody sees it yet.
    fn restricted(&self, directory: &Path, flags: MountFlags) -> Result<OwnedFd, Error> {
        let clone = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        let tree = open_tree(CWD, directory, clone)
            .map_err(|error| refused(error, "clone the mount of", directory))?;
        let attributes = attributes(flags);
        if !flags.guarded {
            setattr::restrict(&tree, attributes).at("make read-only the mount of", directory)?;
            return Ok(tree);
        }
        let guard = |nobody| {
            let owners = Some(nobody);
            setattr::restrict(
                &tree,
                Attributes {
                    owners,
                    ..attributes
                },
            )
        };
        let guarded = self.nobody().and_then(guard);
        guarded.map_err(|source| Error::Unguarded { source })?;
        Ok(tree)
    }
}

impl Mounter for KernelMounter {
    fn attach(&self, view: &Path, spot: &Spot, flags: MountFlags) -> Result<(), Error> {
        let tree = self.restricted(view, flags)?;
        let target = spot.open()?;
        let to = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&tree, "", &target, "", to)
            .map_err(|error| refused(error, "mount on", spot.path()))
    }

    fn check_guard(&self, directory: &Path) -> Result<(), Error> {
        let guarded = MountFlags {
            guarded: true,
            ..MountFlags::default()
        };
        self.restricted(directory, guarded).map(drop)
    }

    fn detach(&self, spot: &Spot) -> Result<(), Error> {
        let path = spot.through_parent();
        match unmount(&path, UnmountFlags::NOFOLLOW) {
            // Someone still has a file open. The tree cannot be written, so it may live on out of sight.
            Err(Errno::BUSY) => unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
            result => result,
        }
        .map_err(|error| match error {
            Errno::INVAL | Errno::NOENT => Error::NotMounted {
                path: spot.path().to_path_buf(),
            },
            error => refused(error, "unmount", spot.path()),
        })
    }

    fn look(&self, spot: &Spot, view: Option<&Path>) -> Result<Sight, Error> {
        let root = match spot.open() {
            Ok(root) => root,
            Err(error) => return Ok(unopened(&error)),
        };
        let Ok(seen) = identity(root.as_fd(), Path::new(""), AtFlags::EMPTY_PATH) else {
            return Ok(Sight::Other);
        };
        match seen.is_mounted {
            Some(false) => return Ok(Sight::Nothing),
            Some(true) => {}
            None => return Ok(Sight::Other),
        }
        let wanted = view.map(|view| identity(CWD, view, AtFlags::SYMLINK_NOFOLLOW));
        if !matches!(wanted, Some(Ok(wanted)) if wanted.inode == seen.inode) {
            return Ok(Sight::Other);
        }
        let flags = fstatvfs(&root).at("look at", spot.path())?.f_flag;
        let sound =
            StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
        Ok(Sight::View {
            sound: flags.contains(sound),
        })
    }

    fn mounts(&self) -> Result<Table, Error> {
        // Of this thread: a test may have given it a mount namespace of its own.
        let path = Path::new("/proc/thread-self/mountinfo");
        let text = std::fs::read(path).at("read", path)?;
        Table::parse(&text)
    }
}

/// Which directory it is, and whether it is the root of a mount.
struct Identity {
    /// Device and inode.
    inode: (u32, u32, u64),
    /// `None` where the filesystem does not say.
    is_mounted: Option<bool>,
}

/// Asks what is known already: a filesystem whose server is dead is not waited for.
fn identity(directory: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> Result<Identity, Errno> {
    let flags = flags | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let facts = statx(directory, path, flags, StatxFlags::INO)?;
    let root = StatxAttributes::MOUNT_ROOT;
    let told = facts.stx_attributes_mask.contains(root);
    Ok(Identity {
        inode: (facts.stx_dev_major, facts.stx_dev_minor, facts.stx_ino),
        is_mounted: told.then(|| facts.stx_attributes.contains(root)),
    })
}

/// Where nothing is, nothing is mounted.
fn unopened(error: &target::Error) -> Sight {
    let is_absent = matches!(
        error,
        target::Error::Path(error) if error.source.kind() == ErrorKind::NotFound
    );
    if is_absent {
        Sight::Nothing
    } else {
        Sight::Other
    }
}

fn attributes(flags: MountFlags) -> Attributes<'static> {
    let mut set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    let mut clear = 0;
    if flags.noexec {
        set |= libc::MOUNT_ATTR_NOEXEC;
    }
    if flags.noatime {
        set |= libc::MOUNT_ATTR_NOATIME;
        // The access time modes are one field, to be cleared as a whole (mount_setattr(2)).
        clear |= libc::MOUNT_ATTR__ATIME;
    }
    Attributes {
        set,
        clear,
        owners: None,
    }
}

fn refused(error: Errno, operation: &'static str, path: &Path) -> Error {
    match error {
        Errno::PERM | Errno::ACCESS => Error::NotPermitted {
            path: path.to_path_buf(),
        },
        error => PathError {
            operation,
            path: path.to_path_buf(),
            source: error.into(),
        }
        .into(),
    }
}

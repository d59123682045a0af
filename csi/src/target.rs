//! Where a pod's volume appears: paths below kubelet's directory, resolved without ever following a link.
//!
//! The root is opened once, following links, because an admin may have made kubelet's directory one. Everything
//! below is resolved from that descriptor with `openat2` (`RESOLVE_BENEATH`, no symbolic links). Only the
//! last component is ever made or removed, and only as a directory; nothing here is recursive.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, chmodat, mkdirat, openat2, statat, unlinkat,
};
use rustix::io::Errno;
use tonnage_cache::error::{IoContext, Kind, PathError};
use tonnage_cache::path::Escaped;

const PATH_MAX: usize = 4096;
/// Mode of a target directory; kubelet's own is the same.
const TARGET_MODE: u16 = 0o750;

/// What is wrong with a target.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a path that kubelet would send.
    #[error("target path {} {why}", Escaped(text))]
    Malformed {
        /// As it was sent.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A symbolic link, or a way out of kubelet's directory, on the path.
    #[error("{} leads through a symbolic link or out of kubelet's directory", Escaped(&path.to_string_lossy()))]
    Escapes {
        /// The target.
        path: PathBuf,
    },
    /// Kubelet makes the parent; it is not there.
    #[error("the directory that {} should be made in does not exist", Escaped(&path.to_string_lossy()))]
    NoParent {
        /// The target.
        path: PathBuf,
    },
    /// Something else than a directory is there.
    #[error("{} is there already and is not a directory", Escaped(&path.to_string_lossy()))]
    NotADirectory {
        /// The target.
        path: PathBuf,
    },
    /// A system call failed.
    #[error(transparent)]
    Path(#[from] PathError),
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Malformed { .. } | Self::Escapes { .. } => Kind::Invalid,
            Self::NoParent { .. } | Self::NotADirectory { .. } => Kind::Conflict,
            Self::Path(error) => error.kind(),
        }
    }
}

/// A target path that lies below kubelet's directory by its words; [`KubeletRoot::spot`] asks the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetPath {
    relative: PathBuf,
    path: PathBuf,
}

impl TargetPath {
    /// The path with kubelet's directory resolved, as the mount table shows it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path below kubelet's directory.
    pub fn relative(&self) -> &Path {
        &self.relative
    }
}

/// Kubelet's directory, open.
#[derive(Debug)]
pub struct KubeletRoot {
    given: PathBuf,
    path: PathBuf,
    directory: OwnedFd,
}

impl KubeletRoot {
    /// Opens the directory, following links.
    pub fn open(given: &Path) -> Result<Self, Error> {
        let path = given.canonicalize().at("resolve", given)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty()).at("open", &path)?;
        Ok(Self {
            given: given.to_path_buf(),
            path,
            directory,
        })
    }

    /// The resolved path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks a target path's words.
    pub fn target(&self, text: &str) -> Result<TargetPath, Error> {
        let malformed = |why| Error::Malformed {
            text: text.to_owned(),
            why,
        };
        if text.len() >= PATH_MAX || text.chars().any(char::is_control) {
            return Err(malformed("is too long or has control characters"));
        }
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(malformed("is not absolute"));
        }
        let relative = path
            .strip_prefix(&self.given)
            .or_else(|_| path.strip_prefix(&self.path))
            .map_err(|_| malformed("is not below kubelet's directory"))?;
        // `components` drops "." and doubled slashes, which must not be there in the first place.
        if text.contains("//") || text.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(malformed("has a component that is empty, \".\" or \"..\""));
        }
        if relative.components().next().is_none() {
            return Err(malformed("is kubelet's directory itself"));
        }
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if !relative.components().all(plain) {
            return Err(malformed("is not a plain path"));
        }
        Ok(self.below(relative))
    }

    /// The target at a relative path that was checked before.
    pub fn below(&self, relative: &Path) -> TargetPath {
        TargetPath {
            relative: relative.to_path_buf(),
            path: self.path.join(relative),
        }
    }

    /// Opens the target's parent; `None` if that does not exist.
    pub fn spot(&self, target: &TargetPath) -> Result<Option<Spot>, Error> {
        let name = target
            .relative
            .file_name()
            .unwrap_or_default()
            .to_os_string();
        let parent = target
            .relative
            .parent()
            .filter(|parent| *parent != Path::new(""));
        let parent = parent.unwrap_or(Path::new("."));
        match beneath(self.directory.as_fd(), parent) {
            Ok(parent) => Ok(Some(Spot {
                parent,
                name,
                path: target.path.clone(),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::XDEV | Errno::NOTDIR) => Err(Error::Escapes {
                path: target.path.clone(),
            }),
            Err(error) => Err(PathError {
                operation: "open the parent of",
                path: target.path.clone(),
                source: error.into(),
            }
            .into()),
        }
    }
}

fn beneath(directory: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0u8;
    loop {
        match openat2(directory, path, flags, Mode::empty(), resolve) {
            // The kernel saw a rename on the way (openat2(2), EAGAIN).
            Err(Errno::AGAIN) if tries < 16 => tries = tries.saturating_add(1),
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// A name in an open directory: where a volume is mounted.
#[derive(Debug)]
pub struct Spot {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Spot {
    /// A spot anywhere, for the command line: links in its parent are followed.
    pub fn at(path: &Path) -> Result<Self, Error> {
        let name = path.file_name().map(std::ffi::OsStr::to_os_string);
        let Some(name) = name else {
            let text = path.to_string_lossy().into_owned();
            return Err(Error::Malformed {
                text,
                why: "has no last component",
            });
        };
        let parent = path
            .parent()
            .filter(|parent| *parent != Path::new(""))
            .unwrap_or(Path::new("."));
        let parent = parent.canonicalize().at("resolve", parent)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, &parent, flags, Mode::empty()).at("open", &parent)?;
        Ok(Self {
            path: parent.join(&name),
            parent: opened,
            name,
        })
    }

    /// The full path, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path that leads to the spot through the open parent, whatever happens to the names above it.
    pub fn through_parent(&self) -> PathBuf {
        Path::new("/proc/thread-self/fd")
            .join(self.parent.as_raw_fd().to_string())
            .join(&self.name)
    }

    /// Makes the directory (0750) if nothing is there; says whether it did.
    pub fn ensure_dir(&self) -> Result<bool, Error> {
        match mkdirat(
            &self.parent,
            &self.name,
            Mode::from_raw_mode(TARGET_MODE.into()),
        ) {
            Ok(()) => {
                // mkdirat(2) lets the umask take bits away.
                let mode = Mode::from_raw_mode(TARGET_MODE.into());
                chmodat(&self.parent, &self.name, mode, AtFlags::empty())
                    .at("set the mode of", &self.path)?;
                Ok(true)
            }
            Err(Errno::EXIST) => {
                let stat = statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW)
                    .at("look at", &self.path)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Ok(false),
                    FileType::Symlink => Err(Error::Escapes {
                        path: self.path.clone(),
                    }),
                    FileType::RegularFile
                    | FileType::Fifo
                    | FileType::Socket
                    | FileType::CharacterDevice
                    | FileType::BlockDevice
                    | FileType::Unknown => Err(Error::NotADirectory {
                        path: self.path.clone(),
                    }),
                }
            }
            Err(error) => Err(PathError {
                operation: "make",
                path: self.path.clone(),
                source: error.into(),
            }
            .into()),
        }
    }

    /// Opens the directory that is there, or the root of what is mounted on it.
    pub fn open(&self) -> Result<OwnedFd, Error> {
        match beneath(self.parent.as_fd(), Path::new(&self.name)) {
            Ok(directory) => Ok(directory),
            Err(Errno::LOOP) => Err(Error::Escapes {
                path: self.path.clone(),
            }),
            Err(Errno::NOTDIR) => Err(Error::NotADirectory {
                path: self.path.clone(),
            }),
            Err(error) => Err(PathError {
                operation: "open",
                path: self.path.clone(),
                source: error.into(),
            }
            .into()),
        }
    }

    /// Removes the directory; absent is fine, anything in it is an error.
    pub fn remove_dir(&self) -> Result<(), Error> {
        match unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTDIR) => Err(Error::NotADirectory {
                path: self.path.clone(),
            }),
            Err(error) => {
                let source = io::Error::from(error);
                Err(PathError {
                    operation: "remove",
                    path: self.path.clone(),
                    source,
                }
                .into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn root() -> (tempfile::TempDir, KubeletRoot) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("kubelet/pods/a")).unwrap();
        let root = KubeletRoot::open(&directory.path().join("kubelet")).unwrap();
        (directory, root)
    }

    fn text(directory: &tempfile::TempDir, below: &str) -> String {
        directory
            .path()
            .join("kubelet")
            .join(below)
            .to_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn words_that_are_no_plain_path_below_the_root_are_refused() {
        let (directory, root) = root();
        let inside = text(&directory, "pods");
        for bad in [
            "some/path".to_owned(),
            "/etc".to_owned(),
            inside.replace("pods", ""),
            inside.replace("/pods", ""),
            format!("{inside}/../../x"),
            format!("{inside}/./x"),
            format!("{inside}//x"),
            format!("{inside}/a\n"),
            format!("{inside}/\u{9b}2J"),
            format!("{inside}/{}", "x".repeat(5000)),
        ] {
            assert!(
                matches!(root.target(&bad), Err(Error::Malformed { .. })),
                "{bad}"
            );
        }
        assert_eq!(root.target(&inside).unwrap().relative(), Path::new("pods"));
    }

    #[test]
    fn a_target_is_made_once_with_its_mode_and_removed_once() {
        let (directory, root) = root();
        let target = root.target(&text(&directory, "pods/a/mount")).unwrap();
        let spot = root.spot(&target).unwrap().unwrap();
        assert!(spot.ensure_dir().unwrap());
        assert!(!spot.ensure_dir().unwrap());
        let mode = target.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750);
        spot.remove_dir().unwrap();
        spot.remove_dir().unwrap();
        assert!(!target.path().exists());
    }

    #[test]
    fn links_below_the_root_are_refused_wherever_they_are() {
        let (directory, root) = root();
        std::fs::create_dir(directory.path().join("elsewhere")).unwrap();
        symlink(
            directory.path().join("elsewhere"),
            directory.path().join("kubelet/pods/link"),
        )
        .unwrap();
        let through = root.target(&text(&directory, "pods/link/mount")).unwrap();
        assert!(matches!(root.spot(&through), Err(Error::Escapes { .. })));
        let last = root.target(&text(&directory, "pods/link")).unwrap();
        let spot = root.spot(&last).unwrap().unwrap();
        assert!(matches!(spot.ensure_dir(), Err(Error::Escapes { .. })));
        assert!(spot.open().is_err());
        assert!(spot.remove_dir().is_err());
        assert!(directory.path().join("elsewhere").exists());
    }

    #[test]
    fn a_root_that_is_a_link_is_followed_once() {
        let (directory, _root) = root();
        let link = directory.path().join("link");
        symlink(directory.path().join("kubelet"), &link).unwrap();
        let root = KubeletRoot::open(&link).unwrap();
        let target = root.target(link.join("pods/x").to_str().unwrap()).unwrap();
        assert_eq!(
            target.path(),
            directory
                .path()
                .canonicalize()
                .unwrap()
                .join("kubelet/pods/x")
        );
    }

    #[test]
    fn a_missing_parent_is_absent_and_a_file_is_in_the_way() {
        let (directory, root) = root();
        let absent = root.target(&text(&directory, "pods/none/mount")).unwrap();
        assert!(root.spot(&absent).unwrap().is_none());
        std::fs::write(directory.path().join("kubelet/pods/file"), "x").unwrap();
        let file = root.target(&text(&directory, "pods/file")).unwrap();
        let spot = root.spot(&file).unwrap().unwrap();
        assert!(matches!(
            spot.ensure_dir(),
            Err(Error::NotADirectory { .. })
        ));
        assert!(matches!(
            spot.remove_dir(),
            Err(Error::NotADirectory { .. })
        ));
    }
}

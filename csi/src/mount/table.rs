//! The mount table, from `/proc/…/mountinfo` (`proc_pid_mountinfo(5)`):
//!
//! ```text
//! 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//! id parent dev root point options optional… - type source super-options
//! ```
//! Parsing is pure. White space and backslashes in paths are octal escapes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Error;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Major and minor number of the filesystem.
    pub device: (u32, u32),
    /// Which directory of the filesystem is shown.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Options of the mount.
    pub options: String,
    /// Whether mounts made below it are passed on to other namespaces.
    pub shared: bool,
    /// Type of the filesystem.
    pub filesystem: String,
    /// Options of the filesystem.
    pub super_options: String,
}

impl Mount {
    /// Whether all of `wanted` are among the mount's options.
    pub fn has_options(&self, wanted: &[&str]) -> bool {
        wanted
            .iter()
            .all(|wanted| self.options.split(',').any(|option| option == *wanted))
    }
}

/// All mounts of a namespace, those mounted later on top of earlier ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(Vec<Mount>);

impl Table {
    /// A table of these mounts, oldest first.
    pub fn new(mounts: Vec<Mount>) -> Self {
        Self(mounts)
    }

    /// Parses the text of a `mountinfo` file.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        text.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .zip(1..)
            .map(|(line, number)| parse_line(line).ok_or(Error::Table { line: number }))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// All mounts, oldest first.
    pub fn mounts(&self) -> &[Mount] {
        &self.0
    }

    /// The mounts on exactly `point`, topmost last.
    pub fn at<'a>(&'a self, point: &'a Path) -> impl DoubleEndedIterator<Item = &'a Mount> {
        self.0.iter().filter(move |mount| mount.point == point)
    }

    /// The mount that a path without links lies on, and the path's place within its filesystem.
    pub fn locate(&self, path: &Path) -> Option<(&Mount, PathBuf)> {
        let longest = self
            .0
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())?;
        let below = path.strip_prefix(&longest.point).ok()?;
        let within = if below == Path::new("") {
            longest.root.clone()
        } else {
            longest.root.join(below)
        };
        Some((longest, within))
    }
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let (_id, _parent) = (fields.next()?, fields.next()?);
    let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let options = text(fields.next()?);
    let mut shared = false;
    for field in fields.by_ref() {
        if field == b"-" {
            break;
        }
        shared |= field.starts_with(b"shared:");
    }
    let filesystem = text(fields.next()?);
    let _source = fields.next()?;
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: without_deleted(root),
        point,
        options,
        shared,
        filesystem,
        super_options: text(fields.next().unwrap_or_default()),
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// The kernel marks a root whose directory was removed.
fn without_deleted(root: PathBuf) -> PathBuf {
    match root
        .to_str()
        .and_then(|text| text.strip_suffix("//deleted"))
    {
        Some(kept) => PathBuf::from(kept),
        None => root,
    }
}

fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\').and_then(octal);
        if let Some(byte) = code {
            bytes.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        36 22 98:0 /mnt1 /mnt\\0402 ro,nosuid,nodev master:1 shared:3 - xfs /dev/root rw,seclabel\n\
        40 22 8:1 /var/views/ab.0//deleted /k/t ro - ext4 /dev/sda1 rw\n\
        41 40 8:1 /var/views/cd.0 /k/t ro - ext4 /dev/sda1 rw\n";

    #[test]
    fn fields_escapes_and_deleted_roots_are_read() {
        let table = Table::parse(TEXT).unwrap();
        let mount = &table.mounts()[1];
        assert_eq!(mount.point, Path::new("/mnt 2"));
        assert_eq!(
            (mount.device, mount.filesystem.as_str(), mount.shared),
            ((98, 0), "xfs", true)
        );
        assert_eq!(mount.super_options, "rw,seclabel");
        assert!(mount.has_options(&["ro", "nodev"]) && !mount.has_options(&["noexec"]));
        assert_eq!(table.mounts()[2].root, Path::new("/var/views/ab.0"));
    }

    #[test]
    fn stacked_mounts_come_topmost_last() {
        let table = Table::parse(TEXT).unwrap();
        let roots: Vec<&Path> = table
            .at(Path::new("/k/t"))
            .map(|mount| mount.root.as_path())
            .collect();
        assert_eq!(
            roots,
            [Path::new("/var/views/ab.0"), Path::new("/var/views/cd.0")]
        );
    }

    #[test]
    fn a_path_is_located_on_the_longest_mount_point() {
        let table = Table::parse(TEXT).unwrap();
        let (mount, within) = table.locate(Path::new("/mnt 2/views")).unwrap();
        assert_eq!(
            (mount.device, within),
            ((98, 0), PathBuf::from("/mnt1/views"))
        );
        let (mount, within) = table.locate(Path::new("/mnt")).unwrap();
        assert_eq!((mount.device, within), ((8, 1), PathBuf::from("/mnt")));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let error = Table::parse(b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n").unwrap_err();
        assert!(matches!(error, Error::Table { line: 2 }));
    }
}

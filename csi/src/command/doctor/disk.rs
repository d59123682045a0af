//! What the cache's file system can do: tried out in a directory of its own that is removed again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};

use tonnage_csi::mount::{KernelMounter, Mount, Mounter as _};

use super::Check;
use tonnage_csi::size::ByteSize;

const SMALL: u64 = 1 << 30;

pub(super) fn examine(cache: &Path) -> Vec<Check> {
    let existing = cache
        .ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"));
    let probe = match Probe::make(existing) {
        Ok(probe) => probe,
        Err(error) => {
            return vec![Check::fail(
                "cache directory",
                format!("{} cannot be written: {error}", existing.display()),
                "choose another with --cache-dir, or change its owner or mode",
            )];
        }
    };
    let mut checks = vec![Check::ok(
        "cache directory",
        format!("{} can be written", cache.display()),
    )];
    let table = KernelMounter::new().mounts().unwrap_or_default();
    let real = existing
        .canonicalize()
        .unwrap_or_else(|_| existing.to_path_buf());
    let mount = table.locate(&real).map(|(mount, _)| mount);
    checks.push(kind(mount));
    checks.push(space(existing));
    checks.push(judge(
        "hard links",
        probe.hard_link(),
        "views are made of hard links: put the cache on ext4, XFS or btrfs",
    ));
    checks.push(judge(
        "exclusive rename",
        probe.exclusive_rename(),
        "objects are named by renameat2(RENAME_NOREPLACE): put the cache on ext4, XFS or btrfs",
    ));
    checks.push(soften(judge(
        "preallocation",
        probe.preallocation(),
        "large files may fragment: ext4, XFS and btrfs can do it",
    )));
    checks.push(soften(judge(
        "direct writes",
        probe.direct(),
        "content is written through the page cache: ext4, XFS and btrfs can write around it",
    )));
    checks.push(labels(mount));
    checks
}

fn judge(name: &str, tried: io::Result<()>, advice: &str) -> Check {
    match tried {
        Ok(()) => Check::ok(name, "work"),
        Err(error) => Check::fail(name, format!("do not work ({error})"), advice),
    }
}

/// A feature that there is a fallback for.
fn soften(check: Check) -> Check {
    match check.advice {
        Some(advice) => Check::warn(check.name, check.found, advice),
        None => check,
    }
}

fn kind(mount: Option<&Mount>) -> Check {
    judge_kind(mount.map_or("unknown", |mount| mount.filesystem.as_str()))
}

fn judge_kind(name: &str) -> Check {
    match name {
        "ext4" | "xfs" | "btrfs" => Check::ok("file system", name),
        "tmpfs" | "ramfs" => Check::warn(
            "file system",
            name,
            "content lies in memory and is gone after a reboot",
        ),
        "overlay" => Check::warn(
            "file system",
            name,
            "a container's own layer: mount a disk (an emptyDir or hostPath) at --cache-dir",
        ),
        "nfs" | "nfs4" | "cifs" | "9p" | "ceph" => Check::warn(
            "file system",
            name,
            "a network file system is slower than what it caches and may lose locks: use a local disk",
        ),
        other if other.starts_with("fuse") => Check::warn(
            "file system",
            other,
            "a user-space file system is slow: use a local disk",
        ),
        other => Check::warn(
            "file system",
            other,
            "is not tested: ext4, XFS and btrfs are",
        ),
    }
}

fn space(directory: &Path) -> Check {
    let facts = match rustix::fs::statvfs(directory) {
        Ok(facts) => facts,
        Err(error) => {
            return Check::fail(
                "space",
                format!("unknown ({error})"),
                "look at the file system",
            );
        }
    };
    let free = facts.f_bavail.saturating_mul(facts.f_frsize);
    let total = facts.f_blocks.saturating_mul(facts.f_frsize);
    let found = format!(
        "{} of {} free, {} files",
        ByteSize(free),
        ByteSize(total),
        facts.f_favail
    );
    if free < SMALL {
        Check::fail("space", found, "free some, or choose another --cache-dir")
    } else if free < total / 10 {
        Check::warn(
            "space",
            found,
            "less than a tenth is free: the cache keeps itself below 90 %",
        )
    } else if facts.f_files > 0 && facts.f_favail < 10_000 {
        Check::warn(
            "space",
            found,
            "few files are left: choose a file system with more inodes",
        )
    } else {
        Check::ok("space", found)
    }
}

fn labels(mount: Option<&Mount>) -> Check {
    if mount.is_some_and(has_labels) {
        Check::warn(
            "SELinux",
            "the file system carries labels",
            "label the cache container_ro_file_t, and set readOnly: true on every pod's volume",
        )
    } else {
        Check::ok("SELinux", "no labels")
    }
}

fn has_labels(mount: &Mount) -> bool {
    [&mount.options, &mount.super_options]
        .iter()
        .any(|options| options.split(',').any(|option| option == "seclabel"))
}

/// A directory to try things in, removed when dropped.
struct Probe {
    directory: PathBuf,
}

impl Probe {
    fn make(parent: &Path) -> io::Result<Self> {
        let directory = parent.join(format!(".tonnage-doctor-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        Ok(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn hard_link(&self) -> io::Result<()> {
        File::create(self.path("one"))?;
        std::fs::hard_link(self.path("one"), self.path("two"))
    }

    fn exclusive_rename(&self) -> io::Result<()> {
        let (from, to) = (self.path("from"), self.path("to"));
        File::create(&from)?;
        rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE)?;
        File::create(&from)?;
        match rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => Err(io::Error::other("an existing file was replaced")),
        }
    }

    fn preallocation(&self) -> io::Result<()> {
        let file = File::create(self.path("long"))?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 20)?;
        Ok(())
    }

    fn direct(&self) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, self.path("direct"), flags, Mode::from_raw_mode(0o600))?;
        Ok(())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        for name in ["one", "two", "from", "to", "long", "direct"] {
            // Those that were never made are not there.
            let _absent = rustix::fs::unlinkat(CWD, self.path(name), AtFlags::empty());
        }
        if let Err(error) = std::fs::remove_dir(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), %error, "the doctor's directory stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use tonnage_csi::mount::Table;

    #[test]
    fn trying_the_file_system_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let checks = examine(&parent.path().join("not/yet/there"));
        assert!(
            checks
                .iter()
                .any(|check| check.name == "hard links" && check.verdict == Verdict::Ok)
        );
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn file_systems_are_judged_by_name() {
        assert_eq!(judge_kind("xfs").verdict, Verdict::Ok);
        assert_eq!(judge_kind("overlay").verdict, Verdict::Warn);
        assert_eq!(judge_kind("fuse.s3fs").verdict, Verdict::Warn);
    }

    #[test]
    fn labels_are_found_among_the_mount_options() {
        let has = |line: &[u8]| has_labels(&Table::parse(line).unwrap().mounts()[0]);
        assert!(has(
            b"22 1 254:1 / / rw,relatime shared:1 - xfs /dev/vda1 rw,seclabel,attr2\n"
        ));
        assert!(has(b"22 1 254:1 / / rw,seclabel - xfs /dev/vda1 rw\n"));
        assert!(!has(
            b"22 1 254:1 / /seclabel rw - xfs /dev/vda1 rw,seclabels\n"
        ));
    }
}

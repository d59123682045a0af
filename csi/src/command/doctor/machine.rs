//! What the kernel says about this machine: its version, our privileges, kubelet's mounts, memory and
//! descriptors. Reads `/proc` and `/sys`; each text is taken apart by a function of its own.

use std::path::Path;

use tonnage_cache::error::chain;
use tonnage_csi::mount::{KernelMounter, Mounter as _, Table};

use super::Check;
use tonnage_csi::size::ByteSize;

/// `CAP_SYS_ADMIN`, which mounting needs (linux/capability.h).
const CAP_SYS_ADMIN: u32 = 21;
const FEWEST_DESCRIPTORS: u64 = 1024;

pub(super) fn examine(kubelet: &Path) -> Vec<Check> {
    let mut checks = vec![kernel(), privileges(), descriptors(), memory()];
    checks.push(kubelet_mounts(kubelet));
    checks
}

fn kernel() -> Check {
    let name = rustix::system::uname();
    judge_kernel(&name.release().to_string_lossy())
}

fn judge_kernel(release: &str) -> Check {
    let mut numbers = release
        .split(['.', '-', '+'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (5, 15) {
        Check::ok("kernel", format!("Linux {release}"))
    } else {
        Check::fail(
            "kernel",
            format!("Linux {release}"),
            "Tonnage needs 5.15 or later",
        )
    }
}

fn privileges() -> Check {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let spaces = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    judge_privileges(&status, spaces.trim() != "0")
}

/// Whether this process may mount in its namespace.
pub(in super::super) fn may_mount() -> bool {
    has_mount_right(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

fn has_mount_right(status: &str) -> bool {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default();
    effective >> CAP_SYS_ADMIN & 1 == 1
}

fn judge_privileges(status: &str, namespaces: bool) -> Check {
    if has_mount_right(status) {
        return Check::ok("privileges", "may mount");
    }
    let advice = if namespaces {
        "`pull` works; run `mount` and `node` as root, or in `unshare -Urm`"
    } else {
        "`pull` works; run `mount` and `node` as root"
    };
    Check::warn("privileges", "may not mount", advice)
}

fn descriptors() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(limit) if limit < FEWEST_DESCRIPTORS => Check::warn(
            "open files",
            format!("at most {limit}"),
            format!("raise the limit (`ulimit -n`) to {FEWEST_DESCRIPTORS} or more"),
        ),
        Some(limit) => Check::ok("open files", format!("at most {limit}")),
        None => Check::ok("open files", "no limit"),
    }
}

fn memory() -> Check {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    let limit = limit_above(Path::new("/sys/fs/cgroup"), group);
    match limit {
        Some(bytes) => Check::warn(
            "memory limit",
            format!("this control group may use {}", ByteSize(bytes)),
            "page cache counts against it: larger loads are written around the page cache; set none on the node pod",
        ),
        None => Check::ok("memory limit", "none"),
    }
}

/// The strictest `memory.max` from the group up to the root.
fn limit_above(mount: &Path, group: &str) -> Option<u64> {
    let mut path = mount.join(group.trim_start_matches('/'));
    let mut strictest: Option<u64> = None;
    while path.starts_with(mount) {
        let written = std::fs::read_to_string(path.join("memory.max")).unwrap_or_default();
        if let Ok(bytes) = written.trim().parse::<u64>() {
            strictest = Some(strictest.map_or(bytes, |other| other.min(bytes)));
        }
        if !path.pop() {
            break;
        }
    }
    strictest
}

fn kubelet_mounts(kubelet: &Path) -> Check {
    let shown = kubelet.display();
    let Ok(real) = kubelet.canonicalize() else {
        return Check::ok(
            "kubelet",
            format!("none on this machine ({shown} does not exist)"),
        );
    };
    match KernelMounter::new().mounts() {
        Ok(table) => judge_propagation(&table, &real),
        Err(error) => Check::fail("kubelet", chain(&error), "make /proc readable"),
    }
}

fn judge_propagation(table: &Table, directory: &Path) -> Check {
    let shown = directory.display();
    if table
        .locate(directory)
        .is_some_and(|(mount, _)| mount.shared)
    {
        return Check::ok(
            "kubelet",
            format!("mounts below {shown} are seen by others"),
        );
    }
    Check::fail(
        "kubelet",
        format!("mounts below {shown} are not seen by others"),
        "set mountPropagation: Bidirectional on the pod's volume, or run `mount --make-rshared /` on the host",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:25 / /var/lib/kubelet rw - tmpfs tmpfs rw
31 22 0:26 / /var/lib/kubelet\\040two rw shared:7 - tmpfs tmpfs rw
";

    #[test]
    fn a_kernel_is_judged_by_its_first_two_numbers() {
        assert_eq!(judge_kernel("6.1.0-13-amd64").verdict, Verdict::Ok);
        assert_eq!(judge_kernel("5.15.0").verdict, Verdict::Ok);
        assert_eq!(judge_kernel("5.14.21+").verdict, Verdict::Fail);
        assert_eq!(judge_kernel("4.19").verdict, Verdict::Fail);
    }

    #[test]
    fn privileges_are_read_from_the_effective_set() {
        assert_eq!(
            judge_privileges("CapEff:\t000001ffffffffff\n", true).verdict,
            Verdict::Ok
        );
        assert_eq!(
            judge_privileges("CapEff:\t0000000000000000\n", true).verdict,
            Verdict::Warn
        );
    }

    #[test]
    fn propagation_is_that_of_the_covering_mount() {
        let table = Table::parse(TABLE).unwrap();
        let judge = |path: &str| judge_propagation(&table, Path::new(path)).verdict;
        assert_eq!(judge("/var/lib/other"), Verdict::Ok);
        assert_eq!(judge("/var/lib/kubelet/pods"), Verdict::Fail);
        assert_eq!(judge("/var/lib/kubelet two/pods"), Verdict::Ok);
    }

    #[test]
    fn the_strictest_memory_limit_above_counts() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("a/memory.max"), "1048576\n").unwrap();
        std::fs::write(root.path().join("a/b/memory.max"), "max\n").unwrap();
        assert_eq!(limit_above(root.path(), "/a/b"), Some(1 << 20));
        assert_eq!(limit_above(root.path(), "/"), None);
    }
}

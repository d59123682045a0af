//! A private mount namespace that outlives the driver in it.
//!
//! A holder process (`unshare -m` as root, `unshare -Urm` otherwise) keeps the namespace; programs are started
//! in it by `nsenter`, which executes in place, so their process id is the child's. What they mount is read
//! from outside through `/proc/PID/root` and `/proc/PID/mountinfo`. When this value is dropped or this process dies, the holder's
//! standard input closes, it ends, and the kernel takes the namespace and every mount in it away.
//!
//! It decides nothing about what is mounted there.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The environment variable by which a person says that this machine allows no mount namespaces.
pub const NO_PRIVILEGED: &str = "TONNAGE_NO_PRIVILEGED";

/// This machine allows no private mount namespace.
#[derive(Debug, thiserror::Error)]
#[error(
    "this machine allows no private mount namespace ({reason}): run as root, or allow unprivileged user namespaces \
     (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
)]
pub struct Unavailable {
    reason: String,
}

/// A mount namespace, held open.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
    unprivileged: bool,
}

impl Namespace {
    /// Makes a namespace whose mounts do not reach this process.
    pub fn create() -> Result<Self, Unavailable> {
        let unprivileged = !rustix::process::geteuid().is_root();
        let flags = if unprivileged { "-Urm" } else { "-m" };
        let mut holder = Command::new("unshare")
            .args([flags, "--propagation", "private", "sh", "-c"])
            .arg("echo ready; exec cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Unavailable {
                reason: format!("unshare: {error}"),
            })?;
        let mut line = String::new();
        if let Some(out) = holder.stdout.take() {
            drop(BufReader::new(out).read_line(&mut line));
        }
        if line == "ready\n" {
            return Ok(Self {
                holder,
                unprivileged,
            });
        }
        let output = holder.wait_with_output();
        let reason = output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        );
        Err(Unavailable { reason })
    }

    /// A namespace for a test; `None` only where `TONNAGE_NO_PRIVILEGED=1` says so, and then it is printed.
    #[expect(
        clippy::panic,
        clippy::print_stderr,
        reason = "a privileged test that cannot run fails with a sentence, never in silence"
    )]
    pub fn for_test() -> Option<Self> {
        match Self::create() {
            Ok(namespace) => Some(namespace),
            Err(error) if std::env::var_os(NO_PRIVILEGED).is_some_and(|value| value == "1") => {
                eprintln!("NOT RUN because {NO_PRIVILEGED}=1: {error}");
                None
            }
            Err(error) => panic!("{error}; or set {NO_PRIVILEGED}=1 to leave these tests out"),
        }
    }

    /// Whether this is a user namespace of an ordinary user.
    pub const fn is_unprivileged(&self) -> bool {
        self.unprivileged
    }

    /// A command that runs `program` inside; its process id is the program's own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.id()));
        if self.unprivileged {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--mount").arg("--").arg(program);
        command
    }

    /// Runs a shell script inside; an error carries what it wrote to standard error.
    pub fn shell(&self, script: &str) -> io::Result<String> {
        let output = self.command("sh").args(["-ec", script]).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{script}: {}", text.trim())))
    }

    /// The namespace's root directory, seen from outside.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.holder.id()))
    }

    /// Where an absolute path of the namespace is seen from outside.
    pub fn path(&self, inside: &Path) -> PathBuf {
        outside(&self.root(), inside)
    }

    /// The mount table.
    pub fn mounts(&self) -> io::Result<Vec<Mount>> {
        Mount::read(&format!("/proc/{}/mountinfo", self.holder.id()))
    }
}

/// `inside`, an absolute path, below `root`.
pub fn outside(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // A holder that cannot be ended is ended by the kernel with this process.
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// One line of a mount table (`proc_pid_mountinfo(5)`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Which directory of its filesystem it shows.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Per-mount options: `ro,nosuid,nodev,relatime`.
    pub options: String,
    /// Filesystem type.
    pub filesystem: String,
}

impl Mount {
    /// Reads a mount table.
    pub fn read(table: &str) -> io::Result<Vec<Self>> {
        let text = std::fs::read_to_string(table)?;
        Ok(text.lines().filter_map(Self::parse).collect())
    }

    fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let fields: Vec<&str> = front.split(' ').collect();
        Some(Self {
            root: unescape(fields.get(3)?),
            point: unescape(fields.get(4)?),
            options: (*fields.get(5)?).to_owned(),
            filesystem: back.split(' ').next()?.to_owned(),
        })
    }

    /// Whether every one of `options` is among the mount's own.
    pub fn has_options(&self, options: &[&str]) -> bool {
        let own: Vec<&str> = self.options.split(',').collect();
        options.iter().all(|option| own.contains(option))
    }
}

/// Undoes the octal escapes of mount tables (`\040`).
fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.extend_from_slice(before.as_bytes());
        if let Some(Ok(byte)) = after.get(..3).map(|code| u8::from_str_radix(code, 8)) {
            out.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            out.push(b'\\');
            rest = after;
        }
    }
    out.extend_from_slice(rest.as_bytes());
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_line_is_read_with_its_escapes() {
        let line =
            "36 35 98:0 /views/ab.0 /var/lib/a\\040b rw,noatime master:1 - ext4 /dev/root rw";
        let mount = Mount::parse(line).unwrap();
        assert_eq!(mount.root, Path::new("/views/ab.0"));
        assert_eq!(mount.point, Path::new("/var/lib/a b"));
        assert!(mount.has_options(&["rw", "noatime"]) && !mount.has_options(&["ro"]));
        assert_eq!(mount.filesystem, "ext4");
    }

    #[test]
    fn privileged_mounts_inside_do_not_reach_outside_and_end_with_the_namespace() {
        let Some(namespace) = Namespace::for_test() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let shown = dir.path().display();
        namespace
            .shell(&format!("mount -t tmpfs t '{shown}'; echo x >'{shown}/f'"))
            .unwrap();
        assert!(!dir.path().join("f").exists());
        assert!(namespace.path(&dir.path().join("f")).exists());
        let at = |mount: &Mount| mount.point == dir.path();
        assert!(namespace.mounts().unwrap().iter().any(at));
        assert!(!Mount::read("/proc/self/mountinfo").unwrap().iter().any(at));
    }
}

//! A user namespace in which the owner of the cache's files has no number. A mount that is id-mapped by it shows them as
//! nobody's, and what nobody owns nobody may write, change or remove, whatever capabilities a process has: the kernel refuses it
//! before it asks for permissions (fs/namei.c `inode_permission`, fs/attr.c `setattr_prepare`; Linux 5.12). Unlike `ro`, this
//! cannot be taken away from a bind mount of such a mount, which container runtimes do where a pod asks for a writable volume
//! (runc 1.2 and later clear `ro` when they are told `rw`).
//!
//! A namespace is made by a process that begins in it; that process does nothing and is gone when its namespace is open, or with
//! whoever began it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};

/// The only number that it has: nobody's, for nobody. The store's files have others.
const NOBODY: &str = "65534 65534 1";

/// Makes the namespace. Needs `CAP_SETUID` and `CAP_SETGID` over the process's own, and a kernel that lets it make one.
pub(super) fn namespace() -> io::Result<OwnedFd> {
    let child = begin(getpid())?;
    let opened = open(child);
    // Whatever came of it, the process goes.
    let ended = kill_process(child, Signal::KILL).and_then(|()| reap(child));
    let namespace = opened?;
    ended?;
    Ok(namespace)
}

fn open(child: Pid) -> io::Result<OwnedFd> {
    let of_child =
        |name: &str| PathBuf::from(format!("/proc/{}/{name}", child.as_raw_nonzero().get()));
    for map in ["uid_map", "gid_map"] {
        // One write: the kernel takes a map as a whole (user_namespaces(7)).
        let mut file = File::options().write(true).open(of_child(map))?;
        file.write_all(NOBODY.as_bytes())?;
    }
    Ok(File::open(of_child("ns/user"))?.into())
}

/// Waits for the end of a child. One that is no child any more has been waited for: by the kernel where `SIGCHLD` is ignored, or
/// by whoever waits for all (waitpid(2), `ECHILD`).
fn reap(child: Pid) -> rustix::io::Result<()> {
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            other => return other.map(drop),
        }
    }
}

/// A process in a new user namespace that waits for its end, which comes at the latest with that of `parent`, this process.
#[expect(
    unsafe_code,
    reason = "a process of several threads cannot enter a user namespace; only a new one can begin in it"
)]
fn begin(parent: Pid) -> io::Result<Pid> {
    let parent = parent.as_raw_pid();
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is fork(2): the child has a copy of the memory and, as null says, of the stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        // Other threads may have held locks: no allocation, no unwinding, nothing but system calls from here on.
        // SAFETY: all are plain system calls that take no pointers.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // Nobody is told of a parent that was gone before (prctl(2)).
            if libc::getppid() != parent {
                libc::_exit(0);
            }
            loop {
                libc::pause();
            }
        }
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("the kernel gave a process no number"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_child_that_somebody_else_has_waited_for_is_reaped() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert_eq!(reap(pid), Ok(()));
        assert_eq!(reap(pid), Ok(()));
        assert!(child.wait().is_err());
    }

    #[test]
    fn privileged_a_child_whose_parent_was_gone_before_it_began_ends_by_itself() {
        // Not who begins it.
        let gone = Pid::INIT;
        assert_ne!(getpid(), gone);
        let child = begin(gone).expect("privileged tests need CAP_SYS_ADMIN");
        let (ends, has_ended) = channel();
        let waiting = std::thread::spawn(move || {
            let ended = waitpid(Some(child), WaitOptions::empty());
            ends.send(ended.is_ok()).unwrap();
        });
        let ended = has_ended.recv_timeout(Duration::from_secs(10));
        if ended.is_err() {
            kill_process(child, Signal::KILL).unwrap();
        }
        waiting.join().unwrap();
        assert_eq!(ended, Ok(true));
    }
}

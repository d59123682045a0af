//! What the kernel says about a process: open descriptors and anonymous memory.

use std::io;

/// What each descriptor of a process leads to, sorted.
pub fn descriptors(pid: u32) -> io::Result<Vec<String>> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor may be closed between the two calls.
        if let Ok(to) = std::fs::read_link(entry?.path()) {
            open.push(to.to_string_lossy().into_owned());
        }
    }
    open.sort();
    Ok(open)
}

/// `RssAnon` of a process, in bytes.
pub fn anonymous_bytes(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|figure| figure.trim().parse::<u64>().ok())
        .map(|kib| kib.saturating_mul(1024))
        .ok_or_else(|| io::Error::other("no RssAnon in /proc/PID/status"))
}

//! Runs programs and tells what they took, from what the kernel keeps about them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tonnage_e2e::node::{Build, anonymous_bytes, binary};

use super::stand::Stand;

/// `tonnage pull` of what a stand serves under a name, past the page cache, into a cache of its own.
pub(crate) fn pull(stand: &Stand, name: &str, cache: &Path) -> Command {
    let tonnage = binary(Build::Plain).unwrap();
    let mut command = Command::new(tonnage);
    command
        .args(["pull", "--quiet", "--json", "--anonymous"])
        .args(["--page-cache", "direct", "--endpoint", &stand.endpoint()])
        .arg("--cache-dir")
        .arg(cache)
        .arg(format!("s3://models/{name}"));
    command
}

/// What a command printed; it must end well.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// User and system time of a command and all its threads, to 10 ms.
pub(crate) fn cpu_time(command: &mut Command) -> Duration {
    let child = spawn(command);
    let pid = Pid::from_child(&child);
    // Its times can be read until it is reaped.
    waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )
    .unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    reap(child);
    // proc_pid_stat(5): the name in parentheses is field 2, utime and stime are 14 and 15.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// The most anonymous memory that a command had, looked at every 2 ms.
pub(crate) fn peak_anonymous_bytes(command: &mut Command) -> u64 {
    let mut child = spawn(command);
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        // A process that has just ended has no memory to tell of.
        if let Ok(bytes) = anonymous_bytes(child.id()) {
            peak = peak.max(bytes);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    reap(child);
    assert!(peak > 0, "the program ended before it was looked at");
    peak
}

fn spawn(command: &mut Command) -> Child {
    let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// It must have ended well; else what it said is why.
fn reap(child: Child) {
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
}

/// How often a command and all its threads made each system call, as `strace` counts them.
pub(crate) fn system_calls(command: &Command, summary: &Path) -> BTreeMap<String, u64> {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-c", "-U", "calls,name", "-o"])
        .arg(summary)
        .arg(command.get_program())
        .args(command.get_args());
    let output = strace.output().unwrap_or_else(|error| {
        panic!("this gate counts system calls with strace, which cannot be run here: {error}")
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{strace:?}: {errors}");
    let text = std::fs::read_to_string(summary).unwrap();
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(Ok(count)), Some(name)) = (words.next().map(str::parse), words.next())
            && name != "total"
        {
            calls.insert(name.to_owned(), count);
        }
    }
    assert!(!calls.is_empty(), "strace has counted nothing:\n{text}");
    calls
}

//! Whether content goes through the page cache: a pure decision over measured facts.
//!
//! Warm writes leave the pages for the consumer, which then reads at memory speed; direct writes leave memory
//! alone. Warm pays only while memory is at hand *and* quick: on a virtual machine whose free pages had gone
//! back to the host, warm staging was five times slower than direct. So the first parts are timed, and the
//! rest of the job switches if they were slow. Files below 64 KiB always go through the page cache.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::Writing;

/// How pages are to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PageCache {
    /// Past the page cache.
    Direct,
    /// Through it, unless a memory limit forbids it.
    Warm,
    /// Through it if memory is at hand and quick: for a pod that waits.
    #[default]
    Auto,
}

/// A share of a memory limit, and how much of it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// `MemAvailable`, in bytes.
    pub(super) available: Option<u64>,
    /// What the control group's limit leaves, in bytes; `None` without a limit.
    pub(super) group_left: Option<u64>,
}

/// The decision and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    /// How files are written.
    pub(super) writing: Writing,
    /// Why.
    pub(super) reason: Reason,
}

/// Why pages are treated so; shown in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It was asked for.
    Asked,
    /// Half of the memory at hand holds the job.
    Fits,
    /// It does not.
    TooBig,
    /// A memory limit does not leave enough.
    Limited,
    /// How much memory is at hand is not known.
    Unknown,
    /// Writing to memory turned out slow.
    SlowMemory,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writing = match self.writing {
            Writing::Direct => "direct",
            Writing::Warm => "warm",
        };
        let reason = match self.reason {
            Reason::Asked => "as asked",
            Reason::Fits => "memory is at hand",
            Reason::TooBig => "larger than half of the memory at hand",
            Reason::Limited => "the memory limit leaves too little",
            Reason::Unknown => "memory at hand is not known",
            Reason::SlowMemory => "memory turned out slow",
        };
        write!(f, "{writing}: {reason}")
    }
}

/// Decides for a job of `bytes` in large files.
pub(super) fn choose(asked: PageCache, bytes: u64, memory: Memory) -> Choice {
    let choice = |writing, reason| Choice { writing, reason };
    let limited = memory.group_left.is_some_and(|left| bytes > left);
    match asked {
        PageCache::Direct => choice(Writing::Direct, Reason::Asked),
        PageCache::Warm if limited => choice(Writing::Direct, Reason::Limited),
        PageCache::Warm => choice(Writing::Warm, Reason::Asked),
        PageCache::Auto => match memory.available {
            None => choice(Writing::Direct, Reason::Unknown),
            Some(available) if bytes > available / 2 => choice(Writing::Direct, Reason::TooBig),
            Some(_) if memory.group_left.is_some_and(|left| bytes > left / 2) => {
                choice(Writing::Direct, Reason::Limited)
            }
            Some(_) => choice(Writing::Warm, Reason::Fits),
        },
    }
}

/// Parts that are timed before memory is judged.
const WINDOW: usize = 32;
/// Most processor time of a write of one part (1 MiB) to memory, at the lower quartile, that counts as quick. It is
/// 0.3 to 0.6 ms where memory is at hand, and 8 ms where the host has to bring each page. Time on the clock says less: a
/// disk that is slower than the network makes writers wait in the same place (`docs/performance.md`).
const QUICK: Duration = Duration::from_millis(2);

/// Judges memory by the processor time that writing parts to it took, window by window.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    times: Vec<Duration>,
}

impl Gauge {
    /// Adds the time of one whole part; true once a window shows that memory is slow.
    pub(super) fn is_slow(&mut self, time: Duration) -> bool {
        self.times.push(time);
        if self.times.len() < WINDOW {
            return false;
        }
        self.times.sort_unstable();
        // The quartile, not the mean: a neighbour on the core makes single writes long.
        let quartile = self.times.get(WINDOW / 4).copied().unwrap_or_default();
        self.times.clear();
        quartile > QUICK
    }
}

/// Reads what memory is at hand.
pub(super) fn read_memory() -> Memory {
    let available = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available(&text));
    Memory {
        available,
        group_left: read_group(),
    }
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the process's own memory control group leaves; `None` without a limit.
fn read_group() -> Option<u64> {
    let membership = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    group_files(&membership)
        .into_iter()
        .find_map(|[limit, usage]| {
            let read = |path: &Path| std::fs::read_to_string(path).ok();
            left(&read(&limit)?, &read(&usage)?)
        })
}

/// Where limit and usage may stand, by `/proc/self/cgroup` (cgroups(7)): version 1 where the memory controller has a
/// hierarchy of its own, else version 2. A container may see its own group as the root of that hierarchy.
fn group_files(membership: &str) -> Vec<[PathBuf; 2]> {
    let fields = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1).map(str::to_owned);
        Some((fields.next()?, fields.next()?))
    };
    let path = |is_it: &dyn Fn(&str) -> bool| {
        let mut lines = membership.lines().filter_map(fields);
        lines
            .find(|(controllers, _)| is_it(controllers))
            .map(|(_, path)| path.trim_start_matches('/').to_owned())
    };
    let mut files = Vec::new();
    let names = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
    if let Some(path) = path(&|controllers| controllers.split(',').any(|it| it == "memory")) {
        let top = Path::new("/sys/fs/cgroup/memory");
        files.extend([top.join(path), top.to_owned()].map(|group| names.map(|it| group.join(it))));
    } else if let Some(path) = path(&str::is_empty) {
        let group = Path::new("/sys/fs/cgroup").join(path);
        files.push(["memory.max", "memory.current"].map(|it| group.join(it)));
    }
    files
}

/// Version 1 says "no limit" by the largest number of whole pages, version 2 by a word.
const NO_LIMIT: u64 = 1 << 62;

fn left(max: &str, current: &str) -> Option<u64> {
    let max = max.trim().parse().ok().filter(|max| *max < NO_LIMIT)?;
    let current: u64 = current.trim().parse().ok()?;
    Some(u64::saturating_sub(max, current))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn decide(
        asked: PageCache,
        bytes: u64,
        available: Option<u64>,
        group_left: Option<u64>,
    ) -> String {
        choose(
            asked,
            bytes,
            Memory {
                available,
                group_left,
            },
        )
        .to_string()
    }

    #[test]
    fn auto_is_warm_only_up_to_half_of_what_is_at_hand() {
        let auto = PageCache::Auto;
        assert_eq!(
            decide(auto, 4 * GIB, Some(8 * GIB), None),
            "warm: memory is at hand"
        );
        assert_eq!(
            decide(auto, 4 * GIB + 1, Some(8 * GIB), None),
            "direct: larger than half of the memory at hand"
        );
        assert_eq!(
            decide(auto, 2 * GIB, Some(8 * GIB), Some(3 * GIB)),
            "direct: the memory limit leaves too little"
        );
        assert_eq!(
            decide(auto, 1, None, None),
            "direct: memory at hand is not known"
        );
    }

    #[test]
    fn warm_is_refused_above_a_memory_limit() {
        assert_eq!(
            decide(PageCache::Warm, 2 * GIB, None, Some(GIB)),
            "direct: the memory limit leaves too little"
        );
        assert_eq!(
            decide(PageCache::Warm, GIB, None, Some(GIB)),
            "warm: as asked"
        );
        assert_eq!(
            decide(PageCache::Direct, 1, Some(GIB), None),
            "direct: as asked"
        );
    }

    #[test]
    fn slow_memory_shows_after_one_window_and_single_slow_writes_do_not_count() {
        let mut gauge = Gauge::default();
        let quick = Duration::from_micros(300);
        let slow = Duration::from_millis(12);
        assert!((0..64).all(|n| !gauge.is_slow(if n % 2 == 0 { quick } else { slow })));
        let slow_at: Vec<usize> = (0..40).filter(|_| gauge.is_slow(slow)).collect();
        assert_eq!(slow_at, [31]);
    }

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(
            available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(available("MemTotal: 9 kB\n"), None);
        assert_eq!(left("max\n", "5\n"), None);
        assert_eq!(left("100\n", "30\n"), Some(70));
        assert_eq!(left("100\n", "130\n"), Some(0));
        assert_eq!(left("9223372036854771712\n", "5\n"), None);
    }

    #[test]
    fn the_limit_of_either_version_is_found() {
        let names = |membership: &str| -> Vec<String> {
            let files = group_files(membership).into_iter();
            files
                .map(|[limit, _]| limit.display().to_string())
                .collect()
        };
        assert_eq!(
            names("0::/kubepods/pod1\n"),
            ["/sys/fs/cgroup/kubepods/pod1/memory.max"]
        );
        assert_eq!(
            names("12:cpu,cpuacct:/other\n4:memory:/kubepods/pod:1\n0::/unified\n"),
            [
                "/sys/fs/cgroup/memory/kubepods/pod:1/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
        assert!(names("").is_empty());
    }
}

//! What a store needs to know at start, and the parts of the machine that tests replace.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, OsDisk};

/// Settings of a store.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory; made if absent. All of it must be on one filesystem.
    pub root: PathBuf,
    /// Most bytes that the store may occupy. Default: no limit but the disk's.
    pub max_bytes: Option<u64>,
    /// Used share of the filesystem above which a reservation evicts. Default 0.90.
    pub high_watermark: f64,
    /// Used share that such an eviction aims at. Default 0.80.
    pub low_watermark: f64,
    /// Bytes of the filesystem that always stay free. Default 1 GiB.
    pub floor_bytes: u64,
    /// Age after which an unfinished download is evicted. Default 7 days.
    pub partial_ttl: Duration,
    /// Read-only roots of other stores whose objects may be taken over after verification.
    pub seeds: Vec<PathBuf>,
    /// Threads for reads and writes. Default 8.
    pub io_threads: usize,
    /// Threads that make small and warm files durable, each many at a time. Default 2.
    pub sync_threads: usize,
    /// Most bytes kept in `quarantine/`. Default 1 GiB.
    pub quarantine_bytes: u64,
    /// Longest time that something stays in `quarantine/`. Default 7 days.
    pub quarantine_ttl: Duration,
    /// Use direct I/O where the filesystem has it. Default true.
    pub direct: bool,
    /// What tells this machine from one that a copy of its disk was attached to. Default: `/etc/machine-id`, if
    /// it can be read.
    pub machine_id: Option<String>,
}

const WEEK: Duration = Duration::from_hours(7 * 24);

impl Config {
    /// Defaults for a store at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            max_bytes: None,
            high_watermark: 0.90,
            low_watermark: 0.80,
            floor_bytes: 1 << 30,
            partial_ttl: WEEK,
            seeds: Vec::new(),
            io_threads: 8,
            sync_threads: 2,
            quarantine_bytes: 1 << 30,
            quarantine_ttl: WEEK,
            direct: true,
            machine_id: read_line("/etc/machine-id"),
        }
    }
}

/// The machine, as the store sees it.
#[derive(Debug, Clone)]
pub struct Env {
    /// File verbs.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Changes with every boot: unsynced data of another boot is not trusted.
    pub boot_id: String,
}

impl Env {
    /// This machine.
    pub fn real() -> Self {
        Self {
            disk: Arc::new(OsDisk::new()),
            clock: Arc::new(SystemClock::new()),
            boot_id: read_line("/proc/sys/kernel/random/boot_id")
                .unwrap_or_else(|| "unknown".to_owned()),
        }
    }
}

fn read_line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|line| !line.is_empty())
}

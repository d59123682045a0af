//! Counts allocations by the line of ours that asked for them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Frames that are kept of each allocation: enough to pass through a future's wrappers to a line of ours.
const FRAMES: usize = 64;
/// Lines below this many allocations per part are not shown.
const SHOWN_FROM: f64 = 0.02;

/// Allocations of a stretch of work, by call site.
pub(crate) struct Counted(BTreeMap<String, u64>);

/// What a longer stretch took more, per part.
pub(crate) struct More {
    /// Allocations.
    pub(crate) per_part: f64,
    by_site: Vec<(f64, String)>,
}

/// Does the work and counts the allocations of all threads meanwhile.
pub(crate) async fn count(work: impl Future<Output = ()>) -> Counted {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("heap.json");
    let profiler = dhat::Profiler::builder()
        .file_name(&file)
        .trim_backtraces(Some(FRAMES))
        .build();
    work.await;
    // Writes the file.
    drop(profiler);
    Counted::read(&std::fs::read(&file).unwrap())
}

impl Counted {
    /// Reads DHAT's format, version 2: program points with the blocks that they allocated and the frames they were in.
    fn read(json: &[u8]) -> Self {
        let heap: serde_json::Value = serde_json::from_slice(json).unwrap();
        let frames = heap["ftbl"].as_array().unwrap();
        let mut sites = BTreeMap::new();
        for point in heap["pps"].as_array().unwrap() {
            let trace = point["fs"].as_array().unwrap().iter();
            let trace: Vec<&str> = trace
                .map(|index| usize::try_from(index.as_u64().unwrap()).unwrap())
                .map(|index| frames[index].as_str().unwrap())
                .collect();
            let blocks = point["tbk"].as_u64().unwrap();
            *sites.entry(site(&trace)).or_default() += blocks;
        }
        Self(sites)
    }

    /// What this took more than a shorter stretch of `parts` parts less.
    pub(crate) fn since(&self, shorter: &Self, parts: f64) -> More {
        let mut by_site: Vec<(f64, String)> = self
            .0
            .iter()
            .map(|(site, blocks)| {
                let before = shorter.0.get(site).copied().unwrap_or_default();
                ((*blocks as f64 - before as f64) / parts, site.clone())
            })
            .collect();
        by_site.sort_by(|one, two| two.0.total_cmp(&one.0));
        let all = |counted: &Self| counted.0.values().sum::<u64>() as f64;
        More {
            per_part: (all(self) - all(shorter)) / parts,
            by_site,
        }
    }
}

/// The innermost line of the cache that led to an allocation, and what it called.
fn site(trace: &[&str]) -> String {
    let is_ours = |frame: &&str| file(frame).is_some_and(is_of_the_cache);
    let (called, ours) = match trace.iter().position(is_ours) {
        Some(at) => (at.saturating_sub(1), at),
        None => (0, trace.len().saturating_sub(1)),
    };
    let shown = |at: usize| trace.get(at).copied().map(symbol).unwrap_or_default();
    let place = trace.get(ours).and_then(|frame| frame.rsplit_once(" ("));
    let place = place.map_or("?", |(_, place)| place.trim_end_matches(')'));
    format!("{place} {} -> {}", shown(ours), shown(called))
}

/// The name of a frame `0x12: name<parameters> (file:line:column)`, without parameters.
fn symbol(frame: &str) -> String {
    let (_, text) = frame.split_once(": ").unwrap_or(("", frame));
    let name = text.rsplit_once(" (").map_or(text, |(name, _)| name);
    name.chars().take(100).collect()
}

/// The file of a frame: the last components of its path.
fn file(frame: &str) -> Option<&str> {
    let (_, place) = frame.rsplit_once(" (")?;
    place.split(':').next()
}

/// DHAT cuts paths, so that the front may be missing.
fn is_of_the_cache(file: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    ["", "cache", "cache/src"].iter().any(|front| {
        let path = root.join(front).join(file);
        path.starts_with(root.join("cache/src")) && path.is_file()
    })
}

impl fmt::Display for More {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} allocations per part", self.per_part)?;
        for (per_part, site) in &self.by_site {
            if per_part.abs() >= SHOWN_FROM {
                write!(f, "\n  {per_part:8.3} {site}")?;
            }
        }
        Ok(())
    }
}

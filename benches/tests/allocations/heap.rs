//! Counts allocations by the line of ours that asked for them.

use std::collections::BTreeMap;
use std::path::Path;

/// Frames that are kept of each allocation: enough to pass through a future's wrappers to a line of ours.
const FRAMES: usize = 64;

/// Allocations by call site; negative where they are a difference.
pub(crate) struct Counted(BTreeMap<String, f64>);

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
            let blocks = point["tbk"].as_u64().unwrap() as f64;
            *sites.entry(site(&trace)).or_default() += blocks;
        }
        Self(sites)
    }

    /// What this took more than a shorter stretch of the same work.
    pub(crate) fn since(mut self, shorter: &Self) -> Self {
        for (site, blocks) in &shorter.0 {
            *self.0.entry(site.clone()).or_default() -= blocks;
        }
        self
    }

    /// All of them.
    pub(crate) fn total(&self) -> f64 {
        self.0.values().sum()
    }

    /// Those of one site.
    pub(crate) fn at(&self, site: &str) -> f64 {
        self.0.get(site).copied().unwrap_or_default()
    }

    /// The sites.
    pub(crate) fn sites(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
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

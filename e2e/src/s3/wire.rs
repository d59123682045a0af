//! What really went over the wire: the oracle for "each byte was fetched exactly once" and for budgets.
//!
//! Object bytes are counted after the kernel took them, so a response that was cut counts what left and no
//! more. What a client asked for but never read may still count: it left this process.

use super::request::{Op, Request};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One answered (or abandoned) request.
#[derive(Clone, Debug)]
pub struct RequestLog {
    /// What was asked for.
    pub op: Op,
    /// HTTP method.
    pub method: String,
    /// Bucket named by path or host.
    pub bucket: String,
    /// Object key, lossily as text; empty for bucket operations.
    pub key: String,
    /// The object bytes the answer was to carry.
    pub range: Option<Range<u64>>,
    /// Status sent; 0 while none was.
    pub status: u16,
    /// Object bytes that left.
    pub bytes: u64,
    /// Access key of a signed request.
    pub access_key: Option<String>,
    /// The `If-Match` header.
    pub if_match: Option<String>,
    /// The `prefix` of a listing.
    pub prefix: Option<String>,
}

/// A live view of a server's counters; clones see the same.
#[derive(Clone, Debug, Default)]
pub struct Wire(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    log: Vec<RequestLog>,
    /// Spans of each object that left, one per response.
    spans: BTreeMap<(String, String), Vec<Range<u64>>>,
    object_bytes: u64,
    all_bytes: u64,
    open: usize,
    peak: usize,
    accepted: u64,
    /// Starts again at `reset`, so that entries of an earlier epoch are not written to.
    epoch: u64,
}

/// A place in the log of one epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    index: usize,
    epoch: u64,
    span: Option<usize>,
}

impl Wire {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Object bytes put on the wire, retries and aborted responses included.
    pub fn total_bytes(&self) -> u64 {
        self.counts().object_bytes
    }

    /// Every byte written: heads, listings and error bodies too.
    pub fn all_bytes(&self) -> u64 {
        self.counts().all_bytes
    }

    /// Bytes of one object put on the wire.
    pub fn bytes(&self, bucket: &str, key: &str) -> u64 {
        self.ranges(bucket, key)
            .iter()
            .map(|r| r.end - r.start)
            .sum()
    }

    /// Spans of one object that left, one per response, in order of the first byte of each.
    pub fn ranges(&self, bucket: &str, key: &str) -> Vec<Range<u64>> {
        let key = (bucket.to_owned(), key.to_owned());
        self.counts().spans.get(&key).cloned().unwrap_or_default()
    }

    /// How often the most-sent byte of an object left: 1 when each byte that left did so once.
    pub fn max_coverage(&self, bucket: &str, key: &str) -> usize {
        max_coverage(&self.ranges(bucket, key))
    }

    /// How many different bytes of an object left.
    pub fn distinct_bytes(&self, bucket: &str, key: &str) -> u64 {
        distinct_bytes(self.ranges(bucket, key))
    }

    /// Whether every byte of an object of `size` bytes left exactly once.
    pub fn sent_once(&self, bucket: &str, key: &str, size: u64) -> bool {
        let ranges = self.ranges(bucket, key);
        max_coverage(&ranges) <= 1 && distinct_bytes(ranges) == size
    }

    /// Number of requests of one operation.
    pub fn requests(&self, op: Op) -> usize {
        self.counts()
            .log
            .iter()
            .filter(|entry| entry.op == op)
            .count()
    }

    /// All requests in order of arrival.
    pub fn log(&self) -> Vec<RequestLog> {
        self.counts().log.clone()
    }

    /// Most connections open at one time.
    pub fn peak_connections(&self) -> usize {
        self.counts().peak
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.counts().open
    }

    /// Connections accepted.
    pub fn accepted(&self) -> u64 {
        self.counts().accepted
    }

    pub(super) fn reset(&self) {
        let mut counts = self.counts();
        let open = counts.open;
        *counts = Counts {
            open,
            peak: open,
            epoch: counts.epoch + 1,
            ..Counts::default()
        };
    }

    pub(super) fn connect(&self) -> Connected {
        let mut counts = self.counts();
        counts.accepted += 1;
        counts.open += 1;
        counts.peak = counts.peak.max(counts.open);
        Connected(self.clone())
    }

    pub(super) fn begin(&self, request: &Request) -> Entry {
        let text = |name| request.header(name).map(str::to_owned);
        let mut counts = self.counts();
        counts.log.push(RequestLog {
            op: request.op,
            method: request.method.clone(),
            bucket: request.bucket.clone(),
            key: String::from_utf8_lossy(&request.key).into_owned(),
            range: None,
            status: 0,
            bytes: 0,
            access_key: super::signature::access_key(request),
            if_match: text("if-match"),
            prefix: request
                .param("prefix")
                .map(|p| String::from_utf8_lossy(p).into_owned()),
        });
        Entry {
            index: counts.log.len() - 1,
            epoch: counts.epoch,
            span: None,
        }
    }

    pub(super) fn answered(&self, entry: Entry, status: u16, range: Option<Range<u64>>) {
        let mut counts = self.counts();
        if counts.epoch == entry.epoch {
            let log = &mut counts.log[entry.index];
            log.status = status;
            log.range = range;
        }
    }

    /// `len` object bytes from `offset` left, next to those of the same entry before.
    pub(super) fn sent_object(&self, entry: &mut Entry, offset: u64, len: u64) {
        let mut guard = self.counts();
        let counts = &mut *guard;
        if counts.epoch != entry.epoch || len == 0 {
            return;
        }
        counts.object_bytes += len;
        let log = &mut counts.log[entry.index];
        log.bytes += len;
        let spans = counts
            .spans
            .entry((log.bucket.clone(), log.key.clone()))
            .or_default();
        if let Some(span) = entry.span {
            spans[span].end += len;
        } else {
            entry.span = Some(spans.len());
            spans.push(offset..offset + len);
        }
    }

    pub(super) fn sent(&self, len: usize) {
        self.counts().all_bytes += len as u64;
    }
}

/// One open connection; dropping it says that it closed.
#[derive(Debug)]
pub(super) struct Connected(Wire);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.counts().open -= 1;
    }
}

fn max_coverage(ranges: &[Range<u64>]) -> usize {
    let mut edges: Vec<(u64, bool)> = ranges
        .iter()
        .flat_map(|r| [(r.start, true), (r.end, false)])
        .collect();
    edges.sort_unstable();
    let (mut depth, mut max) = (0_usize, 0);
    for (_, opens) in edges {
        depth = if opens { depth + 1 } else { depth - 1 };
        max = max.max(depth);
    }
    max
}

fn distinct_bytes(mut ranges: Vec<Range<u64>>) -> u64 {
    ranges.sort_unstable_by_key(|r| r.start);
    let (mut total, mut end) = (0, 0);
    for range in ranges {
        total += range.end.saturating_sub(range.start.max(end));
        end = end.max(range.end);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_counts_the_most_sent_byte() {
        assert_eq!(max_coverage(&[]), 0);
        assert_eq!(max_coverage(&[0..5, 5..9]), 1);
        assert_eq!(max_coverage(&[0..5, 4..9, 4..5]), 3);
        assert_eq!(distinct_bytes(vec![4..9, 0..5, 4..5, 20..21]), 10);
    }
}

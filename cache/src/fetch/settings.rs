//! What an admin may set about fetching, with defaults that fit a node of any size. Plain values: nothing here
//! reads the machine.

use std::time::Duration;

/// Buffers a node's pool should start with: 48 MiB.
pub const BUFFERS_START: usize = 48;
/// Most buffers a node's pool may grow to, whatever its memory: 512 MiB.
pub const BUFFERS_MAX: usize = 512;
/// Most parts of one run: what one word of claims can hold.
pub const RUN_PARTS_MAX: u64 = 64;

/// Settings of a [`Fetcher`](super::Fetcher).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Parts asked for in one request, 1 to 64; default 8. Longer runs are used where answers are slow to
    /// begin, shorter ones at the end of a job.
    pub run_parts: u64,
    /// Connections a job starts with; default 8.
    pub connections_start: usize,
    /// Most connections of all jobs together; default 256. Those that carry parts of large files are also
    /// bound by the buffers.
    pub connections_max: usize,
    /// Most buffers the pool may grow to while more connections still pay; default 512 (MiB).
    pub buffers_max: usize,
    /// How often connections are added or taken away; default 250 ms.
    pub decide_every: Duration,
    /// First wait after a failure, before jitter; doubles from there. Default 200 ms.
    pub backoff_first: Duration,
    /// Longest wait between two attempts; default 5 s.
    pub backoff_max: Duration,
    /// How long a job may go without a verified byte while requests fail; default 60 s.
    pub give_up_after: Duration,
    /// Most attempts of one run that bring nothing; default 100.
    pub attempts_max: u32,
    /// How long one request may bring no byte at all; default 60 s. Sources usually notice earlier.
    pub stall_after: Duration,
    /// Extra bytes that hedged requests may cost, in thousandths of a job's bytes; default 20, 0 is off.
    pub hedge_permille: u64,
    /// Most bytes of content written per second by all jobs together, so that others keep their share of the disk;
    /// default none.
    pub write_rate: Option<u64>,
    /// No request is hedged before this age while more is to be asked for; default 1 s, because a busy processor looks
    /// like a slow source.
    pub hedge_after: Duration,
    /// The same once all is asked for, when a late request holds up the job; default 100 ms.
    pub hedge_last_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            run_parts: 8,
            connections_start: 8,
            connections_max: 256,
            buffers_max: BUFFERS_MAX,
            decide_every: Duration::from_millis(250),
            backoff_first: Duration::from_millis(200),
            backoff_max: Duration::from_secs(5),
            give_up_after: Duration::from_mins(1),
            attempts_max: 100,
            stall_after: Duration::from_mins(1),
            hedge_permille: 20,
            write_rate: None,
            hedge_after: Duration::from_secs(1),
            hedge_last_after: Duration::from_millis(100),
        }
    }
}

/// Most buffers under a memory limit in bytes: a quarter of it, at most [`BUFFERS_MAX`], at least two.
pub fn buffers_for(memory_limit: Option<u64>) -> usize {
    let quarter = memory_limit.map_or(u64::MAX, |limit| limit / 4 / crate::digest::PART_SIZE);
    usize::try_from(quarter)
        .unwrap_or(usize::MAX)
        .clamp(2, BUFFERS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_take_a_quarter_of_a_memory_limit_and_never_more_than_512() {
        assert_eq!(buffers_for(None), 512);
        assert_eq!(buffers_for(Some(1 << 30)), 256);
        assert_eq!(buffers_for(Some(64 << 30)), 512);
        assert_eq!(buffers_for(Some(1)), 2);
    }
}

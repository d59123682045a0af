//! When a slow run deserves a second request, and which of the two keeps a part.
//!
//! A run is late when it takes three times as long as 95 in 100 of the recent ones did, per part, and at
//! least a set time, which is short once all is asked for. Hedges may cost a small share of a job's bytes,
//! counted by what they ask for. Whoever has received a part completely claims it; the claims of a run fit one
//! word.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

const SAMPLES_MIN: usize = 8;
const SAMPLES_MAX: usize = 64;
const LATE_FACTOR: u32 = 3;

/// How long recent runs took per part.
#[derive(Debug, Default)]
pub(super) struct Pace {
    recent: VecDeque<Duration>,
}

impl Pace {
    /// Notes a run that ended well.
    pub(super) fn add(&mut self, time: Duration, parts: u64) {
        if self.recent.len() >= SAMPLES_MAX {
            self.recent.pop_front();
        }
        let parts = u32::try_from(parts.max(1)).unwrap_or(u32::MAX);
        self.recent
            .push_back(time.checked_div(parts).unwrap_or(time));
    }

    /// The age at which a run of `parts` parts is late; `None` while too little is known.
    pub(super) fn late_after(&self, parts: u64, floor: Duration) -> Option<Duration> {
        let per_part = self.percentile(95)?;
        let factor = u32::try_from(parts)
            .unwrap_or(u32::MAX)
            .saturating_mul(LATE_FACTOR);
        Some(per_part.saturating_mul(factor).max(floor))
    }

    /// The usual time per part; zero while too little is known.
    pub(super) fn median(&self) -> Duration {
        self.percentile(50).unwrap_or_default()
    }

    fn percentile(&self, percent: usize) -> Option<Duration> {
        if self.recent.len() < SAMPLES_MIN {
            return None;
        }
        let mut times = [Duration::ZERO; SAMPLES_MAX];
        for (place, time) in times.iter_mut().zip(&self.recent) {
            *place = *time;
        }
        let sorted = times.get_mut(..self.recent.len())?;
        sorted.sort_unstable();
        let index = sorted.len().saturating_mul(percent).checked_div(100)?;
        sorted
            .get(index.min(sorted.len().saturating_sub(1)))
            .copied()
    }
}

/// Bytes that a job's hedges may still ask for.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u64,
}

impl Allowance {
    /// `permille` thousandths of `total` bytes.
    pub(super) fn new(total: u64, permille: u64) -> Self {
        let bytes = u128::from(total).saturating_mul(u128::from(permille)) / 1000;
        Self {
            left: u64::try_from(bytes).unwrap_or(u64::MAX),
        }
    }

    /// Takes `bytes` if they are left.
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        let enough = self.left.checked_sub(bytes);
        if let Some(left) = enough {
            self.left = left;
        }
        enough.is_some()
    }

    /// No more hedges: the budget is tight.
    pub(super) fn close(&mut self) {
        self.left = 0;
    }
}

/// One run, asked for once or twice: who claims a part writes it.
#[derive(Debug)]
pub(super) struct Race {
    parts: Range<u64>,
    claimed: AtomicU64,
    hedged: AtomicBool,
    /// Ends every request of the run.
    pub(super) stop: CancellationToken,
}

impl Race {
    /// A run of at most 64 parts, nothing claimed.
    pub(super) fn new(parts: Range<u64>, stop: CancellationToken) -> Self {
        Self {
            parts,
            claimed: AtomicU64::new(0),
            hedged: AtomicBool::new(false),
            stop,
        }
    }

    /// The word's bit of a part.
    pub(super) fn bit(&self, part: u64) -> u64 {
        u32::try_from(part.saturating_sub(self.parts.start))
            .ok()
            .and_then(|shift| 1u64.checked_shl(shift))
            .unwrap_or(0)
    }

    /// Claims a part; false if the other request was quicker. The one that claims the last part of a hedged
    /// run ends the other.
    pub(super) fn claim(&self, part: u64) -> bool {
        let bit = self.bit(part);
        let won = self.claimed.fetch_or(bit, Ordering::AcqRel) & bit == 0;
        if won && self.is_hedged() && self.unclaimed().is_empty() {
            self.stop.cancel();
        }
        won
    }

    /// Notes that a second request runs.
    pub(super) fn hedge(&self) {
        self.hedged.store(true, Ordering::Release);
    }

    /// Whether a second request ran.
    pub(super) fn is_hedged(&self) -> bool {
        self.hedged.load(Ordering::Acquire)
    }

    /// The parts nobody has claimed, as ranges.
    pub(super) fn unclaimed(&self) -> Vec<Range<u64>> {
        let claimed = self.claimed.load(Ordering::Acquire);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for part in self
            .parts
            .clone()
            .filter(|part| claimed & self.bit(*part) == 0)
        {
            match ranges.last_mut() {
                Some(range) if range.end == part => range.end = part.saturating_add(1),
                _ => ranges.push(part..part.saturating_add(1)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_run_is_late_after_three_times_the_95th_percentile_of_the_recent_ones() {
        let mut pace = Pace::default();
        assert_eq!(pace.late_after(8, MS), None);
        for ms in 1..=100u32 {
            pace.add(8 * MS * ms, 8);
        }
        // The last 64 are 37..=100 ms per part.
        assert_eq!(pace.late_after(2, MS), Some(97 * MS * 6));
        assert_eq!(
            pace.late_after(2, Duration::from_secs(9)),
            Some(Duration::from_secs(9))
        );
    }

    #[test]
    fn hedges_cost_at_most_their_share() {
        let mut allowance = Allowance::new(1000, 20);
        assert!(!allowance.take(21));
        assert!(allowance.take(15));
        assert!(!allowance.take(6));
        assert!(allowance.take(5));
        let mut off = Allowance::new(u64::MAX, 0);
        assert!(!off.take(1));
    }

    #[test]
    fn a_part_is_claimed_once_and_the_last_claim_ends_the_other_request() {
        let race = Race::new(10..74, CancellationToken::new());
        race.hedge();
        assert!(race.claim(10));
        assert!(!race.claim(10));
        assert!(race.claim(12));
        assert_eq!(race.unclaimed(), [11..12, 13..74]);
        for part in 13..74 {
            assert!(race.claim(part));
        }
        assert!(!race.stop.is_cancelled());
        assert!(race.claim(11));
        assert!(race.stop.is_cancelled());
        assert!(race.unclaimed().is_empty());
    }
}

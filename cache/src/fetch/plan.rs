//! Which parts are asked for next: pure bookkeeping over sizes and verified parts.
//!
//! Large files are opened in their order, a little ahead of need, so that no connection idles between two
//! files; within a file parts are asked for from its beginning, in runs. Small files (one part at most) need
//! no opening and go one by one. Invariant: a part is in exactly one of: unasked, asked, verified.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use crate::digest::{PART_SIZE, part_count};

use super::settings::RUN_PARTS_MAX;

/// Consecutive parts of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// Index of the file among the job's entries.
    pub(super) entry: usize,
    /// The parts.
    pub(super) parts: Range<u64>,
}

impl Run {
    /// The bytes of the run in a file of `size` bytes.
    pub(super) fn bytes(&self, size: u64) -> Range<u64> {
        self.parts.start.saturating_mul(PART_SIZE)
            ..self.parts.end.saturating_mul(PART_SIZE).min(size)
    }
}

#[derive(Debug)]
struct Open {
    unasked: VecDeque<Range<u64>>,
    missing: u64,
}

/// What is left to ask for.
#[derive(Debug, Default)]
pub(super) struct Plan {
    unopened: VecDeque<usize>,
    small: VecDeque<usize>,
    empty: Vec<usize>,
    open: BTreeMap<usize, Open>,
    unopened_parts: u64,
}

impl Plan {
    /// A plan for files of these sizes.
    pub(super) fn new(sizes: impl Iterator<Item = u64>) -> Self {
        let mut plan = Self::default();
        for (entry, size) in sizes.enumerate() {
            match size {
                0 => plan.empty.push(entry),
                1..=PART_SIZE => plan.small.push_back(entry),
                _ => {
                    plan.unopened.push_back(entry);
                    plan.unopened_parts = plan.unopened_parts.saturating_add(part_count(size));
                }
            }
        }
        plan
    }

    /// Takes the files without content: they need no request.
    pub(super) fn take_empty(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.empty)
    }

    /// The next file to open, if fewer than `runs` runs of `run_parts` parts are ready.
    pub(super) fn next_to_open(
        &mut self,
        runs: usize,
        run_parts: u64,
        size: impl Fn(usize) -> u64,
    ) -> Option<usize> {
        if self.ready_runs(run_parts) >= runs {
            return None;
        }
        let entry = self.unopened.pop_front()?;
        self.unopened_parts = self.unopened_parts.saturating_sub(part_count(size(entry)));
        Some(entry)
    }

    /// Notes that a file is open; `verified` tells for each part whether it is there already.
    pub(super) fn opened(&mut self, entry: usize, verified: impl Iterator<Item = bool>) {
        let mut unasked: VecDeque<Range<u64>> = VecDeque::new();
        let mut missing = 0u64;
        for (present, index) in verified.zip(0u64..) {
            if present {
                continue;
            }
            missing = missing.saturating_add(1);
            match unasked.back_mut() {
                Some(range) if range.end == index => range.end = index.saturating_add(1),
                _ => unasked.push_back(index..index.saturating_add(1)),
            }
        }
        self.open.insert(entry, Open { unasked, missing });
    }

    /// The next run of a large file, of at most `run_parts` parts.
    pub(super) fn next_run(&mut self, run_parts: u64) -> Option<Run> {
        let (entry, open) = self
            .open
            .iter_mut()
            .find(|(_, open)| !open.unasked.is_empty())?;
        let gap = open.unasked.pop_front()?;
        let end = gap
            .start
            .saturating_add(run_parts.clamp(1, RUN_PARTS_MAX))
            .min(gap.end);
        if end < gap.end {
            open.unasked.push_front(end..gap.end);
        }
        Some(Run {
            entry: *entry,
            parts: gap.start..end,
        })
    }

    /// The next small file.
    pub(super) fn next_small(&mut self) -> Option<Run> {
        self.small
            .pop_front()
            .map(|entry| Run { entry, parts: 0..1 })
    }

    /// Notes that `parts` of an open file are verified and written; true once none is missing.
    pub(super) fn verified(&mut self, entry: usize, parts: u64) -> bool {
        let Some(open) = self.open.get_mut(&entry) else {
            return false;
        };
        open.missing = open.missing.saturating_sub(parts);
        open.missing == 0
    }

    /// Forgets a file that is complete.
    pub(super) fn close(&mut self, entry: usize) {
        self.open.remove(&entry);
    }

    /// Whether a run of a large file could be handed out now.
    pub(super) fn has_run(&self) -> bool {
        self.open.values().any(|open| !open.unasked.is_empty())
    }

    /// Whether a small file could be handed out now.
    pub(super) fn has_small(&self) -> bool {
        !self.small.is_empty()
    }

    /// Whether every file is handed out and closed.
    pub(super) fn is_done(&self) -> bool {
        self.unopened.is_empty() && self.small.is_empty() && self.open.is_empty()
    }

    /// Files open now.
    pub(super) fn open_files(&self) -> usize {
        self.open.len()
    }

    /// Parts of large files that nobody has asked for yet.
    pub(super) fn unasked_parts(&self) -> u64 {
        self.open
            .values()
            .flat_map(|open| open.unasked.iter())
            .fold(self.unopened_parts, |sum, gap| {
                sum.saturating_add(gap.end.saturating_sub(gap.start))
            })
    }

    fn ready_runs(&self, run_parts: u64) -> usize {
        let runs: u64 = self
            .open
            .values()
            .flat_map(|open| open.unasked.iter())
            .map(|gap| gap.end.saturating_sub(gap.start).div_ceil(run_parts.max(1)))
            .fold(0, u64::saturating_add);
        usize::try_from(runs).unwrap_or(usize::MAX)
    }
}

/// Parts of the next run: `default`, longer where answers take long to begin (their wait should stay under a
/// tenth of the run), shorter when so little is left that connections would end at different times.
pub(super) fn run_length(
    default: u64,
    first_byte: Duration,
    part: Duration,
    left_per_connection: u64,
) -> u64 {
    let default = default.clamp(1, RUN_PARTS_MAX);
    let patient = first_byte
        .as_nanos()
        .saturating_mul(9)
        .checked_div(part.as_nanos())
        .map_or(default, |parts| {
            u64::try_from(parts).unwrap_or(RUN_PARTS_MAX)
        });
    let even = left_per_connection.div_ceil(2).max(2);
    patient.clamp(default, RUN_PARTS_MAX).min(even).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn runs_go_through_the_files_in_order_and_skip_what_is_verified() {
        let sizes = [3 * MIB, 10, 0, MIB, 9 * MIB + 1];
        let mut plan = Plan::new(sizes.into_iter());
        assert_eq!(plan.take_empty(), [2]);
        assert_eq!(plan.next_to_open(1, 8, |entry| sizes[entry]), Some(0));
        plan.opened(0, [false, true, false].into_iter());
        assert_eq!(plan.next_to_open(2, 8, |entry| sizes[entry]), None);
        assert_eq!(plan.next_to_open(3, 8, |entry| sizes[entry]), Some(4));
        plan.opened(4, (0..10).map(|_| false));
        let runs: Vec<(usize, Range<u64>)> = std::iter::from_fn(|| plan.next_run(8))
            .map(|run| (run.entry, run.parts))
            .collect();
        assert_eq!(runs, [(0, 0..1), (0, 2..3), (4, 0..8), (4, 8..10)]);
        assert_eq!(plan.next_small().map(|run| run.entry), Some(1));
        assert_eq!(plan.next_small().map(|run| run.entry), Some(3));
        assert!(!plan.verified(0, 1));
        assert!(plan.verified(0, 1));
        plan.close(0);
        assert!(!plan.is_done());
        assert!(plan.verified(4, 10));
        plan.close(4);
        assert!(plan.is_done());
    }

    #[test]
    fn the_last_run_ends_with_the_file() {
        let run = Run {
            entry: 0,
            parts: 8..10,
        };
        assert_eq!(run.bytes(9 * MIB + 1), 8 * MIB..9 * MIB + 1);
    }

    #[test]
    fn runs_are_longer_where_answers_are_slow_and_shorter_at_the_end() {
        let ms = Duration::from_millis;
        assert_eq!(run_length(8, ms(1), ms(10), 1000), 8);
        assert_eq!(run_length(8, ms(20), ms(10), 1000), 18);
        assert_eq!(run_length(8, ms(500), ms(10), 1000), 64);
        assert_eq!(run_length(8, Duration::ZERO, Duration::ZERO, 1000), 8);
        assert_eq!(run_length(8, ms(1), ms(10), 6), 3);
        assert_eq!(run_length(8, ms(1), ms(10), 0), 2);
        assert_eq!(run_length(1, ms(0), ms(10), 1000), 1);
    }

    proptest! {
        #[test]
        fn every_part_is_asked_exactly_once(
            sizes in proptest::collection::vec(0u64..40 * MIB, 1..12),
            run_parts in 1u64..70,
            seed in any::<u64>(),
        ) {
            let mut plan = Plan::new(sizes.iter().copied());
            let mut asked: Vec<Vec<u32>> = sizes.iter().map(|size| vec![0; usize::try_from(part_count(*size)).unwrap()]).collect();
            plan.take_empty();
            while let Some(run) = plan.next_small() { asked[run.entry][0] += 1; }
            let mut random = seed;
            let mut have = |_: u32| { random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1); random >> 62 == 0 };
            loop {
                if let Some(entry) = plan.next_to_open(4, run_parts, |entry| sizes[entry]) {
                    let present: Vec<bool> = asked[entry].iter().map(|count| have(*count)).collect();
                    for (count, present) in asked[entry].iter_mut().zip(&present) { *count += u32::from(*present); }
                    plan.opened(entry, present.into_iter());
                }
                let Some(run) = plan.next_run(run_parts) else {
                    if plan.unasked_parts() == 0 { break; }
                    continue;
                };
                prop_assert!(run.parts.end - run.parts.start <= run_parts.min(64));
                for part in run.parts { asked[run.entry][usize::try_from(part).unwrap()] += 1; }
            }
            prop_assert!(asked.iter().flatten().all(|count| *count == 1));
        }
    }
}

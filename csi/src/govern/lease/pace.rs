//! How long the loop rests. Pure; nodes of other names have other jitter.

use std::time::Duration;

use crate::node_object::Jitter;

/// How often is looked whether something is to be written.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// Shortest time between two writes that only tell of denials.
const MINUTE: Duration = Duration::from_mins(1);
/// How much later such a write may come, so that nodes are spread.
const JITTER: Duration = Duration::from_secs(12);
/// Pause after the first failure; it doubles with each further one.
const BACKOFF: Duration = Duration::from_secs(5);
/// Longest pause after a failure: loads wait for what is asked.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Decides about pauses.
#[derive(Debug)]
pub(super) struct Pace {
    jitter: Jitter,
    failures: u32,
}

impl Pace {
    pub(super) fn new(node: &str) -> Self {
        Self {
            jitter: Jitter::new(node),
            failures: 0,
        }
    }

    /// The wait before the first look, by which nodes that start together are spread over a second.
    pub(super) fn first(&self) -> Duration {
        self.jitter.part_of(TICK)
    }

    /// The pause after a failure.
    pub(super) fn failed(&mut self) -> Duration {
        self.jitter.next_round();
        let doubled = 2u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        let pause = BACKOFF.saturating_mul(doubled).min(BACKOFF_MAX);
        pause + self.jitter.part_of(pause / 5)
    }

    /// The API server has answered.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The pause after denials were told.
    pub(super) fn told(&mut self) -> Duration {
        self.jitter.next_round();
        MINUTE + self.jitter.part_of(JITTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_ever_later_and_an_answer_forgets_them() {
        let mut pace = Pace::new("node-1");
        for wanted in [5, 10, 20, 30, 30, 30] {
            let pause = pace.failed();
            let least = Duration::from_secs(wanted);
            assert!((least..=least * 6 / 5).contains(&pause), "{pause:?}");
        }
        // No number of failures overflows.
        for _ in 0..100 {
            assert!(pace.failed() <= BACKOFF_MAX * 6 / 5);
        }
        pace.succeeded();
        assert!(pace.failed() <= Duration::from_secs(6));
    }

    #[test]
    fn denials_are_told_once_a_minute_at_most_and_nodes_are_spread() {
        let mut pace = Pace::new("node-1");
        for _ in 0..100 {
            assert!((MINUTE..=MINUTE + JITTER).contains(&pace.told()));
        }
        assert!(pace.first() <= TICK);
        assert_ne!(Pace::new("node-1").told(), Pace::new("node-2").told());
    }
}

//! When the next look is. Pure: a minute and some jitter after a write, ever later after failures.

use std::time::Duration;

use crate::node_object::Jitter;

/// Shortest time between two writes.
const MINUTE: Duration = Duration::from_mins(1);
/// How much later a write may come, so that nodes are spread.
const JITTER: Duration = Duration::from_secs(12);
/// Longest wait of a service that starts.
const FIRST: Duration = Duration::from_secs(4);
/// Shortest time between two looks that find nothing new.
const CALM: Duration = Duration::from_secs(10);
/// Pause after the first failure; it doubles with each further one.
const BACKOFF: Duration = Duration::from_secs(10);
/// Longest pause after a failure.
const BACKOFF_MAX: Duration = Duration::from_mins(5);

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A status was written.
    Written,
    /// It would have said nothing new.
    Unchanged,
    /// It could not be written.
    Failed,
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// In any case.
    pub(super) quiet: Duration,
    /// After that, unless something is told.
    pub(super) idle: Duration,
}

/// Decides about pauses; nodes of other names have other jitter.
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

    /// The wait before the first look.
    pub(super) fn first(&self) -> Duration {
        self.jitter.part_of(FIRST)
    }

    /// The wait after a look.
    pub(super) fn after(&mut self, outcome: Outcome) -> Pause {
        self.jitter.next_round();
        self.failures = match outcome {
            Outcome::Written | Outcome::Unchanged => 0,
            Outcome::Failed => self.failures.saturating_add(1),
        };
        match outcome {
            Outcome::Written => Pause {
                quiet: MINUTE + self.jitter.part_of(JITTER),
                idle: MINUTE,
            },
            Outcome::Unchanged => Pause {
                quiet: CALM,
                idle: MINUTE.saturating_sub(CALM),
            },
            Outcome::Failed => {
                let doubled = 2u32.saturating_pow(self.failures.saturating_sub(1));
                let pause = BACKOFF.saturating_mul(doubled).min(BACKOFF_MAX);
                Pause {
                    quiet: pause + self.jitter.part_of(pause / 5),
                    idle: Duration::ZERO,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_a_minute_apart_at_least_and_72_seconds_at_most_if_there_is_news() {
        for node in ["node-1", "node-2", "gpu-7"] {
            let mut pace = Pace::new(node);
            for _ in 0..100 {
                let quiet = pace.after(Outcome::Written).quiet;
                assert!((MINUTE..=MINUTE + JITTER).contains(&quiet), "{quiet:?}");
            }
        }
        let quiet = |node| Pace::new(node).after(Outcome::Written).quiet;
        assert_ne!(quiet("node-1"), quiet("node-2"));
    }

    #[test]
    fn failures_are_tried_again_ever_later_and_a_success_forgets_them() {
        let mut pace = Pace::new("node-1");
        for wanted in [10, 20, 40, 80, 160, 300, 300, 300] {
            let pause = pace.after(Outcome::Failed);
            let least = Duration::from_secs(wanted);
            assert!((least..=least * 6 / 5).contains(&pause.quiet), "{pause:?}");
            assert_eq!(pause.idle, Duration::ZERO);
        }
        pace.after(Outcome::Written);
        assert!(pace.after(Outcome::Failed).quiet <= Duration::from_secs(12));
        // No number of failures overflows.
        for _ in 0..100 {
            assert!(pace.after(Outcome::Failed).quiet <= BACKOFF_MAX * 6 / 5);
        }
    }

    #[test]
    fn a_look_without_news_is_followed_by_a_short_rest() {
        let pause = Pace::new("node-1").after(Outcome::Unchanged);
        assert_eq!(pause.quiet + pause.idle, MINUTE);
        assert_eq!(pause.quiet, CALM);
    }
}

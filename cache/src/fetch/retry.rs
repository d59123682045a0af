//! What is asked again after a failure, and when: pure.
//!
//! One budget per job. A verified part refills it, so a store that fails nine times in ten is still read to
//! the end; a total outage ends the job after a bound. Waits double up to a maximum and carry jitter, so that
//! many nodes do not come back at once.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use crate::source;

use super::settings::Settings;

/// Attempts after which a server that answers wrongly is believed to mean it.
const WRONG_ANSWERS_MAX: u32 = 4;

/// What a failed request means for its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Ask again.
    Again,
    /// Ask again, with fewer connections.
    SlowDown,
    /// The object is another one now: start over from a new listing.
    Changed,
    /// The budget is used up: finish what runs, ask for no more.
    Exhausted,
    /// Nothing will help: end the job.
    Stop,
}

/// Judges a source's error.
pub(super) fn judge(error: &source::Error) -> Verdict {
    match error {
        source::Error::Unavailable { .. } | source::Error::Protocol { .. } => Verdict::Again,
        source::Error::Throttled { .. } => Verdict::SlowDown,
        source::Error::Identity { .. } if error.is_retryable() => Verdict::Again,
        source::Error::Changed { .. } | source::Error::NotFound(_) => Verdict::Changed,
        source::Error::Gate(refusal) => judge_refusal(refusal),
        source::Error::Local(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
            Verdict::Changed
        }
        source::Error::Local(_)
        | source::Error::Reference(_)
        | source::Error::Key(_)
        | source::Error::Denied { .. }
        | source::Error::Unauthenticated { .. }
        | source::Error::Identity { .. }
        | source::Error::Untrusted { .. }
        | source::Error::Limit(_) => Verdict::Stop,
    }
}

/// Judges the gate's no.
pub(super) fn judge_refusal(refusal: &crate::gate::Refusal) -> Verdict {
    match refusal {
        crate::gate::Refusal::Denied(_) => Verdict::Stop,
        crate::gate::Refusal::Exhausted(_) => Verdict::Exhausted,
    }
}

/// What the budget says to one more failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Ask again after this time.
    After(Duration),
    /// Give the job up.
    GiveUp,
}

/// One job's patience.
#[derive(Debug)]
pub(super) struct Budget {
    first: Duration,
    max: Duration,
    give_up_after: Duration,
    attempts_max: u32,
    failing_since: Option<Instant>,
    attempts: u32,
    random: StdRng,
}

impl Budget {
    /// A full budget.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            first: settings.backoff_first,
            max: settings.backoff_max,
            give_up_after: settings.give_up_after,
            attempts_max: settings.attempts_max,
            failing_since: None,
            attempts: 0,
            random: StdRng::from_os_rng(),
        }
    }

    /// Notes a verified part.
    pub(super) fn progress(&mut self) {
        self.failing_since = None;
        self.attempts = 0;
    }

    /// Notes a failure of a run that failed `before` times in a row already.
    pub(super) fn fail(&mut self, now: Instant, before: u32, error: &source::Error) -> Decision {
        self.failing_since.get_or_insert(now);
        self.attempts = self.attempts.saturating_add(1);
        let allowed = if matches!(error, source::Error::Protocol { .. }) {
            WRONG_ANSWERS_MAX.min(self.attempts_max)
        } else {
            self.attempts_max
        };
        if before.saturating_add(1) >= allowed || self.is_spent(now) {
            return Decision::GiveUp;
        }
        let share = self.random.random_range(0.5..1.0);
        Decision::After(backoff(self.first, self.max, before).mul_f64(share))
    }

    /// Whether requests have failed for too long without a verified part in between.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.failing_since
            .is_some_and(|since| now.saturating_duration_since(since) >= self.give_up_after)
    }

    /// Failures since the last verified part.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// The wait before attempt `before + 1`, without jitter.
fn backoff(first: Duration, max: Duration, before: u32) -> Duration {
    first
        .saturating_mul(1u32.checked_shl(before.min(16)).unwrap_or(u32::MAX))
        .min(max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Refusal;

    fn unavailable() -> source::Error {
        source::Error::Unavailable {
            subject: "k".into(),
            what: "503".into(),
        }
    }

    #[test]
    fn waits_double_up_to_the_maximum() {
        let waits: Vec<u128> = (0..8)
            .map(|n| backoff(Duration::from_millis(200), Duration::from_secs(5), n).as_millis())
            .collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }

    #[tokio::test(start_paused = true)]
    async fn jitter_stays_between_half_and_the_whole_wait() {
        let mut budget = Budget::new(&Settings::default());
        let now = Instant::now();
        for before in 0..20 {
            let Decision::After(wait) = budget.fail(now, before, &unavailable()) else {
                panic!("gave up early");
            };
            let whole = backoff(Duration::from_millis(200), Duration::from_secs(5), before);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_ends_the_job_and_progress_resets_the_bound() {
        let mut budget = Budget::new(&Settings::default());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_ne!(budget.fail(at(0), 0, &unavailable()), Decision::GiveUp);
        assert_ne!(budget.fail(at(59), 1, &unavailable()), Decision::GiveUp);
        budget.progress();
        assert_ne!(budget.fail(at(61), 0, &unavailable()), Decision::GiveUp);
        assert!(!budget.is_spent(at(120)));
        assert_eq!(budget.fail(at(121), 1, &unavailable()), Decision::GiveUp);
        assert_eq!(budget.attempts(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_keeps_answering_wrongly_is_given_up_early() {
        let mut budget = Budget::new(&Settings::default());
        let wrong = source::Error::Protocol {
            key: "k".into(),
            what: "range".into(),
        };
        let decisions: Vec<bool> = (0..4)
            .map(|before| budget.fail(Instant::now(), before, &wrong) == Decision::GiveUp)
            .collect();
        assert_eq!(decisions, [false, false, false, true]);
    }

    #[test]
    fn each_error_has_its_verdict() {
        let text = || String::from("x");
        for (error, verdict) in [
            (unavailable(), Verdict::Again),
            (
                source::Error::Protocol {
                    key: text(),
                    what: text(),
                },
                Verdict::Again,
            ),
            (
                source::Error::Throttled {
                    subject: text(),
                    code: text(),
                },
                Verdict::SlowDown,
            ),
            (source::Error::Changed { key: text() }, Verdict::Changed),
            (source::Error::NotFound(text()), Verdict::Changed),
            (
                source::Error::Denied {
                    subject: text(),
                    code: text(),
                },
                Verdict::Stop,
            ),
            (
                source::Error::Unauthenticated {
                    subject: text(),
                    code: text(),
                },
                Verdict::Stop,
            ),
            (source::Error::Limit(text()), Verdict::Stop),
            (source::Error::Gate(Refusal::Denied(text())), Verdict::Stop),
            (
                source::Error::Gate(Refusal::Exhausted(text())),
                Verdict::Exhausted,
            ),
        ] {
            assert_eq!(judge(&error), verdict, "{error}");
        }
    }
}

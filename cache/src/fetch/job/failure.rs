//! Books what failed: ends the job, or puts the missing parts of a run off.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::super::Error;
use super::super::lane::Later;
use super::super::plan::Run;
use super::super::retry::{Decision, Verdict, judge, judge_refusal};
use super::super::run::Failure;
use super::super::slots::Class;
use super::{Driver, deadline};
use crate::digest::Digest;
use crate::gate::Refusal;
use crate::path::Escaped;
use crate::source;

/// Failures without a verified part in between after which connections are given up.
const OUTAGE: u32 = 16;

impl Driver {
    pub(super) fn book_failure(
        &mut self,
        (id, index, class): (u64, usize, Class),
        hedge: bool,
        failure: Failure,
    ) {
        match failure {
            Failure::Stopped => {}
            Failure::Store(error) => self.fail(error.into()),
            Failure::Mismatch { expected, found } => self.mismatch(index, expected, found),
            Failure::Refused(_) if hedge => self.allowance.close(),
            Failure::Refused(refusal) => self.refuse(refusal),
            Failure::Source(error) => match judge(&error) {
                Verdict::Stop => self.fail(Error::Source(error)),
                Verdict::Changed => {
                    let key = self.context.entry(index).map_or("", |entry| &entry.key);
                    let key = Escaped(key).to_string();
                    self.fail(Error::Changed { key, source: error });
                }
                Verdict::Exhausted => {
                    if let source::Error::Gate(refusal) = error {
                        self.refuse(refusal);
                    }
                }
                verdict @ (Verdict::Again | Verdict::SlowDown) => {
                    if verdict == Verdict::SlowDown {
                        self.lane(class).controller.throttle();
                        self.allowance.close();
                    }
                    // A store that only fails is asked by ever fewer connections.
                    if self.budget.attempts() >= OUTAGE {
                        self.lane(class).controller.throttle();
                    }
                    if let Some(active) = self.active.get_mut(&id) {
                        active.error = Some(error);
                    }
                }
            },
        }
    }

    pub(super) fn mismatch(&mut self, index: usize, expected: Digest, found: Digest) {
        if let Some(path) = self.context.entry(index).map(|entry| entry.path.clone()) {
            self.fail(Error::Mismatch {
                path,
                expected,
                found,
            });
        }
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        match judge_refusal(&refusal) {
            Verdict::Exhausted => {
                self.large.leave();
                self.small.leave();
                self.closing.get_or_insert(refusal);
            }
            Verdict::Again | Verdict::SlowDown | Verdict::Changed | Verdict::Stop => {
                self.fail(Error::Refused(refusal));
            }
        }
    }

    /// Once no request of a run is left, puts off what it did not bring.
    pub(super) fn end_run(&mut self, id: u64) {
        if self
            .active
            .get(&id)
            .is_none_or(|active| active.requests > 0)
        {
            return;
        }
        let Some(active) = self.active.remove(&id) else {
            return;
        };
        let rest = active.race.unclaimed();
        let Some(error) = active
            .error
            .filter(|_| !rest.is_empty() && !self.is_ending())
        else {
            return;
        };
        let before = if active.kept > 0 { 0 } else { active.attempts };
        match self.budget.fail(Instant::now(), before, &error) {
            Decision::GiveUp => self.give_up(error),
            Decision::After(wait) => {
                tracing::debug!(file = active.run.entry, attempt = before, ?wait, %error, "request failed");
                self.last = Some(error);
                if self.budget.attempts() >= OUTAGE {
                    // One request at a time finds out whether the store is back.
                    self.lane(active.class).hold_back(deadline(wait));
                }
                self.put_off(active.class, (active.run.entry, rest), (wait, before));
            }
        }
    }

    pub(super) fn put_off(
        &mut self,
        class: Class,
        (entry, rest): (usize, Vec<Range<u64>>),
        (wait, before): (Duration, u32),
    ) {
        for parts in rest {
            self.lane(class).put_off(Later {
                due: deadline(wait),
                run: Run { entry, parts },
                attempts: before.saturating_add(1),
            });
        }
    }

    /// A verified part ends every outage.
    pub(super) fn end_outage(&mut self) {
        if self.budget.attempts() >= OUTAGE {
            let soon = deadline(self.context.settings.backoff_first);
            self.large.let_go(soon);
            self.small.let_go(soon);
        }
        self.budget.progress();
    }

    pub(super) fn give_up(&mut self, last: source::Error) {
        let attempts = self.budget.attempts();
        self.fail(Error::GaveUp { attempts, last });
    }
}

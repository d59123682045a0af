//! Objects that could not be written: each waits ever longer before it is tried again, and no other waits for it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::store::Failure;

/// How long an object waits when it has failed once; twice as long after each further time.
const FIRST: Duration = Duration::from_secs(2);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(30);
/// How many must fail, and none succeed, before the API server counts as one that fails everybody.
const SEVERAL: usize = 3;

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    /// An `EgressBudget`, by name.
    Ledger(String),
    /// The grants of a node, by its name.
    Grants(String),
    /// The status of a policy, by its name; when it is tried again the board says.
    Status(String),
}

/// Until when what waits.
#[derive(Debug, Default)]
pub(super) struct Waits(BTreeMap<Object, Wait>);

#[derive(Debug)]
struct Wait {
    failures: u32,
    until: Instant,
}

/// What became of the writes of a turn.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    done: Vec<Object>,
    pub(super) failed: Vec<(Object, Failure)>,
}

impl Waits {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is too early to try an object again.
    pub(super) fn has(&self, object: &Object, now: Instant) -> bool {
        self.0.get(object).is_some_and(|wait| now < wait.until)
    }

    /// Those that may be tried come first, then those that wait.
    pub(super) fn part<W>(&self, works: Vec<W>, object: impl Fn(&W) -> Object) -> (Vec<W>, Vec<W>) {
        let now = Instant::now();
        let may_be_tried = |work: &W| !self.has(&object(work), now);
        works.into_iter().partition(may_be_tried)
    }

    /// Takes in what became of a turn.
    pub(super) fn learn(&mut self, outcomes: Outcomes, now: Instant) {
        for object in outcomes.done {
            self.0.remove(&object);
        }
        // What nobody has tried again since is not wanted any more.
        self.0
            .retain(|_, wait| now.saturating_duration_since(wait.until) < LONGEST);
        for (object, _) in outcomes.failed {
            let before = self.0.get(&object).map_or(0, |wait| wait.failures);
            let pause = FIRST.saturating_mul(2u32.saturating_pow(before));
            let wait = Wait {
                failures: before.saturating_add(1),
                until: now + pause.min(LONGEST),
            };
            self.0.insert(object, wait);
        }
    }
}

impl Outcomes {
    /// An object was written.
    pub(super) fn done(&mut self, object: Object) {
        self.done.push(object);
    }

    /// One was not. What was not even asked says nothing of the object.
    pub(super) fn fails(&mut self, object: Object, failure: Failure) {
        if failure != Failure::Skipped {
            self.failed.push((object, failure));
        }
    }

    /// Whether the API server fails everybody.
    pub(super) fn are_all_bad(&self) -> bool {
        let general = self.failed.iter().filter(|(_, failure)| match failure {
            Failure::Status(_) | Failure::Silent => true,
            Failure::Conflict
            | Failure::Gone
            | Failure::Foreign(_)
            | Failure::Refused(_)
            | Failure::Unclear
            | Failure::Skipped => false,
        });
        self.done.is_empty() && general.count() >= SEVERAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(name: &str) -> Object {
        Object::Ledger(name.to_owned())
    }

    fn failed(names: &[&str], failure: &Failure) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for name in names {
            outcomes.fails(ledger(name), failure.clone());
        }
        outcomes
    }

    #[test]
    fn an_object_waits_ever_longer_and_no_other_does() {
        let began = Instant::now();
        let mut waits = Waits::default();
        let mut now = began;
        for pause in [2, 4, 8, 16, 30, 30] {
            waits.learn(failed(&["a"], &Failure::Status(500)), now);
            let pause = Duration::from_secs(pause);
            assert!(waits.has(&ledger("a"), now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(!waits.has(&ledger("a"), now));
            assert!(!waits.has(&Object::Grants("a".to_owned()), began));
        }
        let mut outcomes = Outcomes::default();
        outcomes.done(ledger("a"));
        waits.learn(outcomes, now);
        assert!(waits.is_empty());
    }

    #[test]
    fn what_is_not_tried_again_is_forgotten() {
        let now = Instant::now();
        let mut waits = Waits::default();
        waits.learn(failed(&["a"], &Failure::Status(500)), now);
        waits.learn(Outcomes::default(), now + Duration::from_secs(31));
        assert!(!waits.is_empty());
        waits.learn(Outcomes::default(), now + Duration::from_secs(32));
        assert!(waits.is_empty());
    }

    #[test]
    fn only_where_several_fail_and_none_succeeds_everybody_does() {
        let bad = Failure::Status(500);
        assert!(!failed(&["a", "b"], &bad).are_all_bad());
        assert!(failed(&["a", "b", "c"], &bad).are_all_bad());
        let mut mixed = failed(&["a", "b", "c"], &bad);
        mixed.done(ledger("d"));
        assert!(!mixed.are_all_bad());
        let refused = Failure::Refused("no".to_owned());
        assert!(!failed(&["a", "b", "c"], &refused).are_all_bad());
        assert!(failed(&["a"], &Failure::Skipped).failed.is_empty());
    }
}

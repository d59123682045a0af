//! Bytes per second: each lane that has such a limit is a road on which one run after the other begins. Only the first in line knows
//! when; it books its bytes when it begins.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::line::{Line, Waiter};
use super::{Lane, Standing};

/// Time that may be saved up while nothing is loaded.
const BURST: Duration = Duration::from_millis(100);
/// How many roads are remembered before those that nobody uses are forgotten.
const MANY: usize = 256;

/// All roads.
#[derive(Debug, Default)]
pub(super) struct Roads {
    all: BTreeMap<Lane, Road>,
}

#[derive(Debug)]
struct Road {
    /// When what was booked is worked off.
    until: Instant,
    line: Line<()>,
}

/// What somebody in a line does next.
#[derive(Debug)]
pub(super) enum Step {
    /// Its bytes are booked.
    Begin,
    /// It is the first, and looks again then or when it is woken.
    Wait(Instant),
    /// It waits to be woken.
    Stand,
}

impl Roads {
    /// Whether a run would have to wait now.
    pub(super) fn is_busy(&self, lane: &Lane, now: Instant) -> bool {
        let road = self.all.get(lane);
        road.is_some_and(|road| road.until > now || !road.line.is_empty())
    }

    /// Books a run that takes so much time, if it may begin at once: then nobody waits.
    pub(super) fn begin(
        &mut self,
        (lane, namespace): (&Lane, &str),
        time: Duration,
        now: Instant,
    ) -> bool {
        if self.all.len() >= MANY {
            let is_used = |road: &Road| road.until > now || !road.line.is_empty();
            self.all.retain(|_, road| is_used(road));
        }
        if self.is_busy(lane, now) {
            return false;
        }
        if let Some(road) = self.all.get_mut(lane) {
            road.book(namespace, time, now);
            return true;
        }
        let mut road = Road {
            until: earliest(now),
            line: Line::default(),
        };
        road.book(namespace, time, now);
        self.all.insert(lane.clone(), road);
        true
    }

    /// Puts somebody in line where a run cannot begin at once.
    pub(super) fn join(&mut self, (lane, namespace): (&Lane, &str), waiter: Waiter<()>) {
        if let Some(road) = self.all.get_mut(lane) {
            road.line.join(namespace, waiter);
        }
    }

    /// What somebody in line may do now. A run that begins takes so much time.
    pub(super) fn step(&mut self, standing: &Standing<'_>, time: Duration, now: Instant) -> Step {
        let Some(road) = self.all.get_mut(standing.lane) else {
            return Step::Begin;
        };
        let next = road.line.next().map(|(_, waiter)| waiter.number);
        if next != Some(standing.number) {
            return Step::Stand;
        }
        if road.until > now {
            return Step::Wait(road.until);
        }
        road.line.leave(standing.namespace, standing.number);
        road.book(standing.namespace, time, now);
        road.wake();
        Step::Begin
    }

    /// Somebody has begun or waits no more.
    pub(super) fn leave(&mut self, standing: &Standing<'_>) {
        if let Some(road) = self.all.get_mut(standing.lane)
            && road.line.leave(standing.namespace, standing.number)
        {
            road.wake();
        }
    }

    /// So much of what was booked was not used. Those who have begun meanwhile have begun, and the next one begins earlier.
    pub(super) fn give_back(&mut self, lane: &Lane, time: Duration) {
        if let Some(road) = self.all.get_mut(lane) {
            road.until = road.until.checked_sub(time).unwrap_or(road.until);
            road.wake();
        }
    }
}

impl Road {
    /// A namespace's run begins now.
    fn book(&mut self, namespace: &str, time: Duration, now: Instant) {
        let begin = self.until.max(earliest(now));
        self.until = begin.checked_add(time).unwrap_or(begin);
        self.line.served(namespace);
    }

    /// Whoever is next looks when it may begin.
    fn wake(&self) {
        if let Some((_, waiter)) = self.line.next() {
            waiter.wake.notify_one();
        }
    }
}

fn earliest(now: Instant) -> Instant {
    now.checked_sub(BURST).unwrap_or(now)
}

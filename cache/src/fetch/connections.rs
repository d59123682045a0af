//! How many connections pay: a pure controller, asked once per interval.
//!
//! It starts with a few and doubles them in every interval while throughput rises by half, so that a distant store with a
//! limit per connection is used to the full within a second; then it adds half as many again while throughput rises by
//! more than a tenth, and lets each change settle. What did not pay is taken back, and tried again after a while,
//! since networks change. Throttling halves the number (multiplicative decrease); then one is added per calm interval
//! up to where throttling began (additive increase). Never below one.

/// Intervals that a level is held before more is tried again.
const HOLD: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Doubling from the start on.
    Starting,
    /// The last change is not yet fully felt.
    Settling,
    /// Throughput of the new level is compared.
    Climbing,
    /// More did not pay; intervals since.
    Holding(u32),
    /// After throttling: rising one by one to this ceiling.
    Recovering(usize),
}

/// Decides how many connections one job should use.
#[derive(Debug)]
pub(super) struct Controller {
    target: usize,
    before: usize,
    max: usize,
    phase: Phase,
    best: u64,
    throttled: bool,
}

impl Controller {
    /// Starts with `start` connections and never goes above `max`.
    pub(super) fn new(start: usize, max: usize) -> Self {
        let max = max.max(1);
        let target = start.clamp(1, max);
        Self {
            target,
            before: target,
            max,
            phase: Phase::Starting,
            best: 0,
            throttled: false,
        }
    }

    /// The same without the doubling at the start: for small files, whose connections cost more than they carry.
    pub(super) fn steady(start: usize, max: usize) -> Self {
        Self {
            phase: Phase::Settling,
            ..Self::new(start, max)
        }
    }

    /// Connections to use now.
    pub(super) fn target(&self) -> usize {
        self.target
    }

    /// Notes that the store asked to slow down.
    pub(super) fn throttle(&mut self) {
        self.throttled = true;
    }

    /// Decides, given what was received since the last call and whether all connections were used throughout.
    pub(super) fn decide(&mut self, received: u64, busy: bool) {
        if std::mem::take(&mut self.throttled) {
            let ceiling = match self.phase {
                Phase::Recovering(ceiling) => ceiling,
                Phase::Starting | Phase::Settling | Phase::Climbing | Phase::Holding(_) => {
                    self.target.saturating_sub(1)
                }
            };
            self.set(self.target / 2);
            self.phase = Phase::Recovering(ceiling);
            self.best = 0;
            return;
        }
        if !busy {
            return;
        }
        match self.phase {
            Phase::Starting if received > self.best.saturating_add(self.best / 2) => {
                self.best = received;
                self.before = self.target;
                self.set(self.target.saturating_mul(2));
                if self.target == self.before {
                    self.phase = Phase::Holding(0);
                }
            }
            Phase::Starting if pays(self.best, received) => {
                self.best = received;
                self.phase = Phase::Settling;
            }
            Phase::Settling => self.phase = Phase::Climbing,
            Phase::Climbing if pays(self.best, received) => {
                self.best = received;
                self.climb();
            }
            Phase::Starting | Phase::Climbing => {
                self.set(self.before);
                self.phase = Phase::Holding(0);
            }
            Phase::Holding(intervals) if intervals >= HOLD => {
                self.best = received;
                self.climb();
            }
            Phase::Holding(intervals) => self.phase = Phase::Holding(intervals.saturating_add(1)),
            Phase::Recovering(ceiling) if self.target < ceiling => {
                self.set(self.target.saturating_add(1));
            }
            Phase::Recovering(_) => self.phase = Phase::Holding(0),
        }
    }

    fn climb(&mut self) {
        self.before = self.target;
        self.set(self.target.saturating_add((self.target / 2).max(1)));
        self.phase = if self.target == self.before {
            Phase::Holding(0)
        } else {
            Phase::Settling
        };
    }

    fn set(&mut self, target: usize) {
        self.target = target.clamp(1, self.max);
    }
}

/// More than a tenth above the best.
fn pays(best: u64, received: u64) -> bool {
    received > best.saturating_add(best / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the controller against a store whose throughput depends on the number of connections.
    fn settle(
        controller: &mut Controller,
        intervals: usize,
        throughput: impl Fn(usize) -> u64,
    ) -> Vec<usize> {
        (0..intervals)
            .map(|_| {
                let received = throughput(controller.target());
                controller.decide(received, true);
                controller.target()
            })
            .collect()
    }

    #[test]
    fn connections_are_added_while_they_pay() {
        let mut controller = Controller::new(8, 256);
        let levels = settle(&mut controller, 40, |n| (n as u64).min(27) * 1000);
        // Doubled to where the last doubling brought nothing, and back by one step.
        assert_eq!(levels[..4], [16, 32, 64, 32]);
        assert_eq!(levels[4..24], [32; 20]);
        // Later tries are smaller, and are taken back as well.
        assert_eq!(
            levels[24..],
            [
                48, 48, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32
            ]
        );
    }

    #[test]
    fn a_small_gain_does_not_double_the_connections_again() {
        let mut controller = Controller::new(8, 256);
        let levels = settle(&mut controller, 3, |n| 1000 + 20 * n as u64);
        assert_eq!(levels, [16, 16, 16]);
    }

    #[test]
    fn one_connection_that_saturates_the_link_stays_at_the_start() {
        let mut controller = Controller::new(8, 256);
        let levels = settle(&mut controller, 8, |_| 1000);
        assert_eq!(levels.last(), Some(&8));
    }

    #[test]
    fn the_number_never_passes_its_maximum() {
        let mut controller = Controller::new(8, 20);
        assert!(
            settle(&mut controller, 100, |n| n as u64 * 1000)
                .iter()
                .all(|n| *n <= 20)
        );
        assert_eq!(controller.target(), 20);
    }

    #[test]
    fn throttling_halves_and_calm_adds_one_by_one() {
        let mut controller = Controller::new(32, 256);
        controller.throttle();
        controller.decide(0, true);
        assert_eq!(controller.target(), 16);
        let levels = settle(&mut controller, 4, |_| 1000);
        assert_eq!(levels, [17, 18, 19, 20]);
        for _ in 0..10 {
            controller.throttle();
            controller.throttle();
            controller.decide(0, true);
        }
        assert_eq!(controller.target(), 1);
    }

    #[test]
    fn recovery_stops_below_where_throttling_began() {
        let mut controller = Controller::new(8, 256);
        controller.throttle();
        controller.decide(0, true);
        assert_eq!(settle(&mut controller, 10, |_| 1000).iter().max(), Some(&7));
    }

    #[test]
    fn an_idle_job_decides_nothing() {
        let mut controller = Controller::new(8, 256);
        for _ in 0..50 {
            controller.decide(0, false);
        }
        assert_eq!(controller.target(), 8);
    }
}

//! Time as a value that is handed in: wall time for records, monotonic time for durations and expiry.
//!
//! Monotonic time goes on while the machine sleeps: what was granted for a term is over after it, whoever slept meanwhile. Timers of the
//! runtime do not: they stand still as long as the machine does.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Tells the time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Wall time; may jump.
    fn now(&self) -> SystemTime;
    /// Time since an arbitrary origin of this process, that during which the machine slept included; never goes back.
    fn monotonic(&self) -> Duration;
    /// Processor time of the calling thread: what it did, whatever it waited for.
    fn thread_cpu(&self) -> Duration;
}

/// Milliseconds since the Unix epoch; 0 for times before it.
pub fn unix_millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    origin: Duration,
}

impl SystemClock {
    /// A clock whose monotonic origin is now.
    pub fn new() -> Self {
        Self {
            origin: read(ClockId::Boottime),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        read(ClockId::Boottime).saturating_sub(self.origin)
    }

    fn thread_cpu(&self) -> Duration {
        read(ClockId::ThreadCPUTime)
    }
}

/// What one of the kernel's clocks shows (`clock_gettime(2)`); those that are read here are never negative. `CLOCK_BOOTTIME` is
/// `CLOCK_MONOTONIC` and the time that the system was suspended.
fn read(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// A clock for tests: stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(SystemTime, Duration)>,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: SystemTime) -> Self {
        Self {
            state: Mutex::new((now, Duration::ZERO)),
        }
    }

    /// Moves both times on.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.0 += by;
        state.1 += by;
    }

    /// Sets wall time alone: a clock jump.
    pub fn jump_to(&self, now: SystemTime) {
        self.lock().0 = now;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (SystemTime, Duration)> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.lock().1
    }

    fn thread_cpu(&self) -> Duration {
        self.monotonic()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that runs a test does not sleep: how far ahead it may be is not to be seen here.
    #[test]
    fn monotonic_time_advances_and_is_never_behind_the_clock_that_stops_in_suspend() {
        let clock = SystemClock::new();
        let start = read(ClockId::Monotonic);
        let mut before = Duration::ZERO;
        loop {
            let awake = read(ClockId::Monotonic).checked_sub(start).unwrap();
            let shown = clock.monotonic();
            assert!(shown >= awake, "{shown:?} < {awake:?}");
            assert!(shown >= before, "{shown:?} < {before:?}");
            before = shown;
            if awake > Duration::from_millis(2) {
                break;
            }
        }
    }

    #[test]
    fn monotonic_time_counts_what_the_kernel_counts_since_boot() {
        let first = read(ClockId::Boottime);
        let clock = SystemClock::new();
        let second = read(ClockId::Boottime);
        let shown = clock.monotonic();
        let last = read(ClockId::Boottime);
        assert!((first..=second).contains(&clock.origin));
        assert!(shown >= second.saturating_sub(clock.origin));
        assert!(shown <= last.saturating_sub(clock.origin));
    }
}

//! What is done to responses on purpose: delays, rates and, by a seed, troubles.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tonnage_cache::clock::{Clock as _, SystemClock};

/// How responses are shaped. The default shapes nothing.
#[derive(Debug, Default)]
pub struct Shape {
    /// Wait before the first byte of an object's answer.
    pub first_byte: Duration,
    /// Most bytes per second of one connection.
    pub connection_rate: Option<u64>,
    /// Most bytes per second of all connections.
    pub total: Option<Bucket>,
    /// Share of ranges that are sent slowly, in thousandths, and how many times slower than [`Shape::typical_rate`].
    pub slow_permille: u64,
    /// Divides the rate of a slow range.
    pub slow_factor: u64,
    /// The rate that `slow_factor` divides where connections have no rate of their own, in bytes per second.
    pub typical_rate: u64,
    /// Share of ranges that are answered with 503 or cut in half, in thousandths, half of them each.
    pub error_permille: u64,
    /// Decides which.
    pub seed: u64,
    /// Ranges so far.
    pub ranges: AtomicU64,
}

/// What goes wrong with one range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// It is sent slowly.
    Slow,
    /// 503 Slow Down.
    Refused,
    /// The connection ends after half of the body.
    Cut,
}

impl Clone for Shape {
    fn clone(&self) -> Self {
        Self {
            total: self.total.as_ref().map(|bucket| Bucket::new(bucket.rate)),
            ranges: AtomicU64::new(0),
            ..*self
        }
    }
}

impl Shape {
    /// What goes wrong with the next range: by its number and the seed, so that every client meets the same share.
    pub fn next_trouble(&self) -> Trouble {
        if self.slow_permille == 0 && self.error_permille == 0 {
            return Trouble::None;
        }
        let number = self.ranges.fetch_add(1, Ordering::Relaxed);
        let drawn = mix(self.seed ^ number) % 2000;
        let (slow, error) = (self.slow_permille * 2, self.error_permille);
        if drawn < slow {
            Trouble::Slow
        } else if drawn < slow + error {
            Trouble::Refused
        } else if drawn < slow + error * 2 {
            Trouble::Cut
        } else {
            Trouble::None
        }
    }

    /// The rate of one response in bytes per second.
    pub fn rate_of(&self, trouble: Trouble) -> Option<u64> {
        if trouble == Trouble::Slow {
            let rate = self.connection_rate.unwrap_or(self.typical_rate);
            return Some((rate / self.slow_factor.max(1)).max(1));
        }
        self.connection_rate
    }

    /// Whether bodies must be sent piece by piece.
    pub(super) fn is_paced(&self, trouble: Trouble) -> bool {
        self.total.is_some() || self.rate_of(trouble).is_some()
    }
}

/// splitmix64's output function.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Bytes per second, shared by any number of threads, which take turns in order of asking.
#[derive(Debug)]
pub struct Bucket {
    rate: u64,
    clock: SystemClock,
    next: Mutex<Duration>,
}

/// Time that may be saved up while nobody sends.
const BURST: Duration = Duration::from_millis(5);

impl Bucket {
    /// At most `rate` bytes per second.
    pub fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            clock: SystemClock::new(),
            next: Mutex::default(),
        }
    }

    /// Sleeps until `bytes` may pass.
    pub(super) fn take(&self, bytes: u64) {
        let now = self.clock.monotonic();
        let cost = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.rate);
        let until = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next = (*next).max(now.saturating_sub(BURST)) + cost;
            *next
        };
        std::thread::sleep(until.saturating_sub(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_come_in_their_share() {
        let shape = Shape {
            slow_permille: 20,
            error_permille: 10,
            seed: 7,
            ..Shape::default()
        };
        let drawn: Vec<Trouble> = (0..100_000).map(|_| shape.next_trouble()).collect();
        let count = |kind| drawn.iter().filter(|trouble| **trouble == kind).count();
        assert!((1800..2200).contains(&count(Trouble::Slow)));
        assert!((400..600).contains(&count(Trouble::Refused)));
        assert!((400..600).contains(&count(Trouble::Cut)));
    }
}

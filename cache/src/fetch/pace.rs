//! A write-rate cap: a stage must not starve what serves. One for all jobs of a node; what waits for its turn holds its
//! buffer, so that the network slows down with the disk.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time that may be saved up while nothing is written.
const BURST: Duration = Duration::from_millis(20);

/// A limit in bytes per second; turns are given in order of asking.
#[derive(Debug)]
pub(super) struct Pace {
    rate: u64,
    next: Mutex<Instant>,
}

impl Pace {
    /// At most `rate` bytes per second, at least one.
    pub(super) fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Gives out the next turn to write `bytes`: when it comes, or `None` if it has come. A turn that is not used is
    /// lost.
    pub(super) fn book(&self, bytes: u64) -> Option<Instant> {
        let cost = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.rate);
        let now = Instant::now();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let turn = (*next).max(earliest);
        *next = turn.checked_add(cost).unwrap_or(turn);
        Some(turn).filter(|turn| *turn > now)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep_until;

    use super::*;

    async fn turn(pace: &Pace, bytes: u64) {
        if let Some(turn) = pace.book(bytes) {
            sleep_until(turn).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_of_bytes_takes_a_second_less_the_burst() {
        let pace = Pace::new(1000);
        let start = Instant::now();
        for _ in 0..20 {
            turn(&pace, 50).await;
        }
        // The last turn begins when the nineteen before it are paid for.
        assert_eq!(start.elapsed().as_millis(), 950);
        tokio::time::sleep(Duration::from_mins(1)).await;
        let start = Instant::now();
        for _ in 0..20 {
            turn(&pace, 50).await;
        }
        assert_eq!(start.elapsed().as_millis(), 930);
    }
}

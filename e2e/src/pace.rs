//! A rate limit in tokio time, shared by any number of writers: each takes its turn in order of asking.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A limit in bytes per second.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: u64,
    next: Mutex<Instant>,
}

impl Pace {
    /// A limit of `rate` bytes per second, at least one.
    pub(crate) fn new(rate: u64) -> Pace {
        Pace {
            rate: rate.max(1),
            next: Mutex::new(Instant::now()),
        }
    }

    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }

    /// Returns once `bytes` may pass.
    pub(crate) async fn take(&self, bytes: usize) {
        let nanos = (bytes as u64).saturating_mul(1_000_000_000) / self.rate;
        let until = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            *next = (*next).max(Instant::now()) + Duration::from_nanos(nanos);
            *next
        };
        sleep_until(until).await;
    }

    /// The largest frame that keeps the flow smooth: a twentieth of a second's worth.
    pub(crate) fn frame(&self, limit: usize) -> usize {
        usize::try_from(self.rate / 20)
            .unwrap_or(limit)
            .clamp(1, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_of_bytes_takes_a_second() {
        let (pace, start) = (Pace::new(1000), Instant::now());
        for _ in 0..20 {
            pace.take(pace.frame(1 << 20)).await;
        }
        assert_eq!(start.elapsed().as_secs(), 1);
    }
}

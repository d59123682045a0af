//! Kubelet's clock: deadlines and back-off as observed (Kubernetes 1.37), divided by a scale so that a
//! ten-minute story fits a test. With tokio's paused time the scale stays 1.

use std::time::Duration;

/// Kubelet's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Deadline of one publish with its capability calls: 2 minutes.
    pub deadline: Duration,
    /// Pause after the first failure: 0.5 s, doubled each time.
    pub first_pause: Duration,
    /// Longest pause: 2 min 2 s.
    pub longest_pause: Duration,
    /// From kubelet's start to its second round of publishes: 1.5 s.
    pub restart: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            deadline: Duration::from_mins(2),
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(122),
            restart: Duration::from_millis(1500),
        }
    }
}

impl Timing {
    /// Kubelet's times divided by `scale`.
    pub fn scaled(scale: u32) -> Self {
        let real = Self::default();
        Self {
            deadline: real.deadline / scale,
            first_pause: real.first_pause / scale,
            longest_pause: real.longest_pause / scale,
            restart: real.restart / scale,
        }
    }

    /// The pause after the `failures`-th failure in a row (from 1).
    pub fn pause(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        self.first_pause
            .saturating_mul(1 << doublings)
            .min(self.longest_pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_are_those_of_kubelet() {
        let timing = Timing::default();
        let seconds: Vec<f64> = (1..=10).map(|n| timing.pause(n).as_secs_f64()).collect();
        assert_eq!(
            seconds,
            [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 122.0, 122.0]
        );
    }
}

//! How long those who watch objects of the API server pause after a failure.

use std::time::Duration;

use backon::ExponentialBuilder;
use kube::runtime::watcher::ExponentialBackoff;

/// Shortest and longest time between two attempts; as much again may be added, so that nodes which failed together come one by one. The
/// longest is shorter than client-go's half a minute: whoever waits for what has changed meanwhile waits for it.
const PAUSES: (Duration, Duration) = (Duration::from_millis(800), Duration::from_secs(5));

/// Pauses of one watch: ever longer, at most 10 s, without an end. kube's own are up to a minute.
pub(crate) fn backoff() -> ExponentialBackoff {
    let (shortest, longest) = PAUSES;
    let pauses = ExponentialBuilder::default()
        .with_min_delay(shortest)
        .with_max_delay(longest);
    pauses
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .into()
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use futures::stream::{self, BoxStream};
    use kube::runtime::WatchStreamExt as _;
    use kube::runtime::utils::Backoff as _;
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn pauses_grow_to_ten_seconds_at_most_and_a_success_makes_them_short_again() {
        let mut pauses = backoff();
        for _ in 0..2 {
            for least in [800, 1_600, 3_200, 5_000, 5_000, 5_000] {
                let least = Duration::from_millis(least);
                let pause = pauses.next().unwrap();
                assert!((least..=least * 2).contains(&pause), "{pause:?}");
            }
            pauses.reset();
        }
    }

    #[test]
    fn no_number_of_failures_ends_a_watch() {
        let longest = Duration::from_secs(10);
        let pauses = backoff().take(10_000);
        assert_eq!(pauses.filter(|pause| *pause <= longest).count(), 10_000);
    }

    #[test]
    fn watches_that_failed_together_come_apart() {
        let pauses = || -> Vec<Duration> { backoff().take(20).collect() };
        assert_ne!(pauses(), pauses());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_fails_for_an_hour_is_tried_again_within_ten_seconds_each_time() {
        let failures: BoxStream<'static, Result<(), ()>> = stream::repeat(Err(())).boxed();
        let mut events = failures.backoff(backoff()).boxed();
        let begun = Instant::now();
        let mut last = begun;
        while begun.elapsed() < Duration::from_hours(1) {
            assert_eq!(events.next().await, Some(Err(())));
            assert!(last.elapsed() <= Duration::from_millis(10_001));
            last = Instant::now();
        }
    }
}

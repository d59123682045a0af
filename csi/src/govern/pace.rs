//! How fast: limits of bytes per second and of connections, of a node for all that a policy selects together, and of each namespace
//! there. The lowest limits of whoever pays for a run hold for the run (`egress::policy`), each in the name of the policy that
//! sets it.
//!
//! **Bytes**: a run is booked in full and begins when what was booked before it is worked off, so that over any time longer than a
//! run the rate holds, and a single run is as fast as it can be. Where several limits hold, a run waits for the last of them.
//!
//! **Connections** are counted as runs under way. Connections are pooled and belong to a source, not to a namespace: which of
//! them serves whom changes from run to run, but each serves one run at a time, so no more are in use than runs are under
//! way. Idle ones are not counted.
//!
//! One lock per run, and none where nothing is limited.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::egress::policy::{Limit, Rates};

/// Time that may be saved up while nothing is loaded.
const BURST: Duration = Duration::from_millis(100);
/// How many limits are remembered before those that nobody owes anything are forgotten.
const MANY: usize = 256;

/// Holds the node to its limits.
#[derive(Debug, Default)]
pub struct Pace {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When what was booked is worked off.
    booked: BTreeMap<Lane, Instant>,
    /// Runs under way.
    running: BTreeMap<Lane, u64>,
}

/// What a limit is about: all that a policy selects on this node, or one namespace of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    policy: String,
    namespace: Option<String>,
}

/// A run's place among those that are under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Turn {
    pace: Arc<Pace>,
    lanes: Vec<Lane>,
}

impl Pace {
    /// Waits until a run of so many bytes may begin; `None` if nothing counts how many are under way. A run that is given up
    /// while it waits loses what it has booked.
    pub async fn enter(
        self: &Arc<Self>,
        rates: &Rates,
        namespace: &str,
        bytes: u64,
    ) -> Option<Turn> {
        let turn = self.connect(rates, namespace).await;
        if let Some(at) = self.book(rates, namespace, bytes) {
            sleep_until(at).await;
        }
        turn
    }

    /// Whether a run would have to wait now.
    pub fn is_tight(&self, rates: &Rates, namespace: &str) -> bool {
        let (bytes, connections) = (byte_limits(rates), connection_limits(rates));
        if bytes.is_empty() && connections.is_empty() {
            return false;
        }
        let now = Instant::now();
        let state = self.lock();
        let owes = |limit: &Scoped<'_>| state.booked.get(&limit.lane(namespace)) > Some(&now);
        bytes.iter().any(owes)
            || connections
                .iter()
                .any(|limit| state.running(&limit.lane(namespace)) >= limit.value())
    }

    /// Waits for a place among the runs under way.
    async fn connect(self: &Arc<Self>, rates: &Rates, namespace: &str) -> Option<Turn> {
        let limits = connection_limits(rates);
        if limits.is_empty() {
            return None;
        }
        loop {
            // Before the look, so that a place that is freed after it is not missed.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            let started = self.lock().start(&limits, namespace);
            if let Some(lanes) = started {
                let pace = Arc::clone(self);
                return Some(Turn { pace, lanes });
            }
            freed.await;
        }
    }

    /// Books a run; when it may begin, if that is later than now.
    fn book(&self, rates: &Rates, namespace: &str, bytes: u64) -> Option<Instant> {
        let limits = byte_limits(rates);
        if limits.is_empty() {
            return None;
        }
        let now = Instant::now();
        let mut state = self.lock();
        if state.booked.len() >= MANY {
            state.booked.retain(|_, until| *until > now);
        }
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let mut begin = now;
        for limit in limits {
            let until = state
                .booked
                .entry(limit.lane(namespace))
                .or_insert(earliest);
            let turn = (*until).max(earliest);
            *until = turn.checked_add(limit.time(bytes)).unwrap_or(turn);
            begin = begin.max(turn);
        }
        (begin > now).then_some(begin)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn running(&self, lane: &Lane) -> u64 {
        self.running.get(lane).copied().unwrap_or_default()
    }

    /// Counts one run more where all limits have room for it.
    fn start(&mut self, limits: &[Scoped<'_>], namespace: &str) -> Option<Vec<Lane>> {
        let mut lanes = Vec::with_capacity(limits.len());
        for limit in limits {
            let lane = limit.lane(namespace);
            if self.running(&lane) >= limit.value() {
                return None;
            }
            lanes.push(lane);
        }
        for lane in &lanes {
            let running = self.running.entry(lane.clone()).or_default();
            *running = running.saturating_add(1);
        }
        Some(lanes)
    }

    fn end(&mut self, lane: &Lane) {
        let left = self.running(lane).saturating_sub(1);
        if left == 0 {
            self.running.remove(lane);
        } else if let Some(running) = self.running.get_mut(lane) {
            *running = left;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.pace.lock();
        for lane in &self.lanes {
            state.end(lane);
        }
        drop(state);
        self.pace.freed.notify_waiters();
    }
}

/// A limit, of the node or of each namespace.
#[derive(Clone, Copy)]
struct Scoped<'a> {
    limit: &'a Limit,
    of_namespace: bool,
}

impl Scoped<'_> {
    fn lane(&self, namespace: &str) -> Lane {
        Lane {
            policy: self.limit.policy.clone(),
            namespace: self.of_namespace.then(|| namespace.to_owned()),
        }
    }

    fn value(&self) -> u64 {
        self.limit.value.max(1)
    }

    /// How long so many bytes take.
    fn time(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes).saturating_mul(1_000_000_000) / u128::from(self.value());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn byte_limits(rates: &Rates) -> Vec<Scoped<'_>> {
    both(
        rates.bytes_per_second_per_node.as_ref(),
        rates.bytes_per_second_per_namespace.as_ref(),
    )
}

fn connection_limits(rates: &Rates) -> Vec<Scoped<'_>> {
    both(
        rates.connections_per_node.as_ref(),
        rates.connections_per_namespace.as_ref(),
    )
}

fn both<'a>(of_node: Option<&'a Limit>, of_namespace: Option<&'a Limit>) -> Vec<Scoped<'a>> {
    let scoped = |of_namespace| {
        move |limit| Scoped {
            limit,
            of_namespace,
        }
    };
    let of_node = of_node.map(scoped(false));
    of_node
        .into_iter()
        .chain(of_namespace.map(scoped(true)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(value: u64, policy: &str) -> Limit {
        Limit {
            value,
            policy: policy.to_owned(),
        }
    }

    async fn millis(pace: &Arc<Pace>, rates: &Rates, namespace: &str, bytes: u64) -> u128 {
        let start = Instant::now();
        drop(pace.enter(rates, namespace, bytes).await);
        start.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_begins_when_those_before_it_are_worked_off() {
        let pace = Arc::new(Pace::default());
        let rates = Rates {
            bytes_per_second_per_node: Some(limit(1_000, "p")),
            ..Rates::default()
        };
        // A tenth of a second is saved up.
        assert_eq!(millis(&pace, &rates, "a", 600).await, 0);
        assert_eq!(millis(&pace, &rates, "b", 1_000).await, 500);
        assert!(pace.is_tight(&rates, "c"));
        assert_eq!(millis(&pace, &rates, "a", 1).await, 1_000);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(!pace.is_tight(&rates, "c"));
        assert_eq!(millis(&pace, &rates, "a", 1).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_wait_for_themselves_and_policies_do_not_share_their_limits() {
        let pace = Arc::new(Pace::default());
        let of = |policy: &str| Rates {
            bytes_per_second_per_namespace: Some(limit(1_000, policy)),
            ..Rates::default()
        };
        assert_eq!(millis(&pace, &of("p"), "a", 1_100).await, 0);
        assert_eq!(millis(&pace, &of("p"), "b", 1_100).await, 0);
        assert_eq!(millis(&pace, &of("q"), "a", 1_100).await, 0);
        assert_eq!(millis(&pace, &of("p"), "a", 1).await, 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_of_several_limits_decides() {
        let pace = Arc::new(Pace::default());
        let rates = Rates {
            bytes_per_second_per_node: Some(limit(1_000, "p")),
            bytes_per_second_per_namespace: Some(limit(100, "q")),
            ..Rates::default()
        };
        assert_eq!(millis(&pace, &rates, "a", 210).await, 0);
        assert_eq!(millis(&pace, &rates, "a", 1).await, 2_000);
        assert_eq!(millis(&pace, &rates, "b", 1).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_runs_than_connections_are_under_way_and_none_is_forgotten() {
        let pace = Arc::new(Pace::default());
        let rates = Rates {
            connections_per_node: Some(limit(2, "p")),
            connections_per_namespace: Some(limit(1, "p")),
            ..Rates::default()
        };
        let first = pace.enter(&rates, "a", 1).await;
        assert!(pace.is_tight(&rates, "a") && !pace.is_tight(&rates, "b"));
        let second = pace.enter(&rates, "b", 1).await;
        let mut third = Box::pin(pace.enter(&rates, "c", 1));
        assert!(futures::poll!(&mut third).is_pending());
        drop(first);
        let third = third.await;
        let mut fourth = Box::pin(pace.enter(&rates, "c", 1));
        drop(second);
        assert!(futures::poll!(&mut fourth).is_pending(), "c has its one");
        drop(third);
        drop(fourth.await);
        assert!(pace.lock().running.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_limited_does_not_wait_and_is_not_counted() {
        let pace = Arc::new(Pace::default());
        let free = Rates::default();
        assert!(pace.enter(&free, "a", u64::MAX).await.is_none());
        assert!(!pace.is_tight(&free, "a"));
        assert!(pace.lock().booked.is_empty());
    }
}

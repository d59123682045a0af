//! Idle connections, newest first, dropped after a while of idleness. Nothing here opens connections: how many
//! there are is decided by how many responses are read at a time.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Target;
use super::wire::{Wire, is_quiet};

/// How long an idle connection is kept; below the idle limit of common servers and load balancers.
const IDLE: Duration = Duration::from_secs(15);
/// Most idle connections.
const IDLE_MAX: usize = 256;

/// The idle connections of one transport.
#[derive(Default)]
pub(super) struct Pool(Mutex<State>);

#[derive(Default)]
struct State {
    /// Oldest first.
    idle: Vec<Idle>,
    /// At most one task, which lives while there are idle connections.
    reaper: JoinSet<()>,
}

struct Idle {
    until: Instant,
    target: Arc<Target>,
    wire: Wire,
}

impl Pool {
    /// The newest idle connection to the target that is still usable.
    pub(super) async fn take(&self, target: &Target) -> Option<Wire> {
        while let Some(mut wire) = self.pop(target) {
            if poll_fn(|cx| Poll::Ready(is_quiet(&mut wire, cx))).await {
                return Some(wire);
            }
        }
        None
    }

    fn pop(&self, target: &Target) -> Option<Wire> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = state
            .idle
            .iter()
            .rposition(|idle| *idle.target == *target)?;
        Some(state.idle.remove(at).wire)
    }

    /// Keeps a connection whose response has ended.
    pub(super) fn give(self: &Arc<Self>, target: Arc<Target>, wire: Wire) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.idle.len() >= IDLE_MAX {
            state.idle.remove(0);
        }
        let until = Instant::now() + IDLE;
        state.idle.push(Idle {
            until,
            target,
            wire,
        });
        while state.reaper.try_join_next().is_some() {}
        if state.reaper.is_empty() {
            state.reaper.spawn(reap(Arc::downgrade(self), until));
        }
    }

    /// Drops what has been idle for long; says when to come again.
    fn purge(&self) -> Option<Instant> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        state.idle.retain(|idle| idle.until > now);
        state.idle.first().map(|idle| idle.until)
    }
}

async fn reap(pool: Weak<Pool>, first: Instant) {
    let mut next = Some(first);
    while let Some(until) = next {
        sleep_until(until).await;
        next = pool.upgrade().and_then(|pool| pool.purge());
    }
}

//! Idle connections, newest first, dropped after a while of idleness. Nothing here opens connections: how many
//! there are is decided by how many responses are read at a time.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Target;
use super::link::Link;

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
    idle: Vec<(Instant, Link)>,
    /// At most one task, which lives while there are idle connections.
    reaper: JoinSet<()>,
}

impl Pool {
    /// The newest idle connection to the target that is still usable.
    pub(super) async fn take(&self, target: &Target) -> Option<Link> {
        while let Some(mut link) = self.pop(target) {
            if link.is_usable().await {
                return Some(link);
            }
        }
        None
    }

    fn pop(&self, target: &Target) -> Option<Link> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = state
            .idle
            .iter()
            .rposition(|(_, link)| link.target == *target)?;
        Some(state.idle.remove(at).1)
    }

    /// Keeps a connection whose response has ended.
    pub(super) fn give(self: &Arc<Self>, link: Link) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.idle.len() >= IDLE_MAX {
            state.idle.remove(0);
        }
        let until = Instant::now() + IDLE;
        state.idle.push((until, link));
        while state.reaper.try_join_next().is_some() {}
        if state.reaper.is_empty() {
            state.reaper.spawn(reap(Arc::downgrade(self), until));
        }
    }

    /// Drops what has been idle for long; says when to come again.
    fn purge(&self) -> Option<Instant> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        state.idle.retain(|(until, _)| *until > now);
        state.idle.first().map(|(until, _)| *until)
    }
}

async fn reap(pool: Weak<Pool>, first: Instant) {
    let mut next = Some(first);
    while let Some(until) = next {
        sleep_until(until).await;
        next = pool.upgrade().and_then(|pool| pool.purge());
    }
}

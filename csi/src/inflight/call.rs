//! A call and its waiter: the call may be dropped at any time, the waiter stays.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::task::Task;
use super::{Rate, Registry, Waited, WaiterId, stop_if_alone};

/// One call's stay with its waiter. Dropping it leaves the waiter where it is.
pub struct Call<T, E>
where
    T: Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    pub(super) registry: Registry<T, E>,
    pub(super) id: WaiterId,
    pub(super) generation: u64,
    pub(super) began: bool,
    pub(super) since: Duration,
    pub(super) arrived: Duration,
    pub(super) done_before: u64,
    pub(super) task: Arc<Task<T, E>>,
}

impl<T, E> fmt::Debug for Call<T, E>
where
    T: Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<T, E> Call<T, E>
where
    T: Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    /// Waits for the task, at most for `hold`.
    pub async fn wait(&self, hold: Duration) -> Waited<T, E> {
        match tokio::time::timeout(hold, self.task.outcome()).await {
            Ok(Some(Ok(value))) => Waited::Done(value),
            Ok(Some(Err(error))) => Waited::Failed(error),
            Ok(None) => Waited::Died,
            Err(_) => Waited::Working(self.rate()),
        }
    }

    fn rate(&self) -> Rate {
        let snapshot = self.task.work.progress.snapshot();
        let time = self
            .registry
            .inner
            .clock
            .monotonic()
            .saturating_sub(self.arrived);
        let bytes = snapshot.done.saturating_sub(self.done_before);
        #[expect(clippy::cast_precision_loss, reason = "a speed shown with two digits")]
        let bytes_per_second = if time.is_zero() {
            0.0
        } else {
            bytes as f64 / time.as_secs_f64()
        };
        Rate {
            snapshot,
            bytes_per_second,
        }
    }

    /// Whether this waiter began the task, rather than joining it.
    pub fn began(&self) -> bool {
        self.began
    }

    /// When the waiter's first call came, on the monotonic clock.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Whether this is the waiter's first call.
    pub fn is_first(&self) -> bool {
        self.since == self.arrived
    }

    /// Keeps something as long as the waiter stays, in place of what was kept before. It is dropped under the registry's lock.
    pub fn keep(&self, thing: impl Any + Send) {
        let mut state = self.registry.lock();
        if let Some(waiter) = state.waiters.get_mut(&self.id)
            && waiter.generation == self.generation
        {
            waiter.kept = Some(Box::new(thing));
        }
    }

    /// Whether the waiter is still there: nobody has unpublished its target meanwhile.
    pub fn is_wanted(&self) -> bool {
        self.registry
            .lock()
            .waiters
            .get(&self.id)
            .is_some_and(|waiter| waiter.generation == self.generation)
    }

    /// Removes the waiter: it has what it waited for, or never will.
    pub fn finish(&self) {
        let mut state = self.registry.lock();
        let own = state
            .waiters
            .get(&self.id)
            .is_some_and(|waiter| waiter.generation == self.generation);
        if own && let Some(waiter) = state.waiters.remove(&self.id) {
            stop_if_alone(&mut state, &waiter.task);
        }
    }
}

impl<T, E> Drop for Call<T, E>
where
    T: Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    fn drop(&mut self) {
        let now = self.registry.inner.clock.monotonic();
        let mut state = self.registry.lock();
        if let Some(waiter) = state.waiters.get_mut(&self.id)
            && waiter.generation == self.generation
        {
            waiter.calls = waiter.calls.saturating_sub(1);
            waiter.silent_since = now;
        }
    }
}

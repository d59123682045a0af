//! Running fetches and who waits for them.
//!
//! A fetch is a task that this registry owns, never a call's handler: handlers are dropped when their deadline passes.
//! A handler finds or starts the task and becomes its *waiter*. A waiter is a (volume, target), not a call: it
//! stays after the call was answered ABORTED, until its Unpublish ([`Registry::leave`]), its mount ([`Call::finish`]), or
//! five minutes without a call ([`Registry::sweep`]; kubelet's longest pause is 2 min 2 s).
//!
//! Invariants: a task runs while it has waiters, and is stopped when the last one leaves; nobody joins a task that has ended
//! or is being stopped; an ended task's result lives as long as a waiter that has not taken it.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonnage_cache::clock::Clock;
use tonnage_cache::digest::Digest;

use crate::volume::VolumeId;

mod call;
mod locks;
mod rate;
mod task;

pub use call::Call;
pub use locks::VolumeLocks;
pub use rate::Rate;
use task::Task;
pub use task::Work;

/// How long a waiter is kept without a call: kubelet's longest pause is 2 min 2 s.
pub const SILENCE: Duration = Duration::from_mins(5);

/// Who waits: a volume at a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WaiterId {
    /// The volume.
    pub volume: VolumeId,
    /// The target, below kubelet's directory.
    pub target: PathBuf,
}

struct Waiter<T, E> {
    task: Arc<Task<T, E>>,
    /// What makes two publishes of the target the same.
    identity: Digest,
    generation: u64,
    /// Whether it began the task.
    began: bool,
    since: Duration,
    /// Calls that are waiting now.
    calls: usize,
    /// When the last call ended.
    silent_since: Duration,
    /// What goes with it.
    kept: Option<Box<dyn Any + Send>>,
}

struct State<T, E> {
    running: HashMap<Digest, Arc<Task<T, E>>>,
    waiters: HashMap<WaiterId, Waiter<T, E>>,
    generation: u64,
}

struct Inner<T, E> {
    state: Mutex<State<T, E>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    clock: Arc<dyn Clock>,
}

/// All running fetches of a node.
pub struct Registry<T, E> {
    inner: Arc<Inner<T, E>>,
}

impl<T, E> fmt::Debug for Registry<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

impl<T, E> Clone for Registry<T, E> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

/// Another publish of the same target, with another identity, is waiting.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("another publish of this target is in progress")]
pub struct Busy;

/// What a handler found at the end of its hold.
#[derive(Debug)]
pub enum Waited<T, E> {
    /// The task has ended well.
    Done(Arc<T>),
    /// The task has failed.
    Failed(Arc<E>),
    /// The task died without an error.
    Died,
    /// It goes on: this much is done.
    Working(Rate),
}

impl<T, E> Registry<T, E>
where
    T: Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    /// No tasks.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(State {
                    running: HashMap::new(),
                    waiters: HashMap::new(),
                    generation: 0,
                }),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
                clock,
            }),
        }
    }

    /// Becomes a waiter of the task `key`, which `begin` starts if it is not running. A waiter that comes back finds
    /// its task again, ended or not, unless that failed in a way that `retry` says is worth another attempt.
    pub fn join(
        &self,
        id: WaiterId,
        (identity, key): (Digest, Digest),
        retry: impl FnOnce(&E) -> bool,
        begin: impl FnOnce(Work) -> BoxFuture<'static, Result<T, E>>,
    ) -> Result<Call<T, E>, Busy> {
        let now = self.inner.clock.monotonic();
        let mut state = self.lock();
        if let Some(waiter) = state.waiters.get_mut(&id) {
            let again = match &*waiter.task.ended.borrow() {
                Some(Some(Err(error))) => waiter.calls == 0 && retry(error),
                Some(Some(Ok(_))) => false,
                Some(None) => true,
                None => waiter.task.has_ended(),
            };
            if waiter.identity != identity && waiter.calls > 0 {
                return Err(Busy);
            }
            if waiter.identity == identity && waiter.task.key == key && !again {
                waiter.calls = waiter.calls.saturating_add(1);
                return Ok(self.call(id, waiter, now));
            }
        }
        let (since, left) = match state.waiters.remove(&id) {
            Some(waiter) if waiter.identity == identity => (waiter.since, Some(waiter.task)),
            Some(waiter) => (now, Some(waiter.task)),
            None => (now, None),
        };
        let live = state
            .running
            .get(&key)
            .filter(|task| !task.has_ended())
            .cloned();
        let is_first = live.is_none();
        let task = live.unwrap_or_else(|| self.spawn(&mut state, key, begin));
        state.generation = state.generation.saturating_add(1);
        let waiter = Waiter {
            task,
            identity,
            generation: state.generation,
            began: is_first,
            since,
            calls: 1,
            silent_since: now,
            kept: None,
        };
        let call = self.call(id.clone(), &waiter, now);
        state.waiters.insert(id, waiter);
        // The waiter moved to another task: its old one may have lost its last.
        if let Some(task) = left {
            stop_if_alone(&mut state, &task);
        }
        Ok(call)
    }

    fn call(&self, id: WaiterId, waiter: &Waiter<T, E>, now: Duration) -> Call<T, E> {
        Call {
            registry: self.clone(),
            id,
            generation: waiter.generation,
            began: waiter.began,
            since: waiter.since,
            arrived: now,
            done_before: waiter.task.work.progress.snapshot().done,
            task: Arc::clone(&waiter.task),
        }
    }

    fn spawn(
        &self,
        state: &mut State<T, E>,
        key: Digest,
        begin: impl FnOnce(Work) -> BoxFuture<'static, Result<T, E>>,
    ) -> Arc<Task<T, E>> {
        let work = Work {
            progress: Arc::default(),
            cancel: self.inner.stop.child_token(),
        };
        let (end, ended) = watch::channel(None);
        let task = Arc::new(Task {
            key,
            work: work.clone(),
            ended,
        });
        let future = begin(work);
        let registry = self.clone();
        let own = Arc::downgrade(&task);
        drop(self.inner.tasks.spawn(async move {
            let outcome = future.await.map(Arc::new).map_err(Arc::new);
            let mut state = registry.lock();
            if let Some(own) = own.upgrade() {
                forget(&mut state, &own);
            }
            // Under the lock: nobody joins between the end and its announcement.
            end.send_replace(Some(Some(outcome)));
        }));
        state.running.insert(key, Arc::clone(&task));
        task
    }

    /// Whether anyone but `id` waits for `volume`.
    pub fn has_other_waiter(&self, id: &WaiterId) -> bool {
        self.lock()
            .waiters
            .keys()
            .any(|other| other.volume == id.volume && other.target != id.target)
    }

    /// Removes a waiter. If it was the last of its task, the task is stopped, and this returns when it has ended.
    pub async fn leave(&self, id: &WaiterId) {
        let stopped = {
            let mut state = self.lock();
            let waiter = state.waiters.remove(id);
            waiter
                .filter(|waiter| stop_if_alone(&mut state, &waiter.task))
                .map(|waiter| waiter.task)
        };
        if let Some(task) = stopped {
            drop(task.outcome().await);
        }
    }

    /// Removes waiters that have been silent for too long, and stops the tasks that lose their last.
    pub fn sweep(&self) {
        let now = self.inner.clock.monotonic();
        let mut state = self.lock();
        let silent: Vec<WaiterId> = state
            .waiters
            .iter()
            .filter(|(_, waiter)| {
                waiter.calls == 0 && now.saturating_sub(waiter.silent_since) >= SILENCE
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in silent {
            if let Some(waiter) = state.waiters.remove(&id) {
                tracing::info!(volume.id = %id.volume, "kubelet has not come back for this volume; its load is given up");
                stop_if_alone(&mut state, &waiter.task);
            }
        }
    }

    /// How many waiters and running tasks there are.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.waiters.len(), state.running.len())
    }

    /// Stops all tasks and waits for their end. Nothing can be started afterwards.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    fn lock(&self) -> MutexGuard<'_, State<T, E>> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stops a task without waiters and says whether it was running.
fn stop_if_alone<T, E>(state: &mut State<T, E>, task: &Arc<Task<T, E>>) -> bool {
    if state
        .waiters
        .values()
        .any(|waiter| Arc::ptr_eq(&waiter.task, task))
    {
        return false;
    }
    forget(state, task);
    task.work.cancel.cancel();
    !task.has_ended()
}

fn forget<T, E>(state: &mut State<T, E>, task: &Arc<Task<T, E>>) {
    if state
        .running
        .get(&task.key)
        .is_some_and(|running| Arc::ptr_eq(running, task))
    {
        state.running.remove(&task.key);
    }
}

#[cfg(test)]
mod tests;

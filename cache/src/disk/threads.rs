//! A fixed set of threads that run blocking verbs and answer by a one-shot channel.
//!
//! Invariants: a job that was accepted runs to its end even if nobody waits for the answer any more; dropping the
//! set runs what is queued and joins the threads; a job that panics ends itself, not its thread.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The threads are gone, or the job panicked.
#[derive(Debug, thiserror::Error)]
#[error("an I/O thread ended before its work was done")]
pub struct Stopped;

/// Threads that take jobs from one queue.
pub struct Threads {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

impl Threads {
    /// Starts `count` threads (at least one) with this name.
    pub fn start(name: &str, count: usize) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let mut threads = Vec::new();
        for _ in 0..count.max(1) {
            let queue = Arc::clone(&queue);
            let thread = std::thread::Builder::new().name(name.to_owned());
            threads.push(thread.spawn(move || queue.work())?);
        }
        Ok(Self { queue, threads })
    }

    /// How many threads there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Queues a job that nobody waits for.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) {
        self.queue.lock().jobs.push_back(Box::new(job));
        self.queue.changed.notify_one();
    }

    /// Queues a job now and waits for its answer. The job runs even if the returned future is dropped.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Stopped>> + Send + 'static {
        let (sender, receiver) = oneshot::channel();
        self.submit(move || {
            // An error means that nobody waits any more.
            let _unheard = sender.send(job());
        });
        async move { receiver.await.map_err(|_| Stopped) }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a job on an I/O thread panicked");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
        let here = std::thread::current().id();
        for thread in self.threads.drain(..) {
            if thread.thread().id() != here && thread.join().is_err() {
                tracing::error!("an I/O thread panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_answers() {
        let threads = Threads::start("test", 2).unwrap();
        assert_eq!(threads.run(|| 6 * 7).await.unwrap(), 42);
    }

    #[tokio::test]
    async fn a_panic_ends_the_job_and_not_the_thread() {
        let threads = Threads::start("test", 1).unwrap();
        assert!(threads.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(threads.run(|| 1).await.unwrap(), 1);
    }

    #[test]
    fn dropping_the_threads_finishes_what_is_queued() {
        let done = Arc::new(Mutex::new(0));
        let threads = Threads::start("test", 2).unwrap();
        for _ in 0..100 {
            let done = Arc::clone(&done);
            drop(threads.run(move || *done.lock().unwrap() += 1));
        }
        drop(threads);
        assert_eq!(*done.lock().unwrap(), 100);
    }
}

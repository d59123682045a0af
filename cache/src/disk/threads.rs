//! A fixed set of threads that run blocking jobs and answer.
//!
//! Invariants: a job that was accepted runs to its end even if nobody waits for the answer any more; dropping the
//! set runs what is queued and joins the threads; a job that panics ends itself, not its thread, and who waits for it
//! learns that. A job on a [`Desk`] that is used again asks for no memory.

use std::fmt;
use std::io;
use std::sync::Arc;

mod crew;
mod desk;

pub(crate) use crew::{Crew, Queue};
pub use desk::{Desk, Job, Running};

use desk::Work;

/// The job panicked.
#[derive(Debug, thiserror::Error)]
#[error("an I/O thread ended before its work was done")]
pub struct Stopped;

/// Threads that take jobs from one queue.
pub struct Threads(Crew<Arc<dyn Work>>);

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads")
            .field("threads", &self.count())
            .finish_non_exhaustive()
    }
}

impl Threads {
    /// Starts `count` threads (at least one) with this name.
    pub fn start(name: &str, count: usize) -> io::Result<Self> {
        let work = |queue: &Queue<Arc<dyn Work>>| {
            while let Some(work) = queue.next() {
                work.work();
            }
        };
        Crew::start(name, count, work).map(Self)
    }

    /// How many threads there are.
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// Queues a job now and waits for its answer. The job runs even if the returned future is dropped.
    pub fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Stopped>> + Send + 'static {
        let running = Desk::default().begin(self, job);
        async move { running.await.1 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

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

    struct Double(u32);

    impl Job for Double {
        type Answer = u32;

        fn run(self) -> u32 {
            assert_ne!(self.0, 0, "on purpose");
            self.0 * 2
        }
    }

    #[tokio::test]
    async fn a_desk_serves_job_after_job_panics_included() {
        let threads = Threads::start("test", 2).unwrap();
        let mut desk = Desk::default();
        for number in [1, 0, 7, 0, 0, 30] {
            let (free, answer) = desk.begin(&threads, Double(number)).await;
            assert_eq!(answer.ok(), Some(number * 2).filter(|double| *double > 0));
            desk = free;
        }
    }

    #[test]
    fn the_answer_to_nobody_is_dropped() {
        let answer = Arc::new(());
        let threads = Threads::start("test", 1).unwrap();
        let given = Arc::clone(&answer);
        drop(Desk::default().begin(&threads, move || given));
        drop(threads);
        assert_eq!(Arc::strong_count(&answer), 1);
    }
}

//! Where a job lies until a thread takes it, and its answer until somebody asks. Only making a desk asks for memory:
//! the same one serves job after job.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Stopped, Threads};

/// What a thread is to do.
pub trait Job: Send + 'static {
    /// What comes of it.
    type Answer: Send + 'static;

    /// Does it; may block.
    fn run(self) -> Self::Answer;
}

impl<T: Send + 'static, F: FnOnce() -> T + Send + 'static> Job for F {
    type Answer = T;

    fn run(self) -> T {
        self()
    }
}

/// A free desk.
pub struct Desk<J: Job>(Arc<Tray<J>>);

/// A job that was begun: waits for its answer and gives the desk back with it. Dropping it changes nothing for the job,
/// whose answer is then dropped where it ends.
#[must_use = "nobody learns what came of the job"]
pub struct Running<J: Job>(Arc<Tray<J>>);

struct Tray<J: Job>(Mutex<State<J>>);

struct State<J: Job> {
    content: Content<J>,
    waiter: Option<Waker>,
}

enum Content<J: Job> {
    Nothing,
    Job(J),
    Answer(Result<J::Answer, Stopped>),
}

impl<J: Job> fmt::Debug for Desk<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl<J: Job> fmt::Debug for Running<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

impl<J: Job> Default for Desk<J> {
    fn default() -> Self {
        Self(Arc::new(Tray(Mutex::new(State {
            content: Content::Nothing,
            waiter: None,
        }))))
    }
}

impl<J: Job> Desk<J> {
    /// Queues a job; it runs even if nobody waits for its answer.
    pub fn begin(self, threads: &Threads, job: J) -> Running<J> {
        self.0.lock().content = Content::Job(job);
        let running = Running(Arc::clone(&self.0));
        threads.0.submit(self.0);
        running
    }
}

impl<J: Job> Future for Running<J> {
    type Output = (Desk<J>, Result<J::Answer, Stopped>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        let content = state.take();
        if let Content::Answer(answer) = content {
            return Poll::Ready((Desk(Arc::clone(&self.0)), answer));
        }
        state.content = content;
        state.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<J: Job> Tray<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J: Job> State<J> {
    fn take(&mut self) -> Content<J> {
        std::mem::replace(&mut self.content, Content::Nothing)
    }
}

/// A tray without the type of its job: what the threads' queue holds.
pub(super) trait Work: Send + Sync {
    /// Does the job and leaves the answer; a panic is an answer too.
    fn work(&self);
}

impl<J: Job> Work for Tray<J> {
    fn work(&self) {
        let content = self.lock().take();
        let Content::Job(job) = content else {
            return;
        };
        let answer = catch_unwind(AssertUnwindSafe(|| job.run())).map_err(|_| {
            tracing::error!("a job on an I/O thread panicked");
            Stopped
        });
        let waiter = {
            let mut state = self.lock();
            state.content = Content::Answer(answer);
            state.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

//! Threads that take from one queue and end with it.
//!
//! Invariants: dropping the crew lets its threads empty the queue and joins them; a crew that was started in part is
//! ended again. What the threads do with what they take, and with its panics, is theirs.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Running threads and their queue.
pub(crate) struct Crew<T> {
    queue: Arc<Queue<T>>,
    threads: Vec<JoinHandle<()>>,
}

/// What waits for a thread, oldest first.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> fmt::Debug for Crew<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Crew<T> {
    /// Starts `count` threads (at least one) with this name; each works until the queue has no more to give.
    pub(crate) fn start(
        name: &str,
        count: usize,
        work: impl Fn(&Queue<T>) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let mut crew = Self {
            queue: Arc::new(Queue::new()),
            threads: Vec::new(),
        };
        for _ in 0..count.max(1) {
            let (queue, work) = (Arc::clone(&crew.queue), work.clone());
            let thread = std::thread::Builder::new().name(name.to_owned());
            crew.threads.push(thread.spawn(move || work(&queue))?);
        }
        Ok(crew)
    }

    /// How many threads there are.
    pub(crate) fn count(&self) -> usize {
        self.threads.len()
    }

    /// Queues something.
    pub(crate) fn submit(&self, item: T) {
        self.queue.lock().items.push_back(item);
        self.queue.changed.notify_one();
    }
}

impl<T> Queue<T> {
    fn new() -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits for the next item; `None` once there will be no more.
    pub(crate) fn next(&self) -> Option<T> {
        self.wait().items.pop_front()
    }

    /// Waits for items and takes all that are there; `None` once there will be no more.
    pub(crate) fn all(&self) -> Option<VecDeque<T>> {
        Some(std::mem::take(&mut self.wait().items)).filter(|items| !items.is_empty())
    }

    /// Returns with something in the queue, or when it is closed.
    fn wait(&self) -> MutexGuard<'_, State<T>> {
        let idle = |state: &mut State<T>| state.items.is_empty() && !state.closed;
        self.changed
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Crew<T> {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
        let here = std::thread::current().id();
        for thread in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.thread().id() != here && thread.join().is_err() {
                tracing::error!(thread = name, "a thread panicked");
            }
        }
    }
}

//! The thread that brings objects into memory beside their reader. Where memory turned out slow to write to, a volume is there
//! sooner if its bytes go past the page cache, but its reader then waits for every page, one at a time. What is left is
//! done by two: the reader from the beginning, this thread from the end.
//!
//! Advice, not work: nobody waits for it, and nothing is wrong without it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{Shared, Store};
use crate::buffer::{Buffer, CAPACITY};
use crate::digest::{Digest, PART_SIZE, part_count};
use crate::disk::Open;

#[derive(Debug, Default)]
struct Queue {
    objects: VecDeque<(Digest, u64)>,
    stopped: bool,
}

/// What is to be warmed, and a bell.
#[derive(Debug, Default)]
struct Bell {
    queue: Mutex<Queue>,
    rung: Condvar,
}

/// The running thread; dropping it ends it within a part and joins it.
#[derive(Debug)]
pub(super) struct Warmer {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Warmer {
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let bell = Arc::<Bell>::default();
        let heard = Arc::clone(&bell);
        let thread = std::thread::Builder::new()
            .name("tonnage-warm".to_owned())
            .spawn(move || {
                while let Some((digest, size)) = heard.next() {
                    if let Err(error) = warm(&shared, &heard, (digest, size)) {
                        tracing::debug!(%digest, %error, "an object was not brought into memory");
                    }
                }
            })?;
        Ok(Self {
            bell,
            thread: Some(thread),
        })
    }

    /// Brings objects of these sizes into memory, in this order, each from its end.
    pub(super) fn warm(&self, objects: impl IntoIterator<Item = (Digest, u64)>) {
        self.bell.lock().objects.extend(objects);
        self.bell.rung.notify_all();
    }
}

impl Store {
    /// Begins to bring objects of these sizes into memory beside whoever reads them, in this order and each from its end;
    /// returns at once. What cannot be brought is passed over.
    pub fn warm(&self, objects: impl IntoIterator<Item = (Digest, u64)>) {
        self.warmer.warm(objects);
    }
}

impl Bell {
    /// Waits for the next object; `None` once there is to be none.
    fn next(&self) -> Option<(Digest, u64)> {
        let queue = self.lock();
        let is_idle = |queue: &mut Queue| queue.objects.is_empty() && !queue.stopped;
        let mut queue = self
            .rung
            .wait_while(queue, is_idle)
            .unwrap_or_else(PoisonError::into_inner);
        if queue.stopped {
            return None;
        }
        queue.objects.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads, and throws away what it has read: advice to read ahead would be cut to a fraction of what is asked for (`force_page_cache_ra`
/// in Linux 6.12), and would overtake the reader at the disk.
fn warm(shared: &Shared, bell: &Bell, (digest, size): (Digest, u64)) -> io::Result<()> {
    let path = shared.layout.object(&digest);
    let file = shared.disk.open(&path, Open::Read)?;
    let mut buffer = Buffer::unpooled();
    for index in (0..part_count(size)).rev() {
        if bell.lock().stopped {
            break;
        }
        let offset = index.saturating_mul(PART_SIZE);
        (buffer, _) = shared.disk.read_at(&file, buffer, CAPACITY, offset)?;
    }
    Ok(())
}

impl Drop for Warmer {
    fn drop(&mut self) {
        self.bell.lock().stopped = true;
        self.bell.rung.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the warming thread panicked");
        }
    }
}

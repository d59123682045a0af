//! The thread that brings objects into memory beside their reader. Where memory turned out slow to write to, a volume is there
//! sooner if its bytes go past the page cache, but its reader then waits for every page, one at a time. What is left is
//! done by two: the reader from the beginning, this thread from the end.
//!
//! Advice, not work: nobody waits for it, and nothing is wrong without it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Shared, Store};
use crate::buffer::{Buffer, CAPACITY};
use crate::digest::{Digest, PART_SIZE, part_count};
use crate::disk::{Crew, Open, Queue};

/// The running thread; dropping it ends it within a part and joins it.
#[derive(Debug)]
pub(super) struct Warmer {
    crew: Crew<(Digest, u64)>,
    stopped: Arc<AtomicBool>,
}

impl Warmer {
    /// Starts the thread.
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let stopped = Arc::<AtomicBool>::default();
        let (shared, ended) = (Arc::clone(shared), Arc::clone(&stopped));
        let work = move |queue: &Queue<(Digest, u64)>| {
            while let Some((digest, size)) = queue.next() {
                if let Err(error) = warm(&shared, &ended, (digest, size)) {
                    tracing::debug!(%digest, %error, "an object was not brought into memory");
                }
            }
        };
        let crew = Crew::start("tonnage-warm", 1, work)?;
        Ok(Self { crew, stopped })
    }
}

impl Store {
    /// Begins to bring objects of these sizes into memory beside whoever reads them, in this order and each from its end;
    /// returns at once. What cannot be brought is passed over.
    pub fn warm(&self, objects: impl IntoIterator<Item = (Digest, u64)>) {
        for object in objects {
            self.warmer.crew.submit(object);
        }
    }
}

/// Reads, and throws away what it has read: advice to read ahead would be cut to a fraction of what is asked for (`force_page_cache_ra`
/// in Linux 6.12), and would overtake the reader at the disk.
fn warm(shared: &Shared, stopped: &AtomicBool, (digest, size): (Digest, u64)) -> io::Result<()> {
    if stopped.load(Ordering::Relaxed) {
        return Ok(());
    }
    let path = shared.layout.object(&digest);
    let file = shared.disk.open(&path, Open::Read)?;
    let mut buffer = Buffer::unpooled();
    for index in (0..part_count(size)).rev() {
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        let offset = index.saturating_mul(PART_SIZE);
        (buffer, _) = shared.disk.read_at(&file, buffer, CAPACITY, offset)?;
    }
    Ok(())
}

impl Drop for Warmer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

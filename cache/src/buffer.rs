//! The node's one memory budget for content: a pool of page-aligned buffers of one part (1 MiB) each.
//!
//! Invariants: at most `limit` buffers exist outside the free list; a taken buffer's memory is reused, never
//! freed, while the pool is busy; [`Pool::trim`] gives idle memory back. Alignment is that of direct I/O on
//! every common disk (4 KiB).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

mod slab;

use slab::Half;

/// Alignment of a buffer's address, in bytes.
pub const ALIGNMENT: usize = 4096;
/// Capacity of a buffer: one part.
pub const CAPACITY: usize = 1 << 20;

/// One aligned part of memory, given back to its pool when dropped.
pub struct Buffer {
    /// `None` only while it is being dropped.
    memory: Option<Half>,
    pool: Option<(Arc<Shared>, OwnedSemaphorePermit)>,
}

impl Buffer {
    /// A buffer outside any pool, for tests and for single uses off the hot path.
    pub fn unpooled() -> Self {
        Self {
            memory: Some(Half::pair().0),
            pool: None,
        }
    }

    /// The whole part; its content is whatever was last written.
    pub fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map(Half::bytes).unwrap_or_default()
    }

    /// The whole part, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory
            .as_mut()
            .map(Half::bytes_mut)
            .unwrap_or_default()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some((shared, permit)) = self.pool.take() {
            shared.lock().extend(self.memory.take());
            drop(permit);
        }
    }
}

struct Shared {
    free: Mutex<Vec<Half>>,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Half>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part that is free, or one of two new ones.
    fn take(&self) -> Half {
        let mut free = self.lock();
        free.pop().unwrap_or_else(|| {
            let (one, other) = Half::pair();
            free.push(other);
            one
        })
    }
}

/// Hands out buffers up to a limit; who asks beyond it waits.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    limit: Arc<Mutex<usize>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("limit", &self.limit())
            .field("available", &self.permits.available_permits())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of at most `buffers` parts; at least one.
    pub fn new(buffers: usize) -> Self {
        let buffers = buffers.max(1);
        Self {
            shared: Arc::new(Shared {
                free: Mutex::new(Vec::new()),
            }),
            permits: Arc::new(Semaphore::new(buffers)),
            limit: Arc::new(Mutex::new(buffers)),
        }
    }

    /// Takes a buffer, waiting while all are in use. Cancel safe.
    pub async fn take(&self) -> Buffer {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        // The semaphore is never closed; were it, an unpooled buffer is still correct.
        let Ok(permit) = permit else {
            return Buffer::unpooled();
        };
        self.fill(permit)
    }

    /// Takes a buffer if one is free now.
    pub fn try_take(&self) -> Option<Buffer> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(self.fill(permit))
    }

    fn fill(&self, permit: OwnedSemaphorePermit) -> Buffer {
        Buffer {
            memory: Some(self.shared.take()),
            pool: Some((Arc::clone(&self.shared), permit)),
        }
    }

    /// Most buffers in use at once.
    pub fn limit(&self) -> usize {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises the limit to `buffers`; a lower value changes nothing.
    pub fn grow_to(&self, buffers: usize) {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(more) = buffers.checked_sub(*limit).filter(|more| *more > 0) {
            self.permits.add_permits(more);
            *limit = buffers;
        }
    }

    /// Buffers in use.
    pub fn in_use(&self) -> usize {
        self.limit()
            .saturating_sub(self.permits.available_permits())
    }

    /// Frees the memory of buffers that nobody uses.
    pub fn trim(&self) {
        let freed = std::mem::take(&mut *self.shared.lock());
        drop(freed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_one_part_long() {
        let pool = Pool::new(2);
        let mut buffer = pool.try_take().unwrap();
        assert_eq!(buffer.bytes().len(), 1 << 20);
        assert_eq!(buffer.bytes().as_ptr().align_offset(4096), 0);
        buffer.bytes_mut()[..4].copy_from_slice(b"abcd");
        assert_eq!(&buffer.bytes()[..4], b"abcd");
    }

    #[test]
    fn memory_is_reused_and_the_limit_holds() {
        let pool = Pool::new(1);
        let first = pool.try_take().unwrap();
        let address = first.bytes().as_ptr();
        assert!(pool.try_take().is_none());
        drop(first);
        assert_eq!(pool.try_take().unwrap().bytes().as_ptr(), address);
        pool.grow_to(2);
        let _a = pool.try_take().unwrap();
        let _b = pool.try_take().unwrap();
        assert_eq!(pool.in_use(), 2);
    }

    #[tokio::test]
    async fn a_waiter_gets_the_buffer_that_is_given_back() {
        let pool = Pool::new(1);
        let held = pool.try_take().unwrap();
        let (buffer, ()) = tokio::join!(pool.take(), async { drop(held) });
        drop(buffer);
        assert_eq!(pool.in_use(), 0);
    }
}

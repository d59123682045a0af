//! The node's one memory budget for content: a pool of page-aligned buffers of one part (1 MiB) each.
//!
//! Invariants: at most `limit` buffers exist outside the free list; a taken buffer's memory is reused, never
//! freed, while the pool is busy; [`Pool::trim`] gives idle memory back. Alignment is that of direct I/O on
//! every common disk (4 KiB). No payer has all of them ([`Share`]): one whose sources send slowly leaves some for others.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

mod slab;

use slab::Half;

/// Alignment of a buffer's address, in bytes.
pub const ALIGNMENT: usize = 4096;
/// Capacity of a buffer: one part.
pub const CAPACITY: usize = 1 << 20;

/// Of so many of anything, how many one payer gets at most: seven eighths, so that a newcomer need not wait for the slowest of
/// another's requests. Below eight nothing is kept back.
pub fn without_reserve(limit: usize) -> usize {
    limit.saturating_sub(limit / 8)
}

/// One aligned part of memory, given back to its pool when dropped.
pub struct Buffer {
    /// `None` only while it is being dropped.
    memory: Option<Half>,
    pool: Option<(Arc<Shared>, OwnedSemaphorePermit)>,
    share: Option<OwnedSemaphorePermit>,
}

impl Buffer {
    /// A buffer outside any pool, for tests and for single uses off the hot path.
    pub fn unpooled() -> Self {
        Self {
            memory: Some(Half::pair().0),
            pool: None,
            share: None,
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
            drop(self.share.take());
        }
    }
}

struct Shared {
    free: Mutex<Vec<Half>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Half>> {
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
    limits: Arc<Mutex<Limits>>,
}

#[derive(Debug)]
struct Limits {
    /// Most buffers in use at once.
    all: usize,
    /// What each payer may have that has a share now.
    shares: HashMap<Arc<str>, Weak<Semaphore>>,
}

impl Limits {
    fn of_one(&self) -> usize {
        without_reserve(self.all)
    }
}

/// What one payer may have of a pool ([`without_reserve`]). Shares of one payer are one.
#[derive(Debug)]
pub struct Share {
    pool: Pool,
    permits: Arc<Semaphore>,
}

impl Share {
    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Takes a buffer, waiting while all are in use or the payer has its share. Cancel safe.
    pub async fn take(&self) -> Buffer {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let mut buffer = self.pool.take().await;
        buffer.share = permit.ok();
        buffer
    }
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
            limits: Arc::new(Mutex::new(Limits {
                all: buffers,
                shares: HashMap::new(),
            })),
        }
    }

    /// The share of a payer.
    pub fn share(&self, payer: &Arc<str>) -> Share {
        let mut limits = self.limits();
        limits.shares.retain(|_, share| share.strong_count() > 0);
        let known = limits.shares.get(payer).and_then(Weak::upgrade);
        let permits = known.unwrap_or_else(|| {
            let permits = Arc::new(Semaphore::new(limits.of_one()));
            limits
                .shares
                .insert(Arc::clone(payer), Arc::downgrade(&permits));
            permits
        });
        Share {
            pool: self.clone(),
            permits,
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
            share: None,
        }
    }

    /// Most buffers in use at once.
    pub fn limit(&self) -> usize {
        self.limits().all
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Raises the limit to `buffers`; a lower value changes nothing.
    pub fn grow_to(&self, buffers: usize) {
        let mut limits = self.limits();
        if let Some(more) = buffers.checked_sub(limits.all).filter(|more| *more > 0) {
            self.permits.add_permits(more);
            let before = limits.of_one();
            limits.all = buffers;
            let more = limits.of_one().saturating_sub(before);
            for share in limits.shares.values().filter_map(Weak::upgrade) {
                share.add_permits(more);
            }
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
    async fn no_payer_has_all_and_every_share_grows_with_the_pool() {
        let pool = Pool::new(8);
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let (greedy, again) = (pool.share(&a), pool.share(&a));
        let mut held = Vec::new();
        for _ in 0..7 {
            held.push(greedy.take().await);
        }
        let mut eighth = Box::pin(again.take());
        assert!(futures::poll!(eighth.as_mut()).is_pending(), "one is left");
        let newcomer = pool.share(&b);
        let one = newcomer.take().await;
        pool.grow_to(16);
        held.push(eighth.await);
        for _ in 0..6 {
            held.push(again.take().await);
        }
        assert!(futures::poll!(std::pin::pin!(again.take())).is_pending());
        assert_eq!(pool.in_use(), 15);
        drop((held, one, greedy, again));
        assert_eq!(pool.in_use(), 0);
        let fresh = pool.share(&a);
        let mut held = Vec::new();
        for _ in 0..14 {
            held.push(fresh.take().await);
        }
        assert!(futures::poll!(std::pin::pin!(fresh.take())).is_pending());
    }

    #[tokio::test]
    async fn a_small_pool_keeps_nothing_back() {
        let pool = Pool::new(1);
        let share = pool.share(&Arc::from("a"));
        let buffer = share.take().await;
        assert_eq!(pool.in_use(), 1);
        drop(buffer);
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

//! Who is fetching which object version: two loads that share files share their bytes.
//!
//! A load claims what nobody else has, fetches it, and then waits for what others had claimed. Because it
//! waits only when it holds no claim, loads cannot wait for each other in a circle.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::store::PartialKey;

/// All claims of one cache.
#[derive(Debug, Default, Clone)]
pub(super) struct Claims {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    taken: Mutex<HashSet<PartialKey>>,
    released: Notify,
}

/// Claims held by one load; dropping it releases them and wakes who waits.
#[derive(Debug)]
pub(super) struct Claim {
    shared: Arc<Shared>,
    keys: Vec<PartialKey>,
}

impl Claim {
    /// Whether `key` is among them.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut taken = lock(&self.shared.taken);
        for key in &self.keys {
            taken.remove(key);
        }
        drop(taken);
        if !self.keys.is_empty() {
            self.shared.released.notify_waiters();
        }
    }
}

impl Claims {
    /// Claims those of `keys` that are free; the returned flags say which.
    pub(super) fn take(&self, keys: &[PartialKey]) -> (Claim, Vec<bool>) {
        let mut taken = lock(&self.shared.taken);
        let mut mine = Vec::new();
        let flags = keys
            .iter()
            .map(|key| {
                let free = taken.insert(*key);
                if free {
                    mine.push(*key);
                }
                free
            })
            .collect();
        let claim = Claim {
            shared: Arc::clone(&self.shared),
            keys: mine,
        };
        (claim, flags)
    }

    /// Waits until any claim is released after this call began, unless none of `keys` is taken now.
    pub(super) async fn wait(&self, keys: &[PartialKey]) {
        let released = self.shared.released.notified();
        tokio::pin!(released);
        released.as_mut().enable();
        let waits = {
            let taken = lock(&self.shared.taken);
            keys.iter().all(|key| taken.contains(key))
        };
        if waits {
            released.await;
        }
    }
}

fn lock(taken: &Mutex<HashSet<PartialKey>>) -> std::sync::MutexGuard<'_, HashSet<PartialKey>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> PartialKey {
        PartialKey::new("s3://test", name, "\"e\"", "", 0, 1)
    }

    #[tokio::test]
    async fn a_key_is_claimed_once_and_its_release_wakes_the_waiter() {
        let claims = Claims::default();
        let (first, flags) = claims.take(&[key("a"), key("b")]);
        assert_eq!(flags, [true, true]);
        let (second, flags) = claims.take(&[key("b"), key("c")]);
        assert_eq!(flags, [false, true]);
        drop(second);
        let waiting = [key("b")];
        let wait = claims.wait(&waiting);
        tokio::pin!(wait);
        assert!(futures::poll!(wait.as_mut()).is_pending());
        drop(first);
        wait.await;
        assert_eq!(claims.take(&[key("b")]).1, [true]);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_free_key() {
        Claims::default().wait(&[key("free")]).await;
    }
}

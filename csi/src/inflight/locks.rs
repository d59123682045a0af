//! One mount or unmount of a volume at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::volume::VolumeId;

/// One operation per volume at a time.
#[derive(Debug, Default)]
pub struct VolumeLocks {
    locks: Mutex<HashMap<VolumeId, Arc<tokio::sync::Mutex<()>>>>,
}

impl VolumeLocks {
    /// Waits for the volume's turn.
    pub async fn lock(&self, volume: &VolumeId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(volume.clone()).or_default())
        };
        lock.lock_owned().await
    }
}

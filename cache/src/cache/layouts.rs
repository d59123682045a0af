//! One at a time lays out a manifest: whoever comes second finds the view.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::Digest;

/// Locks by manifest.
#[derive(Debug, Clone, Default)]
pub(super) struct Layouts {
    locks: Arc<Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Layouts {
    /// The manifest's lock.
    pub(super) fn of(&self, manifest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(manifest).or_default())
    }
}

//! A part of the world that is cheap to copy and whose fingerprint is known, because most steps change one part of many.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A value and its fingerprint. Equal fingerprints count as equal values, as they do for the checker.
#[derive(Debug)]
pub(crate) struct Part<T> {
    value: Arc<T>,
    fingerprint: u64,
}

impl<T: Hash + Clone> Part<T> {
    pub(crate) fn new(value: T) -> Self {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Self {
            value: Arc::new(value),
            fingerprint: hasher.finish(),
        }
    }

    pub(crate) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = T::clone(&self.value);
        let result = change(&mut value);
        *self = Self::new(value);
        result
    }
}

impl<T> Part<T> {
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            fingerprint: self.fingerprint,
        }
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> PartialEq for Part<T> {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl<T> Eq for Part<T> {}

impl<T> Hash for Part<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.fingerprint);
    }
}

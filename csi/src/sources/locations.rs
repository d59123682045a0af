//! Where the bytes of sources come from, by their names: what the gate goes by. It is beside the sources because they ask the
//! gate themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tonnage_cache::source::location::Location;

/// Locations by the names of sources. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Locations(Arc<RwLock<BTreeMap<String, Arc<Location>>>>);

impl Locations {
    /// Where a source is, if that is known.
    pub fn find(&self, name: &str) -> Option<Arc<Location>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).map(Arc::clone)
    }

    /// Says where a source is. To be called before it is used.
    pub fn put(&self, name: &str, location: Location) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(name.to_owned(), Arc::new(location));
    }

    /// Forgets a source.
    pub(super) fn remove(&self, name: &str) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(name);
    }
}

//! Why something may not be evicted: holders of manifests, and running stages.
//!
//! Invariants: a manifest with a holder keeps its view and its objects; while any stage runs, every object that was
//! found or committed since the first of them began is kept; when a manifest's last holder leaves, the time is
//! remembered (least recently *released* goes first). Eviction takes names away under this table's lock, so a lease
//! that was taken before a look at the store wins.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::{Clock, unix_millis};
use crate::digest::Digest;

/// Who holds a lease: `volume:<hash>`, `pin:<name>`, `stage:<n>`.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Holder(pub String);

impl Holder {
    /// Any text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All leases of one store.
#[derive(Debug, Clone)]
pub struct Leases {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

/// What the table knows.
#[derive(Debug, Default)]
pub(super) struct State {
    held: HashMap<Digest, BTreeMap<Holder, usize>>,
    stages: usize,
    touched: HashSet<Digest>,
    /// Releases of this process that are not recorded yet.
    released: HashMap<Digest, u64>,
    /// Grows with every lease taken.
    generation: u64,
}

impl State {
    /// Whether a manifest has a holder.
    pub(super) fn has(&self, manifest: &Digest) -> bool {
        self.held.contains_key(manifest)
    }

    /// Whether a manifest is held at most once: by who asks, or by nobody.
    pub(super) fn is_lone(&self, manifest: &Digest) -> bool {
        let holders = self.held.get(manifest);
        holders.map_or(0, |holders| holders.values().sum::<usize>()) <= 1
    }

    /// All held manifests.
    pub(super) fn manifests(&self) -> Vec<Digest> {
        self.held.keys().copied().collect()
    }

    /// Changes whenever a lease is taken.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a running stage may count on an object.
    pub(super) fn is_touched(&self, object: &Digest) -> bool {
        self.touched.contains(object)
    }
}

/// Keeps a manifest, its view and its objects until dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Leases,
    holder: Holder,
    manifest: Digest,
}

/// Keeps every object found or committed since it began until dropped.
#[derive(Debug)]
pub struct StageGuard {
    leases: Leases,
}

impl Leases {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Arc::default(),
        }
    }

    /// Holds a manifest, whether or not it is in the store yet. Take it before looking.
    pub fn hold(&self, holder: Holder, manifest: Digest) -> Lease {
        let mut state = self.lock();
        let holders = state.held.entry(manifest).or_default();
        let count = holders.entry(holder.clone()).or_default();
        *count = count.saturating_add(1);
        state.generation = state.generation.saturating_add(1);
        drop(state);
        Lease {
            leases: self.clone(),
            holder,
            manifest,
        }
    }

    /// Marks a running stage.
    pub fn guard_stage(&self) -> StageGuard {
        let mut state = self.lock();
        state.stages = state.stages.saturating_add(1);
        drop(state);
        StageGuard {
            leases: self.clone(),
        }
    }

    /// Who holds a manifest.
    pub fn holders(&self, manifest: &Digest) -> Vec<Holder> {
        self.lock()
            .held
            .get(manifest)
            .map(|holders| holders.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// All held manifests.
    pub fn held(&self) -> Vec<Digest> {
        self.lock().held.keys().copied().collect()
    }

    /// How many leases and running stages there are.
    pub fn count(&self) -> usize {
        let state = self.lock();
        state
            .held
            .values()
            .flat_map(BTreeMap::values)
            .sum::<usize>()
            .saturating_add(state.stages)
    }

    /// Notes that a running stage may count on an object. Call it before looking whether it exists.
    pub(super) fn touch(&self, object: Digest) {
        let mut state = self.lock();
        if state.stages > 0 {
            state.touched.insert(object);
        }
    }

    /// Takes the releases that are not recorded yet.
    pub(super) fn take_released(&self) -> HashMap<Digest, u64> {
        std::mem::take(&mut self.lock().released)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, holder: &Holder, manifest: &Digest) {
        let now = unix_millis(self.clock.now());
        let mut state = self.lock();
        let Some(holders) = state.held.get_mut(manifest) else {
            return;
        };
        if let Some(count) = holders.get_mut(holder) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                holders.remove(holder);
            }
        }
        if holders.is_empty() {
            state.held.remove(manifest);
            state.released.insert(*manifest, now);
        }
    }
}

impl Lease {
    /// Who holds it.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// What is held.
    pub fn manifest(&self) -> &Digest {
        &self.manifest
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.release(&self.holder, &self.manifest);
    }
}

impl Drop for StageGuard {
    fn drop(&mut self) {
        let mut state = self.leases.lock();
        state.stages = state.stages.saturating_sub(1);
        if state.stages == 0 {
            state.touched = HashSet::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use std::time::{Duration, SystemTime};

    fn leases() -> Leases {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        Leases::new(Arc::new(ManualClock::at(now)))
    }

    #[test]
    fn a_manifest_is_held_until_its_last_lease_is_dropped() {
        let leases = leases();
        let manifest = Digest::of(b"m");
        let first = leases.hold(Holder::new("volume:1"), manifest);
        let second = leases.hold(Holder::new("volume:1"), manifest);
        let third = leases.hold(Holder::new("pin:x"), manifest);
        assert_eq!(leases.count(), 3);
        drop(first);
        drop(third);
        assert_eq!(leases.holders(&manifest), [Holder::new("volume:1")]);
        assert!(leases.take_released().is_empty());
        drop(second);
        assert!(leases.held().is_empty());
        assert_eq!(leases.take_released(), HashMap::from([(manifest, 5000)]));
        assert_eq!(leases.count(), 0);
    }

    #[test]
    fn touched_objects_are_kept_until_the_last_stage_ends() {
        let leases = leases();
        let object = Digest::of(b"o");
        leases.touch(object);
        assert!(!leases.lock().is_touched(&object));
        let first = leases.guard_stage();
        leases.touch(object);
        let second = leases.guard_stage();
        drop(first);
        assert!(leases.lock().is_touched(&object));
        drop(second);
        assert!(!leases.lock().is_touched(&object));
    }
}

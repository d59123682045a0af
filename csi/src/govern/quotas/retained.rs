//! Which namespaces have content retained. Content is retained by a pin `retain:<place>`; beside it a store record of kind `retained`
//! (named by the BLAKE3 of the place) says for whom. Each namespace has places of its own, and pays for them.
//!
//! Pins of versions before have a place that all namespaces shared, with a note that names them. They are read as ever, and each
//! namespace leaves when it retains the same source and path again ([`Quotas::leaves`]). Pins that were made before there were such
//! records, or by hand, are nobody's, and stay until somebody lets them go.
//!
//! Invariant: notes are read and written under one lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonnage_cache::digest::Digest;
use tonnage_cache::error::chain;
use tonnage_cache::store::{self, Store};

use super::Quotas;
use crate::pin;

/// Kind of the records.
const RECORDS: &str = "retained";
/// How pins of retained content begin (`publish/retain.rs`).
const PREFIX: &str = "retain:";
/// How often it is looked whether somebody has let a pin go.
const LOOK: Duration = Duration::from_secs(15);

/// Content that is retained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Retained {
    /// As [`place_of`](super::place_of) writes it; of a version before, source and path.
    pub(super) place: String,
    pub(super) namespaces: BTreeSet<String>,
    pub(super) manifest: Digest,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    place: String,
    namespaces: BTreeSet<String>,
}

impl Note {
    fn find(store: &Store, place: &str) -> Result<Option<Self>, store::Error> {
        store.records().read(RECORDS, &Self::name(place))
    }

    fn write(&self, store: &Store) -> Result<(), store::Error> {
        let name = Self::name(&self.place);
        store.records().write(RECORDS, &name, self)
    }

    fn name(place: &str) -> String {
        Digest::of(place.as_bytes()).to_hex()
    }
}

impl Quotas {
    /// Notes for whom the content of a place is retained. To be called when its pin is there. Blocking.
    pub fn retains(
        &self,
        store: &Store,
        place: &str,
        namespace: Option<&str>,
    ) -> Result<(), store::Error> {
        let _turn = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut note = Note::find(store, place)?.unwrap_or_else(|| Note {
            place: place.to_owned(),
            namespaces: BTreeSet::new(),
        });
        let namespace = namespace.map(str::to_owned);
        let is_new = namespace.is_some_and(|namespace| note.namespaces.insert(namespace));
        if is_new {
            note.write(store)?;
        }
        self.look_now(store)
    }

    /// Notes that a namespace wants the content of a place no more, and says whether it was noted for that one last: then its pin may
    /// go. One without a note stays. Blocking.
    pub fn leaves(
        &self,
        store: &Store,
        place: &str,
        namespace: Option<&str>,
    ) -> Result<bool, store::Error> {
        let _turn = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut note) = Note::find(store, place)? else {
            return Ok(false);
        };
        let has_left = namespace.is_some_and(|namespace| note.namespaces.remove(namespace));
        if has_left {
            note.write(store)?;
            self.look_now(store)?;
        }
        Ok(note.namespaces.is_empty())
    }

    /// What [`leaves`](Self::leaves) would say; nothing is noted. Blocking.
    pub fn would_leave(
        &self,
        store: &Store,
        place: &str,
        namespace: Option<&str>,
    ) -> Result<bool, store::Error> {
        let _turn = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let note = Note::find(store, place)?;
        let is_its = |note: Note| (note.namespaces.iter()).all(|it| Some(it.as_str()) == namespace);
        Ok(note.is_some_and(is_its))
    }

    /// Bytes of retained content, where they are known without its manifest.
    pub fn bytes_of(&self, manifest: &Digest) -> Option<u64> {
        let state = self.lock();
        let known = state.retained.iter().find(|it| it.manifest == *manifest);
        known.map(|known| known.bytes)
    }

    /// Learns what is retained now. Blocking.
    pub(super) fn look(&self, store: &Store) -> Result<(), store::Error> {
        let _turn = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        self.look_now(store)
    }

    fn look_now(&self, store: &Store) -> Result<(), store::Error> {
        let records = store.records();
        let mut notes = BTreeMap::new();
        for name in records.list(RECORDS)? {
            if let Some(note) = records.read::<Note>(RECORDS, &name)? {
                notes.insert(note.place.clone(), (name, note));
            }
        }
        let before = self.lock().retained.clone();
        let mut retained = Vec::new();
        for pin in pin::list(records)? {
            let Some(place) = pin.name.strip_prefix(PREFIX) else {
                continue;
            };
            let note = notes.remove(place);
            let known = before.iter().find(|it| it.manifest == pin.digest);
            let bytes = match known {
                Some(known) => known.bytes,
                None => store
                    .find_manifest(&pin.digest)?
                    .map_or(0, |manifest| manifest.total_bytes()),
            };
            retained.push(Retained {
                place: place.to_owned(),
                namespaces: note.map(|(_, note)| note.namespaces).unwrap_or_default(),
                manifest: pin.digest,
                bytes,
            });
        }
        // The pins of these were let go.
        for (name, _) in notes.into_values() {
            records.remove(RECORDS, &name)?;
        }
        self.lock().has_looked = true;
        if retained != before {
            self.lock().retained = retained;
            self.changes.notify_one();
        }
        Ok(())
    }
}

/// Looks every now and then, until `stop`: pins are let go by hand.
pub async fn keep_looking(quotas: Arc<Quotas>, store: Arc<Store>, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let (quotas, store) = (Arc::clone(&quotas), Arc::clone(&store));
        let looked = tokio::task::spawn_blocking(move || quotas.look(&store));
        match looked.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    error = chain(&error),
                    "retained content cannot be looked at"
                );
            }
            Err(error) => tracing::warn!(%error, "looking at retained content ended early"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;
    use tonnage_cache::manifest::{File, Manifest};
    use tonnage_cache::path::RelPath;
    use tonnage_cache::store::{Config, Env};

    fn store() -> (TempDir, Arc<Store>) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Config::new(root.path()), Env::real()).unwrap();
        (root, store)
    }

    async fn content(store: &Store, size: u64) -> Digest {
        let file = File {
            path: RelPath::parse("weights").unwrap(),
            size,
            digest: Digest::of(&size.to_le_bytes()),
        };
        let manifest = Manifest::new(vec![file]).unwrap();
        store.put_manifest(&manifest).await.unwrap()
    }

    fn uses(quotas: &Quotas) -> Vec<(String, u64, u64)> {
        let uses = quotas.uses().into_iter();
        uses.map(|it| (it.namespace, it.usage.logical_bytes, it.usage.volumes))
            .collect()
    }

    #[tokio::test]
    async fn what_is_retained_counts_for_each_namespace_that_wants_it_until_its_pin_goes() {
        let (_root, store) = store();
        let digest = content(&store, 1_000).await;
        let by_hand = content(&store, 5).await;
        let name = "retain:models/llama";
        let _lease = pin::add(&store, name, digest).await.unwrap();
        let _other = pin::add(&store, "base", by_hand).await.unwrap();
        let quotas = Quotas::none();
        for namespace in ["team-b", "team-a", "team-b"] {
            quotas
                .retains(&store, "models/llama", Some(namespace))
                .unwrap();
        }
        let both = [
            ("team-a".to_owned(), 1_000, 1),
            ("team-b".to_owned(), 1_000, 1),
        ];
        assert_eq!(uses(&quotas), both);
        // A process that starts later reads the same.
        let later = Quotas::none();
        later.look(&store).unwrap();
        assert_eq!(uses(&later), both);
        pin::remove(&store, name).unwrap();
        later.look(&store).unwrap();
        assert!(uses(&later).is_empty());
        // Nor does it come back with another pin of that name.
        let _lease = pin::add(&store, name, digest).await.unwrap();
        later.look(&store).unwrap();
        assert!(uses(&later).is_empty());
    }

    #[tokio::test]
    async fn a_newer_revision_takes_the_older_one_s_place() {
        let (_root, store) = store();
        let (old, new) = (content(&store, 10).await, content(&store, 20).await);
        let name = "retain:models/";
        let _old = pin::add(&store, name, old).await.unwrap();
        let quotas = Quotas::none();
        quotas.retains(&store, "models/", Some("team-a")).unwrap();
        pin::remove(&store, name).unwrap();
        let _new = pin::add(&store, name, new).await.unwrap();
        quotas.retains(&store, "models/", Some("team-a")).unwrap();
        assert_eq!(uses(&quotas), [("team-a".to_owned(), 20, 1)]);
    }

    #[tokio::test]
    async fn what_namespaces_shared_is_everybody_s_until_the_last_has_left() {
        let (_root, store) = store();
        let digest = content(&store, 10).await;
        let _lease = pin::add(&store, "retain:models/llama", digest)
            .await
            .unwrap();
        let quotas = Quotas::none();
        for namespace in ["team-a", "team-b"] {
            quotas
                .retains(&store, "models/llama", Some(namespace))
                .unwrap();
        }
        let asked = |namespace| {
            quotas
                .would_leave(&store, "models/llama", Some(namespace))
                .unwrap()
        };
        let leaves = |namespace| {
            quotas
                .leaves(&store, "models/llama", Some(namespace))
                .unwrap()
        };
        assert!(!leaves("team-c"));
        assert!(!asked("team-a"));
        assert!(!leaves("team-a"));
        assert_eq!(uses(&quotas), [("team-b".to_owned(), 10, 1)]);
        assert!(!asked("team-a"));
        assert!(asked("team-b"));
        // To ask changes nothing.
        assert_eq!(uses(&quotas), [("team-b".to_owned(), 10, 1)]);
        assert!(leaves("team-b"));
        assert!(uses(&quotas).is_empty());
    }

    #[tokio::test]
    async fn a_pin_that_is_noted_for_nobody_stays_whoever_retains_its_path() {
        let (_root, store) = store();
        let digest = content(&store, 10).await;
        // Made by hand, or before there were notes.
        let _lease = pin::add(&store, "retain:models/qwen", digest)
            .await
            .unwrap();
        let quotas = Quotas::none();
        let own = Some("team-a");
        assert!(!quotas.would_leave(&store, "models/qwen", own).unwrap());
        assert!(!quotas.leaves(&store, "models/qwen", own).unwrap());
    }

    #[tokio::test]
    async fn bytes_of_what_is_retained_are_known_without_its_manifest() {
        let (_root, store) = store();
        let digest = content(&store, 10).await;
        let _lease = pin::add(&store, "retain:models/qwen", digest)
            .await
            .unwrap();
        let quotas = Quotas::none();
        assert_eq!(quotas.bytes_of(&digest), None);
        quotas.look(&store).unwrap();
        assert_eq!(quotas.bytes_of(&digest), Some(10));
        assert_eq!(quotas.bytes_of(&Digest::of(b"other")), None);
    }
}

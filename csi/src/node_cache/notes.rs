//! What loads have told since the service started, and what records of earlier loads say: the latest loads, and which content
//! came from where. Told from blocking threads; nobody waits for more than this table's lock.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tonic::Code;
use tonnage_cache::digest::Digest;
use tonnage_cache::error::chain;
use tonnage_cache::store::{self, Records};

use crate::loads::{self, Load, Observer};
use crate::record::{Record, VOLUMES};

/// Loads that are kept here.
const KEPT: usize = 10;
/// Recorded loads that are asked where content came from.
const ASKED: usize = 100;

/// Where content was loaded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// Name of the source.
    pub(super) source: String,
    /// Path at the source.
    pub(super) path: String,
}

/// Remembers what loads tell.
#[derive(Debug, Default)]
pub struct Notes {
    state: Mutex<State>,
    told: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Newest first.
    loads: VecDeque<Load>,
    origins: HashMap<Digest, Origin>,
    published: usize,
}

impl Notes {
    /// Waits until something is told; what was told since the last wait counts.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    /// The latest loads, newest first, and the number of published volumes.
    pub(super) fn latest(&self) -> (Vec<Load>, usize) {
        let state = self.lock();
        (state.loads.iter().cloned().collect(), state.published)
    }

    /// Where content came from, if that is known.
    pub(super) fn origin(&self, manifest: &Digest) -> Option<Origin> {
        self.lock().origins.get(manifest).cloned()
    }

    /// Forgets where content came from that is not here any more.
    pub(super) fn forget_all_but(&self, is_here: impl Fn(&Digest) -> bool) {
        let mut state = self.lock();
        let State { loads, origins, .. } = &mut *state;
        origins.retain(|manifest, _| {
            is_here(manifest) || loads.iter().any(|load| load.digest == *manifest)
        });
    }

    /// Learns what records of earlier processes say. What was told here is newer and stays. Blocking.
    pub(super) fn read(&self, records: &Records) {
        if let Err(error) = self.try_read(records) {
            // Names of sources are worth less than the figures.
            tracing::debug!(error = chain(&error), "earlier loads cannot be read");
        }
    }

    fn try_read(&self, records: &Records) -> Result<(), store::Error> {
        let earlier = loads::recent(records, ASKED)?;
        let mut published = Vec::new();
        for name in records.list(VOLUMES)? {
            published.extend(records.read::<Record>(VOLUMES, &name)?);
        }
        let mut state = self.lock();
        for load in earlier {
            let origin = origin_of(&load);
            state.origins.entry(load.digest).or_insert(origin);
            if state.loads.len() < KEPT && !state.loads.contains(&load) {
                state.loads.push_back(load);
            }
        }
        for record in published {
            if let Some(identity) = record.identity {
                let origin = Origin {
                    source: identity.source,
                    path: identity.path,
                };
                state.origins.entry(record.manifest).or_insert(origin);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Notes {
    fn load_ended(&self, load: &Load) {
        {
            let mut state = self.lock();
            if state.loads.contains(load) {
                return;
            }
            state.origins.insert(load.digest, origin_of(load));
            state.loads.push_front(load.clone());
            state.loads.truncate(KEPT);
        }
        self.told.notify_one();
    }

    fn call_ended(&self, _rpc: &'static str, _code: Code, _time: Duration) {}

    fn published(&self, targets: usize) {
        let before = std::mem::replace(&mut self.lock().published, targets);
        if before != targets {
            self.told.notify_one();
        }
    }
}

fn origin_of(load: &Load) -> Origin {
    Origin {
        source: load.source.clone(),
        path: load.path.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loads::Journal;
    use tonnage_cache::report::Report;
    use tonnage_cache::store::{Config, Env, Store};

    fn load(second: u64) -> Load {
        Load {
            ended_millis: second * 1_000,
            volume: format!("csi-{second}"),
            pod: None,
            source: "models".to_owned(),
            path: format!("model-{second}"),
            revision: Digest::of(b"r"),
            digest: Digest::of(&second.to_le_bytes()),
            report: Report::default(),
        }
    }

    fn seconds(notes: &Notes) -> Vec<u64> {
        let (loads, _) = notes.latest();
        loads.iter().map(|load| load.ended_millis / 1_000).collect()
    }

    #[test]
    fn the_latest_loads_are_those_told_and_before_them_those_recorded_each_once() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Config::new(root.path()), Env::real()).unwrap();
        let journal = Journal::new(store.records().clone());
        let notes = Notes::default();
        for second in 1..=14 {
            journal.add(&load(second)).unwrap();
        }
        // Told and recorded before the records are read.
        notes.load_ended(&load(13));
        notes.load_ended(&load(14));
        notes.read(store.records());
        // Recorded before, told after.
        notes.load_ended(&load(12));
        notes.load_ended(&load(15));
        assert_eq!(seconds(&notes), [15, 14, 13, 12, 11, 10, 9, 8, 7, 6]);
        let oldest = notes.origin(&load(1).digest).unwrap();
        assert_eq!(oldest.path, "model-1");
    }

    #[test]
    fn origins_of_content_that_is_gone_are_forgotten() {
        let notes = Notes::default();
        for second in 0..KEPT as u64 + 2 {
            notes.load_ended(&load(second));
        }
        let kept = load(1).digest;
        notes.forget_all_but(|digest| *digest == kept);
        assert_eq!(notes.origin(&load(0).digest), None);
        assert!(notes.origin(&kept).is_some());
        // One of the latest loads.
        assert!(notes.origin(&load(9).digest).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_and_another_number_of_volumes_are_told_and_the_same_number_is_not() {
        let notes = Notes::default();
        let wait = Duration::from_secs(1);
        notes.published(0);
        assert!(tokio::time::timeout(wait, notes.told()).await.is_err());
        notes.published(1);
        notes.published(1);
        notes.told().await;
        notes.load_ended(&load(1));
        notes.told().await;
        assert!(tokio::time::timeout(wait, notes.told()).await.is_err());
        assert_eq!(notes.latest().1, 1);
    }
}

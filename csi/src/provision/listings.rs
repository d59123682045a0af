//! Listings that outlive the calls that begin them. A prefix with very many files takes longer to list than a provisioner
//! waits: its listing goes on, and the provisioner's next call gets what came of it.
//!
//! One listing per volume at a time, a few in all. A result is taken once, by all who wait for it; one that nobody waits
//! for is kept for a while if it is a revision, and dropped if it is an error.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::watch::{self, Receiver};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonnage_cache::digest::Digest;
use tonnage_cache::error::Kind;
use tonnage_cache::source::select::Selection;
use tonnage_cache::source::{self, Limits, Source};

use super::error::Place;
use crate::volume::VolumeId;

/// How long a revision waits for the next call; the provisioner's longest pause is 5 minutes.
const KEPT: Duration = Duration::from_mins(6);
/// Listings that run at a time: a large one takes hundreds of megabytes.
const MOST: usize = 8;

/// Running and waiting listings.
#[derive(Debug)]
pub(super) struct Listings {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tasks: JoinSet<()>,
    answers: HashMap<VolumeId, Receiver<Option<Answer>>>,
}

/// What came of a listing.
#[derive(Debug, Clone)]
struct Answer {
    at: Instant,
    result: Result<Found, Arc<source::Error>>,
}

/// What is to be listed.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) source: Arc<dyn Source>,
    pub(super) path: String,
    pub(super) selection: Selection,
}

/// A revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) fingerprint: Digest,
    pub(super) total_bytes: u64,
}

/// Why there is no revision.
#[derive(Debug)]
pub(super) enum Error {
    Source(Arc<source::Error>),
    Slow,
    Task,
}

impl Error {
    /// The same, with where it happened.
    pub(super) fn at(self, place: &Place) -> super::Error {
        let place = place.clone();
        match self {
            Self::Source(error) if error.kind() == Kind::NotFound => {
                super::Error::Nothing { place, error }
            }
            Self::Source(error) => super::Error::List { place, error },
            Self::Slow => super::Error::Slow { place },
            Self::Task => super::Error::Task,
        }
    }
}

impl Default for Listings {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MOST)),
            state: Mutex::default(),
        }
    }
}

impl Listings {
    /// The revision of a volume, listed now or since an earlier call for the same volume.
    pub(super) async fn resolve(
        &self,
        id: &VolumeId,
        question: Question,
        deadline: Instant,
    ) -> Result<Found, Error> {
        let mut receiver = self.begin(id, question);
        let answer = async {
            let answer = receiver.wait_for(Option::is_some).await;
            answer.ok().and_then(|answer| (*answer).clone())
        };
        let Ok(answer) = tokio::time::timeout_at(deadline, answer).await else {
            return Err(Error::Slow);
        };
        self.lock().answers.remove(id);
        // Without an answer the task has died.
        answer.ok_or(Error::Task)?.result.map_err(Error::Source)
    }

    fn begin(&self, id: &VolumeId, question: Question) -> Receiver<Option<Answer>> {
        let now = Instant::now();
        let mut state = self.lock();
        while state.tasks.try_join_next().is_some() {}
        state.answers.retain(|_, answer| {
            let answer = answer.borrow();
            answer.as_ref().is_none_or(|answer| answer.is_worth(now))
        });
        if let Some(running) = state.answers.get(id) {
            return running.clone();
        }
        let (sender, receiver) = watch::channel(None);
        let permits = Arc::clone(&self.permits);
        state.tasks.spawn(async move {
            // Nobody closes the semaphore.
            let _permit = permits.acquire_owned().await.ok();
            let result = question.ask().await.map_err(Arc::new);
            let at = Instant::now();
            sender.send_replace(Some(Answer { at, result }));
        });
        state.answers.insert(id.clone(), receiver.clone());
        receiver
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    fn is_worth(&self, now: Instant) -> bool {
        self.result.is_ok() && now.saturating_duration_since(self.at) < KEPT
    }
}

impl Question {
    async fn ask(self) -> Result<Found, source::Error> {
        let listing = self.source.list(&self.path, &Limits::default()).await?;
        let listing = self.selection.apply(listing)?;
        Ok(Found {
            fingerprint: listing.fingerprint(),
            total_bytes: listing.total_bytes(),
        })
    }
}

//! A running or ended fetch.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonnage_cache::digest::Digest;
use tonnage_cache::report::Progress;

/// What a task works with.
#[derive(Debug, Clone)]
pub struct Work {
    /// Live figures, shown to waiters.
    pub progress: Arc<Progress>,
    /// Set when the last waiter has left.
    pub cancel: CancellationToken,
}

/// How a task ended, shared by its waiters; `None` inside: it died.
pub(super) type Outcome<T, E> = Option<Result<Arc<T>, Arc<E>>>;

pub(super) struct Task<T, E> {
    pub(super) key: Digest,
    pub(super) work: Work,
    pub(super) ended: watch::Receiver<Option<Outcome<T, E>>>,
}

impl<T, E> Task<T, E> {
    pub(super) fn has_ended(&self) -> bool {
        // A sender that is gone without a word was a task that died.
        self.ended.borrow().is_some() || self.ended.has_changed().is_err()
    }

    pub(super) async fn outcome(&self) -> Outcome<T, E> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().flatten(),
            Err(_) => None,
        }
    }
}

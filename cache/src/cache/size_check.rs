//! What a load asks when it knows how much it is about: may this much be shown? Asked before the first request for content, and
//! also where all of it is here already; possibly several times for one load, so the answer must not add up.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::gate::Refusal;

/// An answer, which may take its time.
type Answer = BoxFuture<'static, Result<(), Refusal>>;
type Ask = dyn Fn(u64) -> Answer + Send + Sync;

/// Decides about the bytes of a revision.
#[derive(Clone)]
pub struct SizeCheck(Arc<Ask>);

impl SizeCheck {
    /// Asks `ask`. The load waits for the answer, and stops waiting when it is cancelled.
    pub fn new<F>(ask: impl Fn(u64) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), Refusal>> + Send + 'static,
    {
        Self(Arc::new(move |bytes| Box::pin(ask(bytes)) as Answer))
    }

    /// Whether so many bytes may be shown.
    pub(super) async fn ask(&self, bytes: u64) -> Result<(), Refusal> {
        (self.0)(bytes).await
    }
}

impl fmt::Debug for SizeCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SizeCheck").finish_non_exhaustive()
    }
}

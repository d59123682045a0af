//! What a load asks when it knows how much it is about: may this much be shown? Asked before the first request for content, and
//! also where all of it is here already; possibly several times for one load, so the answer must not add up.

use std::fmt;
use std::sync::Arc;

use crate::gate::Refusal;

type Ask = dyn Fn(u64) -> Result<(), Refusal> + Send + Sync;

/// Decides about the bytes of a revision.
#[derive(Clone)]
pub struct SizeCheck(Arc<Ask>);

impl SizeCheck {
    /// Asks `ask`, on a thread that must not be blocked for long.
    pub fn new(ask: impl Fn(u64) -> Result<(), Refusal> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Whether so many bytes may be shown.
    pub(super) fn ask(&self, bytes: u64) -> Result<(), Refusal> {
        (self.0)(bytes)
    }
}

impl fmt::Debug for SizeCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SizeCheck").finish_non_exhaustive()
    }
}

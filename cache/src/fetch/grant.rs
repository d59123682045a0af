//! One run's permission to move bytes: settled exactly once, whatever becomes of the run.
//!
//! Who aborts a response cannot know what the socket's buffers held, so an aborted run counts in full; only
//! an answer without content, or none at all, gives bytes back. So does a run that was ended before it asked for anything.

use crate::gate::{Demand, Gate, Permit, Refusal};
use crate::source;

/// A permit that counts as used in full from when it was begun, unless it is settled.
#[derive(Debug)]
pub(super) struct Grant {
    permit: Option<Box<dyn Permit>>,
    bytes: u64,
    is_begun: bool,
}

impl Grant {
    /// Asks the gate; waits while rate limits say so.
    pub(super) async fn ask(gate: &dyn Gate, demand: &Demand) -> Result<Self, Refusal> {
        let permit = gate.admit(demand).await?;
        Ok(Self {
            permit: Some(permit),
            bytes: demand.bytes,
            is_begun: false,
        })
    }

    /// The request goes out now; false if the permission does not hold any more.
    pub(super) fn begin(&mut self) -> bool {
        self.is_begun = self.permit.as_mut().is_some_and(|permit| permit.begin());
        self.is_begun
    }

    /// The response ended, with all its bytes.
    pub(super) fn complete(mut self) {
        self.settle(self.bytes, true);
    }

    /// The request was answered by an error instead of content.
    pub(super) fn refused(mut self, error: &source::Error) {
        match error {
            source::Error::Unavailable { .. }
            | source::Error::Untrusted { .. }
            // The store was not asked.
            | source::Error::Identity { .. }
            | source::Error::Gate(_)
            | source::Error::Local(_)
            | source::Error::Reference(_)
            | source::Error::Key(_)
            | source::Error::Limit(_) => self.settle(0, false),
            source::Error::NotFound(_)
            | source::Error::Denied { .. }
            | source::Error::Unauthenticated { .. }
            | source::Error::Throttled { .. } => self.settle(0, true),
            // The header was there and wrong: its body may be on its way.
            source::Error::Changed { .. } | source::Error::Protocol { .. } => {
                self.settle(self.bytes, true);
            }
        }
    }

    fn settle(&mut self, received: u64, answered: bool) {
        if let Some(permit) = self.permit.take() {
            permit.settle(received, answered);
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.is_begun {
            self.settle(self.bytes, true);
        } else {
            self.settle(0, false);
        }
    }
}

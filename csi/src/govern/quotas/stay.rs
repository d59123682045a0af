//! A call's hold on its waiter's seat.

use std::fmt;
use std::sync::Arc;

use super::Quotas;
use crate::inflight::WaiterId;

/// Keeps a waiter's seat, with all others that the waiter has. To be kept with the waiter: when it leaves, whatever for, what its
/// volume would have used is free. A volume's record must be there before.
#[must_use]
pub struct Stay {
    quotas: Arc<Quotas>,
    waiter: WaiterId,
    serial: u64,
}

impl Stay {
    pub(super) fn new(quotas: Arc<Quotas>, waiter: WaiterId, serial: u64) -> Self {
        Self {
            quotas,
            waiter,
            serial,
        }
    }
}

impl fmt::Debug for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stay")
            .field("waiter", &self.waiter)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let has_left = self.quotas.lock().leave(&self.waiter, self.serial);
        if has_left {
            self.quotas.changes.notify_one();
            self.quotas.reconsider();
        }
    }
}

//! What the health endpoints say about a service.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::Metrics;
use crate::server::Health;

/// What HTTP shows.
#[derive(Debug)]
pub(super) struct Vitals {
    pub(super) ready: Arc<AtomicBool>,
    /// Why not, while it is not.
    waiting_for: Mutex<String>,
    metrics: Arc<Metrics>,
}

impl Vitals {
    pub(super) fn new(metrics: Arc<Metrics>, waiting_for: &str) -> Arc<Self> {
        Arc::new(Self {
            ready: Arc::default(),
            waiting_for: Mutex::new(waiting_for.to_owned()),
            metrics,
        })
    }

    pub(super) fn is_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub(super) fn waits_for(&self, what: String) {
        *self
            .waiting_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = what;
    }
}

impl Health for Vitals {
    fn readiness(&self) -> Result<(), String> {
        if self.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self
            .waiting_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    fn metrics(&self) -> String {
        self.metrics.text()
    }
}

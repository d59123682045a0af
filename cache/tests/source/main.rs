//! The conformance suite over the sources that need no object store, and what is special about them.

#![expect(clippy::unwrap_used, reason = "a set-up that fails must stop the test")]

mod azure;
mod conformance;
mod exchange;
mod gcs;
mod local;
mod responder;
mod transport;
mod web;

use std::sync::Arc;

use tonnage_cache::gate::OpenGate;
use tonnage_cache::source::config::{SourceConfig, build};
use tonnage_cache::source::{Error, Source};

fn built(config: &SourceConfig) -> Result<Arc<dyn Source>, Error> {
    build(config, OpenGate::shared())
}

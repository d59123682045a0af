//! The services' log: one JSON object a line on standard error; `RUST_LOG` selects. Every load is one line.

use std::time::Duration;

use tonic::Code;
use tracing_subscriber::EnvFilter;

use crate::loads::{Load, Observer};

/// Starts the log; a log that the program has already stays.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let started = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
    if started.is_err() {
        tracing::debug!("a log was started before");
    }
}

/// Writes a line for every load.
#[derive(Debug, Default, Clone, Copy)]
pub struct LoadLog;

impl Observer for LoadLog {
    fn load_ended(&self, load: &Load) {
        let report = serde_json::to_string(&load.report).unwrap_or_default();
        let pod = load.pod.clone().unwrap_or_default();
        tracing::info!(
            volume.id = load.volume,
            pod.namespace = pod.namespace,
            pod.name = pod.name,
            pod.uid = pod.uid,
            source = load.source,
            path = load.path,
            revision = %load.revision,
            digest = %load.digest,
            seconds = load.total().as_secs_f64(),
            bytes = load.report.bytes,
            report,
            "volume published"
        );
    }

    fn call_ended(&self, _rpc: &'static str, _code: Code, _time: Duration) {}

    fn published(&self, _targets: usize) {}
}

//! A server that says what it is told, and the time in which every question to it must be over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tonnage_cache::gate::OpenGate;
use tonnage_cache::source::Source;
use tonnage_cache::source::config::{SourceConfig, build};

use super::responder::{After, Answer, Head, Responder, raw};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the server says to everyone.
type Said = Arc<Mutex<(Vec<u8>, After)>>;

pub(crate) struct Play {
    runtime: Runtime,
    pub(crate) server: Responder,
    said: Said,
}

impl Play {
    /// A server that says the same to every request.
    pub(crate) fn new() -> Self {
        Self::with(|_| None)
    }

    /// A server that has an answer of its own to some requests.
    pub(crate) fn with(own: impl Fn(&Head) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let said: Said = Arc::new(Mutex::new((Vec::new(), After::Close)));
        let heard = Arc::clone(&said);
        let server = runtime.block_on(Responder::start(move |head| {
            own(head).unwrap_or_else(|| {
                let (bytes, after) = heard.lock().unwrap().clone();
                Answer { bytes, after }
            })
        }));
        Self {
            runtime,
            server,
            said,
        }
    }

    pub(crate) fn say(&self, answer: Answer) {
        *self.said.lock().unwrap() = (answer.bytes, answer.after);
    }

    /// Says it with its length, and keeps the connection.
    pub(crate) fn say_body(&self, status: &str, body: &[u8]) {
        self.say(page(status, body));
    }

    /// Waits for something that must end.
    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        let patient = async { tokio::time::timeout(PATIENCE, future).await };
        self.runtime.block_on(patient).unwrap()
    }

    /// The source at a URL whose store is this server.
    pub(crate) fn source(&self, url: &str) -> Arc<dyn Source> {
        let config = SourceConfig {
            url: url.to_owned(),
            ..SourceConfig::default()
        };
        let config = config.with_endpoint(&format!("http://{}", self.server.address));
        build(&config, OpenGate::shared()).unwrap()
    }
}

/// An answer of a length.
pub(crate) fn page(status: &str, body: &[u8]) -> Answer {
    raw(status, &[("Content-Length", &body.len().to_string())], body)
}

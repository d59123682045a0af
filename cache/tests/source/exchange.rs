//! Temporary keys in exchange for an identity: what the clouds' token services are asked, when, and what their answers mean.
//! Everything is played by one server: token service, metadata service and store.

mod aws;
mod azure;
mod gcp;
mod instance;
mod renewal;
mod slow;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tonnage_cache::clock::{Clock, ManualClock};
use tonnage_cache::error::Kind;
use tonnage_cache::source::config::{Auth, SourceConfig};
use tonnage_cache::source::exchange::{Exchange, Service, Subject, SubjectToken};
use tonnage_cache::source::{Error, Limits, Listing, Source};

use super::responder::{Answer, Head, Responder, raw};

/// What the store lists, for S3 and GCS.
const LISTING: &str = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>10</Size>\
                       <ETag>\"e\"</ETag></Contents></ListBucketResult>";

/// 2026-01-01T00:00:00Z.
const NOW: u64 = 1_767_225_600;

/// A workload, its time, and the source as it sees it.
struct World {
    clock: Arc<ManualClock>,
    subject: Arc<Subject>,
    source: Arc<dyn Source>,
}

impl World {
    /// The source at `url`, whose store is the server; the workload has the token `canary-token`, valid for an hour.
    fn new(server: &Responder, url: &str, service: Service) -> Self {
        let clock = Arc::new(ManualClock::at(at(NOW)));
        let subject = Arc::new(Subject::new());
        let exchange = Exchange {
            service,
            subject: Some(Arc::clone(&subject)),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        };
        let config = SourceConfig {
            name: "models".to_owned(),
            url: url.to_owned(),
            auth: Auth::Exchange,
            exchange: Some(exchange),
            ..SourceConfig::default()
        };
        let source = super::built(&config.with_endpoint(&base(server))).unwrap();
        let world = Self {
            clock,
            subject,
            source,
        };
        world.offer("canary-token", 3600);
        world
    }

    /// A token that expires so many seconds after the world's beginning.
    fn offer(&self, token: &str, seconds: u64) {
        let token = SubjectToken::new(token, Some(at(NOW + seconds)));
        self.subject.offer(token);
    }

    fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    async fn list(&self) -> Result<Listing, Error> {
        self.source.list("", &Limits::default()).await
    }

    /// What a listing fails with; nothing of it may be secret.
    async fn refused(&self) -> (Kind, String) {
        let error = self.list().await.unwrap_err();
        let shown = format!("{error} {error:?} {:?} {:?}", self.source, self.subject);
        assert!(!shown.contains("canary"), "{shown}");
        (error.kind(), error.to_string())
    }
}

/// Lists until it is so: keys that are still good are renewed beside the requests that they sign.
async fn list_until(world: &World, is_so: impl Fn() -> bool) {
    let listing = async {
        while !is_so() {
            world.list().await.unwrap();
        }
    };
    let patience = Duration::from_secs(10);
    tokio::time::timeout(patience, listing).await.unwrap();
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn base(server: &Responder) -> String {
    format!("http://{}", server.address)
}

/// Host and port, as messages have them.
fn host(server: &Responder) -> String {
    server.address.to_string()
}

fn answer(status: &str, body: &str) -> Answer {
    let length = body.len().to_string();
    raw(status, &[("Content-Length", &length)], body.as_bytes())
}

fn ok(body: &str) -> Answer {
    answer("200 OK", body)
}

/// The one request among these, which is a form for `target`.
fn form<'a>(service: &'a [Head], target: &str) -> &'a Head {
    assert_eq!(service.len(), 1, "{service:?}");
    let asked = &service[0];
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str()),
        ("POST", target)
    );
    assert_eq!(
        asked.fields["content-type"],
        "application/x-www-form-urlencoded"
    );
    asked
}

/// Requests that the store answered, and those to whoever gives keys.
fn parted(server: &Responder) -> (Vec<Head>, Vec<Head>) {
    let is_store =
        |head: &Head| head.target.contains("list-type=2") || head.target.contains("comp=list");
    server.heads().into_iter().partition(is_store)
}

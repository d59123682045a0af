//! Class C of the fault matrix below the services: the S3 source, the fetcher and a real store against a server
//! that lies. What the server counted is compared with what the gate charged and what the report says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets what it does not expect fails"
)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonnage_cache::buffer::Pool;
use tonnage_cache::clock::SystemClock;
use tonnage_cache::digest::Digest;
use tonnage_cache::error::{Kind, chain};
use tonnage_cache::fetch::{Error, Fetcher, Job, Outcome, PageCache, Settings};
use tonnage_cache::gate::{Connection, Demand, Gate, Permit, Redirection, Refusal};
use tonnage_cache::path::RelPath;
use tonnage_cache::report::Progress;
use tonnage_cache::source::config::{SourceConfig, build};
use tonnage_cache::source::{Entry, Limits, Source};
use tonnage_cache::store::{Config, Env, Store};
use tonnage_e2e::generate::{File, Tree};
use tonnage_e2e::s3::{Effect, Fault, Op, S3Server};

const MIB: u64 = 1 << 20;
const BUCKET: &str = "models";

/// Charges what it grants.
#[derive(Debug, Clone, Default)]
struct Meter(Arc<Mutex<u64>>);

#[derive(Debug)]
struct Charge {
    meter: Meter,
    bytes: u64,
}

impl Meter {
    fn charged(&self) -> u64 {
        *self.0.lock().unwrap()
    }
}

impl Gate for Meter {
    fn connect(&self, _: &Connection) -> Result<(), Refusal> {
        Ok(())
    }

    fn redirect(&self, _: &Redirection<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn admit<'a>(&'a self, demand: &'a Demand) -> BoxFuture<'a, Result<Box<dyn Permit>, Refusal>> {
        *self.0.lock().unwrap() += demand.bytes;
        let charge = Charge {
            meter: self.clone(),
            bytes: demand.bytes,
        };
        Box::pin(std::future::ready(Ok(Box::new(charge) as Box<dyn Permit>)))
    }
}

impl Permit for Charge {
    fn begin(&mut self) -> bool {
        true
    }

    fn settle(self: Box<Self>, received: u64, _answered: bool) {
        *self.meter.0.lock().unwrap() -= self.bytes - received;
    }
}

struct Bench {
    server: S3Server,
    tree: Tree,
    store: Arc<Store>,
    fetcher: Arc<Fetcher>,
    source: Arc<dyn Source>,
    entries: Arc<Vec<Entry>>,
    meter: Meter,
    _directory: TempDir,
}

fn tree() -> Tree {
    Tree::new([
        File::random("config.json", 700, 1),
        File::random("model-1.safetensors", 5 * MIB + 12_345, 2),
        File::random("model-2.safetensors", 3 * MIB, 3),
        File::random("tokenizer.json", MIB, 4),
    ])
}

fn settings() -> Settings {
    Settings {
        run_parts: 2,
        backoff_first: Duration::from_millis(2),
        backoff_max: Duration::from_millis(20),
        give_up_after: Duration::from_secs(4),
        decide_every: Duration::from_millis(20),
        ..Settings::default()
    }
}

impl Bench {
    async fn new(tree: Tree) -> Self {
        let server = S3Server::builder().start().await.unwrap();
        server.put_tree(BUCKET, "llama/", &tree);
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::new(directory.path());
        config.floor_bytes = 0;
        let store = Store::open(config, Env::real()).unwrap();
        let config = SourceConfig {
            name: "hub".to_owned(),
            url: format!("s3://{BUCKET}"),
            read_timeout_seconds: Some(1),
            connect_timeout_seconds: Some(1),
            ..SourceConfig::default()
        };
        let meter = Meter::default();
        let gate: Arc<dyn Gate> = Arc::new(meter.clone());
        let source = build(&config.with_endpoint(&server.endpoint()), Arc::clone(&gate)).unwrap();
        let entries = source
            .list("llama", &Limits::default())
            .await
            .unwrap()
            .entries;
        assert_eq!(entries.len(), tree.len());
        let clock = Arc::new(SystemClock::new());
        let fetcher = Fetcher::new(Arc::clone(&store), gate, Pool::new(12), clock, settings());
        Self {
            server,
            tree,
            store,
            fetcher,
            source,
            entries: Arc::new(entries),
            meter,
            _directory: directory,
        }
    }

    fn job(&self) -> Job {
        Job {
            source: Arc::clone(&self.source),
            payer: String::new(),
            load: String::new(),
            entries: Arc::clone(&self.entries),
            expected: None,
            page_cache: PageCache::Direct,
            progress: Arc::new(Progress::default()),
            cancel: CancellationToken::new(),
        }
    }

    async fn fetch(&self) -> Result<Outcome, Error> {
        self.fetcher.fetch(self.job()).await
    }

    /// A server that sends what nobody asked for can fill the sockets' buffers; all others send what was granted.
    fn check_charges(&self, name: &str) {
        let (charged, wire) = (self.meter.charged(), self.server.wire().total_bytes());
        assert!(
            charged >= wire,
            "{name}: {charged} were charged, {wire} were sent"
        );
    }

    /// The digests are those of the generator, whatever happened on the way.
    fn check(&self, name: &str, outcome: &Outcome) {
        let digests = self.tree.digests().unwrap();
        for (entry, digest) in self.entries.iter().zip(&outcome.digests) {
            let truth = digests.get(entry.path.as_str()).unwrap();
            assert_eq!(digest.as_bytes(), truth.as_bytes(), "{name}: {}", entry.key);
        }
        let origins = outcome.origins;
        let content = origins.source + origins.resumed + origins.unchanged;
        assert_eq!(content, self.tree.size(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_faults_every_byte_is_sent_once_and_charged_once() {
    let bench = Bench::new(tree()).await;
    let outcome = bench.fetch().await.unwrap();
    bench.check("no fault", &outcome);
    let wire = bench.server.wire();
    for entry in bench.entries.iter() {
        assert!(
            wire.sent_once(BUCKET, &entry.key, entry.size),
            "{}",
            entry.key
        );
    }
    assert_eq!(wire.total_bytes(), bench.tree.size());
    assert_eq!(bench.meter.charged(), bench.tree.size());
    assert_eq!(outcome.origins.source, bench.tree.size());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_that_pass_are_survived_and_verified_parts_are_not_sent_again() {
    let get = |effect| Fault::new(effect).on(Op::Get);
    let rows = [
        (
            "500 at times",
            Fault::status(500, "InternalError")
                .on(Op::Get)
                .chance(0.4, 7),
        ),
        (
            "503 mostly",
            Fault::status(503, "SlowDown").on(Op::Get).chance(0.8, 9),
        ),
        (
            "429",
            Fault::status(429, "TooManyRequests").on(Op::Get).every(3),
        ),
        ("hang up", get(Effect::HangUp).every(3)),
        (
            "reset before the head",
            get(Effect::ResetBeforeHead).every(3),
        ),
        (
            "reset in the body",
            get(Effect::ResetAfter(MIB + 77)).every(3),
        ),
        ("reset at once", get(Effect::ResetAfter(0)).every(3)),
        ("truncated", get(Effect::TruncateAfter(MIB + 3)).every(3)),
        ("shortened", get(Effect::Shorten(1000)).every(3)),
        ("too long", get(Effect::Extra(5)).every(3)),
        ("undeclared bytes", get(Effect::Undeclared(5)).every(3)),
        (
            "wrong range",
            Fault::new(Effect::ContentRange("bytes 7-9/5255225".to_owned()))
                .on(Op::Get)
                .key("*model-1*")
                .nth(2),
        ),
        (
            "whole object for a range",
            get(Effect::IgnoreRange).every(3),
        ),
        ("gzip", get(Effect::Gzip).every(3)),
        ("stall", get(Effect::StallAfter(MIB / 2)).nth(2)),
        ("no head", get(Effect::NoHead).nth(2)),
        (
            "slow first byte",
            get(Effect::Delay(Duration::from_millis(300))).every(4),
        ),
    ];
    for (name, fault) in rows {
        let bench = Bench::new(tree()).await;
        let handle = bench.server.fault(fault);
        let outcome = bench
            .fetch()
            .await
            .unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert!(handle.hits() > 0, "{name} never struck");
        bench.check(name, &outcome);
        if !matches!(
            name,
            "too long" | "undeclared bytes" | "whole object for a range"
        ) {
            bench.check_charges(name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_that_stay_end_in_a_readable_error_and_name_nothing() {
    let large = |effect| Fault::new(effect).on(Op::Get).key("*model-1*");
    let rows = [
        (
            "refused",
            large(Effect::Refuse(403, "AccessDenied".to_owned())),
            Kind::Denied,
            "AccessDenied",
        ),
        (
            "expired",
            large(Effect::Refuse(403, "ExpiredToken".to_owned())),
            Kind::Unauthenticated,
            "ExpiredToken",
        ),
        (
            "deleted",
            large(Effect::Delete),
            Kind::Transient,
            "changed at the source",
        ),
        (
            "other entity tag",
            large(Effect::Etag("\"other\"".to_owned())),
            Kind::Transient,
            "changed at the source",
        ),
        (
            "other size",
            large(Effect::ClaimSize(9)),
            Kind::Transient,
            "changed at the source",
        ),
        (
            "outage",
            large(Effect::Refuse(500, "InternalError".to_owned())),
            Kind::Transient,
            "gave up after",
        ),
        (
            "throttled",
            large(Effect::Refuse(503, "SlowDown".to_owned())),
            Kind::Transient,
            "slow down",
        ),
        (
            "wrong range",
            large(Effect::ContentRange("bytes 0-1/5255225".to_owned())),
            Kind::Transient,
            "model-1",
        ),
        (
            "range ignored",
            large(Effect::IgnoreRange),
            Kind::Transient,
            "model-1",
        ),
        ("encoded", large(Effect::Gzip), Kind::Transient, "model-1"),
        (
            "redirected",
            large(Effect::Redirect(302, "http://127.0.0.1:1/x".to_owned())),
            Kind::Invalid,
            "the store redirects",
        ),
    ];
    for (name, fault, kind, words) in rows {
        let bench = Bench::new(tree()).await;
        bench.server.fault(fault);
        let error = bench.fetch().await.expect_err(name);
        if name != "range ignored" {
            bench.check_charges(name);
        }
        let text = chain(&error);
        assert_eq!(error.kind(), kind, "{name}: {text}");
        assert!(text.contains(words), "{name}: {text}");
        let truth = bench.tree.file("model-1.safetensors").unwrap();
        let digest = Digest::from_bytes(*truth.digest().unwrap().as_bytes());
        assert!(
            !bench.store.find(digest, truth.size()).await.unwrap(),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_in_the_middle_is_resumed_without_sending_a_verified_part_again() {
    let bench = Bench::new(Tree::new([File::random("big", 24 * MIB, 5)])).await;
    let fault = bench
        .server
        .fault(Fault::status(500, "InternalError").on(Op::Get).after(5));
    let error = bench.fetch().await.unwrap_err();
    assert!(matches!(error, Error::GaveUp { .. }), "{}", chain(&error));
    fault.lift();
    let outcome = bench.fetch().await.unwrap();
    bench.check("resumed", &outcome);
    assert_eq!(outcome.origins.resumed, 10 * MIB);
    assert_eq!(bench.server.wire().total_bytes(), 24 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_replaced_in_the_middle_is_never_mixed() {
    // Also where the server ignores If-Match.
    for ignorant in [false, true] {
        let tree = Tree::new([File::random("big", 24 * MIB, 5)]);
        let bench = Bench::new(tree.clone()).await;
        if ignorant {
            bench
                .server
                .fault(Fault::new(Effect::IgnoreConditions).on(Op::Get));
        }
        let other = tree.file("big").unwrap().changed(99);
        let digest = Digest::from_bytes(*other.digest().unwrap().as_bytes());
        bench
            .server
            .fault(Fault::new(Effect::Replace(other)).on(Op::Get).nth(4));
        let error = bench.fetch().await.unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{}", chain(&error));
        bench.check_charges("replaced");
        assert!(!bench.store.find(digest, 24 * MIB).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_are_caught_by_an_expected_digest() {
    for name in ["config.json", "model-1.safetensors"] {
        let bench = Bench::new(tree()).await;
        bench.server.fault(
            Fault::new(Effect::FlipBit(3))
                .on(Op::Get)
                .key(&format!("*{name}")),
        );
        let digest = bench.tree.file(name).unwrap().digest().unwrap();
        let job = Job {
            expected: Some(HashMap::from([(
                RelPath::parse(name).unwrap(),
                Digest::from_bytes(*digest.as_bytes()),
            )])),
            ..bench.job()
        };
        let error = bench.fetcher.fetch(job).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{}", chain(&error));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_up_for_a_while_is_waited_for() {
    let bench = Bench::new(Tree::new([File::random("big", 24 * MIB, 5)])).await;
    let fault = bench
        .server
        .fault(Fault::new(Effect::HangUp).on(Op::Get).after(4));
    let (result, ()) = tokio::join!(bench.fetch(), async {
        fault.wait_hits(20).await;
        fault.lift();
    });
    bench.check("came back", &result.unwrap());
    assert_eq!(bench.server.wire().total_bytes(), 24 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_files_arrive_over_few_connections() {
    let tree = Tree::small_files(11, 500, 900);
    let bench = Bench::new(tree).await;
    let outcome = bench.fetch().await.unwrap();
    bench.check("small files", &outcome);
    let wire = bench.server.wire();
    assert_eq!(wire.requests(Op::Get), 500);
    assert_eq!(wire.total_bytes(), bench.tree.size());
    assert!(
        wire.accepted() <= 40,
        "{} connections for 500 files",
        wire.accepted()
    );
}

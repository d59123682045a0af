//! What a record may be returned for, and listings that outlive their calls. The stories of whole requests are in
//! `csi/tests/controller/cluster.rs`.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use tokio::sync::watch;
use tonnage_cache::path::RelPath;
use tonnage_cache::source::{self, Entry, Limits, Listing, Source, Version};

use super::*;

fn claim() -> Claim {
    Claim {
        namespace: "team".to_owned(),
        name: "llama".to_owned(),
    }
}

fn volume(path: &str, revision: Option<Digest>) -> Volume {
    Volume {
        name: "pvc-1".to_owned(),
        attributes: Attributes {
            source: "models".to_owned(),
            path: path.to_owned(),
            revision,
            limit_bytes: Some(7),
            ..Attributes::default()
        },
        capacity_bytes: 7,
        claim: Some(claim()),
    }
}

#[test]
fn a_record_is_returned_for_what_it_could_have_been_made_for() {
    let found = Some(Digest::of(b"found"));
    let recorded = volume("base/llama", found);
    for path in ["", "base", "base/llama"] {
        let asked = volume(path, None);
        assert_eq!(own(recorded.clone(), &asked).unwrap(), recorded, "{path}");
    }
    let change = |change: fn(&mut Volume)| {
        let mut asked = volume("base", None);
        change(&mut asked);
        asked
    };
    for asked in [
        change(|it| it.attributes.path = "other".to_owned()),
        change(|it| it.attributes.path = "bas".to_owned()),
        change(|it| it.attributes.path = "base/llama/x".to_owned()),
        change(|it| it.attributes.source = "other".to_owned()),
        change(|it| it.attributes.include = vec!["*.json".to_owned()]),
        change(|it| it.attributes.revision = Some(Digest::of(b"other"))),
        change(|it| it.attributes.digest = Some(Digest::of(b"content"))),
        change(|it| it.attributes.limit_bytes = None),
        change(|it| it.capacity_bytes = 8),
        change(|it| it.claim = None),
    ] {
        let error = own(recorded.clone(), &asked).unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{asked:?}");
    }
    // Without a claim nothing is added to the path.
    let bare = |path| Volume {
        claim: None,
        ..volume(path, None)
    };
    assert!(own(bare("base"), &bare("base")).is_ok());
    assert!(own(bare("base/llama"), &bare("base")).is_err());
}

/// A source whose listing ends when it is told to.
#[derive(Debug)]
struct Held {
    open: watch::Sender<bool>,
    fails: Mutex<bool>,
    listings: AtomicU64,
}

impl Held {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            open: watch::Sender::new(false),
            fails: Mutex::new(false),
            listings: AtomicU64::new(0),
        })
    }

    fn release(&self) {
        self.open.send_replace(true);
    }

    fn listings(&self) -> u64 {
        self.listings.load(Ordering::Relaxed)
    }
}

impl Source for Held {
    fn name(&self) -> &'static str {
        "held"
    }

    fn uid(&self) -> &'static str {
        "memory://held"
    }

    fn list<'a>(
        &'a self,
        _prefix: &'a str,
        _limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Listing, source::Error>> {
        self.listings.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            self.open.subscribe().wait_for(|open| *open).await.unwrap();
            if *self.fails.lock().unwrap() {
                return Err(source::Error::NotFound("bucket \"b\"".to_owned()));
            }
            let entry = |name: &str, size| Entry {
                path: RelPath::parse(name).unwrap(),
                key: name.to_owned(),
                size,
                version: Version::default(),
            };
            Ok(Listing {
                entries: vec![entry("config.json", 2), entry("model.safetensors", 40)],
                markers: 0,
            })
        })
    }

    fn open<'a>(
        &'a self,
        _entry: &'a Entry,
        _range: Range<u64>,
    ) -> BoxFuture<'a, Result<source::Body, source::Error>> {
        panic!("nothing is downloaded here")
    }
}

fn question(source: &Arc<Held>, include: &[&str]) -> Question {
    let include: Vec<String> = include.iter().map(ToString::to_string).collect();
    let source = Arc::clone(source);
    Question {
        source,
        path: "llama".to_owned(),
        selection: Selection::new(&include, &[]).unwrap(),
    }
}

fn id(name: &str) -> VolumeId {
    VolumeId::parse(name).unwrap()
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

#[tokio::test(start_paused = true)]
async fn a_long_listing_goes_on_and_the_next_call_gets_its_revision() {
    let (listings, source) = (Listings::default(), Held::new());
    let slow = listings
        .resolve(&id("v1"), question(&source, &[]), soon())
        .await;
    assert!(matches!(slow, Err(listings::Error::Slow)));
    source.release();
    tokio::time::sleep(Duration::from_mins(5)).await;
    let found = listings
        .resolve(&id("v1"), question(&source, &[]), soon())
        .await;
    assert_eq!(found.unwrap().total_bytes, 42);
    assert_eq!(source.listings(), 1);
    // It is taken: a third call lists anew.
    let again = listings
        .resolve(&id("v1"), question(&source, &["*.json"]), soon())
        .await;
    assert_eq!(again.unwrap().total_bytes, 2);
    assert_eq!(source.listings(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_nobody_waited_for_is_forgotten() {
    let (listings, source) = (Listings::default(), Held::new());
    let slow = listings
        .resolve(&id("v1"), question(&source, &[]), soon())
        .await;
    assert!(slow.is_err());
    *source.fails.lock().unwrap() = true;
    source.release();
    tokio::time::sleep(Duration::from_secs(1)).await;
    *source.fails.lock().unwrap() = false;
    let found = listings
        .resolve(&id("v1"), question(&source, &[]), soon())
        .await;
    assert!(found.is_ok());
    assert_eq!(source.listings(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_absent_prefix_is_told_with_its_place() {
    let (listings, source) = (Listings::default(), Held::new());
    *source.fails.lock().unwrap() = true;
    source.release();
    let error = listings
        .resolve(&id("v1"), question(&source, &[]), soon())
        .await
        .unwrap_err();
    let place = Place::of(&volume("llama", None).attributes);
    let text = tonnage_cache::error::chain(&error.at(&place));
    assert_eq!(
        text,
        "source \"models\" at \"llama\" has no files; check the path in the StorageClass and in the claim's annotation tonnage.dev/path: bucket \"b\" does not exist"
    );
}

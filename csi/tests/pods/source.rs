//! A source in memory whose bodies can be held back, and which counts the bytes that it gave.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use futures::future::BoxFuture;
use hyper::body::Bytes;
use tokio::sync::watch;
use tonnage_cache::gate::Refusal;
use tonnage_cache::path::RelPath;
use tonnage_cache::source::{self, Body, Entry, Error, Limits, Listing, Source, Version};

/// Largest piece of a body.
const FRAME: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct HeldSource {
    objects: Mutex<BTreeMap<String, Bytes>>,
    held: watch::Sender<bool>,
    listings_held: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
    served: AtomicU64,
    listings: AtomicU64,
    down: Mutex<bool>,
    refusal: Mutex<Option<Refusal>>,
}

impl HeldSource {
    pub(crate) fn new() -> Self {
        Self {
            objects: Mutex::default(),
            held: watch::Sender::new(false),
            listings_held: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            served: AtomicU64::new(0),
            listings: AtomicU64::new(0),
            down: Mutex::new(false),
            refusal: Mutex::default(),
        }
    }

    pub(crate) fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.objects
            .lock()
            .unwrap()
            .insert(key.to_owned(), bytes.into());
    }

    /// Holds every body after its first piece.
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    /// Holds every listing.
    pub(crate) fn hold_listings(&self) {
        self.listings_held.send_replace(true);
    }

    pub(crate) fn release_listings(&self) {
        self.listings_held.send_replace(false);
    }

    /// Returns when a body is held back.
    pub(crate) async fn is_waiting(&self) {
        let mut waiting = self.waiting.subscribe();
        waiting.wait_for(|count| *count > 0).await.unwrap();
    }

    /// Bodies that are held back now.
    pub(crate) fn held_back(&self) -> usize {
        *self.waiting.borrow()
    }

    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub(crate) fn listings(&self) -> u64 {
        self.listings.load(Ordering::Relaxed)
    }

    /// From now on every request fails.
    pub(crate) fn go_down(&self) {
        *self.down.lock().unwrap() = true;
    }

    /// From now on the gate lets no request out, in these words.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap() = Some(refusal);
    }

    fn check(&self) -> Result<(), Error> {
        if let Some(refusal) = self.refusal.lock().unwrap().clone() {
            return Err(Error::Gate(refusal));
        }
        if *self.down.lock().unwrap() {
            return Err(Error::Unavailable {
                subject: "held".to_owned(),
                what: "connection refused".to_owned(),
            });
        }
        Ok(())
    }
}

/// One fewer body is held back when this goes.
struct Waiting(watch::Sender<usize>);

impl Waiting {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Source for HeldSource {
    fn name(&self) -> &'static str {
        "held"
    }

    fn uid(&self) -> &'static str {
        "memory://held"
    }

    fn list<'a>(&'a self, prefix: &'a str, _: &'a Limits) -> BoxFuture<'a, Result<Listing, Error>> {
        Box::pin(async move {
            self.listings.fetch_add(1, Ordering::Relaxed);
            self.check()?;
            let mut held = self.listings_held.subscribe();
            held.wait_for(|held| !held).await.unwrap();
            let objects = self.objects.lock().unwrap();
            let mut entries = Vec::new();
            for (key, bytes) in objects.iter() {
                if let Some(rest) = key.strip_prefix(&format!("{prefix}/")) {
                    let etag = Some(format!("\"{}\"", &blake3::hash(bytes).to_hex()[..16]));
                    let version = Version {
                        etag,
                        ..Version::default()
                    };
                    entries.push(Entry {
                        path: RelPath::parse(rest)?,
                        key: key.clone(),
                        size: bytes.len() as u64,
                        version,
                    });
                }
            }
            if entries.is_empty() {
                return Err(Error::NotFound(format!("\"{prefix}\"")));
            }
            Ok(Listing {
                entries,
                markers: 0,
            })
        })
    }

    fn open<'a>(
        &'a self,
        entry: &'a Entry,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Body, Error>> {
        Box::pin(async move {
            self.check()?;
            let changed = || Error::Changed {
                key: entry.key.clone(),
            };
            let bytes = self
                .objects
                .lock()
                .unwrap()
                .get(&entry.key)
                .cloned()
                .ok_or_else(changed)?;
            let etag = format!("\"{}\"", &blake3::hash(&bytes).to_hex()[..16]);
            if entry.version.etag != Some(etag) {
                return Err(changed());
            }
            let slice = bytes
                .slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap());
            self.served.fetch_add(slice.len() as u64, Ordering::Relaxed);
            let frames: Vec<Bytes> = (0..slice.len())
                .step_by(FRAME)
                .map(|at| slice.slice(at..slice.len().min(at + FRAME)))
                .collect();
            let (held, waiting) = (self.held.clone(), self.waiting.clone());
            let body = futures::stream::iter(frames.into_iter().enumerate()).then(
                move |(index, frame)| {
                    let (mut held, waiting) = (held.subscribe(), waiting.clone());
                    async move {
                        if index > 0 && *held.borrow() {
                            let _waiting = Waiting::new(&waiting);
                            held.wait_for(|held| !held).await.unwrap();
                        }
                        Ok(frame)
                    }
                },
            );
            Ok(source::frames(body))
        })
    }
}

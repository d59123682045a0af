//! A source in memory that counts what is asked of it and can change or wait between requests.

#![expect(
    clippy::unwrap_used,
    clippy::unnecessary_literal_bound,
    reason = "a test's source: a poisoned lock must stop the test"
)]

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Mutex;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tonnage_cache::path::RelPath;
use tonnage_cache::source::{self, Body, Entry, Error, Limits, Listing, Source, Version};

#[derive(Debug)]
pub(crate) struct MemorySource {
    uid: String,
    base: String,
    objects: Mutex<BTreeMap<String, (Bytes, String)>>,
    served: Mutex<HashMap<String, u64>>,
    listings: Mutex<u64>,
    replace_at_open: Mutex<Option<(String, Bytes)>>,
    turnstile: Option<Semaphore>,
    modified: Mutex<u64>,
}

impl MemorySource {
    pub(crate) fn new(uid: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            base: String::new(),
            objects: Mutex::default(),
            served: Mutex::default(),
            listings: Mutex::default(),
            replace_at_open: Mutex::default(),
            turnstile: None,
            modified: Mutex::default(),
        }
    }

    /// Every open waits until [`Self::let_through`] has been called for it.
    pub(crate) fn guarded(uid: &str) -> Self {
        Self {
            turnstile: Some(Semaphore::new(0)),
            ..Self::new(uid)
        }
    }

    /// Everything lies below this path.
    pub(crate) fn based(uid: &str, base: &str) -> Self {
        Self {
            base: base.to_owned(),
            ..Self::new(uid)
        }
    }

    pub(crate) fn let_through(&self, opens: usize) {
        if let Some(turnstile) = &self.turnstile {
            turnstile.add_permits(opens);
        }
    }

    pub(crate) fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let etag = format!("\"{}\"", &blake3::hash(&bytes).to_hex()[..16]);
        self.objects
            .lock()
            .unwrap()
            .insert(key.to_owned(), (bytes, etag));
    }

    /// Uploads everything again as it is.
    pub(crate) fn touch(&self) {
        *self.modified.lock().unwrap() += 1000;
    }

    /// The next open first replaces `key`.
    pub(crate) fn replace_at_next_open(&self, key: &str, bytes: impl Into<Bytes>) {
        *self.replace_at_open.lock().unwrap() = Some((key.to_owned(), bytes.into()));
    }

    pub(crate) fn served_total(&self) -> u64 {
        self.served.lock().unwrap().values().sum()
    }

    pub(crate) fn listings(&self) -> u64 {
        *self.listings.lock().unwrap()
    }
}

impl Source for MemorySource {
    fn name(&self) -> &str {
        "memory"
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn base(&self) -> &str {
        &self.base
    }

    fn list<'a>(&'a self, prefix: &'a str, _: &'a Limits) -> BoxFuture<'a, Result<Listing, Error>> {
        Box::pin(async move {
            *self.listings.lock().unwrap() += 1;
            let objects = self.objects.lock().unwrap();
            let parts = [self.base.as_str(), prefix].into_iter();
            let parts = parts.filter(|part| !part.is_empty());
            let start: Vec<String> = parts.map(|part| format!("{part}/")).collect();
            let start = start.concat();
            let mut entries = Vec::new();
            for (key, (bytes, etag)) in objects.iter() {
                if let Some(rest) = key.strip_prefix(&start) {
                    entries.push(Entry {
                        path: RelPath::parse(rest)?,
                        key: key.clone(),
                        size: bytes.len() as u64,
                        version: Version {
                            etag: Some(etag.clone()),
                            modified_millis: Some(*self.modified.lock().unwrap()),
                            ..Version::default()
                        },
                    });
                }
            }
            if entries.is_empty() {
                return Err(Error::NotFound(prefix.to_owned()));
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
            if let Some(turnstile) = &self.turnstile {
                turnstile.acquire().await.unwrap().forget();
            }
            if let Some((key, bytes)) = self.replace_at_open.lock().unwrap().take() {
                self.put(&key, bytes);
            }
            let (bytes, etag) = self
                .objects
                .lock()
                .unwrap()
                .get(&entry.key)
                .cloned()
                .ok_or_else(|| Error::Changed {
                    key: entry.key.clone(),
                })?;
            if entry.version.etag.as_deref() != Some(&etag) {
                return Err(Error::Changed {
                    key: entry.key.clone(),
                });
            }
            let start = usize::try_from(range.start).unwrap();
            let end = usize::try_from(range.end).unwrap();
            let slice = bytes.slice(start..end);
            *self
                .served
                .lock()
                .unwrap()
                .entry(entry.key.clone())
                .or_default() += slice.len() as u64;
            let frames: Vec<_> = slice
                .chunks(100_000)
                .map(|frame| Ok(Bytes::copy_from_slice(frame)))
                .collect();
            Ok(source::frames(futures::stream::iter(frames)))
        })
    }
}

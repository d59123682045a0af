//! A source in memory that remembers what it was asked and fails by script.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use tokio::sync::Semaphore;

use crate::digest::Digest;
use crate::path::RelPath;
use crate::source::{self, Body, Entry, Error, Limits, Listing, Source, Version};

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// 503 or a refused connection.
    Unavailable,
    /// `SlowDown`.
    Throttled,
    /// 412.
    Changed,
    /// 404.
    Missing,
    /// 403.
    Denied,
    /// Wrong `Content-Range`.
    Protocol,
    /// The connection is cut after this many bytes of the body.
    Cut(usize),
    /// The body ends after this many bytes, without an error.
    Short(usize),
    /// More bytes than asked for.
    Extra,
    /// A flipped bit in the first byte.
    Flip,
    /// Nothing comes after this many bytes.
    Stall(usize),
    /// No answer comes at all.
    Silent,
    /// The answer's body waits for a permit of [`FakeSource::turns`].
    Turn,
}

/// Numbers sources, so that no two are the same store.
static SOURCES: AtomicU64 = AtomicU64::new(0);

type Script = Box<dyn Fn(u64, &str, &Range<u64>) -> Option<Fault> + Send + Sync>;

pub(super) struct FakeSource {
    objects: HashMap<String, Bytes>,
    script: Script,
    uid: String,
    opens: AtomicU64,
    sent: Arc<AtomicU64>,
    pub(super) asked: Mutex<Vec<(String, Range<u64>)>>,
    pub(super) turns: Arc<Semaphore>,
}

impl fmt::Debug for FakeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeSource")
    }
}

/// The bytes of an object, by the last component of its key: independent of the code under test.
pub(super) fn content(key: &str, size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    blake3::Hasher::new()
        .update(key.rsplit('/').next().unwrap_or(key).as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}

impl FakeSource {
    pub(super) fn new(sizes: &[(&str, usize)]) -> Self {
        Self::failing(sizes, |_, _, _| None)
    }

    /// `script` sees the number of the request (from 0), its key and range.
    pub(super) fn failing(
        sizes: &[(&str, usize)],
        script: impl Fn(u64, &str, &Range<u64>) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        Self {
            objects: sizes
                .iter()
                .map(|(key, size)| ((*key).to_owned(), content(key, *size)))
                .collect(),
            script: Box::new(script),
            uid: format!("fake://{}", SOURCES.fetch_add(1, Ordering::Relaxed)),
            opens: AtomicU64::new(0),
            sent: Arc::default(),
            asked: Mutex::default(),
            turns: Arc::new(Semaphore::new(0)),
        }
    }

    /// Gives `to` the bytes of `from`.
    pub(super) fn equate(&mut self, from: &str, to: &str) {
        let bytes = self.objects[from].clone();
        self.objects.insert(to.to_owned(), bytes);
    }

    pub(super) fn entry(&self, key: &str) -> Entry {
        Entry {
            path: RelPath::parse(key).unwrap(),
            key: key.to_owned(),
            size: self.objects[key].len() as u64,
            version: Version {
                etag: Some("\"v1\"".to_owned()),
                ..Version::default()
            },
        }
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut keys: Vec<&String> = self.objects.keys().collect();
        keys.sort();
        keys.into_iter().map(|key| self.entry(key)).collect()
    }

    pub(super) fn digest(&self, key: &str) -> Digest {
        Digest::of(&self.objects[key])
    }

    pub(super) fn bytes(&self, key: &str) -> Bytes {
        self.objects[key].clone()
    }

    pub(super) fn total(&self) -> u64 {
        self.objects.values().map(|bytes| bytes.len() as u64).sum()
    }

    pub(super) fn opens(&self) -> u64 {
        self.opens.load(Ordering::SeqCst)
    }

    /// Body bytes that were handed over.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// How often the most and the least asked byte of an object was asked for.
    pub(super) fn asked_times(&self, key: &str) -> (u32, u32) {
        let mut counts = vec![0u32; self.objects[key].len()];
        for (asked, range) in self.asked.lock().unwrap().iter() {
            if asked == key {
                let range =
                    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                counts[range].iter_mut().for_each(|count| *count += 1);
            }
        }
        let most = counts.iter().max().copied().unwrap_or(0);
        (most, counts.iter().min().copied().unwrap_or(0))
    }

    fn answer(
        &self,
        entry: &Entry,
        range: Range<u64>,
        fault: Option<Fault>,
    ) -> Result<Body, Error> {
        let object = self
            .objects
            .get(&entry.key)
            .expect("an unknown key was asked for");
        assert!(
            range.start < range.end && range.end <= object.len() as u64,
            "{range:?}"
        );
        assert_eq!(entry.size, object.len() as u64);
        self.asked
            .lock()
            .unwrap()
            .push((entry.key.clone(), range.clone()));
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let mut bytes = object.slice(range);
        let key = || entry.key.clone();
        let unavailable = || Error::Unavailable {
            subject: "k".into(),
            what: "reset".into(),
        };
        let mut tail: Vec<Result<Bytes, Error>> = Vec::new();
        let mut stalls = false;
        match fault {
            Some(Fault::Unavailable) => return Err(unavailable()),
            Some(Fault::Throttled) => {
                return Err(Error::Throttled {
                    subject: key(),
                    code: "SlowDown".into(),
                });
            }
            Some(Fault::Changed) => return Err(Error::Changed { key: key() }),
            Some(Fault::Missing) => return Err(Error::NotFound(key())),
            Some(Fault::Denied) => {
                return Err(Error::Denied {
                    subject: key(),
                    code: "AccessDenied".into(),
                });
            }
            Some(Fault::Protocol) => {
                return Err(Error::Protocol {
                    key: key(),
                    what: "wrong range".into(),
                });
            }
            Some(Fault::Cut(at)) => {
                bytes.truncate(at);
                tail.push(Err(unavailable()));
            }
            Some(Fault::Short(at)) => bytes.truncate(at),
            Some(Fault::Extra) => tail.push(Ok(Bytes::from_static(b"x"))),
            Some(Fault::Flip) => {
                let mut copy = bytes.to_vec();
                copy[0] ^= 1;
                bytes = copy.into();
            }
            Some(Fault::Stall(at)) => {
                bytes.truncate(at);
                stalls = true;
            }
            Some(Fault::Silent | Fault::Turn) | None => {}
        }
        let sent = Arc::clone(&self.sent);
        let frames: Vec<Result<Bytes, Error>> = (0..bytes.len())
            .step_by(100_003)
            .map(|at| Ok(bytes.slice(at..bytes.len().min(at + 100_003))))
            .chain(tail)
            .collect();
        let body = stream::iter(frames).inspect(move |frame| {
            let length = frame.as_ref().map_or(0, Bytes::len);
            sent.fetch_add(length as u64, Ordering::SeqCst);
        });
        if stalls {
            return Ok(source::frames(body.chain(stream::pending())));
        }
        if fault == Some(Fault::Turn) {
            let turns = Arc::clone(&self.turns);
            let wait = stream::once(async move { turns.acquire_owned().await.unwrap().forget() });
            return Ok(source::frames(
                wait.map(|()| None)
                    .chain(body.map(Some))
                    .filter_map(std::future::ready),
            ));
        }
        Ok(source::frames(body))
    }
}

impl Source for FakeSource {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn list<'a>(&'a self, _: &'a str, _: &'a Limits) -> BoxFuture<'a, Result<Listing, Error>> {
        unreachable!("fetch lists nothing")
    }

    fn open<'a>(
        &'a self,
        entry: &'a Entry,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Body, Error>> {
        Box::pin(async move {
            // Gives way once, as a network does.
            tokio::task::yield_now().await;
            let number = self.opens.fetch_add(1, Ordering::SeqCst);
            let fault = (self.script)(number, &entry.key, &range);
            let body = self.answer(entry, range, fault);
            if fault == Some(Fault::Silent) {
                return std::future::pending().await;
            }
            body
        })
    }
}

//! A proof at the store that a pod's own keys may read what the pod asks for. Sources with an administrator's keys, or
//! without any, need none: there the right is the source's `consumers`, and those were asked already.
//!
//! A proof is a listing of the path with the pod's keys, and one byte of at most 8 of the listed files, always the same ones,
//! each pinned to its version: the right to list is not the right to read. It holds for 10 minutes for this principal, these
//! keys (the source's uid tells them apart) and this reference. All who ask meanwhile wait for one answer. Once it has expired
//! and the store cannot be asked, nothing is granted; what is mounted stays.
//!
//! Of a path with more than 4,000 files only the right to list is proved: the rest of the listing would take longer than
//! anybody may wait here. What is here was read with these very keys all the same, since others do not share their source.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared, try_join_all};
use tonnage_cache::cache::Reference;
use tonnage_cache::clock::Clock;
use tonnage_cache::digest::Digest;
use tonnage_cache::error::chain;
use tonnage_cache::gate;
use tonnage_cache::path::Escaped;
use tonnage_cache::source::select::Selection;
use tonnage_cache::source::{self, Entry, Limits, Source, read};

use super::{PATIENCE, without_object};
use crate::crd::{self, AuthMode};
use crate::grant::{Grant, Grants};
use crate::identity::Principal;
use crate::policy::Refusal;
use crate::sources::Sources;

/// How long a proof holds.
const HOLDS: Duration = Duration::from_mins(10);
/// Most pages of a listing, of 1,000 files each.
const PAGES: u64 = 4;
/// Most files of which a byte is read.
const SAMPLE: usize = 8;

/// An answer that several wait for.
type Asking = BoxFuture<'static, Result<Grant, Refusal>>;

/// Proves at the store, where the source's mode asks for that.
pub struct ProbeGrants {
    sources: Sources,
    clock: Arc<dyn Clock>,
    known: Mutex<HashMap<Key, Known>>,
}

/// What a proof is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    principal: String,
    /// Uid and generation of the object that describes the source.
    object: (Option<String>, Option<i64>),
    /// The source's own uid: store, bucket, and whose keys.
    source: String,
    path: String,
    include: Vec<String>,
    exclude: Vec<String>,
    pins: (Option<Digest>, Option<Digest>),
}

/// What is known of a proof.
enum Known {
    /// It is being asked for, as long as somebody waits for it.
    Asked(WeakShared<Asking>),
    /// It holds until then, on the monotonic clock.
    Holds(Duration),
}

/// Where a proof comes from.
enum Found {
    Asked(Shared<Asking>),
    Holds(Duration),
}

impl fmt::Debug for ProbeGrants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeGrants")
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

impl ProbeGrants {
    /// Proofs for these sources.
    pub fn new(sources: Sources, clock: Arc<dyn Clock>) -> Self {
        Self {
            sources,
            clock,
            known: Mutex::default(),
        }
    }

    async fn find_or_ask(
        &self,
        principal: &Principal,
        reference: &Reference,
    ) -> Result<Grant, Refusal> {
        let object = self.sources.spec(reference.source.name());
        let object = object.map_err(|error| without_object(&error))?;
        match object.spec.auth.mode {
            AuthMode::Anonymous | AuthMode::SharedSecret => return Ok(Grant { expires: None }),
            AuthMode::PodSecret => {}
        }
        let key = Key::new(principal, &object, reference);
        let asking = match self.find(&key, &object, reference) {
            Found::Holds(until) => {
                return Ok(Grant {
                    expires: Some(until),
                });
            }
            Found::Asked(asking) => asking,
        };
        let grant = asking.await?;
        if let Some(until) = grant.expires {
            self.lock().insert(key, Known::Holds(until));
        }
        Ok(grant)
    }

    /// A proof that holds, the answer that others wait for, or a new question.
    fn find(&self, key: &Key, object: &crd::Source, reference: &Reference) -> Found {
        let now = self.clock.monotonic();
        let mut known = self.lock();
        match known.get(key) {
            Some(Known::Holds(until)) if *until > now => return Found::Holds(*until),
            Some(Known::Asked(asking)) => {
                if let Some(asking) = asking.upgrade() {
                    return Found::Asked(asking);
                }
            }
            Some(Known::Holds(_)) | None => {}
        }
        known.retain(|_, known| match known {
            Known::Asked(asking) => asking.upgrade().is_some(),
            Known::Holds(until) => *until > now,
        });
        let question = Question {
            reference: reference.clone(),
            listing_seconds: object.spec.limits.and_then(|limits| limits.listing_seconds),
            now,
        };
        let asking = question.ask().boxed().shared();
        if let Some(asking) = asking.downgrade() {
            known.insert(key.clone(), Known::Asked(asking));
        }
        Found::Asked(asking)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Grants for ProbeGrants {
    fn prove<'a>(
        &'a self,
        principal: &'a Principal,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Grant, Refusal>> {
        Box::pin(self.find_or_ask(principal, reference))
    }
}

impl Key {
    fn new(principal: &Principal, object: &crd::Source, reference: &Reference) -> Self {
        let Reference {
            source,
            path,
            selection,
            revision,
            digest,
        } = reference;
        let metadata = &object.metadata;
        Self {
            principal: principal.name.clone(),
            object: (metadata.uid.clone(), metadata.generation),
            source: source.uid().to_owned(),
            path: path.clone(),
            include: selection.include().to_vec(),
            exclude: selection.exclude().to_vec(),
            pins: (*revision, *digest),
        }
    }
}

/// What is asked at the store.
struct Question {
    reference: Reference,
    /// The source's own limit of a listing's time.
    listing_seconds: Option<i64>,
    /// When, on the monotonic clock.
    now: Duration,
}

impl Question {
    async fn ask(self) -> Result<Grant, Refusal> {
        let expires = match tokio::time::timeout(PATIENCE, self.look()).await {
            Ok(Ok(true)) => Some(self.now.saturating_add(HOLDS)),
            // The load asks again, and tells what it finds.
            Ok(Ok(false)) => Some(self.now),
            Ok(Err(error)) => return Err(self.refusal(&error)),
            Err(_) => return Err(self.unanswered()),
        };
        Ok(Grant { expires })
    }

    /// Whether the store shows the files and gives of their bytes; false where there is nothing yet that could be shown.
    async fn look(&self) -> Result<bool, source::Error> {
        let reference = &self.reference;
        let limits = Limits {
            objects: u64::MAX,
            bytes: u64::MAX,
            pages: PAGES,
            ..Limits::default()
        };
        let listing = match reference.source.list(&reference.path, &limits).await {
            Ok(listing) => listing,
            Err(source::Error::Limit(_)) if !self.may_be_cut_short() => return Ok(true),
            Err(
                source::Error::NotFound(_) | source::Error::Key(_) | source::Error::Reference(_),
            ) if !self.is_pinned() => return Ok(false),
            Err(error) => return Err(error),
        };
        let sample = sample(&listing.entries, &reference.selection);
        let reads = sample
            .into_iter()
            .map(|entry| read_one(&*reference.source, entry));
        try_join_all(reads).await?;
        Ok(true)
    }

    /// Whether the source's own limit of time ends a listing before we do: then a listing that is over its limits may be one
    /// that the store has not answered.
    fn may_be_cut_short(&self) -> bool {
        let patience = i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX);
        self.listing_seconds
            .is_some_and(|seconds| seconds <= patience)
    }

    /// What is pinned may be here already, and then nothing is asked of the store after this.
    fn is_pinned(&self) -> bool {
        self.reference.revision.is_some() || self.reference.digest.is_some()
    }

    /// `source models, path "llama"`.
    fn place(&self) -> String {
        let name = self.reference.source.name();
        match self.reference.path.as_str() {
            "" => format!("source {name}"),
            path => format!("source {name}, path {}", Escaped(path)),
        }
    }

    fn unanswered(&self) -> Refusal {
        Refusal::Unavailable(format!(
            "{}: the store has not said within {} s whether the pod's keys may read it; this is tried again by itself",
            self.place(),
            PATIENCE.as_secs()
        ))
    }

    fn refusal(&self, error: &source::Error) -> Refusal {
        use source::Error;
        let place = self.place();
        let why = chain(error);
        match error {
            Error::Denied { .. } => Refusal::Denied(format!(
                "{place}: {why}; the keys in the Secret of the volume's nodePublishSecretRef need the right to list and read it"
            )),
            Error::Unauthenticated { .. } => Refusal::Unauthenticated(format!(
                "{place}: {why}; check the keys in the Secret of the volume's nodePublishSecretRef"
            )),
            Error::NotFound(_) | Error::Key(_) | Error::Reference(_) => Refusal::Denied(format!(
                "{place}: {why}, so that nothing shows that the pod's keys may read the pinned revision; pin one that is there"
            )),
            Error::Gate(gate::Refusal::Denied(_)) | Error::Untrusted { .. } => {
                Refusal::Denied(format!("{place}: {why}"))
            }
            Error::Limit(_) => self.unanswered(),
            Error::Gate(gate::Refusal::Exhausted(_))
            | Error::Changed { .. }
            | Error::Protocol { .. }
            | Error::Throttled { .. }
            | Error::Unavailable { .. }
            | Error::Local(_) => Refusal::Unavailable(format!(
                "{place}: the store cannot say now whether the pod's keys may read it ({why}); this is tried again by itself"
            )),
        }
    }
}

/// At most [`SAMPLE`] of the wanted files that have bytes, spread over all of them.
fn sample<'a>(entries: &'a [Entry], selection: &Selection) -> Vec<&'a Entry> {
    let is_wanted = |entry: &&Entry| entry.size > 0 && selection.matches(&entry.path);
    let wanted: Vec<&Entry> = entries.iter().filter(is_wanted).collect();
    let step = wanted.len().div_ceil(SAMPLE).max(1);
    wanted.into_iter().step_by(step).collect()
}

/// Reads the first byte, and to the end of it, so that the connection can be used again.
async fn read_one(source: &dyn Source, entry: &Entry) -> Result<(), source::Error> {
    let mut body = source.open(entry, 0..1).await?;
    let mut byte = [0u8; 1];
    while read(&mut body, &mut byte).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests;

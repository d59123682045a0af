//! A proof at the store that a pod's own keys, or its service account, may read what the pod asks for. Sources with an
//! administrator's keys, with the node's, or without any, need none: there the right is the source's `consumers`, and those were
//! asked already. Nor do sources whose `grantPolicy` says so.
//!
//! A proof is a listing of the path with the pod's keys, and one byte of at most 8 of the listed files, always the same ones,
//! each pinned to its version: the right to list is not the right to read. (With `perObject` it is a byte of all of them.) It
//! holds for 10 minutes, or as long as the source says, for this principal, these keys (the source's uid tells them apart) and
//! this reference. All who ask meanwhile wait for one answer. Once it has expired and the store cannot be asked, nothing is
//! granted; what is mounted stays.
//!
//! Of a path with more than 4,000 files only the right to list is proved: the rest of the listing would take longer than
//! anybody may wait here. What is here was read with these very keys all the same, since others do not share their source.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use tonnage_cache::cache::Reference;
use tonnage_cache::clock::Clock;
use tonnage_cache::digest::Digest;

use super::without_object;
use crate::crd::{self, AuthMode, GrantPolicy, SourceAuth};
use crate::grant::{Grant, Grants};
use crate::identity::Principal;
use crate::policy::Refusal;
use crate::sources::Sources;

mod question;

use question::{Question, Whose};

/// How long a proof holds, unless set otherwise.
const HOLDS: Duration = Duration::from_mins(10);

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
        let Some((whose, holds)) = wanted(&object.spec.auth) else {
            return Ok(Grant { expires: None });
        };
        let key = Key::new(principal, &object, reference);
        let question = Question {
            reference: reference.clone(),
            whose,
            per_object: object.spec.auth.per_object,
            listing_seconds: object.spec.limits.and_then(|limits| limits.listing_seconds),
            now: self.clock.monotonic(),
            holds,
        };
        let asking = match self.find(&key, question) {
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
    fn find(&self, key: &Key, question: Question) -> Found {
        let now = question.now;
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

/// Whose right is to be proved, and for how long; nothing where `consumers` alone says who may.
fn wanted(auth: &SourceAuth) -> Option<(Whose, Duration)> {
    let whose = match auth.mode {
        AuthMode::Anonymous | AuthMode::SharedSecret | AuthMode::Node => return None,
        AuthMode::PodSecret => Whose::Keys,
        AuthMode::WorkloadIdentity => Whose::Account,
    };
    let seconds = auth.grant_ttl_seconds.map(u64::try_from);
    match auth.grant_policy.unwrap_or_default() {
        GrantPolicy::VerifyUntilTTL => Some((
            whose,
            match seconds {
                Some(Ok(seconds)) => Duration::from_secs(seconds),
                Some(Err(_)) | None => HOLDS,
            },
        )),
        GrantPolicy::AlwaysVerify => Some((whose, Duration::ZERO)),
        GrantPolicy::NeverVerify => None,
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

#[cfg(test)]
mod tests;

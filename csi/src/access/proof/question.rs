//! The question at the store: a listing, a byte of some files, and what the answer means. See [`super`].

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tonnage_cache::cache::Reference;
use tonnage_cache::error::{Kind, chain};
use tonnage_cache::gate;
use tonnage_cache::path::Escaped;
use tonnage_cache::source::select::Selection;
use tonnage_cache::source::{self, Entry, Limits, Source, read};

use crate::access::PATIENCE;
use crate::grant::Grant;
use crate::policy::Refusal;

/// Most pages of a listing, of 1,000 files each.
const PAGES: u64 = 4;
/// Most files of which a byte is read, where some are enough.
const SAMPLE: usize = 8;
/// Bytes that are read at a time.
const AT_ONCE: usize = 32;

/// What the right belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Keys that the pod brings.
    Keys,
    /// The pod's service account, as the cloud sees it.
    Account,
}

/// What is asked at the store.
pub(super) struct Question {
    pub(super) reference: Reference,
    pub(super) whose: Whose,
    /// Whether of every file, and not of some, a byte is read.
    pub(super) per_object: bool,
    /// The source's own limit of a listing's time.
    pub(super) listing_seconds: Option<i64>,
    /// When, on the monotonic clock.
    pub(super) now: Duration,
    /// How long the answer holds.
    pub(super) holds: Duration,
}

/// What the store shows.
enum Shown {
    /// The files, and of their bytes.
    Files,
    /// Nothing yet that could be shown.
    Nothing,
    /// More files than can be looked at.
    TooMany,
}

impl Whose {
    const fn noun(self) -> &'static str {
        match self {
            Self::Keys => "the pod's keys",
            Self::Account => "the pod's service account",
        }
    }

    /// What to do where the store refuses it.
    const fn when_denied(self) -> &'static str {
        match self {
            Self::Keys => {
                "the keys in the Secret of the volume's nodePublishSecretRef need the right to list and read it"
            }
            Self::Account => {
                "whom the service account is in the cloud (spec.auth.workloadIdentity of the source) needs the right to list and read it"
            }
        }
    }

    /// What to do where the store does not know it.
    const fn when_unknown(self) -> &'static str {
        match self {
            Self::Keys => "check the keys in the Secret of the volume's nodePublishSecretRef",
            Self::Account => {
                "check spec.auth.workloadIdentity of the source, and that the store is in that account"
            }
        }
    }
}

impl Question {
    pub(super) async fn ask(self) -> Result<Grant, Refusal> {
        let expires = match tokio::time::timeout(PATIENCE, self.look()).await {
            Ok(Ok(Shown::TooMany)) if self.per_object => return Err(self.too_many()),
            Ok(Ok(Shown::Files | Shown::TooMany)) => Some(self.now.saturating_add(self.holds)),
            // The load asks again, and tells what it finds.
            Ok(Ok(Shown::Nothing)) => Some(self.now),
            Ok(Err(error)) => return Err(self.refusal(&error)),
            Err(_) => return Err(self.unanswered()),
        };
        Ok(Grant { expires })
    }

    async fn look(&self) -> Result<Shown, source::Error> {
        let reference = &self.reference;
        let limits = Limits {
            objects: u64::MAX,
            bytes: u64::MAX,
            pages: PAGES,
            ..Limits::default()
        };
        let listing = match reference.source.list(&reference.path, &limits).await {
            Ok(listing) => listing,
            Err(source::Error::Limit(_)) if !self.may_be_cut_short() => {
                return Ok(Shown::TooMany);
            }
            Err(
                source::Error::NotFound(_) | source::Error::Key(_) | source::Error::Reference(_),
            ) if !self.is_pinned() => return Ok(Shown::Nothing),
            Err(error) => return Err(error),
        };
        let most = if self.per_object { usize::MAX } else { SAMPLE };
        let sample = sample(&listing.entries, &reference.selection, most);
        let reads: Vec<_> = sample
            .into_iter()
            .map(|entry| read_one(&*reference.source, entry))
            .collect();
        let reads = stream::iter(reads).buffer_unordered(AT_ONCE);
        reads.try_collect::<()>().await?;
        Ok(Shown::Files)
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
            "{}: the store has not said within {} s whether {} may read it; this is tried again by itself",
            self.place(),
            PATIENCE.as_secs(),
            self.whose.noun()
        ))
    }

    fn too_many(&self) -> Refusal {
        Refusal::Denied(format!(
            "{}: it holds more than {} files, and spec.auth.perObject of the source wants a proof for each; name a path with fewer",
            self.place(),
            PAGES.saturating_mul(1000)
        ))
    }

    /// What an error of the store means for who asks.
    pub(super) fn refusal(&self, error: &source::Error) -> Refusal {
        use source::Error;
        let place = self.place();
        let why = chain(error);
        let (noun, whose) = (self.whose.noun(), self.whose);
        match error {
            Error::Denied { .. } => {
                Refusal::Denied(format!("{place}: {why}; {}", whose.when_denied()))
            }
            Error::Unauthenticated { .. } => {
                Refusal::Unauthenticated(format!("{place}: {why}; {}", whose.when_unknown()))
            }
            Error::NotFound(_) | Error::Key(_) | Error::Reference(_) => Refusal::Denied(format!(
                "{place}: {why}, so that nothing shows that {noun} may read the pinned revision; pin one that is there"
            )),
            Error::Identity {
                kind: Kind::Unauthenticated,
                ..
            } => Refusal::Unauthenticated(format!("{place}: {why}")),
            Error::Identity {
                kind: Kind::Denied | Kind::Invalid,
                ..
            } => Refusal::Denied(format!("{place}: {why}")),
            Error::Gate(gate::Refusal::Denied(_)) | Error::Untrusted { .. } => {
                Refusal::Denied(format!("{place}: {why}"))
            }
            Error::Limit(_) => self.unanswered(),
            Error::Gate(gate::Refusal::Exhausted(_))
            | Error::Changed { .. }
            | Error::Protocol { .. }
            | Error::Throttled { .. }
            | Error::Unavailable { .. }
            | Error::Identity { .. }
            | Error::Local(_) => Refusal::Unavailable(format!(
                "{place}: the store cannot say now whether {noun} may read it ({why}); this is tried again by itself"
            )),
        }
    }
}

/// Some of the wanted files that have bytes, at most so many, spread over all of them.
fn sample<'a>(entries: &'a [Entry], selection: &Selection, most: usize) -> Vec<&'a Entry> {
    let is_wanted = |entry: &&Entry| entry.size > 0 && selection.matches(&entry.path);
    let wanted: Vec<&Entry> = entries.iter().filter(is_wanted).collect();
    let step = wanted.len().div_ceil(most).max(1);
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
mod tests {
    use tonnage_cache::path::RelPath;
    use tonnage_cache::source::Version;

    use super::*;

    #[test]
    fn a_sample_has_about_as_many_files_as_it_may_have() {
        for count in 0..40 {
            let entry = |number: usize| Entry {
                path: RelPath::parse(&format!("{number:03}")).unwrap(),
                key: number.to_string(),
                size: 1,
                version: Version::default(),
            };
            let entries: Vec<Entry> = (0..count).map(entry).collect();
            let taken = |most| sample(&entries, &Selection::default(), most).len();
            assert!(
                (count.min(5)..=SAMPLE).contains(&taken(SAMPLE)),
                "{count}: {}",
                taken(SAMPLE)
            );
            assert_eq!(taken(usize::MAX), count);
        }
    }
}

//! Whether a source answers: one listing of its base that ends after the first page, as `tonnage doctor` does it. What the
//! source says becomes one sentence for its administrator.

use std::time::Duration;

use tokio::time::Instant;
use tonnage_cache::error::{Kind, chain};
use tonnage_cache::source::{Error, Limits, Source};

use super::condition::{Reason, Verdict};
use crate::crd;
use crate::sources::{self, Sources};

/// How long a source may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Finds out whether a source can be reached and read. `object` describes it, if it can be understood.
pub(super) async fn probe(sources: &Sources, name: &str, object: Option<&crd::Source>) -> Verdict {
    match sources.get(name) {
        Ok(_) if object.is_some_and(has_no_listing) => Verdict::new(
            Reason::NotProbed,
            "A web server cannot be listed; name its files in spec.files and they are looked for here.",
        ),
        Ok(source) => ask(&*source, object).await,
        Err(sources::Error::Keys { .. }) => Verdict::new(
            Reason::NotProbed,
            "It is read with the keys of each pod, so that a pod's mount shows whether it can be reached.",
        ),
        Err(sources::Error::Nobody(_)) => Verdict::new(
            Reason::NotProbed,
            "It is read with the identity of each pod's service account, so that a pod's mount shows whether it can be reached.",
        ),
        Err(sources::Error::Unusable { why, .. }) => {
            Verdict::new(Reason::Misconfigured, sentence(&why))
        }
        Err(error) => Verdict::new(Reason::Misconfigured, sentence(&chain(&error))),
    }
}

/// Whether only a pod's path says what is to be read.
fn has_no_listing(object: &crd::Source) -> bool {
    let spec = &object.spec;
    let is_web = spec.url.starts_with("https://") || spec.url.starts_with("http://");
    is_web && spec.files.is_empty()
}

/// The source's own limit of a listing's time.
fn own_limit(object: &crd::Source) -> Option<Duration> {
    let seconds = object.spec.limits.as_ref()?.listing_seconds?;
    Some(Duration::from_secs(u64::try_from(seconds).ok()?))
}

async fn ask(source: &dyn Source, object: Option<&crd::Source>) -> Verdict {
    let own = object.and_then(own_limit);
    let way = Way::of(object);
    let limits = Limits {
        objects: 1,
        pages: 1,
        ..Limits::default()
    };
    let began = Instant::now();
    let answer = tokio::time::timeout(PATIENCE, source.list("", &limits)).await;
    let is_up = own.is_some_and(|own| began.elapsed() >= own);
    match answer {
        Err(_) => silent(PATIENCE, way),
        Ok(Err(Error::Limit(_))) if is_up => silent(own.unwrap_or(PATIENCE), way),
        // The limits above end every longer listing, and a bad key is one that was listed: an answer came, and that
        // is the question.
        Ok(Ok(_) | Err(Error::Limit(_) | Error::Key(_))) => {
            Verdict::new(Reason::Reachable, "It answers and can be listed.")
        }
        Ok(Err(error)) => refused(&error, way),
    }
}

/// How the source is connected to.
#[derive(Debug, Clone, Copy)]
enum Way {
    Directly,
    ThroughProxy,
}

impl Way {
    fn of(object: Option<&crd::Source>) -> Self {
        match object {
            Some(object) if object.spec.proxy.is_some() => Self::ThroughProxy,
            Some(_) | None => Self::Directly,
        }
    }

    /// What else to look at where there is no answer; it goes before the rest.
    const fn advice(self) -> &'static str {
        match self {
            Self::Directly => "",
            Self::ThroughProxy => "spec.proxy and what the proxy allows, ",
        }
    }
}

fn silent(patience: Duration, way: Way) -> Verdict {
    Verdict::new(
        Reason::Unreachable,
        format!(
            "It did not answer within {} s; check {}its endpoint, the network policies and the firewall.",
            patience.as_secs(),
            way.advice()
        ),
    )
}

fn refused(error: &Error, way: Way) -> Verdict {
    let (reason, advice) = match error {
        Error::NotFound(_) => (
            Reason::NotFound,
            "check the bucket and the base path in spec.url, or upload something",
        ),
        Error::Denied { .. } => (
            Reason::Denied,
            "give its keys, or everyone if it has none, the right to list and read there",
        ),
        Error::Unauthenticated { .. } => (
            Reason::Denied,
            "put keys that are valid into the Secret of spec.auth.secretName",
        ),
        // Of mode Node: others are not probed with an identity.
        Error::Identity {
            kind: Kind::Transient,
            ..
        } => (
            Reason::Unreachable,
            "let pods reach the instance's metadata service: a hop limit of at least 2 on EC2, or the node's network",
        ),
        Error::Identity { .. } => (
            Reason::Denied,
            "the instance that the controller runs on needs an identity too",
        ),
        Error::Gate(_) => (
            Reason::Denied,
            match way {
                Way::Directly => "if that address is meant, add its range to spec.allowedCIDRs",
                Way::ThroughProxy => {
                    "if that address is meant, add its range to spec.allowedCIDRs; if it is the proxy that refuses, let it allow the store's host and port"
                }
            },
        ),
        Error::Untrusted { .. } => (
            Reason::Unreachable,
            "put the certificate of its authority into spec.caBundle",
        ),
        Error::Throttled { .. } => (
            Reason::Unreachable,
            "raise the store's limit of requests; it is tried again by itself",
        ),
        Error::Unavailable { .. } => (
            Reason::Unreachable,
            match way {
                Way::Directly => {
                    "check spec.endpoint, the name service, the network policies and the firewall"
                }
                Way::ThroughProxy => {
                    "check spec.proxy and what the proxy allows, spec.endpoint, the name service, the network policies and the firewall"
                }
            },
        ),
        Error::Protocol { .. } | Error::Changed { .. } => (
            Reason::Unreachable,
            "check that spec.endpoint is the API of an object store",
        ),
        Error::Reference(_) => (Reason::Misconfigured, "correct spec.url"),
        Error::Local(_) | Error::Limit(_) | Error::Key(_) => {
            (Reason::Unreachable, "look at the source's own state")
        }
    };
    Verdict::new(reason, sentence(&format!("{}; {advice}", chain(error))))
}

/// With a capital letter and a full stop, as conditions are written.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(char::to_uppercase);
    let mut sentence: String = first.into_iter().flatten().chain(letters).collect();
    if !sentence.ends_with(['.', '…']) {
        sentence.push('.');
    }
    sentence
}

//! Whether a source of mode `WorkloadIdentity` gives itself to everyone: a role whose trust has no condition on the token's subject
//! may be assumed by every service account of the cluster, and then `consumers` holds back nobody who makes a pod and asks the
//! cloud without Tonnage.
//!
//! No cloud says that in an answer, so it is tried: the controller shows the token of its own service account, and reads the first
//! page of a listing if it is let. That says something only where `consumers` does not name the controller. The chart mounts the
//! tokens; without them nothing is tried. What was found out is remembered for an hour, unless the source changes; what could not
//! be found out is tried again by the next examination.
//!
//! Who was given keys was let in, whatever the store says of them: only where a pool of Google Cloud gives keys to everyone does
//! the store decide.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tonnage_cache::clock::Clock;
use tonnage_cache::error::{Kind, chain};
use tonnage_cache::source::{Error, Limits, Source};

use super::agenda::Facts;
use super::condition::{Reason, Verdict};
use crate::crd::{self, AuthMode, Consumer, WorkloadIdentity};
use crate::identity::{Principal, Secrets, TOKENS};
use crate::sources::{Sources, audience};

/// Where the chart mounts the controller's own tokens, one file for each audience.
pub(super) const DIRECTORY: &str = "/var/run/secrets/tonnage.dev/tokens";
/// The controller's service account, as the chart names it.
const ACCOUNT: &str = "tonnage-controller";
/// How long it is remembered what was found out.
const REMEMBERED: Duration = Duration::from_hours(1);
/// How long it is remembered that nothing could be found out: less than what lies between two examinations.
const AGAIN: Duration = Duration::from_secs(45);
/// How long a cloud and a store may take together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tries sources with the controller's own identity.
#[derive(Debug)]
pub(super) struct Trust {
    tokens: PathBuf,
    /// Of the controller.
    namespace: String,
    clock: Arc<dyn Clock>,
    looks: Mutex<BTreeMap<String, Look>>,
}

#[derive(Debug)]
struct Look {
    facts: Facts,
    until: Duration,
    finding: Finding,
}

/// What is to be said about a source's trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing, and what was said before no longer holds: nobody could say it now.
    Inapplicable,
    /// Nothing new: it could not be found out this time.
    Unknown,
    /// This.
    Found(Verdict),
}

impl Trust {
    /// Of a controller in this namespace, whose tokens are in this directory.
    pub(super) fn new(tokens: PathBuf, namespace: String, clock: Arc<dyn Clock>) -> Self {
        Self {
            tokens,
            namespace,
            clock,
            looks: Mutex::default(),
        }
    }

    /// What is to be said about a source's trust.
    pub(super) async fn look(
        &self,
        sources: &Sources,
        object: &crd::Source,
        facts: &Facts,
    ) -> Finding {
        let Some(name) = object.metadata.name.as_deref() else {
            return Finding::Unknown;
        };
        let now = self.clock.monotonic();
        let Some(identity) = self.tried(object) else {
            self.lock().remove(name);
            return Finding::Inapplicable;
        };
        if let Some(look) = self.lock().get(name)
            && look.facts == *facts
            && now < look.until
        {
            return look.finding.clone();
        }
        let finding = self.attempt(sources, name, identity).await;
        let remembered = match finding {
            Finding::Found(_) => REMEMBERED,
            Finding::Inapplicable | Finding::Unknown => AGAIN,
        };
        let look = Look {
            facts: facts.clone(),
            until: now.saturating_add(remembered),
            finding: finding.clone(),
        };
        let mut looks = self.lock();
        looks.retain(|_, look| now < look.until);
        looks.insert(name.to_owned(), look);
        finding
    }

    /// The identity that a source gives, if the controller is a stranger to it.
    fn tried<'a>(&self, object: &'a crd::Source) -> Option<&'a WorkloadIdentity> {
        let is_named = |consumer: &Consumer| may_name(consumer, &self.namespace);
        let spec = &object.spec;
        if spec.auth.mode != AuthMode::WorkloadIdentity || spec.consumers.iter().any(is_named) {
            return None;
        }
        spec.auth.workload_identity.as_ref()
    }

    async fn attempt(&self, sources: &Sources, name: &str, identity: &WorkloadIdentity) -> Finding {
        let audience = audience(identity);
        let token = tokio::fs::read_to_string(self.tokens.join(file_name(&audience))).await;
        let token = match token {
            Ok(token) => token,
            Err(error) if error.kind() == ErrorKind::NotFound => return Finding::Inapplicable,
            Err(error) => {
                tracing::debug!(
                    error = chain(&error),
                    "a source's trust cannot be found out"
                );
                return Finding::Unknown;
            }
        };
        let tokens = json!({audience: {"token": token.trim()}});
        let secrets = Secrets::new([(TOKENS.to_owned(), tokens.to_string())].into());
        let principal = Principal {
            name: format!("system:serviceaccount:{}:{ACCOUNT}", self.namespace),
            namespace: self.namespace.clone(),
            service_account: ACCOUNT.to_owned(),
            labels: Arc::default(),
        };
        match sources.get_for(name, &principal, &secrets) {
            Ok(source) => match ask(&*source).await {
                Some(answer) => self.judge(identity, &answer),
                None => Finding::Unknown,
            },
            Err(error) => {
                tracing::debug!(
                    error = chain(&error),
                    "a source's trust cannot be found out"
                );
                Finding::Unknown
            }
        }
    }

    fn judge(&self, identity: &WorkloadIdentity, answer: &Result<(), Error>) -> Finding {
        let stranger = format!(
            "Service account {}/{ACCOUNT}, which spec.consumers does not name,",
            self.namespace
        );
        match answer {
            Ok(()) => Finding::Found(Verdict::new(
                Reason::AnyServiceAccount,
                format!(
                    "{stranger} can read it: whoever may make a pod in this cluster can, without Tonnage too; add a condition on the token's subject to the trust of what spec.auth.workloadIdentity names."
                ),
            )),
            // The exchange came before: the store refuses those whom the cloud has let in.
            Err(Error::Denied { .. }) if is_vetted(identity) => Finding::Found(Verdict::new(
                Reason::AnyServiceAccount,
                format!(
                    "{stranger} is given keys for it, though the store refuses to list with them: whoever may make a pod in this cluster is given them, without Tonnage too; add a condition on the token's subject to the trust of what spec.auth.workloadIdentity names."
                ),
            )),
            Err(
                Error::Denied { .. }
                | Error::Identity {
                    kind: Kind::Denied | Kind::Unauthenticated,
                    ..
                },
            ) => Finding::Found(Verdict::new(
                Reason::Restricted,
                format!("{stranger} is refused."),
            )),
            Err(error) => {
                tracing::debug!(error = chain(error), "a source's trust cannot be found out");
                Finding::Unknown
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the source can be listed; nothing if it does not answer.
async fn ask(source: &dyn Source) -> Option<Result<(), Error>> {
    let limits = Limits {
        objects: 1,
        pages: 1,
        ..Limits::default()
    };
    let answer = tokio::time::timeout(PATIENCE, source.list("", &limits)).await;
    match answer.ok()? {
        // The limits end every longer listing, and whoever is told that nothing is there was let in.
        Ok(_) | Err(Error::Limit(_) | Error::Key(_) | Error::NotFound(_)) => Some(Ok(())),
        Err(error) => Some(Err(error)),
    }
}

/// Whether the entry may name the controller's service account; labels of its namespace are taken to fit.
fn may_name(consumer: &Consumer, namespace: &str) -> bool {
    let names = &consumer.namespaces.names;
    let accounts = &consumer.service_accounts;
    (names.is_empty() || names.iter().any(|name| name == namespace))
        && (accounts.is_empty() || accounts.iter().any(|name| name == ACCOUNT))
}

/// Whether keys are given to those alone whom the cloud has let in: to a role, an identity or an impersonated service account. A
/// pool of Google Cloud gives its own keys to every service account that its provider knows, and the bucket says who may read.
fn is_vetted(identity: &WorkloadIdentity) -> bool {
    let pool = identity.gcp.as_ref();
    pool.is_none_or(|pool| pool.service_account.is_some())
}

/// The file of an audience's token, as the chart names it.
fn file_name(audience: &str) -> String {
    let keeps = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-');
    let letters = audience.chars();
    letters
        .map(|letter| if keeps(letter) { letter } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests;

//! Whether a source of mode `WorkloadIdentity` gives itself to everyone: a role whose trust has no condition on the token's subject
//! may be assumed by every service account of the cluster, and then `consumers` holds back nobody who makes a pod and asks the
//! cloud without Tonnage.
//!
//! No cloud says that in an answer, so it is tried: the controller shows the token of its own service account, and reads the first
//! page of a listing if it is let. That says something only where `consumers` does not name the controller. The chart mounts the
//! tokens; without them nothing is tried. One look is remembered for an hour, unless the source changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tonnage_cache::clock::Clock;
use tonnage_cache::error::{Kind, chain};
use tonnage_cache::source::{Error, Limits, Source};

use super::agenda::Facts;
use super::condition::{Reason, Verdict};
use crate::crd::{self, AuthMode, Consumer};
use crate::identity::{Principal, Secrets, TOKENS};
use crate::sources::{Sources, audience};

/// Where the chart mounts the controller's own tokens, one file for each audience.
pub(super) const DIRECTORY: &str = "/var/run/secrets/tonnage.dev/tokens";
/// The controller's service account, as the chart names it.
const ACCOUNT: &str = "tonnage-controller";
/// How long a look is remembered.
const REMEMBERED: Duration = Duration::from_hours(1);
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
    at: Duration,
    verdict: Option<Verdict>,
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

    /// What is to be said about a source's trust; nothing where nothing can be found out.
    pub(super) async fn look(
        &self,
        sources: &Sources,
        object: &crd::Source,
        facts: &Facts,
    ) -> Option<Verdict> {
        let name = object.metadata.name.as_deref()?;
        let is_named = |consumer: &Consumer| may_name(consumer, &self.namespace);
        if object.spec.auth.mode != AuthMode::WorkloadIdentity
            || object.spec.consumers.iter().any(is_named)
        {
            return None;
        }
        let now = self.clock.monotonic();
        if let Some(look) = self.lock().get(name)
            && look.facts == *facts
            && now.saturating_sub(look.at) < REMEMBERED
        {
            return look.verdict.clone();
        }
        let verdict = self.attempt(sources, name, object).await;
        let look = Look {
            facts: facts.clone(),
            at: now,
            verdict: verdict.clone(),
        };
        let mut looks = self.lock();
        looks.retain(|_, look| now.saturating_sub(look.at) < REMEMBERED);
        looks.insert(name.to_owned(), look);
        verdict
    }

    async fn attempt(
        &self,
        sources: &Sources,
        name: &str,
        object: &crd::Source,
    ) -> Option<Verdict> {
        let audience = audience(object.spec.auth.workload_identity.as_ref()?);
        let token = tokio::fs::read_to_string(self.tokens.join(file_name(&audience))).await;
        let token = token.ok()?;
        let tokens = json!({audience: {"token": token.trim()}});
        let secrets = Secrets::new([(TOKENS.to_owned(), tokens.to_string())].into());
        let principal = Principal {
            name: format!("system:serviceaccount:{}:{ACCOUNT}", self.namespace),
            namespace: self.namespace.clone(),
        };
        let source = sources.get_for(name, &principal, &secrets).ok()?;
        self.judge(&ask(&*source).await?)
    }

    fn judge(&self, answer: &Result<(), Error>) -> Option<Verdict> {
        match answer {
            Ok(()) => Some(Verdict::new(
                Reason::AnyServiceAccount,
                format!(
                    "Service account {}/{ACCOUNT}, which spec.consumers does not name, can read it: whoever may make a pod in this cluster can, without Tonnage too; add a condition on the token's subject to the trust of what spec.auth.workloadIdentity names.",
                    self.namespace
                ),
            )),
            Err(
                Error::Denied { .. }
                | Error::Identity {
                    kind: Kind::Denied | Kind::Unauthenticated,
                    ..
                },
            ) => Some(Verdict::new(
                Reason::Restricted,
                format!(
                    "Service account {}/{ACCOUNT}, which spec.consumers does not name, is refused.",
                    self.namespace
                ),
            )),
            Err(error) => {
                tracing::debug!(error = chain(error), "a source's trust cannot be found out");
                None
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

/// The file of an audience's token, as the chart names it.
fn file_name(audience: &str) -> String {
    let keeps = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-');
    let letters = audience.chars();
    letters
        .map(|letter| if keeps(letter) { letter } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tonnage_cache::clock::ManualClock;
    use tonnage_cache::gate::OpenGate;
    use tonnage_cache::source::config::SourceConfig;

    use super::*;

    fn consumer(names: &[&str], accounts: &[&str]) -> Consumer {
        let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        Consumer {
            namespaces: crd::NamespaceSelector {
                names: owned(names),
                match_labels: BTreeMap::new(),
            },
            service_accounts: owned(accounts),
            paths: Vec::new(),
        }
    }

    fn trust(tokens: PathBuf) -> Trust {
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
        Trust::new(tokens, "tonnage".to_owned(), clock)
    }

    #[test]
    fn whoever_may_be_a_consumer_says_nothing_about_others() {
        for (consumer, expected) in [
            (consumer(&[], &[]), true),
            (consumer(&["tonnage"], &[]), true),
            (consumer(&[], &[ACCOUNT]), true),
            (consumer(&["team-a"], &[]), false),
            (consumer(&["tonnage"], &["trainer"]), false),
        ] {
            assert_eq!(may_name(&consumer, "tonnage"), expected, "{consumer:?}");
        }
    }

    #[test]
    fn a_token_s_file_is_named_after_its_audience() {
        for (audience, expected) in [
            ("sts.amazonaws.com", "sts.amazonaws.com"),
            ("api://AzureADTokenExchange", "api___AzureADTokenExchange"),
            (
                "https://iam.googleapis.com/projects/1",
                "https___iam.googleapis.com_projects_1",
            ),
        ] {
            assert_eq!(file_name(audience), expected);
        }
    }

    #[test]
    fn a_stranger_who_is_let_in_is_a_warning_and_one_who_is_not_a_good_sign() {
        let trust = trust(PathBuf::new());
        let refused = |kind| {
            Err(Error::Identity {
                service: "sts".to_owned(),
                what: "no".to_owned(),
                kind,
            })
        };
        let reason = |answer| trust.judge(&answer).map(|verdict| verdict.reason);
        assert_eq!(reason(Ok(())), Some(Reason::AnyServiceAccount));
        assert_eq!(reason(refused(Kind::Denied)), Some(Reason::Restricted));
        assert_eq!(
            reason(refused(Kind::Unauthenticated)),
            Some(Reason::Restricted)
        );
        assert_eq!(reason(refused(Kind::Transient)), None);
        let denied = Err(Error::Denied {
            subject: "b".to_owned(),
            code: "AccessDenied".to_owned(),
        });
        assert_eq!(reason(denied), Some(Reason::Restricted));
    }

    #[tokio::test]
    async fn without_a_token_of_its_own_the_controller_tries_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let object: crd::Source = serde_json::from_value(json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "Source",
            "metadata": {"name": "models"},
            "spec": {
                "url": "s3://b",
                "auth": {"mode": "WorkloadIdentity", "workloadIdentity": {"aws": {"roleArn": "arn:aws:iam::1:role/r"}}},
                "consumers": [{"namespaces": {"names": ["team-a"]}}],
            },
        }))
        .unwrap();
        // Whoever tries it is let in.
        std::fs::write(directory.path().join("a"), "1").unwrap();
        let place = SourceConfig {
            name: "models".to_owned(),
            url: format!("file://{}", directory.path().display()),
            ..SourceConfig::default()
        };
        let sources = Sources::build(&[place], &OpenGate::shared()).unwrap();
        let reason = async || {
            let trust = trust(directory.path().to_owned());
            let found = trust.look(&sources, &object, &Facts::default()).await;
            found.map(|verdict| verdict.reason)
        };
        assert_eq!(reason().await, None);
        std::fs::write(directory.path().join("sts.amazonaws.com"), "token").unwrap();
        assert_eq!(reason().await, Some(Reason::AnyServiceAccount));
    }
}

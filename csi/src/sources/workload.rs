//! Sources of mode `WorkloadIdentity`: one for each service account, read with temporary keys that the cloud gives for its
//! tokens. Built when it is first asked for and remembered while it is among the newest, so that pods of one service account
//! share keys, connections and listings.
//!
//! Whose source it is says the principal alone, whom the API server has vouched for, and nothing that a request says of itself.
//! Each publish brings a token: the newest one is what keys are renewed with, also under a fetch that runs.
//!
//! Two service accounts may see different objects in one place, so they share no listing, no grant and no running fetch: a
//! source's uid is followed by a digest of the service account and of whom it is in the cloud. Tokens for different audiences are
//! kept apart in the same way: one that the cloud no longer takes is not shown in place of one that it takes.

use std::sync::{Arc, Mutex, PoisonError};

use tonnage_cache::gate::Gate;
use tonnage_cache::source::Source;
use tonnage_cache::source::config::{SourceConfig, build};
use tonnage_cache::source::exchange::{Exchange, Service, Subject, SubjectToken};

use super::Error;
use super::bound::Bound;
use super::recent::{Recent, digest, short};
use crate::identity::Principal;
use crate::identity::tokens::PodToken;

/// What the digest of a service account is for.
const CONTEXT: &str = "tonnage.dev 2026-01 service account in the cloud";
/// Longest name of a session of AWS.
const SESSION_MAX: usize = 64;

/// Builds a source for each service account.
#[derive(Debug)]
pub(super) struct Workload {
    /// Without the service account's token, and perhaps without the name of its sessions.
    config: SourceConfig,
    exchange: Exchange,
    gate: Arc<dyn Gate>,
    built: Mutex<Recent<Account>>,
}

/// What there is for a service account.
#[derive(Debug, Clone)]
struct Account {
    source: Arc<dyn Source>,
    subject: Arc<Subject>,
}

impl Workload {
    /// Sources of this configuration, whose exchange has no token yet.
    pub(super) fn new(config: SourceConfig, exchange: Exchange, gate: Arc<dyn Gate>) -> Self {
        Self {
            config,
            exchange,
            gate,
            built: Mutex::default(),
        }
    }

    /// The source as the principal's service account reads it, which from now on has this token, if it is the newest.
    pub(super) fn of(
        &self,
        name: &str,
        principal: &Principal,
        token: PodToken,
    ) -> Result<Arc<dyn Source>, Error> {
        // Whom it is to be there, and for which audience its token is.
        let who = format!("{:?}", self.exchange.service);
        let asker = digest(CONTEXT, &[&principal.name, &who]);
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let account = if let Some(account) = built.find(&asker) {
            account
        } else {
            let account = self.build(name, principal, &short(asker))?;
            built.keep(asker, account.clone());
            account
        };
        let PodToken { text, expires } = token;
        account.subject.offer(SubjectToken::new(text, expires));
        Ok(account.source)
    }

    fn build(&self, name: &str, principal: &Principal, reader: &str) -> Result<Account, Error> {
        let subject = Arc::new(Subject::new());
        let mut config = self.config.clone();
        config.exchange = Some(Exchange {
            service: named(self.exchange.service.clone(), principal),
            subject: Some(Arc::clone(&subject)),
            ..self.exchange.clone()
        });
        let source = build(&config, Arc::clone(&self.gate)).map_err(|source| Error::Config {
            name: name.to_owned(),
            source,
        })?;
        let source = Bound::read_by(Bound::limited(source, config.limits), reader);
        Ok(Account { source, subject })
    }
}

/// With a name for sessions, where the administrator gives none.
fn named(mut service: Service, principal: &Principal) -> Service {
    if let Service::Aws(role) = &mut service
        && role.session_name.is_empty()
    {
        role.session_name = session_name(principal);
    }
    service
}

/// `namespace.account`, as far as it goes into a session's name; all characters of both may be in one.
fn session_name(principal: &Principal) -> String {
    let account = principal.name.rsplit(':').next().unwrap_or_default();
    let name = format!("{}.{account}", principal.namespace);
    name.chars().take(SESSION_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonnage_cache::clock::SystemClock;
    use tonnage_cache::gate::OpenGate;
    use tonnage_cache::source::config::Auth;
    use tonnage_cache::source::exchange::Aws;

    use super::*;

    fn workload(role: &str) -> Workload {
        workload_for(role, "sts.amazonaws.com")
    }

    fn workload_for(role: &str, audience: &str) -> Workload {
        let exchange = Exchange {
            service: Service::Aws(Aws {
                token_audience: audience.to_owned(),
                role_arn: role.to_owned(),
                session_name: String::new(),
                endpoint: None,
                duration: Duration::from_mins(15),
            }),
            subject: None,
            clock: Arc::new(SystemClock::new()),
        };
        let config = SourceConfig {
            name: "models".to_owned(),
            url: "s3://bucket".to_owned(),
            auth: Auth::Exchange,
            ..SourceConfig::default()
        };
        Workload::new(config, exchange, OpenGate::shared())
    }

    fn principal(namespace: &str, account: &str) -> Principal {
        Principal {
            name: format!("system:serviceaccount:{namespace}:{account}"),
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            labels: Arc::default(),
        }
    }

    fn token(text: &str) -> PodToken {
        PodToken {
            text: text.to_owned(),
            expires: None,
        }
    }

    #[test]
    fn pods_of_one_service_account_share_a_source_and_others_do_not() {
        let workload = workload("arn:aws:iam::1:role/a");
        let of = |namespace: &str, account: &str, text: &str| {
            let who = principal(namespace, account);
            workload.of("models", &who, token(text)).unwrap()
        };
        let first = of("team-a", "trainer", "canary-1");
        let again = of("team-a", "trainer", "canary-2");
        assert!(Arc::ptr_eq(&first, &again));
        let uids = [
            first.uid().to_owned(),
            of("team-a", "default", "canary-1").uid().to_owned(),
            of("team-b", "trainer", "canary-1").uid().to_owned(),
        ];
        assert!(uids[0].starts_with("s3:https://bucket.s3.us-east-1.amazonaws.com#"));
        assert!(uids[0] != uids[1] && uids[0] != uids[2] && uids[1] != uids[2]);
        assert!(!format!("{workload:?}").contains("canary"));
    }

    #[test]
    fn another_role_sees_with_other_eyes() {
        let who = principal("team-a", "trainer");
        let uid = |role: &str| {
            let source = workload(role).of("models", &who, token("t")).unwrap();
            source.uid().to_owned()
        };
        assert_eq!(uid("arn:aws:iam::1:role/a"), uid("arn:aws:iam::1:role/a"));
        assert_ne!(uid("arn:aws:iam::1:role/a"), uid("arn:aws:iam::1:role/b"));
    }

    #[test]
    fn a_token_for_another_audience_is_no_newer_one() {
        let who = principal("team-a", "trainer");
        let uid = |audience: &str| {
            let workload = workload_for("arn:aws:iam::1:role/a", audience);
            let source = workload.of("models", &who, token("t")).unwrap();
            source.uid().to_owned()
        };
        assert_eq!(uid("sts.amazonaws.com"), uid("sts.amazonaws.com"));
        assert_ne!(uid("sts.amazonaws.com"), uid("mine"));
    }

    #[test]
    fn a_session_is_named_after_the_service_account() {
        assert_eq!(
            session_name(&principal("team-a", "trainer")),
            "team-a.trainer"
        );
        let long = session_name(&principal(&"n".repeat(63), &"a".repeat(253)));
        assert_eq!(long, format!("{}.", "n".repeat(63)));
    }
}

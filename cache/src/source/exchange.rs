//! Temporary keys in exchange for an identity: the token of a workload's service account, shown to the cloud's own token
//! service (`aws`, `gcp`, `azure`), or the word of the instance that this runs on (`instance`). This file owns how an exchange is
//! described; `subject` holds whose token it takes, `lease` says when keys are fetched and how long they are used.
//!
//! All of it goes over our own transport: the gate is asked, no redirect is followed, answers are bounded. A token goes only
//! to the service that the description names, and neither tokens nor bodies reach an error: of an answer only its status and
//! what looks like a code are shown.
//!
//! Nothing is looked for in the environment, and no metadata service is asked but by [`Service::Instance`], which reaches that
//! one address and nothing else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Error;
use super::config::SourceConfig;
use super::connector::Transport;
use super::credentials::Keys;
use super::place::{Scheme, scheme};
use crate::clock::Clock;
use crate::error::Kind;
use crate::gate::Gate;

mod aws;
mod azure;
mod call;
mod gcp;
mod instance;
mod lease;
mod subject;

pub(super) use lease::Leased;
pub use subject::{Subject, SubjectToken};

/// Longest life of keys that is believed where nothing shorter was asked for.
const LIFE_MAX: Duration = Duration::from_hours(24);

/// How keys are had, and for whom.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Which service is asked, and for what.
    pub service: Service,
    /// Whose token it is shown; `None` for [`Service::Instance`], which takes none.
    pub subject: Option<Arc<Subject>>,
    /// Time, by which keys are renewed.
    pub clock: Arc<dyn Clock>,
}

/// Exchanges are equal if they ask the same for the same workload.
impl PartialEq for Exchange {
    fn eq(&self, other: &Self) -> bool {
        let is_same_subject = match (&self.subject, &other.subject) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        is_same_subject && self.service == other.service
    }
}

impl Eq for Exchange {}

/// Who gives keys, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// AWS STS, `AssumeRoleWithWebIdentity`; for `s3://`.
    Aws(Aws),
    /// Google's Security Token Service, workload identity federation; for `gs://`.
    Gcp(Gcp),
    /// Microsoft Entra ID, a token as client assertion; for `az://`.
    Azure(Azure),
    /// The metadata service of the instance that this runs on: EC2 for `s3://`, Compute Engine for `gs://`, Azure for `az://`.
    Instance(Instance),
}

/// A role of AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aws {
    /// Audience of the tokens that it takes. It is not sent: a token for another audience is another one.
    pub token_audience: String,
    /// ARN of the role.
    pub role_arn: String,
    /// Name of the session, for the audit log: 2 to 64 of letters, digits and `_+=,.@-`.
    pub session_name: String,
    /// Base URL of STS; default: that of the source's region.
    pub endpoint: Option<String>,
    /// How long keys shall be valid.
    pub duration: Duration,
}

/// A workload identity pool of Google Cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gcp {
    /// Audience of the tokens that it takes. It is not sent: a token for another audience is another one.
    pub token_audience: String,
    /// Full name of the pool's provider: `//iam.googleapis.com/projects/…/providers/…`.
    pub audience: String,
    /// Mail address of a service account that is impersonated; default: none, the pool's principal reads itself.
    pub service_account: Option<String>,
    /// Base URL of the token service; default `https://sts.googleapis.com`.
    pub token_endpoint: Option<String>,
    /// Base URL of the service that impersonates; default `https://iamcredentials.googleapis.com`.
    pub impersonation_endpoint: Option<String>,
}

/// An application, or user-assigned identity, of Microsoft Entra ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Azure {
    /// Audience of the tokens that it takes. It is not sent: a token for another audience is another one.
    pub token_audience: String,
    /// The directory.
    pub tenant_id: String,
    /// The application's or identity's client id.
    pub client_id: String,
    /// Base URL of the authority; default `https://login.microsoftonline.com`.
    pub authority: Option<String>,
}

/// The instance that this runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    /// Base URL of the metadata service; default: its fixed address. Another one is subject to the source's address rules.
    pub endpoint: Option<String>,
}

/// Why there are no keys. Everyone who waited is told the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    /// Who was asked.
    service: String,
    what: String,
    kind: Kind,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Failure {
            service,
            what,
            kind,
        } = failure;
        Self::Identity {
            service,
            what,
            kind,
        }
    }
}

/// Keys, as a service gives them.
struct Granted {
    keys: Keys,
    /// How long they are valid from the moment in which they were asked for.
    life: Duration,
}

/// An exchange that can be made.
#[derive(Debug)]
struct Exchanger {
    client: Client,
    subject: Option<Arc<Subject>>,
    transport: Transport,
}

#[derive(Debug)]
enum Client {
    Aws(aws::Client),
    Gcp(gcp::Client),
    Azure(azure::Client),
    Instance(instance::Client),
}

/// Hosts that a source's exchange asks, without ports.
pub(super) fn hosts(config: &SourceConfig, service: &Service) -> Result<Vec<String>, Error> {
    Ok(match Client::new(config, service)? {
        Client::Aws(client) => client.hosts(),
        Client::Gcp(client) => client.hosts(),
        Client::Azure(client) => client.hosts(),
        Client::Instance(client) => client.hosts(),
    })
}

impl Client {
    /// Checks that the service fits the source's URL, and its own URLs.
    fn new(config: &SourceConfig, service: &Service) -> Result<Self, Error> {
        let store = scheme(&config.url)?;
        Ok(match (service, store) {
            (Service::Aws(role), Scheme::S3) => Self::Aws(aws::Client::new(role, config)?),
            (Service::Gcp(pool), Scheme::Gcs) => Self::Gcp(gcp::Client::new(pool, config)?),
            (Service::Azure(identity), Scheme::Azure) => {
                Self::Azure(azure::Client::new(identity, config)?)
            }
            (Service::Instance(instance), _) => {
                Self::Instance(instance::Client::new(instance, store, config)?)
            }
            (Service::Aws(_) | Service::Gcp(_) | Service::Azure(_), _) => {
                return Err(Error::Reference(format!(
                    "source {} cannot be read with an identity of another cloud than its own",
                    config.label()
                )));
            }
        })
    }
}

impl Exchanger {
    fn new(config: &SourceConfig, exchange: &Exchange, gate: Arc<dyn Gate>) -> Result<Self, Error> {
        let client = Client::new(config, &exchange.service)?;
        let transport = match &client {
            Client::Instance(client) => client.transport(config, gate),
            Client::Aws(_) | Client::Gcp(_) | Client::Azure(_) => Transport::new(config, gate)?,
        };
        Ok(Self {
            client,
            subject: exchange.subject.clone(),
            transport,
        })
    }

    /// Which token an exchange would take.
    fn version(&self) -> u64 {
        self.subject.as_ref().map_or(0, |subject| subject.version())
    }

    async fn exchange(&self, now: SystemTime) -> Result<Granted, Failure> {
        let transport = &self.transport;
        let asking = async {
            match &self.client {
                Client::Aws(client) => client.ask(transport, &self.token(now)?, now).await,
                Client::Gcp(client) => client.ask(transport, &self.token(now)?, now).await,
                Client::Azure(client) => client.ask(transport, &self.token(now)?).await,
                Client::Instance(client) => client.ask(transport, now).await,
            }
        };
        match tokio::time::timeout(call::PATIENCE, asking).await {
            Ok(granted) => granted.and_then(|granted| self.checked(granted)),
            Err(_) => Err(self.failure(
                Kind::Transient,
                format!("no answer within {} s", call::PATIENCE.as_secs()),
            )),
        }
    }

    fn token(&self, now: SystemTime) -> Result<String, Failure> {
        let none = || self.failure(Kind::Unauthenticated, "no pod's token is to be had for it");
        let subject = self.subject.as_ref().ok_or_else(none)?;
        let token = subject.current(now);
        token.map_err(|why| self.failure(Kind::Unauthenticated, why))
    }

    fn checked(&self, granted: Granted) -> Result<Granted, Failure> {
        let Granted { keys, life } = granted;
        match keys.check("") {
            Ok(keys) => Ok(Granted { keys, life }),
            Err(_) => Err(self.failure(
                Kind::Transient,
                "its answer holds a character that keys cannot have",
            )),
        }
    }

    fn failure(&self, kind: Kind, what: impl Into<String>) -> Failure {
        Failure {
            service: self.service().to_owned(),
            what: what.into(),
            kind,
        }
    }

    fn service(&self) -> &str {
        match &self.client {
            Client::Aws(client) => client.host(),
            Client::Gcp(client) => client.host(),
            Client::Azure(client) => client.host(),
            Client::Instance(client) => client.host(),
        }
    }
}

/// What of keys' life is left, as far as clocks agree: their end is the service's time, and `asked` is never exceeded.
fn life_until(end: SystemTime, now: SystemTime, asked: Duration) -> Option<Duration> {
    let left = end.duration_since(now).ok()?;
    (!left.is_zero()).then(|| left.min(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_life_ends_with_the_keys_and_is_never_longer_than_was_asked_for() {
        let asked = Duration::from_mins(15);
        assert_eq!(life_until(at(900), at(0), asked), Some(asked));
        assert_eq!(life_until(at(9000), at(0), asked), Some(asked));
        let rest = Some(Duration::from_mins(5));
        assert_eq!(life_until(at(900), at(600), asked), rest);
        assert_eq!(life_until(at(900), at(900), asked), None);
        assert_eq!(life_until(at(900), at(901), asked), None);
    }

    #[test]
    fn exchanges_are_equal_for_the_same_workload_alone() {
        let exchange = |subject: &Arc<Subject>| Exchange {
            service: Service::Instance(Instance::default()),
            subject: Some(Arc::clone(subject)),
            clock: Arc::new(crate::clock::SystemClock::new()),
        };
        let (one, other) = (Arc::new(Subject::new()), Arc::new(Subject::new()));
        assert_eq!(exchange(&one), exchange(&one));
        assert_ne!(exchange(&one), exchange(&other));
    }
}

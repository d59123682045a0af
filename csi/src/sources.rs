//! The sources that references may name, and no others: those of the configuration, or the `Source` objects of the API
//! server, which [`watch`] keeps up to date while the service runs. Clones share what is known.
//!
//! A source that exists but cannot be used (a bad object, a missing Secret) stays known with one sentence about why, so
//! that a pod waits for it to be mended instead of being told that there is none. Sources of mode `PodSecret` are built
//! from each pod's own keys (`keyed`), those of mode `WorkloadIdentity` for each service account (`workload`).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch::Sender;
use tonnage_cache::gate::Gate;
use tonnage_cache::path::Escaped;
use tonnage_cache::source::Source;
use tonnage_cache::source::config::{SourceConfig, build};
use tonnage_cache::source::location::Location;

use crate::crd;
use crate::identity::tokens::{Missing, PodToken};
use crate::identity::{Principal, Secrets, TOKENS};

mod bound;
mod error;
mod exchange;
mod keyed;
mod locations;
mod recent;
mod spec;
pub mod watch;
mod workload;

pub use error::Error;
pub use exchange::audience;
use keyed::Keyed;
pub use locations::Locations;
use workload::Workload;

/// Named sources. Clones share them.
#[derive(Debug, Clone)]
pub struct Sources {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    entries: RwLock<BTreeMap<String, Entry>>,
    /// Whether all sources are known; false until the API server has listed them.
    read: Sender<bool>,
    /// Whether names come from the API server.
    watched: bool,
    locations: Locations,
}

/// What is known of a source.
#[derive(Debug, Clone)]
struct Entry {
    /// `None` if it is of the configuration, or not a `Source` at all.
    object: Option<Arc<crd::Source>>,
    place: Place,
}

/// How a source is come by.
#[derive(Debug, Clone)]
enum Place {
    /// With the keys that it has.
    Built(Arc<dyn Source>),
    /// With the keys of a pod.
    Keyed(Arc<Keyed>),
    /// With the identity of a pod's service account.
    Workload(Arc<Workload>),
    /// Not now, and why.
    Unusable(String),
}

impl Default for Sources {
    /// No sources, and none to be waited for.
    fn default() -> Self {
        Self::new(false)
    }
}

impl Sources {
    fn new(watched: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                entries: RwLock::default(),
                read: Sender::new(!watched),
                watched,
                locations: Locations::default(),
            }),
        }
    }

    /// Sources that [`watch::run`] is going to read. Until it has, every name is answered [`Error::Unread`].
    pub fn awaited() -> Self {
        Self::new(true)
    }

    /// Builds every configured source.
    pub fn build(configs: &[SourceConfig], gate: &Arc<dyn Gate>) -> Result<Self, Error> {
        let mut sources = Self::default();
        for config in configs {
            let wrong = |source| Error::Config {
                name: config.name.clone(),
                source,
            };
            let source = build(config, Arc::clone(gate)).map_err(wrong)?;
            let location = Location::of(config).map_err(wrong)?;
            sources.add(&config.name, source)?;
            sources.locations().put(&config.name, location);
        }
        Ok(sources)
    }

    /// Adds a source under a name.
    pub fn add(&mut self, name: &str, source: Arc<dyn Source>) -> Result<(), Error> {
        let entry = Entry {
            object: None,
            place: Place::Built(source),
        };
        match self.write().insert(name.to_owned(), entry) {
            None => Ok(()),
            Some(_) => Err(Error::Twice(name.to_owned())),
        }
    }

    /// Adds or replaces a source together with the object that describes it, whose name it has.
    pub fn put(&self, object: Arc<crd::Source>, source: Arc<dyn Source>) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let entry = Entry {
            object: Some(object),
            place: Place::Built(source),
        };
        self.write().insert(name, entry);
    }

    /// The source of a name, with keys of its own.
    pub fn get(&self, name: &str) -> Result<Arc<dyn Source>, Error> {
        match self.find(name)?.place {
            Place::Built(source) => Ok(source),
            Place::Keyed(keyed) => keyed.with(name, &Secrets::default()),
            Place::Workload(_) => Err(Error::Nobody(name.to_owned())),
            Place::Unusable(why) => Err(unusable(name, why)),
        }
    }

    /// Whether there is a source of a name, and the request brings what it takes; nobody needs to be known for that.
    pub fn check(&self, name: &str, secrets: &Secrets) -> Result<(), Error> {
        let Entry { object, place } = self.find(name)?;
        match place {
            Place::Built(_) => Ok(()),
            Place::Keyed(keyed) => keyed.with(name, secrets).map(drop),
            Place::Workload(_) => token(name, object.as_deref(), secrets).map(drop),
            Place::Unusable(why) => Err(unusable(name, why)),
        }
    }

    /// The source of a name as a request's principal reads it: with the keys of the request where it takes the pod's keys, and
    /// as the principal's service account, with the newest token, where it takes the pod's identity.
    pub fn get_for(
        &self,
        name: &str,
        principal: &Principal,
        secrets: &Secrets,
    ) -> Result<Arc<dyn Source>, Error> {
        let Entry { object, place } = self.find(name)?;
        match place {
            Place::Built(source) => Ok(source),
            Place::Keyed(keyed) => keyed.with(name, secrets),
            Place::Workload(workload) => {
                let token = token(name, object.as_deref(), secrets)?;
                workload.of(name, principal, token)
            }
            Place::Unusable(why) => Err(unusable(name, why)),
        }
    }

    /// The object that describes a source and says who may use it, whether or not it can be used now.
    pub fn spec(&self, name: &str) -> Result<Arc<crd::Source>, Error> {
        let Entry { object, place } = self.find(name)?;
        match (object, place) {
            (Some(object), _) => Ok(object),
            (None, Place::Unusable(why)) => Err(unusable(name, why)),
            (None, Place::Built(_) | Place::Keyed(_) | Place::Workload(_)) => {
                Err(Error::NoObject(name.to_owned()))
            }
        }
    }

    /// Whether an object is still the one that describes its source.
    pub fn is_current(&self, object: &crd::Source) -> bool {
        let (known, name) = (&object.metadata, object.metadata.name.as_deref());
        let current = self.spec(name.unwrap_or_default());
        current.is_ok_and(|current| {
            let current = &current.metadata;
            (&current.uid, current.generation) == (&known.uid, known.generation)
        })
    }

    /// Where sources are.
    pub fn locations(&self) -> &Locations {
        &self.shared.locations
    }

    /// All names in order, those of unusable sources included.
    pub fn names(&self) -> Vec<String> {
        self.read().keys().cloned().collect()
    }

    /// Whether all sources are known.
    pub fn is_read(&self) -> bool {
        *self.shared.read.borrow()
    }

    /// Waits until all sources are known.
    pub async fn until_read(&self) {
        let mut read = self.shared.read.subscribe();
        // Fails only without a sender, and `self` has it.
        drop(read.wait_for(|is_read| *is_read).await);
    }

    fn find(&self, name: &str) -> Result<Entry, Error> {
        let entries = self.read();
        if let Some(entry) = entries.get(name) {
            return Ok(entry.clone());
        }
        if !self.is_read() {
            return Err(Error::Unread);
        }
        let names: Vec<&str> = entries.keys().map(String::as_str).collect();
        let hint = if self.shared.watched {
            // Other tenants' names are not this one's to read.
            "`kubectl get sources` lists those of the cluster".to_owned()
        } else if names.is_empty() {
            "this node knows none".to_owned()
        } else {
            format!("this node knows {}", names.join(", "))
        };
        Err(Error::Unknown {
            name: name.to_owned(),
            hint,
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Entry>> {
        self.shared
            .entries
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Entry>> {
        self.shared
            .entries
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that all sources are known.
    fn mark_read(&self) {
        self.shared.read.send_replace(true);
    }
}

fn unusable(name: &str, why: String) -> Error {
    Error::Unusable {
        name: name.to_owned(),
        why,
    }
}

/// The token for the cloud among those of a request, or what to change so that there is one.
fn token(name: &str, object: Option<&crd::Source>, secrets: &Secrets) -> Result<PodToken, Error> {
    let identity = object.and_then(|object| object.spec.auth.workload_identity.as_ref());
    let audience = identity.map(audience).unwrap_or_default();
    PodToken::of_request(secrets, &audience).map_err(|missing| Error::Token {
        name: name.to_owned(),
        why: match &missing {
            Missing::All => format!(
                "kubelet sends no token of it; add {} to the chart's csiDriver.tokenAudiences",
                Escaped(&audience)
            ),
            Missing::Malformed => format!(
                "{TOKENS} in the request is not what kubelet writes there; nothing else may set it"
            ),
            Missing::Audience(_) => format!(
                "kubelet sends its tokens for {} but not for audience {audience}; add {audience} to the chart's csiDriver.tokenAudiences",
                missing.others(),
                audience = Escaped(&audience)
            ),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_cache::error::Kind;
    use tonnage_cache::gate::OpenGate;

    fn config(name: &str) -> SourceConfig {
        SourceConfig {
            name: name.to_owned(),
            url: "s3://bucket".to_owned(),
            ..SourceConfig::default()
        }
    }

    #[test]
    fn configured_sources_are_known_at_once_and_listed_where_one_is_not() {
        let sources = Sources::build(&[config("a"), config("b")], &OpenGate::shared()).unwrap();
        assert_eq!(sources.get("a").unwrap().name(), "a");
        assert_eq!(sources.names(), ["a", "b"]);
        let error = sources.get("c").unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(
            error.to_string(),
            "no source is called \"c\" (this node knows a, b)"
        );
        assert_eq!(sources.spec("a").unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let error = Sources::build(&[config("a"), config("a")], &OpenGate::shared()).unwrap_err();
        assert_eq!(error.to_string(), "two sources are called \"a\"");
    }

    #[tokio::test]
    async fn awaited_sources_are_unread_rather_than_absent_until_they_are_read() {
        let sources = Sources::awaited();
        let error = sources.get("a").unwrap_err();
        assert_eq!(error.kind(), Kind::Transient);
        assert!(!sources.is_read());
        let clone = sources.clone();
        clone.mark_read();
        sources.until_read().await;
        let error = sources.get("a").unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(
            error.to_string(),
            "no source is called \"a\" (`kubectl get sources` lists those of the cluster)"
        );
    }
}

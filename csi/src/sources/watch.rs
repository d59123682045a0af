//! Keeps [`Sources`] in step with the `Source` objects of the API server and with the Secrets that those of mode
//! `SharedSecret` name. Secrets are read by name, in the service's own namespace, and never listed.
//!
//! While the API server is away, what is known stays usable. A source keeps its connections as long as nothing that it is
//! built from changes. An object that cannot be understood makes that one source unusable and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::Secret;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::Clock;
use tonnage_cache::error::chain;
use tonnage_cache::gate::Gate;
use tonnage_cache::gate::address::Cidr;
use tonnage_cache::path::Escaped;
use tonnage_cache::source::config::{Auth, SourceConfig, build};
use tonnage_cache::source::exchange::Exchange;
use tonnage_cache::source::location::Location;

use super::bound::Bound;
use super::keyed::Keyed;
use super::workload::Workload;
use super::{Entry, Place, Sources, exchange, spec};
use crate::crd::{self, AuthMode, SourceSpec};
use crate::identity::Secrets;
use crate::watching;

mod secret;

use secret::{Known, Shared, ask};

/// How often a Secret is read again.
const REFRESH: Duration = Duration::from_mins(1);
/// How soon a Secret that could not be read is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What the watch is made of.
pub struct Parts {
    /// Of the API server.
    pub client: kube::Client,
    /// The service's own, with the Secrets that sources name.
    pub namespace: String,
    /// Made by [`Sources::awaited`].
    pub sources: Sources,
    /// Asked for every connection of the sources.
    pub gate: Arc<dyn Gate>,
    /// Closed to sources whose `allowedCIDRs` does not name them.
    pub cluster_cidrs: Vec<Cidr>,
    /// By which temporary keys are renewed.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("namespace", &self.namespace)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

/// Keeps the sources up to date until `stop`.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let Parts {
        client,
        namespace,
        sources,
        gate,
        cluster_cidrs,
        clock,
    } = parts;
    let api = Api::<Secret>::namespaced(client.clone(), &namespace);
    let objects = Api::<DeserializeGuard<crd::Source>>::all(client);
    let mut events = watcher(objects, watcher::Config::default())
        .backoff(watching::backoff())
        .boxed();
    let mut answers = FuturesUnordered::new();
    let mut keeper = Keeper {
        sources,
        gate,
        cluster_cidrs,
        clock,
        namespace,
        built: BTreeMap::new(),
        listed: BTreeSet::new(),
        secrets: BTreeMap::new(),
    };
    loop {
        for name in keeper.take_due(Instant::now()) {
            answers.push(ask(api.clone(), name));
        }
        let wake = keeper.next_due();
        tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => match event {
                Some(Ok(event)) => keeper.take(event),
                Some(Err(error)) => {
                    tracing::debug!(error = chain(&error), "sources cannot be watched; it is tried again");
                }
                None => return,
            },
            Some((name, answer)) = answers.next() => keeper.learn(&name, answer, Instant::now()),
            () = until(wake) => {}
        }
    }
}

/// Waits until a point in time, or for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Decides what becomes of objects and Secrets.
#[derive(Debug)]
struct Keeper {
    sources: Sources,
    gate: Arc<dyn Gate>,
    cluster_cidrs: Vec<Cidr>,
    clock: Arc<dyn Clock>,
    namespace: String,
    /// What usable sources are built from.
    built: BTreeMap<String, SourceConfig>,
    /// What the list that is being read has named so far.
    listed: BTreeSet<String>,
    secrets: BTreeMap<String, Shared>,
}

impl Keeper {
    fn take(&mut self, event: Event<DeserializeGuard<crd::Source>>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.insert(object.name_any());
                self.apply(object);
            }
            Event::InitDone => {
                let gone = self.sources.names().into_iter();
                let gone: Vec<String> = gone.filter(|name| !self.listed.contains(name)).collect();
                for name in &gone {
                    self.remove(name);
                }
                self.forget_secrets();
                self.sources.mark_read();
            }
            Event::Apply(object) => {
                self.apply(object);
                self.forget_secrets();
            }
            Event::Delete(object) => {
                self.remove(&object.name_any());
                self.forget_secrets();
            }
        }
    }

    fn apply(&mut self, object: DeserializeGuard<crd::Source>) {
        let name = object.name_any();
        match object.0 {
            Ok(object) => self.settle(&name, Arc::new(object)),
            Err(invalid) => {
                self.built.remove(&name);
                let why = format!(
                    "its object cannot be understood: {}",
                    Escaped(&invalid.error)
                );
                let entry = Entry {
                    object: None,
                    place: Place::Unusable(why),
                };
                self.set(&name, entry);
            }
        }
    }

    fn remove(&mut self, name: &str) {
        self.built.remove(name);
        self.sources.write().remove(name);
        self.sources.locations().remove(name);
        tracing::info!(source = name, "a source is gone");
    }

    /// Makes of an object what it can be now.
    fn settle(&mut self, name: &str, object: Arc<crd::Source>) {
        let place = self
            .configured(name, &object.spec)
            .and_then(|config| self.place(name, &object.spec, config))
            .unwrap_or_else(|why| {
                self.built.remove(name);
                Place::Unusable(why)
            });
        let object = Some(object);
        self.set(name, Entry { object, place });
    }

    /// The configuration with what is the cluster's to say and the keys that it takes from a Secret, which is asked for if it is
    /// not known.
    fn configured(&mut self, name: &str, spec: &SourceSpec) -> Result<SourceConfig, String> {
        let mut config = spec::config(name, spec)?;
        config.cluster_cidrs.clone_from(&self.cluster_cidrs);
        config.exchange = exchange::service(&spec.auth)?.map(|service| Exchange {
            service,
            subject: None,
            clock: Arc::clone(&self.clock),
        });
        if spec.auth.mode != AuthMode::SharedSecret {
            return Ok(config);
        }
        let namespace = &self.namespace;
        let secret = spec.auth.secret_name.as_deref().ok_or_else(|| {
            format!("auth.secretName is missing: name a Secret in namespace {namespace}")
        })?;
        let which = format!("Secret {} in namespace {namespace}", Escaped(secret));
        let shared = self
            .secrets
            .entry(secret.to_owned())
            .or_insert_with(|| Shared {
                known: Known::Unread(None),
                due: Some(Instant::now()),
            });
        match &shared.known {
            Known::Unread(None) => Err(format!("{which} is being read")),
            Known::Unread(Some(why)) => Err(format!("{which} cannot be read: {why}")),
            Known::Absent => Err(format!(
                "{which} does not exist: create it with {}",
                spec::wanted_keys(&config.url)
            )),
            Known::Holds(secrets) => {
                let keys = spec::keys(&config.url, secrets);
                config.inline = Some(keys.map_err(|why| format!("{which}: {why}"))?);
                Ok(config)
            }
        }
    }

    /// What a configuration builds, or what it has built before.
    fn place(
        &mut self,
        name: &str,
        spec: &SourceSpec,
        config: SourceConfig,
    ) -> Result<Place, String> {
        if self.built.get(name) == Some(&config)
            && let Some(entry) = self.sources.read().get(name)
        {
            return Ok(entry.place.clone());
        }
        let location = Location::of(&config).map_err(|error| chain(&error))?;
        self.sources.locations().put(name, location);
        let made = |config: &SourceConfig| {
            build(config, Arc::clone(&self.gate)).map_err(|error| chain(&error))
        };
        let place = match spec.auth.mode {
            AuthMode::Anonymous | AuthMode::SharedSecret | AuthMode::Node => {
                Place::Built(Bound::limited(made(&config)?, config.limits))
            }
            AuthMode::WorkloadIdentity => {
                // What is wrong apart from a pod's token is said now, and not to the first pod.
                made(&config)?;
                let exchange = config.exchange.clone().ok_or("it has no exchange")?;
                let gate = Arc::clone(&self.gate);
                Place::Workload(Arc::new(Workload::new(config.clone(), exchange, gate)))
            }
            AuthMode::PodSecret => {
                // What is wrong apart from the keys is said now, and not to the first pod.
                let mut unsigned = config.clone();
                unsigned.auth = Auth::Anonymous;
                made(&unsigned)?;
                Place::Keyed(Arc::new(Keyed::new(config.clone(), Arc::clone(&self.gate))))
            }
        };
        self.built.insert(name.to_owned(), config);
        Ok(place)
    }

    fn set(&self, name: &str, entry: Entry) {
        let why = |entry: &Entry| match &entry.place {
            Place::Unusable(why) => Some(why.clone()),
            Place::Built(_) | Place::Keyed(_) | Place::Workload(_) => None,
        };
        let now = why(&entry);
        let before = self.sources.write().insert(name.to_owned(), entry);
        match (before.as_ref().map(why), now) {
            (Some(before), now) if before == now => {}
            (_, Some(why)) => tracing::info!(source = name, why, "a source cannot be used"),
            (_, None) => tracing::info!(source = name, "a source can be used"),
        }
    }

    /// Takes in what came of reading a Secret.
    fn learn(&mut self, name: &str, answer: Result<Option<Secrets>, String>, now: Instant) {
        let Some(shared) = self.secrets.get_mut(name) else {
            // No source names it any more.
            return;
        };
        let known = match answer {
            Ok(Some(secrets)) => {
                shared.due = Some(now + REFRESH);
                Known::Holds(secrets)
            }
            Ok(None) => {
                shared.due = Some(now + RETRY);
                Known::Absent
            }
            Err(why) => {
                shared.due = Some(now + RETRY);
                match &shared.known {
                    // What was read before holds until the API server says otherwise.
                    Known::Holds(_) | Known::Absent => return,
                    Known::Unread(_) => Known::Unread(Some(why)),
                }
            }
        };
        if shared.known == known {
            return;
        }
        shared.known = known;
        for object in self.that_name(name) {
            self.settle(&object.name_any(), object);
        }
    }

    /// Objects whose keys are in a Secret.
    fn that_name(&self, secret: &str) -> Vec<Arc<crd::Source>> {
        let entries = self.sources.read();
        let objects = entries.values().filter_map(|entry| entry.object.as_ref());
        objects
            .filter(|object| secret_of(object) == Some(secret))
            .map(Arc::clone)
            .collect()
    }

    /// Forgets Secrets that no source names.
    fn forget_secrets(&mut self) {
        let entries = self.sources.read();
        let objects = entries.values().filter_map(|entry| entry.object.as_ref());
        let wanted: BTreeSet<&str> = objects.filter_map(|object| secret_of(object)).collect();
        self.secrets
            .retain(|name, _| wanted.contains(name.as_str()));
    }

    /// The Secrets that are to be read now; each is due again when its answer has come.
    fn take_due(&mut self, now: Instant) -> Vec<String> {
        let mut names = Vec::new();
        for (name, shared) in &mut self.secrets {
            if shared.due.is_some_and(|due| due <= now) {
                shared.due = None;
                names.push(name.clone());
            }
        }
        names
    }

    fn next_due(&self) -> Option<Instant> {
        self.secrets.values().filter_map(|shared| shared.due).min()
    }
}

/// The Secret that a source takes its keys from.
fn secret_of(object: &crd::Source) -> Option<&str> {
    let auth = &object.spec.auth;
    match auth.mode {
        AuthMode::SharedSecret => auth.secret_name.as_deref(),
        AuthMode::Anonymous | AuthMode::PodSecret | AuthMode::WorkloadIdentity | AuthMode::Node => {
            None
        }
    }
}

#[cfg(test)]
mod tests;

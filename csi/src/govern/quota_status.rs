//! The controller's part in `CacheQuota`s: sums what nodes say of themselves (`NodeCache.status.namespaces`) into the status of each
//! quota, for people, and sets aside for nodes what they may have in the cluster (`egress::reservation`). Only the replica that leads
//! does it.
//!
//! A status is written when it says something new, at most every 10 s, and at most once a minute where no node decides by it: every
//! node watches quotas, so each write is read by all of them. Where pods wait for what is set aside, it is written at most every
//! second. A write carries the version of the object that was read, so that one of a replica that was replaced fails, and what is set
//! aside is counted on from what that version has.
//!
//! What a node says and nobody understands frees nothing: what it said before counts on, and the quotas say so.
//!
//! Which verbs it needs: `list` and `watch` of nodecaches and cachequotas, `patch` of cachequotas/status.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use kube::api::{ApiResource, DynamicObject};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource as _, ResourceExt as _};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::Clock;
use tonnage_cache::error::chain;
use tonnage_cache::path::Escaped;

use crate::crd::{CacheQuota, CacheQuotaStatus, NodeCache};
use crate::egress::quota::{Limits, Quota};
use crate::leader::{self, timestamp};
use crate::watching;

mod objects;
mod sum;
mod uses;

use objects::{Failure, Objects};
use sum::Subject;
use uses::Uses;

/// How often it is looked what is due.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest time between two writes of a quota that counts the cluster.
const SOON: Duration = Duration::from_secs(10);
/// The same of others.
const LATER: Duration = Duration::from_mins(1);
/// How long a quota counts the cluster before anything is set aside by it: nodes say within two seconds of its making what they have.
const FOUNDING: Duration = Duration::from_secs(8);
/// How long a node has to be missing before what was set aside for it is free: lists of nodes may be older than what is set aside.
const MISSING: Duration = Duration::from_mins(1);
/// Writes that are under way at a time.
const AT_ONCE: usize = 8;

/// What the loop is made of.
pub struct Parts {
    /// Of the API server.
    pub client: kube::Client,
    /// Whether this replica leads.
    pub leading: Receiver<bool>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// Keeps the status of quotas while this replica leads, until `stop`.
pub async fn run(parts: Parts, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work(parts) => {}
    }
}

async fn work(parts: Parts) {
    let Parts {
        client,
        mut leading,
        clock,
    } = parts;
    let keep = || async {
        let mut keeper = Keeper::new(client.clone(), Arc::clone(&clock));
        keeper.keep(client.clone()).await;
    };
    while leader::term(&mut leading, keep).await {}
}

/// Namespace and name.
type Key = (String, String);

/// A quota, and what is said of it.
#[derive(Debug)]
struct Known {
    version: Option<String>,
    generation: Option<i64>,
    limits: Result<Limits, String>,
    said: Option<CacheQuotaStatus>,
    /// When it may be written again.
    due: Instant,
    /// When it may be written again if a node waits for it.
    soonest: Instant,
    /// Since when it counts the cluster.
    counts_since: Option<Instant>,
}

/// Reads, sums and writes.
#[derive(Debug)]
struct Keeper {
    objects: Objects,
    clock: Arc<dyn Clock>,
    uses: Uses,
    /// Nodes that the list that is being read has named so far.
    listed_uses: Uses,
    quotas: BTreeMap<Key, Known>,
    listed: BTreeMap<Key, Known>,
    /// Whether nodes and quotas were read.
    is_read: (bool, bool),
    /// What was complained about last, so that an outage is told once.
    complained: Option<Failure>,
}

type CacheEvent = Event<DynamicObject>;
type QuotaEvent = Event<DeserializeGuard<CacheQuota>>;

impl Keeper {
    fn new(client: kube::Client, clock: Arc<dyn Clock>) -> Self {
        Self {
            objects: Objects::new(client),
            clock,
            uses: Uses::default(),
            listed_uses: Uses::default(),
            quotas: BTreeMap::new(),
            listed: BTreeMap::new(),
            is_read: (false, false),
            complained: None,
        }
    }

    /// Keeps the statuses for ever.
    async fn keep(&mut self, client: kube::Client) {
        let kind = ApiResource::erase::<NodeCache>(&());
        let caches = Api::<DynamicObject>::all_with(client.clone(), &kind);
        let mut caches = watcher(caches, watcher::Config::default())
            .backoff(watching::backoff())
            .boxed();
        let quotas = Api::<DeserializeGuard<CacheQuota>>::all(client);
        let mut quotas = watcher(quotas, watcher::Config::default())
            .backoff(watching::backoff())
            .boxed();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(event) = caches.next() => match event {
                    Ok(event) => self.learn_use(event),
                    Err(error) => complain_of_watch("NodeCaches", &error),
                },
                Some(event) = quotas.next() => match event {
                    Ok(event) => self.learn_quota(event),
                    Err(error) => complain_of_watch("CacheQuotas", &error),
                },
                now = looks.tick() => {
                    if self.is_read == (true, true) {
                        self.write(now).await;
                    }
                }
            }
        }
    }

    fn learn_use(&mut self, event: CacheEvent) {
        match event {
            Event::Init => self.listed_uses = Uses::default(),
            Event::InitApply(object) => self.listed_uses.read(&object, Some(&self.uses)),
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed_uses);
                self.uses.replace(listed);
                self.is_read.0 = true;
            }
            Event::Apply(object) => self.uses.read(&object, None),
            Event::Delete(object) => self.uses.forget(&object.name_any()),
        }
    }

    fn learn_quota(&mut self, event: QuotaEvent) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                let (key, known) = self.known(object);
                self.listed.insert(key, known);
            }
            Event::InitDone => {
                self.quotas = std::mem::take(&mut self.listed);
                self.is_read.1 = true;
            }
            Event::Apply(object) => {
                let (key, known) = self.known(object);
                self.quotas.insert(key, known);
            }
            Event::Delete(object) => {
                let gone = self.quotas.remove(&key(&object));
                drop(gone);
            }
        }
    }

    /// The newest of an object. When it may be written does not change by that; nor does what was said of one that cannot be
    /// understood.
    fn known(&self, object: DeserializeGuard<CacheQuota>) -> (Key, Known) {
        let key = key(&object);
        let before = self.quotas.get(&key);
        let meta = object.meta();
        let (version, generation) = (meta.resource_version.clone(), meta.generation);
        let (limits, said) = match object.0 {
            Ok(quota) => (Quota::of(&quota).limits, quota.status),
            Err(invalid) => {
                let why = format!(
                    "its object cannot be understood: {}",
                    Escaped(&invalid.error)
                );
                (Err(why), before.and_then(|before| before.said.clone()))
            }
        };
        let now = Instant::now();
        let counts = limits.as_ref().is_ok_and(|it| it.cluster.is_set());
        let since = before.and_then(|before| before.counts_since);
        let known = Known {
            version,
            generation,
            limits,
            said,
            due: before.map_or(now, |before| before.due),
            soonest: before.map_or(now, |before| before.soonest),
            counts_since: counts.then(|| since.unwrap_or(now)),
        };
        (key, known)
    }

    /// Writes what is new and due.
    async fn write(&mut self, now: Instant) {
        let written = timestamp(&*self.clock);
        let said = self.quotas.values().filter_map(|known| known.said.as_ref());
        let rows = said.flat_map(|said| said.reserved.iter().flatten());
        self.uses.look_for(rows.map(|row| row.node.as_str()), now);
        let due = self.quotas.iter();
        let due = due.filter(|(_, known)| known.due.min(known.soonest) <= now);
        let new = due.filter_map(|(key, known)| {
            let subject = Subject {
                namespace: &key.0,
                limits: known.limits.as_ref(),
                generation: known.generation,
                before: known.said.as_ref(),
                is_founding: known
                    .counts_since
                    .is_none_or(|since| now < since + FOUNDING),
            };
            let reserved = sum::reserved(&subject, &self.uses);
            let said = known.said.as_ref();
            let is_set_aside = said.is_some_and(|said| {
                (&said.reserved, &said.reserved_above) == (&reserved.0, &reserved.1)
            });
            if known.due > now && is_set_aside {
                return None;
            }
            let status = sum::status(&subject, &self.uses, reserved, written);
            (known.said.as_ref() != Some(&status)).then(|| {
                (
                    key.clone(),
                    known.version.clone(),
                    (status, known.limits.is_err()),
                )
            })
        });
        let new: Vec<_> = new.collect();
        let objects = &self.objects;
        let outcomes = stream::iter(new).map(|(key, version, status)| async move {
            let (status, is_odd) = status;
            let outcome = objects
                .write(&key, version.as_deref(), (&status, is_odd))
                .await;
            (key, status, outcome)
        });
        let outcomes: Vec<_> = outcomes.buffer_unordered(AT_ONCE).collect().await;
        for (key, status, outcome) in outcomes {
            self.wrote(&key, status, outcome);
        }
    }

    fn wrote(
        &mut self,
        key: &Key,
        status: CacheQuotaStatus,
        outcome: Result<Option<String>, Failure>,
    ) {
        let Some(known) = self.quotas.get_mut(key) else {
            return;
        };
        let counts = known.counts_since.is_some();
        known.due = Instant::now() + if counts { SOON } else { LATER };
        known.soonest = Instant::now() + LOOK;
        match outcome {
            Ok(version) => {
                known.version = version;
                known.said = Some(status);
                self.complained = None;
            }
            // The watch tells what it is now; then it is tried again.
            Err(Failure::Outdated) => known.due = known.soonest,
            Err(failure) => {
                known.due = Instant::now() + SOON;
                known.soonest = known.due;
                let (namespace, name) = key;
                if self.complained.as_ref() == Some(&failure) {
                    tracing::debug!(namespace, name, %failure, "a CacheQuota's status cannot be written");
                } else {
                    tracing::warn!(namespace, name, %failure, "a CacheQuota's status cannot be written; it is tried again");
                    self.complained = Some(failure);
                }
            }
        }
    }
}

fn key(object: &DeserializeGuard<CacheQuota>) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn complain_of_watch(what: &str, error: &watcher::Error) {
    tracing::debug!(
        error = chain(error),
        what,
        "objects cannot be watched; it is tried again"
    );
}

#[cfg(test)]
mod tests;

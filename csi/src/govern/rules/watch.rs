//! Reads the `EgressPolicy` objects and follows their changes. kube's own watcher keeps bookmarks to itself, and they are what
//! tells that nothing has changed: so this lists and watches by hand.
//!
//! Every list, event and bookmark proves the rules to be the newest. The API server sends a bookmark about once a minute and
//! one before a watch ends, so a watch is as short as the strictest policy needs to be sure: a third of its
//! `maxStalenessSeconds`, and at most five minutes. One that is longer than a policy needs that it has brought is ended.
//!
//! An object that this program does not understand becomes a policy that denies what it selects; it never stops the watch. An
//! API server that does not know the resource has said nothing about the rules: one that starts may say so for a moment.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kube::api::{DynamicObject, ListParams, TypeMeta, WatchParams};
use kube::core::{ApiResource, WatchEvent};
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::ExponentialBackoff;
use kube::{Api, ResourceExt as _};
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::Clock;
use tonnage_cache::error::chain;

use super::Rulebook;
use crate::crd::EgressPolicy;
use crate::egress::compiled::Compiled;
use crate::watching;

/// Longest time of a list, and of waiting for a watch to begin.
const PATIENCE: Duration = Duration::from_secs(30);
/// Shortest and longest watch, in seconds.
const WATCH_SECONDS: (u64, u64) = (20, 290);
/// How much longer than it should a watch may last; then its connection is dead.
const GRACE: Duration = Duration::from_secs(5);
/// Between a watch that ended as it should and the next.
const BREATH: Duration = Duration::from_secs(1);

/// Keeps the rules up to date until `stop`.
pub(super) async fn run(
    client: kube::Client,
    rulebook: Rulebook,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let resource = ApiResource::erase::<EgressPolicy>(&());
    let mut keeper = Keeper {
        api: Api::all_with(client, &resource),
        types: TypeMeta {
            api_version: resource.api_version.clone(),
            kind: resource.kind.clone(),
        },
        rulebook,
        clock,
        policies: BTreeMap::new(),
        version: None,
        backoff: watching::backoff(),
    };
    loop {
        let pause = tokio::select! {
            () = stop.cancelled() => return,
            outcome = keeper.follow() => keeper.pause(outcome),
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What is known of the objects.
struct Keeper {
    api: Api<DynamicObject>,
    types: TypeMeta,
    rulebook: Rulebook,
    clock: Arc<dyn Clock>,
    policies: BTreeMap<String, Compiled>,
    /// From where changes are to be followed; `None`: all must be listed.
    version: Option<String>,
    backoff: ExponentialBackoff,
}

/// Why changes are not followed now.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The API server says so, or cannot be asked.
    #[error(transparent)]
    Server(#[from] kube::Error),
    /// It says nothing.
    #[error("the API server does not answer")]
    Silence,
}

impl Keeper {
    /// Follows changes until the watch ends, or is too long for what has changed.
    async fn follow(&mut self) -> Result<(), Error> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => self.list().await?,
        };
        let seconds = watch_seconds(self.policies.values());
        let params = WatchParams::default().timeout(seconds);
        let api = self.api.clone();
        let events = within(PATIENCE, api.watch(&params, &version)).await??;
        let end = Duration::from_secs(seconds.into()).saturating_add(GRACE);
        within(end, self.take_all(events, seconds)).await?
    }

    /// Reads all objects, and says from where changes are to be followed.
    async fn list(&mut self) -> Result<String, Error> {
        let asked = self.clock.monotonic();
        let params = ListParams::default();
        let list = within(PATIENCE, self.api.list(&params)).await??;
        let version = list.metadata.resource_version.unwrap_or_default();
        self.policies.clear();
        for object in list.items {
            self.put(object);
        }
        self.tell(asked);
        self.version = Some(version.clone());
        self.backoff.reset();
        Ok(version)
    }

    async fn take_all(
        &mut self,
        events: impl Stream<Item = kube::Result<WatchEvent<DynamicObject>>>,
        seconds: u32,
    ) -> Result<(), Error> {
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            self.take(event?)?;
            self.backoff.reset();
            if watch_seconds(self.policies.values()) < seconds {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, event: WatchEvent<DynamicObject>) -> Result<(), Error> {
        let now = self.clock.monotonic();
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.version = object.resource_version().or(self.version.take());
                self.put(object);
                self.tell(now);
            }
            WatchEvent::Deleted(object) => {
                self.version = object.resource_version().or(self.version.take());
                self.policies.remove(&object.name_any());
                self.tell(now);
            }
            WatchEvent::Bookmark(bookmark) => {
                self.version = Some(bookmark.metadata.resource_version);
                self.rulebook.prove(now);
            }
            WatchEvent::Error(status) => {
                // 410: what has happened since then is not known any more.
                if status.code == 410 {
                    self.version = None;
                }
                return Err(kube::Error::Api(status).into());
            }
        }
        Ok(())
    }

    fn put(&mut self, mut object: DynamicObject) {
        let name = object.name_any();
        object.types.get_or_insert_with(|| self.types.clone());
        // What was read as JSON can be written as JSON.
        let json = serde_json::to_value(&object).unwrap_or_default();
        let policy = Compiled::from_json(&json);
        if let Err(why) = policy.rules() {
            tracing::warn!(policy = name, why, "an EgressPolicy denies what it selects");
        }
        self.policies.insert(name, policy);
    }

    fn tell(&self, at: Duration) {
        let policies = self.policies.values().cloned().collect();
        self.rulebook.replace(policies, at);
    }

    /// How long to wait before the next attempt.
    fn pause(&mut self, outcome: Result<(), Error>) -> Duration {
        let error = match outcome {
            Ok(()) => return BREATH,
            Err(error) => error,
        };
        if let Error::Server(kube::Error::Api(status)) = &error {
            match status.code {
                403 => tracing::warn!(
                    "the API server does not let the driver read EgressPolicies: its ClusterRole needs the verbs list and watch for egresspolicies in API group tonnage.dev"
                ),
                404 => tracing::warn!(
                    "the API server does not know EgressPolicies: install the custom resources of this version, which the chart has"
                ),
                410 => self.version = None,
                _ => {}
            }
        }
        tracing::debug!(
            error = chain(&error),
            "EgressPolicies cannot be followed; it is tried again"
        );
        self.backoff.next().unwrap_or(PATIENCE)
    }
}

/// How long a watch is to be, so that the rules are known to be the newest as often as the strictest policy needs.
fn watch_seconds<'a>(policies: impl Iterator<Item = &'a Compiled>) -> u32 {
    let (least, most) = WATCH_SECONDS;
    let staleness = policies.filter_map(|policy| Some(policy.rules().ok()?.max_staleness_seconds));
    let seconds = staleness.min().map_or(most, |strictest| strictest / 3);
    u32::try_from(seconds.clamp(least, most)).unwrap_or(u32::MAX)
}

async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Result<T, Error> {
    let done = tokio::time::timeout(time, work).await;
    done.map_err(|_| Error::Silence)
}

#[cfg(test)]
mod tests;

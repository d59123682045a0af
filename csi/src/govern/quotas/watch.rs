//! Keeps the quotas of a node as the API server has them. While it is away, those that were read last stay in force.

use std::fmt;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt as _};
use tokio_util::sync::CancellationToken;
use tonnage_cache::error::chain;

use super::{Quotas, Rule, Rules};
use crate::crd::CacheQuota;
use crate::watching;

type Object = DeserializeGuard<CacheQuota>;

/// What the watch is made of.
pub struct Parts {
    /// Of the API server.
    pub client: kube::Client,
    /// Made by [`Quotas::awaited`].
    pub quotas: Arc<Quotas>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("quotas", &self.quotas)
            .finish_non_exhaustive()
    }
}

/// Keeps the quotas up to date until `stop`.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let Parts { client, quotas } = parts;
    let objects = Api::<Object>::all(client);
    let mut events = watcher(objects, watcher::Config::default())
        .backoff(watching::backoff())
        .boxed();
    let mut reader = Reader {
        quotas,
        listed: Rules::new(),
        fails: false,
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => match event {
                Some(Ok(event)) => reader.take(event),
                Some(Err(error)) => reader.fail(&error),
                None => return,
            },
        }
    }
}

#[derive(Debug)]
struct Reader {
    quotas: Arc<Quotas>,
    /// What the list that is being read has named so far.
    listed: Rules,
    /// Whether the last attempt failed, so that an outage is told once.
    fails: bool,
}

impl Reader {
    fn take(&mut self, event: Event<Object>) {
        self.fails = false;
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                let rule = self.rule(&object);
                put(&mut self.listed, &object, rule);
            }
            Event::InitDone => {
                let rules = std::mem::take(&mut self.listed);
                self.quotas.lock().rules = Some(rules);
                self.quotas.reconsider();
                self.quotas.are_others();
            }
            Event::Apply(object) => {
                let rule = self.rule(&object);
                self.change(|rules| put(rules, &object, rule));
            }
            Event::Delete(object) => self.change(|rules| remove(rules, &object)),
        }
    }

    /// What others use is learned in silence: it changes nothing of what is used here, but what is let in.
    fn change(&self, change: impl FnOnce(&mut Rules) -> bool) {
        let mut state = self.quotas.lock();
        let is_news = state.rules.as_mut().is_some_and(change);
        drop(state);
        self.quotas.reconsider();
        if is_news {
            self.quotas.are_others();
        }
    }

    fn rule(&self, object: &Object) -> Rule {
        match &object.0 {
            Ok(quota) => Rule::of(quota, &self.quotas.node),
            Err(invalid) => Rule::malformed(object.name_any(), &invalid.error),
        }
    }

    fn fail(&mut self, error: &watcher::Error) {
        let is_unknown = matches!(
            error,
            watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404
        );
        if is_unknown && self.quotas.lock().rules.is_none() {
            tracing::warn!(
                "the API server does not know cachequotas.tonnage.dev, so that there are no quotas: install Tonnage's custom resources"
            );
            self.quotas.lock().rules = Some(Rules::new());
        }
        let error = chain(error);
        if std::mem::replace(&mut self.fails, true) || is_unknown {
            tracing::debug!(error, "CacheQuotas cannot be watched; it is tried again");
        } else {
            tracing::warn!(error, "CacheQuotas cannot be watched; it is tried again");
        }
    }
}

/// Says whether the quota itself is another one.
fn put(rules: &mut Rules, object: &Object, rule: Rule) -> bool {
    let namespace = object.namespace().unwrap_or_default();
    let quotas = rules.entry(namespace).or_default();
    let quota = rule.quota.clone();
    let before = quotas.insert(object.name_any(), rule);
    before.is_none_or(|before| before.quota != quota)
}

/// Says whether there was one.
fn remove(rules: &mut Rules, object: &Object) -> bool {
    let namespace = object.namespace().unwrap_or_default();
    let Some(quotas) = rules.get_mut(&namespace) else {
        return false;
    };
    let removed = quotas.remove(&object.name_any());
    if quotas.is_empty() {
        rules.remove(&namespace);
    }
    removed.is_some()
}

#[cfg(test)]
mod tests;

//! The Kubernetes loop: says in the status of every Source whether it can be reached and, if not, since when and what to do.
//! (The CSI calls of the controller are `service/controller.rs`.) Only the replica that leads does it.
//!
//! A source is looked at every minute, and at once when its object or its keys change. Looking is one listing that ends after
//! its first page. A status is written only when it says something new, so that a quiet cluster costs the API server nothing.
//! Of sources that are read as pods' own service accounts is also said whether everyone else's could read them (`trust`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kube::Api;
use kube::api::{ApiResource, DynamicObject};
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::Clock;

use crate::crd;
use crate::leader::{self, Election};
use crate::sources::{self, Sources};

mod agenda;
mod condition;
mod examine;
mod probe;
mod trust;

use agenda::{Agenda, Facts};
use examine::Examiner;
use trust::Trust;

/// How often changes are looked for.
const LOOK: Duration = Duration::from_secs(2);
/// Sources that are examined at a time.
const MOST: usize = 8;

/// What the loop is made of.
pub struct Parts {
    /// Of the API server.
    pub client: kube::Client,
    /// The service's own namespace, with its Lease.
    pub namespace: String,
    /// The sources, kept up to date by somebody else.
    pub sources: Sources,
    /// Name of this replica, which no other has.
    pub identity: String,
    /// Told whether this replica leads, for whatever else only the leader does.
    pub leads: Sender<bool>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("namespace", &self.namespace)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Takes part in the election, and keeps the status of sources while it leads, until `stop`.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let Parts {
        client,
        namespace,
        sources,
        identity,
        leads,
        clock,
    } = parts;
    let leading = leads.subscribe();
    let election = Election::new(client.clone(), &namespace, &identity, Arc::clone(&clock));
    let objects = Api::<DynamicObject>::all_with(client, &ApiResource::erase::<crd::Source>(&()));
    let examiner = Examiner {
        objects,
        sources,
        trust: Trust::new(trust::DIRECTORY.into(), namespace, Arc::clone(&clock)),
        clock,
    };
    let work = work(&examiner, &identity, leading);
    tokio::select! {
        () = election.run(leads, stop) => {}
        () = work => {}
    }
}

/// Keeps the status while this replica leads.
async fn work(examiner: &Examiner, identity: &str, mut leading: Receiver<bool>) {
    while leader::term(&mut leading, || keep(examiner, identity)).await {}
    // The election is over; it says when this ends.
    std::future::pending::<()>().await;
}

/// Examines what is due, for ever.
async fn keep(examiner: &Examiner, identity: &str) {
    examiner.sources.until_read().await;
    let mut agenda = Agenda::new(identity);
    let mut running = FuturesUnordered::new();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        while running.len() < MOST
            && let Some(task) = agenda.take_due(Instant::now())
        {
            running.push(examiner.examine(task));
        }
        tokio::select! {
            _ = looks.tick() => agenda.look(facts(&examiner.sources), Instant::now()),
            Some((name, outcome)) = running.next() => agenda.ended(&name, outcome, Instant::now()),
        }
    }
}

/// What is known of every source.
fn facts(sources: &Sources) -> BTreeMap<String, Facts> {
    let names = sources.names().into_iter();
    names
        .map(|name| {
            let facts = facts_of(sources, &name);
            (name, facts)
        })
        .collect()
}

fn facts_of(sources: &Sources, name: &str) -> Facts {
    let object = sources.spec(name).ok();
    let metadata = object.as_ref().map(|object| &object.metadata);
    Facts {
        uid: metadata.and_then(|metadata| metadata.uid.clone()),
        generation: metadata.and_then(|metadata| metadata.generation),
        unusable: match sources.get(name) {
            Err(sources::Error::Unusable { why, .. }) => Some(why),
            Ok(_) | Err(_) => None,
        },
    }
}

#[cfg(test)]
mod tests;

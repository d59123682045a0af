//! The node's side of the conversation about bytes: keeps the `EgressLease` of the node's own name, owned by its Node, and
//! hands what the controller answers to the [`Spender`].
//!
//! Written only when there is something to say: demands at the purse's pace, denials along with them or once a minute, an object that
//! was deleted, edited or left by an earlier start. A node that misses nothing and denies nothing writes nothing, and has
//! no object if it never did. The purse's clocks start before each write, and a write counts as done only when the API server
//! says so, or shows the very same specification; otherwise it comes again. Every write carries the version that was read.
//!
//! While the API server is away this keeps trying, ever more seldom, and what is leased may be spent meanwhile.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::DynamicObject;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::Clock;
use tonnage_cache::error::chain;

use super::denials::Denials;
use super::spend::Spender;
use crate::crd::EgressLeaseSpec;
use crate::egress::lease::Demand;
use crate::egress::ledger::objects::{read_lease, spec};
use crate::node_object::Error;
use crate::watching;

mod fit;
mod objects;
mod pace;

use fit::{fit, most_users};
use objects::{Objects, Seen};
use pace::{Pace, TICK};

/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for it when the service stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the loop is made of.
pub struct Parts {
    /// Of the API server.
    pub client: kube::Client,
    /// Name of the node, and of its object.
    pub node: String,
    /// What may be spent.
    pub spender: Arc<Spender>,
    /// What was denied.
    pub denials: Arc<Denials>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("node", &self.node)
            .field("spender", &self.spender)
            .field("denials", &self.denials)
            .finish_non_exhaustive()
    }
}

/// Keeps the node's object until `stop`, then gives back what is not spent. To be stopped after the loads.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let only = format!("metadata.name={}", parts.node);
    let mut keeper = Keeper::new(parts);
    let config = watcher::Config::default().fields(&only);
    let mut events = watcher(keeper.objects.api(), config)
        .backoff(watching::backoff())
        .boxed();
    let first = tokio::time::Instant::now() + keeper.pace.first();
    let mut ticks = tokio::time::interval_at(first, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            event = events.next() => match event {
                Some(Ok(event)) => keeper.take(event),
                Some(Err(error)) => keeper.miss(&error),
                None => break,
            },
            _ = ticks.tick() => tokio::select! {
                () = stop.cancelled() => break,
                () = keeper.step() => {}
            },
        }
    }
    keeper.end().await;
}

/// The object, as far as it is known.
#[derive(Debug)]
enum Known {
    /// It was not looked at yet.
    Unread,
    /// There is none.
    Absent,
    /// This one.
    Present(Box<Seen>),
}

/// Specification that is being written, or may have been.
#[derive(Debug)]
struct Draft {
    spec: EgressLeaseSpec,
    /// Which denials it tells of.
    denials: u64,
}

/// Reads, decides and writes, in turn.
#[derive(Debug)]
struct Keeper {
    objects: Objects,
    spender: Arc<Spender>,
    denials: Arc<Denials>,
    clock: Arc<dyn Clock>,
    pace: Pace,
    /// After a failure: nothing is tried before.
    rests_until: Duration,
    known: Known,
    /// Whether the list that is being read has the object.
    is_listed: bool,
    /// What this start has said last, as the API server has it.
    said: Option<EgressLeaseSpec>,
    /// What may have been said since.
    draft: Option<Draft>,
    /// Who should own the object.
    owner: Option<OwnerReference>,
    /// Which denials were told, and before when others are told only along with something else.
    told: (u64, Duration),
    /// Whether the last attempt failed, and whether the watch does, so that an outage is told once.
    fails: bool,
    is_blind: bool,
}

impl Keeper {
    fn new(parts: Parts) -> Self {
        let Parts {
            client,
            node,
            spender,
            denials,
            clock,
        } = parts;
        Self {
            pace: Pace::new(&node),
            objects: Objects::new(client, node),
            spender,
            denials,
            clock,
            rests_until: Duration::ZERO,
            known: Known::Unread,
            is_listed: false,
            said: None,
            draft: None,
            owner: None,
            told: (0, Duration::ZERO),
            fails: false,
            is_blind: false,
        }
    }

    /// Takes what the watch tells.
    fn take(&mut self, event: Event<DynamicObject>) {
        if std::mem::take(&mut self.is_blind) {
            tracing::info!("the node's EgressLease is watched again");
        }
        match event {
            Event::Init => self.is_listed = false,
            Event::InitApply(object) => {
                self.is_listed = true;
                self.learn(&object);
            }
            Event::InitDone if self.is_listed => {}
            Event::InitDone => self.lose(),
            Event::Apply(object) => {
                if !self.is_older(&object) {
                    self.learn(&object);
                }
            }
            Event::Delete(object) => {
                if !self.is_older(&object) {
                    self.lose();
                }
            }
        }
    }

    /// The watch has failed; it is tried again by itself.
    fn miss(&mut self, error: &watcher::Error) {
        let error = chain(error);
        if std::mem::replace(&mut self.is_blind, true) {
            tracing::debug!(error, "the node's EgressLease cannot be watched");
        } else {
            tracing::warn!(
                error,
                "the node's EgressLease cannot be watched, so no bytes of budgets are granted; it is tried again"
            );
        }
    }

    /// Whether an event is about a version that was overtaken by what we have written or read since.
    fn is_older(&self, object: &DynamicObject) -> bool {
        match &self.known {
            Known::Present(seen) => Seen::read(object).is_older_than(seen),
            Known::Absent | Known::Unread => false,
        }
    }

    /// Takes the object as it is.
    fn learn(&mut self, object: &DynamicObject) {
        let seen = Seen::read(object);
        if matches!(self.known, Known::Unread) {
            self.spender.resume(&read_lease(&seen.object));
        }
        // A write whose answer was lost has arrived.
        let is_it = |draft: &mut Draft| seen.is_clear && draft.spec == seen.object.spec;
        if let Some(draft) = self.draft.take_if(is_it) {
            self.confirm(draft);
        }
        self.spender.accept(&seen.object);
        self.known = Known::Present(Box::new(seen));
    }

    /// There is no object. Who makes it again asks anew who owns it, because the Node may have been made again as well.
    fn lose(&mut self) {
        self.known = Known::Absent;
        self.owner = None;
    }

    /// What was written is in the object.
    fn confirm(&mut self, draft: Draft) {
        self.spender.written();
        self.said = Some(draft.spec);
        self.told = (draft.denials, self.clock.monotonic() + self.pace.told());
    }

    /// Writes what is due.
    async fn step(&mut self) {
        if matches!(self.known, Known::Unread) || self.clock.monotonic() < self.rests_until {
            return;
        }
        let attempt = tokio::time::timeout(PATIENCE, self.attempt());
        match attempt.await.unwrap_or(Err(Error::Silent)) {
            Ok(()) => {
                self.pace.succeeded();
                if std::mem::take(&mut self.fails) {
                    tracing::info!("the node's EgressLease is kept up to date again");
                }
            }
            Err(error) => {
                self.rests_until = self.clock.monotonic() + self.pace.failed();
                self.complain(&error);
            }
        }
    }

    fn complain(&mut self, error: &Error) {
        let error = error.to_string();
        if std::mem::replace(&mut self.fails, true) {
            tracing::debug!(error, "the node's EgressLease is not kept up to date");
        } else {
            tracing::warn!(
                error,
                "the node's EgressLease is not kept up to date, so loads may wait for bytes of budgets; it is tried again"
            );
        }
    }

    async fn attempt(&mut self) -> Result<(), Error> {
        if matches!(self.known, Known::Present(_)) {
            self.ensure_owner().await?;
        }
        if self.is_wrong() || self.is_told_too_little() {
            self.spender.repeat();
        }
        // Clocks of grants start here.
        match self.spender.demands() {
            Some(demands) => self.write(&demands).await,
            None => Ok(()),
        }
    }

    /// Whether the object is not as this start has left it: edited, deleted, or an earlier start's that still asks for something.
    fn is_wrong(&self) -> bool {
        let Known::Present(seen) = &self.known else {
            return self.said.is_some();
        };
        let EgressLeaseSpec { demands, .. } = &seen.object.spec;
        let is_said = match &self.said {
            Some(said) => *said == seen.object.spec,
            None => demands.is_empty(),
        };
        let owners = seen.object.metadata.owner_references.as_deref();
        let is_owned = self.owner.as_ref().is_some_and(|owner| {
            owners.is_some_and(|owners| owners == std::slice::from_ref(owner))
        });
        !(seen.is_clear && is_said && is_owned)
    }

    fn is_told_too_little(&self) -> bool {
        let (told, next) = self.told;
        self.denials.version() != told && self.clock.monotonic() >= next
    }

    /// Writes the demands, and what was denied along with them. A conflict is solved once: the controller's answer to something
    /// else may have come between.
    async fn write(&mut self, demands: &[Demand]) -> Result<(), Error> {
        let mut spec = spec(self.spender.incarnation(), demands);
        for (line, demand) in spec.demands.iter_mut().zip(demands) {
            line.spent_by = self.spender.spent_by(demand, most_users(demands.len()));
        }
        // Denials that found no room are told again when others would be.
        let denials = fit(&mut spec, &self.denials).unwrap_or(self.told.0);
        self.draft = Some(Draft {
            spec: spec.clone(),
            denials,
        });
        match self.put(&spec).await {
            Err(Error::Gone | Error::Conflict) => {}
            outcome => return outcome,
        }
        match self.objects.find().await? {
            Some(object) => self.learn(&object),
            None => self.lose(),
        }
        if self.draft.is_some() {
            self.put(&spec).await?;
        }
        Ok(())
    }

    async fn put(&mut self, spec: &EgressLeaseSpec) -> Result<(), Error> {
        let owner = self.ensure_owner().await?;
        let written = match &self.known {
            Known::Present(seen) => {
                let before: &ObjectMeta = &seen.object.metadata;
                self.objects.replace(before, &owner, spec).await?
            }
            Known::Absent | Known::Unread => self.objects.create(&owner, spec).await?,
        };
        if let Some(mut draft) = self.draft.take() {
            // As the API server has it: one with an older schema drops what it does not know.
            draft.spec = Seen::read(&written).object.spec;
            self.confirm(draft);
        }
        self.learn(&written);
        Ok(())
    }

    async fn ensure_owner(&mut self) -> Result<OwnerReference, Error> {
        if let Some(owner) = &self.owner {
            return Ok(owner.clone());
        }
        let owner = self.objects.owner().await?;
        Ok(self.owner.insert(owner).clone())
    }

    /// Says the last word.
    async fn end(&mut self) {
        let Some(demands) = self.spender.close() else {
            return;
        };
        let last = tokio::time::timeout(FAREWELL, self.write(&demands));
        if let Err(error) = last.await.unwrap_or(Err(Error::Silent)) {
            let error = error.to_string();
            tracing::info!(
                error,
                "bytes of budgets were not given back: they count as spent when their time is over"
            );
        }
    }
}

#[cfg(test)]
mod tests;

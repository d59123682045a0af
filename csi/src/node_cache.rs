//! What this node's cache is like, for everybody who may look: keeps the `NodeCache` of the node's own name.
//!
//! The status is written when it says something new, at most once a minute with some jitter, and once an hour in any case, so
//! that an object that was deleted or edited comes back. Where a quota counts what a namespace has in the whole cluster, what
//! was given back is written within 12 s, and what a pod waits for within a second. Looking is cheap: directories are listed, manifests are read once, and
//! the walk that counts files is made seldom enough to take a two-hundredth of the time (`count`). While the API server
//! is away this keeps trying, ever more seldom; nothing else waits for it, and a report is worth less than any volume.
//!
//! Nothing of a source's keys, of tokens or of URLs is known here, so none of it can be written.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::Clock;
use tonnage_cache::store::Store;

use crate::crd::NodeCacheStatus;
use crate::govern::quotas::Quotas;
use crate::leader::timestamp;
use crate::node_object::Error;

mod collect;
mod count;
mod fit;
mod health;
mod notes;
mod objects;
mod pace;
mod shares;
mod status;

use collect::{Collector, Facts, Sight};
pub use notes::Notes;
use objects::Objects;
use pace::{Outcome, Pace, Pause};
use status::Seen;

/// How long loads that follow each other are waited for before a look.
const SETTLE: Duration = Duration::from_secs(2);
/// A status is written again after this time though nothing has changed.
const REFRESH: Duration = Duration::from_hours(1);
/// Shortest time between two writes of what other nodes may have.
const URGENT: Duration = Duration::from_secs(10);
/// The same of what somebody waits for.
const WISHED: Duration = Duration::from_secs(1);
/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the reporter is made of.
pub struct Parts {
    /// Of the API server.
    pub client: kube::Client,
    /// Name of the node, and of its object.
    pub node: String,
    /// The store that is reported.
    pub store: Arc<Store>,
    /// What loads have told; to be among the publisher's observers.
    pub notes: Arc<Notes>,
    /// What namespaces have.
    pub quotas: Arc<Quotas>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Keeps the node's object until `stop`.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let mut reporter = Reporter::new(parts, stop.clone());
    tokio::select! {
        () = stop.cancelled() => {}
        () = reporter.keep() => {}
    }
}

/// Looks, decides and writes, in turn.
#[derive(Debug)]
struct Reporter {
    objects: Objects,
    store: Arc<Store>,
    notes: Arc<Notes>,
    quotas: Arc<Quotas>,
    clock: Arc<dyn Clock>,
    pace: Pace,
    stop: CancellationToken,
    /// `None` while it is at work, and after it has died there.
    collector: Option<Collector>,
    /// What the last good look saw.
    facts: Option<Facts>,
    /// Whether the object is there and owned by the Node, as far as is known.
    is_adopted: bool,
    /// The newest status that is known: since when conditions are as they are.
    known: Option<NodeCacheStatus>,
    /// What was written last, and when.
    written: Option<(NodeCacheStatus, Instant)>,
    /// Whether the last attempt failed, so that an outage is told once.
    fails: bool,
}

impl Reporter {
    fn new(parts: Parts, stop: CancellationToken) -> Self {
        let Parts {
            client,
            node,
            store,
            notes,
            quotas,
            clock,
        } = parts;
        Self {
            pace: Pace::new(&node),
            objects: Objects::new(client, node),
            store,
            notes,
            quotas,
            clock,
            stop,
            collector: None,
            facts: None,
            is_adopted: false,
            known: None,
            written: None,
            fails: false,
        }
    }

    /// Reports for ever.
    async fn keep(&mut self) {
        tokio::time::sleep(self.pace.first()).await;
        loop {
            let outcome = self.round().await;
            let pause = self.pace.after(outcome);
            tokio::select! {
                () = self.news(outcome, pause) => {}
                () = self.wished(if outcome == Outcome::Failed { URGENT } else { WISHED }) => {}
            }
        }
    }

    /// Looks and reports. What is said of namespaces has numbers, which go on from those that the object has: so that is read first.
    async fn round(&mut self) -> Outcome {
        if !self.is_adopted {
            let adopted = tokio::time::timeout(PATIENCE, self.adopt()).await;
            if let Err(error) = adopted.unwrap_or(Err(Error::Silent)) {
                self.complain(&error);
                return Outcome::Failed;
            }
        }
        let flaw = self.look().await;
        self.report(flaw.as_deref()).await
    }

    /// Waits until there may be news that are worth a write.
    async fn news(&self, outcome: Outcome, pause: Pause) {
        let mut is_told = false;
        // What is told meanwhile is remembered.
        tokio::select! {
            () = tokio::time::sleep(pause.quiet) => {}
            () = self.urgent(&mut is_told), if outcome == Outcome::Written => {}
        }
        if is_told || tokio::time::timeout(pause.idle, self.told()).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Waits until a pod waits for what is said here.
    async fn wished(&self, soonest: Duration) {
        tokio::time::sleep(soonest).await;
        self.quotas.wished().await;
    }

    /// Waits until there may be news.
    async fn told(&self) {
        tokio::select! {
            () = self.notes.told() => {}
            () = self.quotas.changed() => {}
        }
    }

    /// Returns when something has changed that other nodes decide by. Says whether anything has changed at all.
    async fn urgent(&self, is_told: &mut bool) {
        tokio::time::sleep(URGENT).await;
        loop {
            self.quotas.changed().await;
            *is_told = true;
            if self.quotas.counts_the_cluster() {
                return;
            }
        }
    }

    /// Looks at the store; says what is wrong with it if that is not possible.
    async fn look(&mut self) -> Option<String> {
        let collector = self.collector.take();
        let mut collector = collector.unwrap_or_else(|| {
            let sight = Sight {
                store: Arc::clone(&self.store),
                notes: Arc::clone(&self.notes),
                quotas: Arc::clone(&self.quotas),
                clock: Arc::clone(&self.clock),
            };
            Collector::new(sight, self.stop.clone())
        });
        let looked = tokio::task::spawn_blocking(move || {
            let facts = collector.collect();
            (collector, facts)
        });
        match looked.await {
            Ok((collector, Ok(facts))) => {
                self.collector = Some(collector);
                self.facts = Some(facts);
                None
            }
            Ok((collector, Err(error))) => {
                self.collector = Some(collector);
                Some(tonnage_cache::error::chain(&error))
            }
            Err(error) => Some(format!("looking at it ended early ({error})")),
        }
    }

    /// Writes what is new.
    async fn report(&mut self, flaw: Option<&str>) -> Outcome {
        let attempt = tokio::time::timeout(PATIENCE, self.attempt(flaw));
        match attempt.await.unwrap_or(Err(Error::Silent)) {
            Ok(outcome) => {
                if std::mem::take(&mut self.fails) {
                    tracing::info!("the node's NodeCache is kept up to date again");
                }
                outcome
            }
            Err(error) => {
                self.complain(&error);
                Outcome::Failed
            }
        }
    }

    fn complain(&mut self, error: &Error) {
        let error = error.to_string();
        if std::mem::replace(&mut self.fails, true) {
            tracing::debug!(error, "the node's NodeCache is not kept up to date");
        } else {
            tracing::warn!(
                error,
                "the node's NodeCache is not kept up to date; it is tried again"
            );
        }
    }

    async fn attempt(&mut self, flaw: Option<&str>) -> Result<Outcome, Error> {
        let status = self.status(flaw);
        if !self.is_due(&status) {
            return Ok(Outcome::Unchanged);
        }
        match self.objects.set(&status).await {
            // Somebody deleted it, or wrote it at the same time: it is made or taken over again, once.
            Err(Error::Gone | Error::Conflict) => {
                self.is_adopted = false;
                self.adopt().await?;
                self.objects.set(&status).await?;
            }
            outcome => outcome?,
        }
        self.known = Some(status.clone());
        self.written = Some((status, Instant::now()));
        Ok(Outcome::Written)
    }

    /// Makes sure of the object, and learns what it says.
    async fn adopt(&mut self) -> Result<(), Error> {
        let found = self.objects.ensure().await?;
        self.is_adopted = true;
        let lines = found.iter().flat_map(|found| &found.namespaces);
        let said = lines.filter_map(|line| line.seq?.try_into().ok()).max();
        self.quotas.begins_above(said.unwrap_or(0));
        if found.is_some() {
            self.known = found;
        }
        Ok(())
    }

    fn status(&self, flaw: Option<&str>) -> NodeCacheStatus {
        let (loads, published) = self.notes.latest();
        let seen = Seen {
            facts: self.facts.as_ref(),
            flaw,
            loads: &loads,
            published,
            now: timestamp(&*self.clock),
        };
        fit::fit(status::status(&seen, self.known.as_ref()))
    }

    fn is_due(&self, status: &NodeCacheStatus) -> bool {
        self.written
            .as_ref()
            .is_none_or(|(written, at)| at.elapsed() >= REFRESH || status::is_news(written, status))
    }
}

#[cfg(test)]
mod tests;

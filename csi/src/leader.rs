//! Which replica acts: the holder of the Lease `tonnage-controller` in the service's own namespace, by the rules of client-go's
//! leader election. Every write carries the resource version that was read, so that of several replicas one succeeds.
//!
//! **Clocks are not compared.** A lease is up when its object has not changed for its duration, by the own clock of who waits.
//! The holder stops acting a third of the duration earlier, counted from the moment before its last successful renewal: so two
//! never act at once, whatever the network does.
//!
//! **Who waits looks again at the moment at which the lease is up**, not at the next look after it: with what is read and written before
//! the first grant, nobody waits 20 s for one when the holder dies.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::{Clock, unix_millis};
use tonnage_cache::digest::Digest;
use tonnage_cache::error::chain;

/// Name of the Lease.
pub const LEASE: &str = "tonnage-controller";

/// How long others wait for a silent holder.
const DURATION_SECONDS: i32 = 15;
/// How long the holder acts after its last renewal.
const TERM: Duration = Duration::from_secs(10);
/// How often the holder renews.
const RENEWAL: Duration = Duration::from_secs(5);
/// How often others look, and how soon a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(4);
/// Most milliseconds that replicas are apart that wait for the same moment.
const APART: u8 = 20;

/// One replica's part in the election.
#[derive(Debug)]
pub struct Election {
    api: Api<Lease>,
    identity: String,
    clock: Arc<dyn Clock>,
    /// How long after the others this replica looks at a lease that is up.
    aside: Duration,
    seen: Option<Seen>,
    /// When the last successful renewal began; `None` while somebody else holds the lease.
    renewed: Option<Instant>,
    /// Whether the last attempt failed, so that an outage is told once.
    fails: bool,
}

/// A version of the lease, and since when it is the newest.
#[derive(Debug)]
struct Seen {
    version: Option<String>,
    since: Instant,
}

/// What is to be done about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// There is none: make it.
    Create,
    /// It is ours.
    Renew,
    /// It is nobody's any more.
    Take,
    /// It is somebody else's, and is up after so long, unless it changes.
    Wait(Duration),
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// The lease is ours from now on for a term.
    Held,
    /// It is somebody else's, and is up after so long, unless it changes.
    Lost(Duration),
    /// It cannot be said.
    Failed,
}

/// Waits until this replica leads, begins with something and goes on with it for as long as it does; `false` once nobody says any
/// more who leads, also if that was this replica.
pub(crate) async fn term<F: Future<Output = ()>>(
    leading: &mut Receiver<bool>,
    work: impl FnOnce() -> F,
) -> bool {
    if leading.wait_for(|leads| *leads).await.is_err() {
        return false;
    }
    tokio::select! {
        () = work() => true,
        ended = leading.wait_for(|leads| !*leads) => ended.is_ok(),
    }
}

/// Wall time for objects of the API server.
pub(crate) fn timestamp(clock: &dyn Clock) -> Timestamp {
    let millis = i64::try_from(unix_millis(clock.now())).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Election {
    /// A replica that is called `identity`, which no other is.
    pub fn new(
        client: kube::Client,
        namespace: &str,
        identity: &str,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            identity: identity.to_owned(),
            clock,
            aside: aside(identity),
            seen: None,
            renewed: None,
            fails: false,
        }
    }

    /// Takes part until `stop`, then gives the lease back. `leads` says whether this replica may act now.
    pub async fn run(mut self, leads: Sender<bool>, stop: CancellationToken) {
        loop {
            let attempt = tokio::select! {
                () = stop.cancelled() => break,
                attempt = self.attempt() => attempt,
            };
            self.tell(&leads);
            let pause = match attempt {
                Attempt::Held => RENEWAL,
                Attempt::Lost(rest) => RETRY.min(rest.saturating_add(self.aside)),
                // Not beyond the end of the term.
                Attempt::Failed => self.left().map_or(RETRY, |left| RETRY.min(left)),
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            self.tell(&leads);
        }
        let led = self.left().is_some();
        leads.send_replace(false);
        if led
            && tokio::time::timeout(PATIENCE, self.release())
                .await
                .is_err()
        {
            tracing::debug!("the lease was not given back in time; it runs out by itself");
        }
    }

    /// What is left of the term, if there is one.
    fn left(&self) -> Option<Duration> {
        let gone = Instant::now().saturating_duration_since(self.renewed?);
        TERM.checked_sub(gone).filter(|left| !left.is_zero())
    }

    fn tell(&self, leads: &Sender<bool>) {
        let now = self.left().is_some();
        let changed = leads.send_if_modified(|leads| std::mem::replace(leads, now) != now);
        if changed && now {
            tracing::info!(identity = self.identity, "leading");
        } else if changed {
            tracing::info!(identity = self.identity, "not leading any more");
        }
    }

    /// Looks at the lease and does what is to be done, within the rest of the term.
    async fn attempt(&mut self) -> Attempt {
        let started = Instant::now();
        let patience = self.left().map_or(PATIENCE, |left| PATIENCE.min(left));
        let attempt = match tokio::time::timeout(patience, self.step()).await {
            Ok(Ok(attempt)) => attempt,
            Ok(Err(error)) => self.complain(&chain(&error)),
            Err(_) => self.complain("the API server does not answer"),
        };
        self.fails = attempt == Attempt::Failed;
        match attempt {
            Attempt::Held => self.renewed = Some(started),
            Attempt::Lost(_) => self.renewed = None,
            Attempt::Failed => {}
        }
        attempt
    }

    fn complain(&self, why: &str) -> Attempt {
        if self.fails {
            tracing::debug!(lease = LEASE, why, "the lease cannot be had");
        } else {
            tracing::warn!(
                lease = LEASE,
                why,
                "the lease cannot be had; it is tried again"
            );
        }
        Attempt::Failed
    }

    async fn step(&mut self) -> Result<Attempt, kube::Error> {
        let lease = self.api.get_opt(LEASE).await?;
        let silent = self.observe(lease.as_ref());
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let what = decide(lease.is_some(), spec, &self.identity, silent);
        let lease = lease.unwrap_or_default();
        let written = match what {
            Move::Wait(rest) => return Ok(Attempt::Lost(rest)),
            Move::Create => {
                let lease = self.signed(lease, true);
                self.api.create(&PostParams::default(), &lease).await
            }
            Move::Take | Move::Renew => {
                let lease = self.signed(lease, what == Move::Take);
                self.api
                    .replace(LEASE, &PostParams::default(), &lease)
                    .await
            }
        };
        match written {
            Ok(_) => Ok(Attempt::Held),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                Ok(Attempt::Failed)
            }
            Err(error) => Err(error),
        }
    }

    /// For how long this version of the lease has been the newest.
    fn observe(&mut self, lease: Option<&Lease>) -> Duration {
        let now = Instant::now();
        let version = lease.and_then(|lease| lease.metadata.resource_version.clone());
        match &self.seen {
            Some(seen) if seen.version == version => now.saturating_duration_since(seen.since),
            Some(_) | None => {
                let since = now;
                self.seen = Some(Seen { version, since });
                Duration::ZERO
            }
        }
    }

    /// The lease as ours; its resource version stays, as the condition of the write.
    fn signed(&self, mut lease: Lease, is_new: bool) -> Lease {
        let now = Some(MicroTime(timestamp(&*self.clock)));
        let spec = lease.spec.unwrap_or_default();
        let transitions = spec.lease_transitions;
        let transitions = transitions.map_or(0, |count| count.saturating_add(i32::from(is_new)));
        lease.metadata.name = Some(LEASE.to_owned());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            acquire_time: if is_new {
                now.clone()
            } else {
                spec.acquire_time
            },
            renew_time: now,
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        });
        lease
    }

    /// Lets the next one begin at once.
    async fn release(&self) {
        let mut lease = match self.api.get_opt(LEASE).await {
            Ok(Some(lease)) => lease,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(error = chain(&error), "the lease was not given back");
                return;
            }
        };
        let holder = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity));
        let Some(spec) = holder else { return };
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        let params = PostParams::default();
        if let Err(error) = self.api.replace(LEASE, &params, &lease).await {
            tracing::debug!(error = chain(&error), "the lease was not given back");
        }
    }
}

/// What `identity` does about a lease that has not changed for so long.
fn decide(exists: bool, spec: Option<&LeaseSpec>, identity: &str, silent: Duration) -> Move {
    if !exists {
        return Move::Create;
    }
    let holder = spec
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default();
    let seconds = spec
        .and_then(|spec| spec.lease_duration_seconds)
        .unwrap_or(DURATION_SECONDS);
    let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    if holder == identity {
        return Move::Renew;
    }
    let rest = duration.saturating_sub(silent);
    if holder.is_empty() || rest.is_zero() {
        Move::Take
    } else {
        Move::Wait(rest)
    }
}

/// Some milliseconds, others for other replicas.
fn aside(identity: &str) -> Duration {
    let digest = Digest::of(identity.as_bytes());
    let byte = digest.as_bytes().first().copied().unwrap_or_default();
    Duration::from_millis(u64::from(byte % APART) + 1)
}

#[cfg(test)]
mod tests;

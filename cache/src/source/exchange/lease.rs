//! When keys are fetched and how long they are used. Keys serve everybody for about four fifths of their life; then new ones are
//! fetched, and everybody goes on with the old ones meanwhile. Without keys all wait for one exchange. What failed is told to all
//! who ask within a second, rather than tried again for each of them; a newer token of the workload is tried at once.
//!
//! An exchange belongs to the source and not to who asks: whoever gives up waiting leaves it running, and the next who asks
//! has what came of it, be it keys or a failure. It ends by itself in time, and with the source.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Exchange, Exchanger, Failure, Granted};
use crate::clock::Clock;
use crate::error::Kind;
use crate::gate::Gate;
use crate::source::Error;
use crate::source::config::SourceConfig;
use crate::source::credentials::Keys;

/// How long a failure stands for all who ask.
const PAUSE: Duration = Duration::from_secs(1);
/// How soon a renewal that failed is tried again while the keys are still good.
const RETRY: Duration = Duration::from_secs(10);
/// Keys that are younger are not given up because a store refuses them.
const YOUNG: Duration = Duration::from_mins(1);
/// What the digest is for that spreads renewals, so that it is no digest of anything else (BLAKE3, `derive_key`).
const CONTEXT: &str = "tonnage.dev 2026-01 moment of a renewal";

/// Keys of one identity, for one source.
pub(in crate::source) struct Leased {
    inner: Arc<Inner>,
    /// The exchange that runs.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Inner {
    /// Name of the source.
    label: String,
    exchanger: Exchanger,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    failed: Option<Failed>,
    running: Option<Running>,
}

/// Times are monotonic.
struct Lease {
    keys: Keys,
    since: Duration,
    /// From then on new ones are wanted.
    renew: Duration,
    ends: Duration,
}

struct Failed {
    failure: Failure,
    at: Duration,
    /// The token that it was tried with.
    version: u64,
}

/// Tells what an exchange brings; closed before that if it was cut off.
type Running = watch::Receiver<Option<Told>>;

/// What an exchange brought.
#[derive(Clone)]
struct Told {
    outcome: Result<Keys, Failure>,
    /// The token that it was tried with.
    version: u64,
}

/// What there is now.
enum Look {
    /// Good keys.
    Good(Keys),
    /// Keys that are still good, and that it is time to replace.
    Aging(Keys),
    /// None, and why: it was tried a moment ago.
    Failed(Failure),
    /// None yet.
    Absent,
}

/// What is to be done for who asks.
enum Step {
    Use(Keys),
    Refuse(Failure),
    Wait(Running),
}

impl fmt::Debug for Leased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl Leased {
    /// No keys yet.
    pub(in crate::source) fn new(
        config: &SourceConfig,
        exchange: &Exchange,
        gate: Arc<dyn Gate>,
    ) -> Result<Self, Error> {
        Ok(Self {
            inner: Arc::new(Inner {
                label: config.label(),
                exchanger: Exchanger::new(config, exchange, gate)?,
                clock: Arc::clone(&exchange.clock),
                state: Mutex::default(),
            }),
            tasks: Mutex::default(),
        })
    }

    /// Keys that are good now. Waits only where there are none. Cancel safe.
    pub(in crate::source) async fn current(&self) -> Result<Keys, Error> {
        loop {
            let running = match self.step() {
                Step::Use(keys) => return Ok(keys),
                Step::Refuse(failure) => return Err(failure.into()),
                Step::Wait(running) => running,
            };
            let exchanger = &self.inner.exchanger;
            let Some(Told { outcome, version }) = told(running).await else {
                let what = "the exchange was cut off; this is tried again by itself";
                return Err(exchanger.failure(Kind::Transient, what).into());
            };
            match outcome {
                Ok(keys) => return Ok(keys),
                // A newer token has come meanwhile.
                Err(_) if version != exchanger.version() => {}
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Keys in place of those that the store refused: new ones, if those are not of the last minute and others can be had. All
    /// whose keys were refused wait for one exchange. Cancel safe.
    pub(in crate::source) async fn instead_of(&self, refused: &Keys) -> Result<Keys, Error> {
        if let Some(running) = self.replacing(refused) {
            // What came of it is what there is now.
            drop(told(running).await);
        }
        self.current().await
    }

    fn step(&self) -> Step {
        let mut state = self.inner.lock();
        match self.inner.look(&state) {
            Look::Good(keys) => Step::Use(keys),
            Look::Aging(keys) => {
                drop(self.join(&mut state));
                Step::Use(keys)
            }
            Look::Failed(failure) => Step::Refuse(failure),
            Look::Absent => Step::Wait(self.join(&mut state)),
        }
    }

    /// The exchange that replaces keys, if they are still those in use and may be given up.
    fn replacing(&self, refused: &Keys) -> Option<Running> {
        let now = self.inner.clock.monotonic();
        let mut state = self.inner.lock();
        let has_failed = self.inner.has_failed_within(&state, RETRY);
        let lease = state.lease.as_mut()?;
        let is_young = now.saturating_sub(lease.since) < YOUNG;
        if lease.keys != *refused || is_young || has_failed {
            return None;
        }
        lease.renew = now;
        Some(self.join(&mut state))
    }

    /// The exchange that runs, or one that begins now.
    fn join(&self, state: &mut State) -> Running {
        // It is closed while it is still known only if it was cut off.
        let running = state.running.as_ref();
        if let Some(running) = running.filter(|running| running.has_changed().is_ok()) {
            return running.clone();
        }
        let (tell, running) = watch::channel(None);
        state.running = Some(running.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(Arc::clone(&self.inner).renew(tell));
        running
    }
}

/// What an exchange brings; nothing if it was cut off.
async fn told(mut running: Running) -> Option<Told> {
    let told = running.wait_for(Option::is_some).await;
    told.ok().and_then(|told| told.clone())
}

impl Inner {
    fn look(&self, state: &State) -> Look {
        let now = self.clock.monotonic();
        match &state.lease {
            Some(lease) if now < lease.renew => Look::Good(lease.keys.clone()),
            Some(lease) if now < lease.ends => {
                if self.has_failed_within(state, RETRY) {
                    Look::Good(lease.keys.clone())
                } else {
                    Look::Aging(lease.keys.clone())
                }
            }
            Some(_) | None => match &state.failed {
                Some(it) if self.has_failed_within(state, PAUSE) => {
                    Look::Failed(it.failure.clone())
                }
                Some(_) | None => Look::Absent,
            },
        }
    }

    /// Whether the newest token was tried in vain not long ago.
    fn has_failed_within(&self, state: &State, pause: Duration) -> bool {
        let (now, version) = (self.clock.monotonic(), self.exchanger.version());
        let failed = state.failed.as_ref();
        failed.is_some_and(|it| it.version == version && now.saturating_sub(it.at) < pause)
    }

    /// Makes the exchange. What came of it is remembered before anybody is told.
    async fn renew(self: Arc<Self>, tell: watch::Sender<Option<Told>>) {
        let (since, version) = (self.clock.monotonic(), self.exchanger.version());
        let answer = self.exchanger.exchange(self.clock.now()).await;
        let outcome = match answer {
            Ok(granted) => Ok(self.take(granted, since)),
            Err(failure) => Err(self.note(failure, version)),
        };
        tell.send_replace(Some(Told { outcome, version }));
    }

    fn take(&self, granted: Granted, since: Duration) -> Keys {
        let Granted { keys, life } = granted;
        let mut state = self.lock();
        state.lease = Some(Lease {
            keys: keys.clone(),
            since,
            renew: since.saturating_add(renewal(life, &self.label, &keys)),
            ends: since.saturating_add(life),
        });
        state.failed = None;
        state.running = None;
        keys
    }

    fn note(&self, failure: Failure, version: u64) -> Failure {
        tracing::debug!(
            service = failure.service,
            why = failure.what,
            "no temporary keys"
        );
        let mut state = self.lock();
        state.failed = Some(Failed {
            failure: failure.clone(),
            at: self.clock.monotonic(),
            version,
        });
        state.running = None;
        failure
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When in their life keys are replaced: after four fifths of it, a tenth of that sooner or later. Which it is depends on source and
/// keys alone, and every node has keys of its own: those that were given to many at once are not asked for again at once.
fn renewal(life: Duration, label: &str, keys: &Keys) -> Duration {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    for part in [label, &keys.id, keys.token.as_deref().unwrap_or_default()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let byte = hasher.finalize().as_bytes().first().copied();
    let usual = life.saturating_mul(4) / 5;
    let spread = (usual / 5).saturating_mul(u32::from(byte.unwrap_or_default())) / 255;
    (usual.saturating_mul(9) / 10).saturating_add(spread)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn renewals_are_spread_over_a_fifth_around_four_fifths_and_the_same_for_the_same_keys() {
        let life = Duration::from_mins(15);
        let at = |source: &str, number: u32| {
            let keys = Keys::bearer(format!("canary-{number}"));
            renewal(life, source, &keys)
        };
        let moments: BTreeSet<Duration> = (0..1000).map(|number| at("models", number)).collect();
        let sixteen =
            |source: &str| -> Vec<Duration> { (0..16).map(|number| at(source, number)).collect() };
        assert_eq!(sixteen("models"), sixteen("models"));
        assert_ne!(sixteen("models"), sixteen("other"));
        assert!(moments.len() > 200, "{moments:?}");
        let (first, last) = (moments.first().unwrap(), moments.last().unwrap());
        assert!(*first >= Duration::from_secs(648), "{first:?}");
        assert!(*last <= Duration::from_secs(792), "{last:?}");
        assert!(
            last.abs_diff(*first) >= Duration::from_secs(130),
            "{moments:?}"
        );
    }

    #[test]
    fn a_life_without_end_is_no_overflow() {
        let keys = Keys::bearer("canary".to_owned());
        assert!(renewal(Duration::MAX, "models", &keys) < Duration::MAX);
    }
}

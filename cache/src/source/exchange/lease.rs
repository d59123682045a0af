//! When keys are fetched and how long they are used. Keys serve everybody for four fifths of their life; then one request
//! fetches new ones, and the others go on with the old ones meanwhile. Without keys all wait for one exchange. What failed is
//! told to all who ask within a second, rather than tried again for each of them; a newer token of the workload is tried at once.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Exchange, Exchanger, Failure, Granted};
use crate::clock::Clock;
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

/// Keys of one identity, for one source.
pub(in crate::source) struct Leased {
    exchanger: Exchanger,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held by whoever makes the exchange.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    failed: Option<Failed>,
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

impl fmt::Debug for Leased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased")
            .field("exchanger", &self.exchanger)
            .finish_non_exhaustive()
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
            exchanger: Exchanger::new(config, exchange, gate)?,
            clock: Arc::clone(&exchange.clock),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Keys that are good now.
    pub(in crate::source) async fn current(&self) -> Result<Keys, Error> {
        match self.look() {
            Look::Good(keys) => Ok(keys),
            Look::Failed(failure) => Err(failure.into()),
            Look::Aging(keys) => match self.turn.try_lock() {
                Ok(_turn) => Ok(self.renew().await.unwrap_or(keys)),
                // Somebody is at it.
                Err(_) => Ok(keys),
            },
            Look::Absent => {
                let _turn = self.turn.lock().await;
                // Whoever had the turn before has changed what there is.
                match self.look() {
                    Look::Good(keys) | Look::Aging(keys) => Ok(keys),
                    Look::Failed(failure) => Err(failure.into()),
                    Look::Absent => self.renew().await.map_err(Error::from),
                }
            }
        }
    }

    /// Keys in place of those that the store refused: new ones, if those are not of the last minute and others can be had.
    pub(in crate::source) async fn instead_of(&self, refused: &Keys) -> Result<Keys, Error> {
        let now = self.clock.monotonic();
        if let Some(lease) = &mut self.lock().lease
            && lease.keys == *refused
            && now.saturating_sub(lease.since) >= YOUNG
        {
            lease.renew = now;
        }
        self.current().await
    }

    fn look(&self) -> Look {
        let now = self.clock.monotonic();
        let state = self.lock();
        let version = self.exchanger.version();
        let failed = state.failed.as_ref().filter(|it| it.version == version);
        let has_failed_within = |pause| failed.is_some_and(|it| now.saturating_sub(it.at) < pause);
        match &state.lease {
            Some(lease) if now < lease.renew => Look::Good(lease.keys.clone()),
            Some(lease) if now < lease.ends => {
                if has_failed_within(RETRY) {
                    Look::Good(lease.keys.clone())
                } else {
                    Look::Aging(lease.keys.clone())
                }
            }
            Some(_) | None => match failed {
                Some(it) if has_failed_within(PAUSE) => Look::Failed(it.failure.clone()),
                Some(_) | None => Look::Absent,
            },
        }
    }

    /// Makes the exchange; the caller has the turn.
    async fn renew(&self) -> Result<Keys, Failure> {
        let (since, version) = (self.clock.monotonic(), self.exchanger.version());
        let answer = self.exchanger.exchange(self.clock.now()).await;
        let mut state = self.lock();
        match answer {
            Ok(Granted { keys, life }) => {
                state.lease = Some(Lease {
                    keys: keys.clone(),
                    since,
                    renew: since.saturating_add(life.saturating_mul(4) / 5),
                    ends: since.saturating_add(life),
                });
                state.failed = None;
                Ok(keys)
            }
            Err(failure) => {
                tracing::debug!(
                    service = failure.service,
                    why = failure.what,
                    "no temporary keys"
                );
                state.failed = Some(Failed {
                    failure: failure.clone(),
                    at: self.clock.monotonic(),
                    version,
                });
                Err(failure)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! How fast: limits of bytes per second and of connections, of a node for all that a policy selects together, and of each namespace
//! there. All limits of whoever pays for a run hold for the run (`egress::policy`), each for all that the policy that sets it
//! selects.
//!
//! **Bytes** (`roads`): a run begins when what began before it is worked off, so that over any time longer than a run the rate holds,
//! and a single run is as fast as it can be. Where several limits hold, it waits for one after the other: for those of its own
//! namespace before those of the node, and for the lower before the higher. So it takes of what others use as well
//! only when nothing slower holds it up.
//!
//! **Connections** (`places`) are counted as runs under way. Connections are pooled and belong to a source, not to a namespace:
//! which of them serves whom changes from run to run, but each serves one run at a time, so no more are in use than runs are
//! under way. Idle ones are not counted. A run takes its place last, when nothing but the place is missing.
//!
//! **Namespaces wait in turn** (`line`): one with a thousand runs that wait does not hold up another's first.
//!
//! **Only bytes count that came**: a run that is given up while it waits, is not sent, or brings less than it asked for gives back the
//! rest. That is exact, because nobody who waits was promised a time: who is next is told to look again.
//!
//! A few short looks under one lock for each run, and none where nothing is limited.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::egress::policy::{Limit, Limits, Rates};

mod line;
mod places;
mod roads;

use line::Waiter;
use places::{Places, Room};
use roads::{Roads, Step};

/// Holds the node to its limits.
#[derive(Debug, Default)]
pub struct Pace {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    roads: Roads,
    places: Places,
    /// How many have stood in a line.
    last: u64,
}

/// What a limit is about: all that a policy selects on this node, or one namespace of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    policy: String,
    namespace: Option<String>,
}

/// What a run has of the node's speed. It ends when this is dropped; bytes that are not said to have come by then are given back.
#[derive(Debug)]
pub struct Turn {
    pace: Arc<Pace>,
    namespace: String,
    booked: Vec<Booking>,
    place: Option<Place>,
    bytes: u64,
    received: u64,
}

/// Bytes of a lane.
#[derive(Debug)]
struct Booking {
    lane: Lane,
    per_second: u64,
}

/// Who waits for a place, and then has one.
#[derive(Debug)]
struct Place {
    number: u64,
    lanes: Vec<Lane>,
}

/// Who waits for bytes of a lane; leaves the line when it is dropped.
struct Standing<'a> {
    pace: &'a Pace,
    lane: &'a Lane,
    namespace: &'a str,
    number: u64,
    wake: Arc<Notify>,
}

impl Pace {
    /// Waits until a run of so many bytes may begin; `None` if nothing is limited. A run that is given up while it waits leaves
    /// nothing behind.
    pub async fn enter(
        self: &Arc<Self>,
        rates: &Rates,
        namespace: &str,
        bytes: u64,
    ) -> Option<Turn> {
        if rates.is_free() {
            return None;
        }
        let mut turn = Turn {
            pace: Arc::clone(self),
            namespace: namespace.to_owned(),
            booked: Vec::new(),
            place: None,
            bytes,
            received: 0,
        };
        let limits: Vec<Scoped<'_>> = byte_limits(rates).collect();
        for limit in limits {
            let booking = Booking {
                lane: limit.lane(namespace),
                per_second: limit.value(),
            };
            self.pass(&booking, namespace, bytes).await;
            turn.booked.push(booking);
        }
        turn.connect(rates).await;
        Some(turn)
    }

    /// Whether a run would have to wait now.
    pub fn is_tight(&self, rates: &Rates, namespace: &str) -> bool {
        if rates.is_free() {
            return false;
        }
        let now = Instant::now();
        let state = self.lock();
        byte_limits(rates).any(|limit| state.roads.is_busy(&limit.lane(namespace), now))
            || connection_limits(rates).any(|limit| state.places.is_full(&limit.room(namespace)))
    }

    /// Waits for bytes of one lane, and books them.
    async fn pass(&self, booking: &Booking, namespace: &str, bytes: u64) {
        let Booking { lane, per_second } = booking;
        let time = time_of(bytes, *per_second);
        let Some(standing) = self.stand(lane, namespace, time) else {
            return;
        };
        loop {
            let step = self.lock().roads.step(&standing, time, Instant::now());
            match step {
                Step::Begin => return,
                Step::Wait(until) => tokio::select! {
                    () = standing.wake.notified() => {}
                    () = sleep_until(until) => {}
                },
                Step::Stand => standing.wake.notified().await,
            }
        }
    }

    /// A place in the line for a lane; none for a run that takes so much time and may begin at once.
    fn stand<'a>(
        &'a self,
        lane: &'a Lane,
        namespace: &'a str,
        time: Duration,
    ) -> Option<Standing<'a>> {
        let mut state = self.lock();
        if state.roads.begin((lane, namespace), time, Instant::now()) {
            return None;
        }
        let wake = Arc::<Notify>::default();
        let number = state.number();
        let waiter = Waiter {
            number,
            wake: Arc::clone(&wake),
            wants: (),
        };
        state.roads.join((lane, namespace), waiter);
        drop(state);
        Some(Standing {
            pace: self,
            lane,
            namespace,
            number,
            wake,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }
}

impl Turn {
    /// The run has ended after so many bytes.
    pub fn end(mut self, received: u64) {
        self.received = received;
    }

    /// Waits for a place among the runs under way.
    async fn connect(&mut self, rates: &Rates) {
        let rooms: Vec<Room> = connection_limits(rates)
            .map(|limit| limit.room(&self.namespace))
            .collect();
        if rooms.is_empty() {
            return;
        }
        let wake = Arc::<Notify>::default();
        let number = self.take_place(rooms, &wake);
        loop {
            let waits = self.pace.lock().places.waits(&self.namespace, number);
            if !waits {
                return;
            }
            wake.notified().await;
        }
    }

    fn take_place(&mut self, rooms: Vec<Room>, wake: &Arc<Notify>) -> u64 {
        let mut state = self.pace.lock();
        let number = state.number();
        self.place = Some(Place {
            number,
            lanes: rooms.iter().map(|room| room.lane.clone()).collect(),
        });
        let waiter = Waiter {
            number,
            wake: Arc::clone(wake),
            wants: rooms,
        };
        state.places.join(&self.namespace, waiter);
        number
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let unused = self.bytes.saturating_sub(self.received);
        let mut state = self.pace.lock();
        if unused > 0 {
            for Booking { lane, per_second } in &self.booked {
                state.roads.give_back(lane, time_of(unused, *per_second));
            }
        }
        if let Some(Place { number, lanes }) = &self.place {
            state.places.leave(&self.namespace, *number, lanes);
        }
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.pace.lock().roads.leave(self);
    }
}

/// A limit, of the node or of each namespace.
#[derive(Debug, Clone, Copy)]
struct Scoped<'a> {
    limit: &'a Limit,
    of_namespace: bool,
}

impl Scoped<'_> {
    fn lane(&self, namespace: &str) -> Lane {
        Lane {
            policy: self.limit.policy.clone(),
            namespace: self.of_namespace.then(|| namespace.to_owned()),
        }
    }

    fn room(&self, namespace: &str) -> Room {
        Room {
            lane: self.lane(namespace),
            most: self.value(),
        }
    }

    fn value(&self) -> u64 {
        self.limit.value.max(1)
    }
}

/// How long so many bytes take.
fn time_of(bytes: u64, per_second: u64) -> Duration {
    let nanos = u128::from(bytes).saturating_mul(1_000_000_000) / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn byte_limits(rates: &Rates) -> impl Iterator<Item = Scoped<'_>> {
    both(
        rates.bytes_per_second_per_namespace.as_ref(),
        rates.bytes_per_second_per_node.as_ref(),
    )
}

fn connection_limits(rates: &Rates) -> impl Iterator<Item = Scoped<'_>> {
    both(
        rates.connections_per_namespace.as_ref(),
        rates.connections_per_node.as_ref(),
    )
}

/// Those of the namespace, then those of the node, the lower before the higher.
fn both<'a>(
    of_namespace: Option<&'a Limits>,
    of_node: Option<&'a Limits>,
) -> impl Iterator<Item = Scoped<'a>> {
    let scoped = |of_namespace| {
        move |limit| Scoped {
            limit,
            of_namespace,
        }
    };
    let of_namespace = of_namespace.into_iter().flat_map(Limits::all);
    let of_node = of_node.into_iter().flat_map(Limits::all);
    of_namespace
        .map(scoped(true))
        .chain(of_node.map(scoped(false)))
}

#[cfg(test)]
mod tests;

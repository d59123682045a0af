//! One kind of requests of a job: how many run, what waits to be asked again, and how quick they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::connections::Controller;
use super::hedge::Pace;
use super::plan::Run;
use super::settings::Settings;
use super::slots::{Class, Party, Slot, Slots};
use crate::buffer::without_reserve;

/// A run that is to be asked for again.
#[derive(Debug)]
pub(super) struct Later {
    /// Not before.
    pub(super) due: Instant,
    /// What.
    pub(super) run: Run,
    /// Failures in a row so far.
    pub(super) attempts: u32,
}

/// How many requests of a lane wait for bytes or receive them, and who is told when one has all of its own.
#[derive(Debug, Default)]
struct Receiving {
    count: AtomicUsize,
    fewer: Notify,
}

/// A request's place in its lane, and its connection: both are free again once this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    /// Given back before the lane hears of it, and lent while the gate makes the request wait.
    pub(super) slot: Option<Slot>,
    receiving: Arc<Receiving>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        drop(self.slot.take());
        self.receiving.count.fetch_sub(1, Ordering::AcqRel);
        self.receiving.fewer.notify_one();
    }
}

/// The requests of one class.
#[derive(Debug)]
pub(super) struct Lane {
    /// Of large or of small files.
    pub(super) class: Class,
    /// How many requests should run.
    pub(super) controller: Controller,
    receiving: Arc<Receiving>,
    /// Time of whole runs.
    pub(super) pace: Pace,
    /// Time from request to answer.
    pub(super) waits: Pace,
    later: Vec<Later>,
    turn: Option<oneshot::Receiver<Slot>>,
    idle: bool,
}

impl Lane {
    /// An empty lane.
    pub(super) fn new(class: Class, settings: &Settings) -> Self {
        let start = settings.connections_start;
        // What one payer gets at most.
        let max = without_reserve(settings.connections_max);
        Self {
            class,
            controller: match class {
                Class::Large => Controller::new(start, max),
                Class::Small => Controller::steady(start, max),
            },
            receiving: Arc::default(),
            pace: Pace::default(),
            waits: Pace::default(),
            later: Vec::new(),
            turn: None,
            idle: false,
        }
    }

    /// How many requests run and have not received all yet.
    pub(super) fn running(&self) -> usize {
        self.receiving.count.load(Ordering::Acquire)
    }

    /// Seats one more request.
    pub(super) fn seat(&mut self, slot: Slot) -> Seat {
        self.receiving.count.fetch_add(1, Ordering::AcqRel);
        Seat {
            slot: Some(slot),
            receiving: Arc::clone(&self.receiving),
        }
    }

    /// Waits until a request has left its seat. Cancel safe.
    pub(super) fn fewer(&self) -> impl Future<Output = ()> + use<> {
        let receiving = Arc::clone(&self.receiving);
        async move { receiving.fewer.notified().await }
    }

    /// Queues for a slot if one more request should run and `fresh` work or a due retry is there.
    pub(super) fn queue(&mut self, slots: &Slots, party: &Party, fresh: bool) {
        if self.turn.is_some() || self.running() >= self.controller.target() {
            return;
        }
        if fresh || self.has_due(Instant::now()) {
            self.turn = Some(slots.request(party.clone(), self.class));
        } else {
            self.idle = true;
        }
    }

    /// Waits for the slot that was queued for. Cancel safe.
    pub(super) async fn slot(&mut self) -> Option<Slot> {
        let Some(turn) = &mut self.turn else {
            return std::future::pending().await;
        };
        let slot = turn.await.ok();
        self.turn = None;
        slot
    }

    /// Leaves the queue for slots.
    pub(super) fn leave(&mut self) {
        self.turn = None;
        self.later.clear();
    }

    /// Puts a run off.
    pub(super) fn put_off(&mut self, later: Later) {
        self.later.push(later);
    }

    /// Lets nothing be asked again before `until`.
    pub(super) fn hold_back(&mut self, until: Instant) {
        for later in &mut self.later {
            later.due = later.due.max(until);
        }
    }

    /// Lets everything be asked again at `from` at the latest.
    pub(super) fn let_go(&mut self, from: Instant) {
        for later in &mut self.later {
            later.due = later.due.min(from);
        }
    }

    /// Takes a run whose wait is over.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Later> {
        let index = self.later.iter().position(|later| later.due <= now)?;
        Some(self.later.swap_remove(index))
    }

    /// When the next run's wait is over.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.later.iter().map(|later| later.due).min()
    }

    /// Whether any run is put off.
    pub(super) fn has_later(&self) -> bool {
        !self.later.is_empty()
    }

    /// Adjusts the number of requests to what came since the last call.
    pub(super) fn decide(&mut self, received: u64) {
        let busy = !std::mem::take(&mut self.idle) && self.running() >= self.controller.target();
        self.controller.decide(received, busy);
    }

    /// The age at which a run of `parts` parts is late.
    pub(super) fn late_after(&self, parts: u64, floor: Duration) -> Option<Duration> {
        self.pace.late_after(parts, floor)
    }

    fn has_due(&self, now: Instant) -> bool {
        self.later.iter().any(|later| later.due <= now)
    }
}

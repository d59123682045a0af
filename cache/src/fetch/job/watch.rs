//! What is decided once per interval: how many connections pay, whether the job is lost, which runs are late.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::super::plan::Run;
use super::super::slots::Class;

use super::super::{buffers_of, connections_of};
use super::Driver;
use crate::gate::Purpose;

impl Driver {
    pub(super) fn tick(&mut self) {
        if self.is_ending() {
            return;
        }
        if self.budget.is_spent(Instant::now())
            && let Some(last) = self.last.take()
        {
            self.give_up(last);
            return;
        }
        self.large
            .decide(self.context.received.swap(0, Ordering::Relaxed));
        self.small.decide(std::mem::take(&mut self.small_done));
        self.grow();
        self.hedge_late_runs();
    }

    /// More buffers, if this job alone fills the connections that they allow and more still pay.
    pub(super) fn grow(&mut self) {
        let limit = self.slots.large_share();
        let target = self.large.controller.target();
        // Requests that wait at the gate have no connection.
        let held = self.slots.held_by(self.party.job);
        if target <= limit || self.large.running().min(held) < limit {
            return;
        }
        let most = self
            .context
            .settings
            .buffers_max
            .max(self.context.buffers.pool().limit());
        // Of which the job's payer may not have all.
        let buffers = buffers_of(target.saturating_add(target.div_ceil(7))).min(most);
        self.context.buffers.pool().grow_to(buffers);
        self.slots.grow_large(connections_of(buffers));
    }

    pub(super) fn hedge_late_runs(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> = self
            .late()
            .filter(|(_, late)| *late <= now)
            .map(|(id, _)| id)
            .collect();
        for id in late {
            self.hedge(id);
        }
    }

    /// When each of the last runs is late; none while there is more to ask for, and ticks are soon enough.
    pub(super) fn last_late(&self) -> impl Iterator<Item = Instant> {
        let last = self.is_all_asked().then(|| self.late());
        last.into_iter().flatten().map(|(_, late)| late)
    }

    /// The runs that were asked for once, and when each is late.
    fn late(&self) -> impl Iterator<Item = (u64, Instant)> {
        let settings = &self.context.settings;
        let floor = if self.is_all_asked() {
            settings.hedge_last_after.min(settings.hedge_after)
        } else {
            settings.hedge_after
        };
        self.active
            .iter()
            .filter(|(_, active)| !active.race.is_hedged())
            .filter_map(move |(id, active)| {
                let lane = match active.class {
                    Class::Large => &self.large,
                    Class::Small => &self.small,
                };
                let parts = active.run.parts.end.saturating_sub(active.run.parts.start);
                let age = lane.late_after(parts, floor)?;
                Some((*id, active.started.checked_add(age)?))
            })
    }

    /// Asks a second time for what a late run still lacks, if a connection and the allowance permit.
    pub(super) fn hedge(&mut self, id: u64) {
        let Some(active) = self.active.get(&id) else {
            return;
        };
        let unclaimed = active.race.unclaimed();
        let Some(parts) = unclaimed
            .first()
            .map(|first| first.start)
            .zip(unclaimed.last().map(|last| last.end))
        else {
            return;
        };
        let run = Run {
            entry: active.run.entry,
            parts: parts.0..parts.1,
        };
        let range = run.bytes(self.context.size(run.entry));
        let (class, race) = (active.class, Arc::clone(&active.race));
        let Some(slot) = self.slots.try_take(self.party.clone(), class) else {
            return;
        };
        if self.allowance.take(range.end.saturating_sub(range.start)) {
            race.hedge();
            self.send(class, slot, (id, run, Purpose::Hedge, race));
        }
    }
}

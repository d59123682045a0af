//! Starts what may run: opens files a little ahead of need, and uses each slot for the next run.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::file;
use super::super::hedge::Race;
use super::super::plan::{Run, run_length};
use super::super::run::{self, Ask, Destination};
use super::super::slots::{Class, Slot};
use super::{Active, Done, Driver};
use crate::gate::Purpose;

impl Driver {
    pub(super) fn open_files(&mut self) {
        let now = Instant::now();
        while let Some(at) = self.contested.iter().position(|(due, _)| *due <= now) {
            let (_, index) = self.contested.swap_remove(at);
            self.open_file(index, true);
        }
        let wanted = self.large.controller.target();
        let most = wanted.saturating_mul(2).saturating_add(2);
        loop {
            let ready = wanted.saturating_sub(self.opening);
            if self.plan.open_files().saturating_add(self.opening) >= most {
                return;
            }
            let context = &self.context;
            let parts = context.settings.run_parts;
            let Some(index) = self
                .plan
                .next_to_open(ready, parts, |index| context.size(index))
            else {
                return;
            };
            self.open_file(index, false);
        }
    }

    pub(super) fn open_file(&mut self, index: usize, contested: bool) {
        self.opening = self.opening.saturating_add(1);
        let context = Arc::clone(&self.context);
        let writing = self.choice.writing;
        self.tasks.spawn(async move {
            Done::Opened(
                index,
                file::open(context, index, (writing, contested)).await,
            )
        });
    }

    /// Uses a slot for the next run of its class.
    pub(super) fn ask(&mut self, class: Class, slot: Option<Slot>) {
        let Some(slot) = slot.filter(|_| !self.is_ending()) else {
            return;
        };
        let now = Instant::now();
        let (run, attempts) = match self.lane(class).take_due(now) {
            Some(later) => (later.run, later.attempts),
            None => match self.next_fresh(class) {
                Some(run) => (run, 0),
                None => return,
            },
        };
        let id = self.runs;
        self.runs = self.runs.saturating_add(1);
        let race = Arc::new(Race::new(
            run.parts.clone(),
            self.context.stop.child_token(),
        ));
        self.active.insert(
            id,
            Active {
                run: run.clone(),
                class,
                race: Arc::clone(&race),
                started: now,
                attempts,
                requests: 0,
                kept: 0,
                error: None,
            },
        );
        let purpose = if attempts == 0 {
            Purpose::Content
        } else {
            Purpose::Retry
        };
        self.send(class, slot, (id, run, purpose, race));
    }

    pub(super) fn next_fresh(&mut self, class: Class) -> Option<Run> {
        match class {
            Class::Small => self.plan.next_small(),
            Class::Large => {
                let connections = u64::try_from(self.large.controller.target()).unwrap_or(1);
                let left = self.plan.unasked_parts() / connections.max(1);
                let length = run_length(
                    self.context.settings.run_parts,
                    self.large.waits.median(),
                    self.large.pace.median(),
                    left,
                );
                self.plan.next_run(length)
            }
        }
    }

    pub(super) fn send(
        &mut self,
        class: Class,
        slot: Slot,
        (id, run, purpose, race): (u64, Run, Purpose, Arc<Race>),
    ) {
        let to = match (class, self.files.get_mut(&run.entry)) {
            (Class::Small, _) => Destination::Small(run.entry, self.choice.writing),
            (Class::Large, None) => return,
            (Class::Large, Some(file)) => {
                file.requests = file.requests.saturating_add(1);
                Destination::Large(Arc::clone(&file.partial))
            }
        };
        if let Some(active) = self.active.get_mut(&id) {
            active.requests = active.requests.saturating_add(1);
        }
        let seat = self.lane(class).seat(slot);
        self.connections = self.connections.max(self.slots.held_by(self.party.job));
        let ask = Ask {
            id,
            run,
            purpose,
            to,
            race,
        };
        let context = Arc::clone(&self.context);
        self.tasks
            .spawn(async move { Done::Ran(run::run(context, ask, seat).await) });
    }
}

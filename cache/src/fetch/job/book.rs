//! Books what ended: parts, files, bytes and times.

use std::sync::Arc;
use std::time::Duration;

use super::super::file::{self, Opened};
use super::super::page_cache::{Choice, Reason};
use super::super::run::Ran;
use super::{CONTESTED, Done, Driver, File, deadline};
use crate::digest::{Digest, part_length};
use crate::store::{Partial, Writing};

impl Driver {
    pub(super) fn book(&mut self, done: Done) {
        match done {
            Done::Opened(index, result) => {
                self.opening = self.opening.saturating_sub(1);
                match result {
                    Ok(opened) => self.book_opened(index, opened),
                    Err(error) => self.fail(error),
                }
            }
            Done::Ran(ran) => self.book_ran(ran),
            Done::Committed(index, Ok((digest, deduplicated))) => {
                self.name(index, digest, deduplicated);
            }
            Done::Empty(entries, Ok(())) => {
                for index in entries {
                    self.name(index, Digest::of(b""), false);
                }
            }
            Done::Committed(_, Err(error)) | Done::Empty(_, Err(error)) => self.fail(error),
        }
    }

    pub(super) fn book_opened(&mut self, index: usize, opened: Opened) {
        let size = self.context.size(index);
        match opened {
            Opened::Busy => self.contested.push((deadline(CONTESTED), index)),
            Opened::Known(digest) => {
                self.origins.unchanged = self.origins.unchanged.saturating_add(size);
                self.context.progress.add_bytes(size);
                self.context.progress.add_file();
                self.name(index, digest, false);
            }
            Opened::Partial(partial) => {
                let resumed = resumed_bytes(&partial, size);
                self.origins.resumed = self.origins.resumed.saturating_add(resumed);
                self.context.progress.add_bytes(resumed);
                self.plan
                    .opened(index, partial.verified().iter().map(Option::is_some));
                let complete = self.plan.verified(index, 0);
                self.files.insert(
                    index,
                    File {
                        partial: Arc::new(partial),
                        requests: 0,
                        complete,
                    },
                );
                self.commit_if_complete(index);
            }
        }
    }

    pub(super) fn book_ran(&mut self, ran: Ran) {
        let Some(active) = self.active.get_mut(&ran.id) else {
            return;
        };
        active.requests = active.requests.saturating_sub(1);
        active.kept = active.kept.saturating_add(ran.kept);
        let (index, class, hedged) = (active.run.entry, active.class, active.race.is_hedged());
        let age = active.started.elapsed();
        let lane = self.lane(class);
        if ran.failure.is_none() && !hedged {
            lane.pace.add(age, ran.parts);
            lane.waits.add(ran.waited, 1);
        }
        self.count(&ran, hedged);
        if ran.parts > 0 {
            self.end_outage();
        }
        if let Some((digest, deduplicated)) = ran.small {
            self.small_done = self.small_done.saturating_add(1);
            self.name(index, digest, deduplicated);
        }
        let complete = self.plan.verified(index, ran.parts);
        if let Some(file) = self.files.get_mut(&index) {
            file.requests = file.requests.saturating_sub(1);
            file.complete = complete;
        }
        if let Some(failure) = ran.failure {
            self.book_failure((ran.id, index, class), ran.hedge, failure);
        }
        self.end_run(ran.id);
        self.commit_if_complete(index);
    }

    pub(super) fn count(&mut self, ran: &Ran, hedged: bool) {
        self.origins.source = self.origins.source.saturating_add(ran.kept);
        let wasted = ran.received.saturating_sub(ran.kept);
        let column = if hedged {
            &mut self.origins.hedge
        } else {
            &mut self.origins.retry
        };
        *column = column.saturating_add(wasted);
        add_time(&mut self.busy.receive_nanos, ran.receiving);
        add_time(&mut self.busy.hash_nanos, ran.hashing);
        add_time(&mut self.busy.write_nanos, ran.writing);
        if self.auto && self.choice.writing == Writing::Warm {
            self.judge_memory(&ran.writes);
        }
    }

    pub(super) fn judge_memory(&mut self, writes: &[Duration]) {
        if !writes.iter().any(|time| self.gauge.is_slow(*time)) {
            return;
        }
        self.choice = Choice {
            writing: Writing::Direct,
            reason: Reason::SlowMemory,
        };
        for file in self.files.values() {
            file.partial.set_writing(Writing::Direct);
        }
    }

    pub(super) fn commit_if_complete(&mut self, index: usize) {
        let ready = self
            .files
            .get(&index)
            .is_some_and(|file| file.complete && file.requests == 0);
        if !ready || self.error.is_some() {
            return;
        }
        let Some(partial) = self
            .files
            .remove(&index)
            .and_then(|file| Arc::into_inner(file.partial))
        else {
            return;
        };
        self.plan.close(index);
        let context = Arc::clone(&self.context);
        self.tasks.spawn(async move {
            Done::Committed(index, file::commit(context, index, partial).await)
        });
    }

    pub(super) fn name(&mut self, index: usize, digest: Digest, deduplicated: bool) {
        if deduplicated {
            let size = self.context.size(index);
            self.origins.dedup = self.origins.dedup.saturating_add(size);
        }
        if let Some(slot) = self.digests.get_mut(index) {
            *slot = Some(digest);
        }
    }
}

fn resumed_bytes(partial: &Partial, size: u64) -> u64 {
    (0u64..)
        .zip(partial.verified())
        .filter(|(_, hash)| hash.is_some())
        .map(|(index, _)| part_length(size, index))
        .fold(0, u64::saturating_add)
}

fn add_time(nanos: &mut u64, time: Duration) {
    *nanos = nanos.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

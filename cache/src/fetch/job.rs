//! One job from its first request to its last commit: a loop that starts what may run and books what ended.
//!
//! Invariants: every task is owned by the job's set and joined before [`Driver::drive`] returns; the first
//! fatal error ends all requests; whatever was verified stays in its partial file. Decisions are made in the
//! pure parts (`plan`, `connections`, `retry`, `hedge`, `page_cache`); here they are only carried out.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::digest::{Digest, PART_SIZE};
use crate::gate::{Purpose, Refusal};
use crate::path::Escaped;
use crate::report::{Busy, Origins};
use crate::source;
use crate::store::{Partial, Writing};

use super::context::Context;
use super::file::{self, Opened};
use super::hedge::{Allowance, Race};
use super::lane::{Lane, Later};
use super::page_cache::{self, Choice, Gauge, PageCache, Reason};
use super::plan::{Plan, Run, run_length};
use super::retry::{Budget, Decision, Verdict, judge, judge_refusal};
use super::run::{self, Ask, Failure, Ran};
use super::slots::{Class, Party, Slot, Slots};
use super::{Error, Outcome};

/// How long a file that another job writes is left alone.
const CONTESTED: Duration = Duration::from_millis(250);

/// Failures without a verified part in between after which connections are given up.
const OUTAGE: u32 = 16;

/// A task's end.
enum Done {
    Opened(usize, Result<Opened, Error>),
    Ran(Ran),
    Committed(usize, Result<(Digest, bool), Error>),
    Empty(Vec<usize>, Result<(), Error>),
}

/// A large file that is open.
struct File {
    partial: Arc<Partial>,
    requests: usize,
    complete: bool,
}

/// A run that is being asked for, once or twice.
struct Active {
    run: Run,
    class: Class,
    race: Arc<Race>,
    started: Instant,
    attempts: u32,
    requests: usize,
    kept: u64,
    error: Option<source::Error>,
}

/// Drives one job.
pub(super) struct Driver {
    context: Arc<Context>,
    cancel: CancellationToken,
    slots: Slots,
    party: Party,
    plan: Plan,
    large: Lane,
    small: Lane,
    tasks: JoinSet<Done>,
    files: HashMap<usize, File>,
    opening: usize,
    contested: Vec<(Instant, usize)>,
    active: HashMap<u64, Active>,
    runs: u64,
    budget: Budget,
    last: Option<source::Error>,
    allowance: Allowance,
    auto: bool,
    choice: Choice,
    gauge: Gauge,
    small_done: u64,
    origins: Origins,
    busy: Busy,
    connections: usize,
    digests: Vec<Option<Digest>>,
    error: Option<Error>,
    closing: Option<Refusal>,
}

/// What a driver needs beside its context.
pub(super) struct Setup {
    pub(super) cancel: CancellationToken,
    pub(super) slots: Slots,
    pub(super) party: Party,
    pub(super) page_cache: PageCache,
}

impl Driver {
    /// A job that has not begun.
    pub(super) fn new(context: Arc<Context>, setup: Setup) -> Self {
        let settings = &context.settings;
        let sizes = || context.entries.iter().map(|entry| entry.size);
        let total = sizes().fold(0, u64::saturating_add);
        let large = sizes()
            .filter(|size| *size > PART_SIZE)
            .fold(0, u64::saturating_add);
        Self {
            plan: Plan::new(sizes()),
            large: Lane::new(Class::Large, settings),
            small: Lane::new(Class::Small, settings),
            tasks: JoinSet::new(),
            files: HashMap::new(),
            opening: 0,
            contested: Vec::new(),
            active: HashMap::new(),
            runs: 0,
            budget: Budget::new(settings),
            last: None,
            allowance: Allowance::new(total, settings.hedge_permille),
            auto: setup.page_cache == PageCache::Auto,
            choice: page_cache::choose(setup.page_cache, large, page_cache::read_memory()),
            gauge: Gauge::default(),
            small_done: 0,
            origins: Origins::default(),
            busy: Busy::default(),
            connections: 0,
            digests: vec![None; context.entries.len()],
            error: None,
            closing: None,
            cancel: setup.cancel,
            slots: setup.slots,
            party: setup.party,
            context,
        }
    }

    /// Fetches everything, or says why not; no task is left behind.
    pub(super) async fn drive(mut self) -> Result<Outcome, Error> {
        let mut tick = self.start();
        loop {
            self.start_what_may_run();
            if self.tasks.is_empty() && (self.is_ending() || self.is_done()) {
                break;
            }
            let due = self.next_due();
            tokio::select! {
                biased;
                () = self.cancel.cancelled(), if self.error.is_none() => self.fail(Error::Cancelled),
                _ = tick.tick() => self.tick(),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(done) => self.book(done),
                    Err(error) => self.fail(Error::Task(error)),
                },
                slot = self.large.slot() => self.ask(Class::Large, slot),
                slot = self.small.slot() => self.ask(Class::Small, slot),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
        self.finish()
    }

    fn start(&mut self) -> Interval {
        let empty = self.plan.take_empty();
        if !empty.is_empty() {
            let context = Arc::clone(&self.context);
            self.tasks.spawn(async move {
                let result = file::put_empty(context, empty.clone()).await;
                Done::Empty(empty, result)
            });
        }
        let every = self
            .context
            .settings
            .decide_every
            .max(Duration::from_millis(1));
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        tick
    }

    fn is_ending(&self) -> bool {
        self.error.is_some() || self.closing.is_some()
    }

    fn is_done(&self) -> bool {
        self.plan.is_done()
            && self.contested.is_empty()
            && !self.large.has_later()
            && !self.small.has_later()
    }

    fn next_due(&self) -> Option<Instant> {
        if self.is_ending() {
            return None;
        }
        let now = Instant::now();
        let contested = self.contested.iter().map(|(due, _)| *due);
        // What is due already waits for a slot, not for time.
        contested
            .chain(self.large.next_due())
            .chain(self.small.next_due())
            .filter(|due| *due > now)
            .min()
    }

    fn start_what_may_run(&mut self) {
        if self.is_ending() {
            return;
        }
        self.open_files();
        // While nothing succeeds, only what failed is asked again.
        let large = self.plan.has_run() && self.may_start(&self.large);
        self.large.queue(&self.slots, &self.party, large);
        let small = self.plan.has_small() && self.may_start(&self.small);
        self.small.queue(&self.slots, &self.party, small);
    }

    fn may_start(&self, lane: &Lane) -> bool {
        self.budget.attempts() == 0 || !lane.has_later()
    }

    fn open_files(&mut self) {
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

    fn open_file(&mut self, index: usize, contested: bool) {
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
    fn ask(&mut self, class: Class, slot: Option<Slot>) {
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

    fn next_fresh(&mut self, class: Class) -> Option<Run> {
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

    fn send(
        &mut self,
        class: Class,
        slot: Slot,
        (id, run, purpose, race): (u64, Run, Purpose, Arc<Race>),
    ) {
        let partial = match (class, self.files.get_mut(&run.entry)) {
            (Class::Small, _) => None,
            (Class::Large, None) => return,
            (Class::Large, Some(file)) => {
                file.requests = file.requests.saturating_add(1);
                Some(Arc::clone(&file.partial))
            }
        };
        if let Some(active) = self.active.get_mut(&id) {
            active.requests = active.requests.saturating_add(1);
        }
        let lane = self.lane(class);
        lane.running = lane.running.saturating_add(1);
        self.connections = self
            .connections
            .max(self.large.running.saturating_add(self.small.running));
        let ask = Ask {
            id,
            run,
            purpose,
            partial,
            race,
        };
        let context = Arc::clone(&self.context);
        self.tasks
            .spawn(async move { Done::Ran(run::run(context, ask, slot).await) });
    }

    fn lane(&mut self, class: Class) -> &mut Lane {
        match class {
            Class::Large => &mut self.large,
            Class::Small => &mut self.small,
        }
    }

    fn book(&mut self, done: Done) {
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

    fn book_opened(&mut self, index: usize, opened: Opened) {
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

    fn book_ran(&mut self, ran: Ran) {
        let Some(active) = self.active.get_mut(&ran.id) else {
            return;
        };
        active.requests = active.requests.saturating_sub(1);
        active.kept = active.kept.saturating_add(ran.kept);
        let (index, class, hedged) = (active.run.entry, active.class, active.race.is_hedged());
        let age = active.started.elapsed();
        let lane = self.lane(class);
        lane.running = lane.running.saturating_sub(1);
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

    fn count(&mut self, ran: &Ran, hedged: bool) {
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

    fn judge_memory(&mut self, writes: &[Duration]) {
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

    fn book_failure(
        &mut self,
        (id, index, class): (u64, usize, Class),
        hedge: bool,
        failure: Failure,
    ) {
        match failure {
            Failure::Stopped => {}
            Failure::Store(error) => self.fail(error.into()),
            Failure::Mismatch { expected, found } => self.mismatch(index, expected, found),
            Failure::Refused(_) if hedge => self.allowance.close(),
            Failure::Refused(refusal) => self.refuse(refusal),
            Failure::Source(error) => match judge(&error) {
                Verdict::Stop => self.fail(Error::Source(error)),
                Verdict::Changed => {
                    let key = self.context.entry(index).map_or("", |entry| &entry.key);
                    let key = Escaped(key).to_string();
                    self.fail(Error::Changed { key, source: error });
                }
                Verdict::Exhausted => {
                    if let source::Error::Gate(refusal) = error {
                        self.refuse(refusal);
                    }
                }
                verdict @ (Verdict::Again | Verdict::SlowDown) => {
                    if verdict == Verdict::SlowDown {
                        self.lane(class).controller.throttle();
                        self.allowance.close();
                    }
                    // A store that only fails is asked by ever fewer connections.
                    if self.budget.attempts() >= OUTAGE {
                        self.lane(class).controller.throttle();
                    }
                    if let Some(active) = self.active.get_mut(&id) {
                        active.error = Some(error);
                    }
                }
            },
        }
    }

    fn mismatch(&mut self, index: usize, expected: Digest, found: Digest) {
        if let Some(path) = self.context.entry(index).map(|entry| entry.path.clone()) {
            self.fail(Error::Mismatch {
                path,
                expected,
                found,
            });
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        match judge_refusal(&refusal) {
            Verdict::Exhausted => {
                self.large.leave();
                self.small.leave();
                self.closing.get_or_insert(refusal);
            }
            Verdict::Again | Verdict::SlowDown | Verdict::Changed | Verdict::Stop => {
                self.fail(Error::Refused(refusal));
            }
        }
    }

    /// Once no request of a run is left, puts off what it did not bring.
    fn end_run(&mut self, id: u64) {
        if self
            .active
            .get(&id)
            .is_none_or(|active| active.requests > 0)
        {
            return;
        }
        let Some(active) = self.active.remove(&id) else {
            return;
        };
        let rest = active.race.unclaimed();
        let Some(error) = active
            .error
            .filter(|_| !rest.is_empty() && !self.is_ending())
        else {
            return;
        };
        let before = if active.kept > 0 { 0 } else { active.attempts };
        match self.budget.fail(Instant::now(), before, &error) {
            Decision::GiveUp => self.give_up(error),
            Decision::After(wait) => {
                tracing::debug!(file = active.run.entry, attempt = before, ?wait, %error, "request failed");
                self.last = Some(error);
                if self.budget.attempts() >= OUTAGE {
                    // One request at a time finds out whether the store is back.
                    self.lane(active.class).hold_back(deadline(wait));
                }
                self.put_off(active.class, (active.run.entry, rest), (wait, before));
            }
        }
    }

    fn put_off(
        &mut self,
        class: Class,
        (entry, rest): (usize, Vec<Range<u64>>),
        (wait, before): (Duration, u32),
    ) {
        for parts in rest {
            self.lane(class).put_off(Later {
                due: deadline(wait),
                run: Run { entry, parts },
                attempts: before.saturating_add(1),
            });
        }
    }

    /// A verified part ends every outage.
    fn end_outage(&mut self) {
        if self.budget.attempts() >= OUTAGE {
            let soon = deadline(self.context.settings.backoff_first);
            self.large.let_go(soon);
            self.small.let_go(soon);
        }
        self.budget.progress();
    }

    fn give_up(&mut self, last: source::Error) {
        let attempts = self.budget.attempts();
        self.fail(Error::GaveUp { attempts, last });
    }

    fn commit_if_complete(&mut self, index: usize) {
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

    fn name(&mut self, index: usize, digest: Digest, deduplicated: bool) {
        if deduplicated {
            let size = self.context.size(index);
            self.origins.dedup = self.origins.dedup.saturating_add(size);
        }
        if let Some(slot) = self.digests.get_mut(index) {
            *slot = Some(digest);
        }
    }

    fn fail(&mut self, error: Error) {
        if self.error.is_none() {
            self.error = Some(error);
            self.large.leave();
            self.small.leave();
            self.context.stop.cancel();
        }
    }

    fn tick(&mut self) {
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
    fn grow(&mut self) {
        let limit = self.slots.large_limit();
        let target = self.large.controller.target();
        if target <= limit || self.large.running < limit {
            return;
        }
        let most = self
            .context
            .settings
            .buffers_max
            .max(self.context.pool.limit());
        let buffers = super::buffers_of(target).min(most);
        self.context.pool.grow_to(buffers);
        self.slots.grow_large(super::connections_of(buffers));
    }

    fn hedge_late_runs(&mut self) {
        let floor = self.context.settings.hedge_after;
        let late: Vec<u64> = self
            .active
            .iter()
            .filter(|(_, active)| {
                let lane = match active.class {
                    Class::Large => &self.large,
                    Class::Small => &self.small,
                };
                let parts = active.run.parts.end.saturating_sub(active.run.parts.start);
                !active.race.is_hedged()
                    && lane
                        .late_after(parts, floor)
                        .is_some_and(|age| active.started.elapsed() >= age)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.hedge(id);
        }
    }

    /// Asks a second time for what a late run still lacks, if a connection and the allowance permit.
    fn hedge(&mut self, id: u64) {
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

    fn finish(self) -> Result<Outcome, Error> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if let Some(refusal) = self.closing {
            return Err(Error::Refused(refusal));
        }
        let missing = self
            .digests
            .iter()
            .filter(|digest| digest.is_none())
            .count();
        if missing > 0 {
            return Err(Error::Incomplete { missing });
        }
        let first_byte = self.context.first_byte.get().copied().unwrap_or_default();
        let last_byte = Duration::from_nanos(self.context.last_byte.load(Ordering::Relaxed));
        Ok(Outcome {
            digests: self.digests.into_iter().flatten().collect(),
            origins: self.origins,
            busy: self.busy,
            first_byte,
            transfer: last_byte.saturating_sub(first_byte),
            sync: self.context.elapsed().saturating_sub(last_byte),
            connections: u64::try_from(self.connections).unwrap_or(u64::MAX),
            page_cache: self.choice.to_string(),
        })
    }
}

fn deadline(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or(now)
}

fn resumed_bytes(partial: &Partial, size: u64) -> u64 {
    (0u64..)
        .zip(partial.verified())
        .filter(|(_, hash)| hash.is_some())
        .map(|(index, _)| crate::digest::part_length(size, index))
        .fold(0, u64::saturating_add)
}

fn add_time(nanos: &mut u64, time: Duration) {
    *nanos = nanos.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

//! One job from its first request to its last commit: a loop that starts what may run and books what ended.
//!
//! Invariants: every task is owned by the job's set and joined before [`Driver::drive`] returns; the first
//! fatal error ends all requests; whatever was verified stays in its partial file. Decisions are made in the
//! pure parts (`plan`, `connections`, `retry`, `hedge`, `page_cache`); here they are only carried out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::digest::{Digest, PART_SIZE};
use crate::gate::Refusal;
use crate::report::{Busy, Origins};
use crate::source;
use crate::store::Partial;

use super::context::Context;
use super::file::{self, Opened};
use super::hedge::{Allowance, Race};
use super::lane::Lane;
use super::page_cache::{self, Choice, Gauge, PageCache, Reason};
use super::plan::{Plan, Run};
use super::retry::Budget;
use super::run::Ran;
use super::slots::{Class, Party, Slots};
use super::{Error, Outcome};

mod book;
mod failure;
mod start;
mod watch;

/// How long a file that another job writes is left alone.
const CONTESTED: Duration = Duration::from_millis(250);

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
                () = self.large.fewer() => {}
                slot = self.large.slot() => self.ask(Class::Large, slot),
                slot = self.small.slot() => self.ask(Class::Small, slot),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.hedge_late_runs(),
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

    /// Whether all that is left runs already.
    fn is_all_asked(&self) -> bool {
        self.plan.unasked_parts() == 0
            && !self.plan.has_small()
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
            .chain(self.last_late())
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

    fn lane(&mut self, class: Class) -> &mut Lane {
        match class {
            Class::Large => &mut self.large,
            Class::Small => &mut self.small,
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
        if self.choice.reason == Reason::SlowMemory {
            self.warm();
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

impl Driver {
    /// What went past memory because that was slow is brought there beside its reader, who begins with the first file.
    fn warm(&self) {
        let entries = self.context.entries.iter().zip(&self.digests);
        let large = entries.filter(|(entry, _)| entry.size > PART_SIZE);
        let last_first = large.rev();
        let store = &self.context.store;
        store.warm(last_first.filter_map(|(entry, digest)| Some(((*digest)?, entry.size))));
    }
}

fn deadline(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or(now)
}

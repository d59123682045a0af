//! The loop around the world: what was read goes in, and once a second what is to be done is done, and what came of it told back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch::Sender;
use tokio::time::{Instant, MissedTickBehavior};
use tonnage_cache::clock::{Clock, unix_millis};

use super::answers::LeaseWrite;
use super::doubts::Doubts;
use super::objects::account_of;
use super::record;
use super::store::{Failure, Store};
use super::turns::{Creation, Deletion, LedgerWrite, Turns};
use super::waits::{Object, Outcomes, Waits};
use super::watch::Watches;
use super::world::{Change, Moment, World};
use crate::egress::ledger::Rules;
use crate::egress::terms::{Account, PolicyUid};
use crate::govern::audit::Audit;
use crate::govern::status::BudgetFigure;

/// How often something is done.
const TURN: Duration = Duration::from_secs(1);
/// How often figures are told.
const FIGURES: Duration = Duration::from_secs(10);
/// Writes that are under way at a time.
const AT_ONCE: usize = 16;
/// Longest pause after failures.
const PAUSE: Duration = Duration::from_secs(10);
/// Most kinds of failures that are complained about until all is well again.
const MOST_COMPLAINTS: usize = 8;

/// Reads, decides and writes, in turn.
pub(super) struct Keeper {
    watches: Watches,
    store: Store,
    world: World,
    audit: Audit,
    clock: Arc<dyn Clock>,
    doubts: Doubts,
    /// Accounts whose objects could not be made.
    unmade: Vec<Account>,
    /// Objects that have a ledger's name and are none, once they were told.
    foreign: BTreeSet<String>,
    /// Turns in a row in which the API server failed everybody.
    failures: u32,
    /// What could not be written.
    waits: Waits,
    /// What was complained about, so that an outage is told once.
    complained: Vec<Failure>,
}

impl Keeper {
    /// Knows nothing yet.
    pub(super) fn new(client: kube::Client, audit: Audit, clock: Arc<dyn Clock>) -> Self {
        Self {
            watches: Watches::new(&client),
            store: Store::new(client),
            world: World::new(Rules::default()),
            audit,
            clock,
            doubts: Doubts::default(),
            unmade: Vec::new(),
            foreign: BTreeSet::new(),
            failures: 0,
            waits: Waits::default(),
            complained: Vec::new(),
        }
    }

    /// Keeps the ledgers for ever. The first turn is taken at the moment at which everything is read: nodes wait for it since the last
    /// leader died.
    pub(super) async fn keep(&mut self, figures: &Sender<Vec<BudgetFigure>>) {
        let begun = Instant::now();
        let mut turns = tokio::time::interval_at(begun, TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut due, mut told) = (begun, begun);
        loop {
            tokio::select! {
                changes = self.watches.next() => {
                    for change in changes {
                        self.learn(change);
                    }
                }
                now = turns.tick(), if self.watches.are_read() => {
                    if now >= due {
                        due = now + self.turn().await;
                    }
                    if now >= told {
                        told = now + FIGURES;
                        figures.send_replace(self.world.figures());
                    }
                }
            }
        }
    }

    /// One turn; says how long to wait for the next.
    async fn turn(&mut self) -> Duration {
        self.store.try_again();
        let mut outcomes = Outcomes::default();
        self.create(&mut outcomes).await;
        self.settle(&mut outcomes).await;
        self.answer(&mut outcomes).await;
        self.tell(&mut outcomes).await;
        self.pause(outcomes)
    }

    /// How long everybody waits: not at all, unless the API server fails everybody. An object that fails alone waits alone.
    fn pause(&mut self, outcomes: Outcomes) -> Duration {
        self.complain(&outcomes);
        if self.store.is_silent() || outcomes.are_all_bad() {
            self.failures = self.failures.saturating_add(1);
            let doubled = 2u32.saturating_pow(self.failures.min(8));
            return TURN.saturating_mul(doubled).min(PAUSE);
        }
        if std::mem::take(&mut self.failures) > 0 {
            tracing::info!("the ledgers of byte budgets are kept again");
        }
        self.waits.learn(outcomes, Instant::now());
        Duration::ZERO
    }

    fn complain(&mut self, outcomes: &Outcomes) {
        if outcomes.failed.is_empty() && self.waits.is_empty() {
            self.complained.clear();
        }
        for (object, failure) in &outcomes.failed {
            let is_told = self.complained.contains(failure);
            if is_told || self.complained.len() >= MOST_COMPLAINTS {
                tracing::debug!(?object, %failure, "a ledger, a grant or a status could not be written");
            } else {
                tracing::warn!(?object, %failure, "a ledger, a grant or a status could not be written; it is tried again");
                self.complained.push(failure.clone());
            }
        }
    }

    /// An account cannot have a ledger, because something else has its name. The others do not wait for it.
    fn complain_of(&mut self, budget: String, why: &str) {
        if !self.foreign.contains(&budget) {
            tracing::warn!(
                budget,
                why,
                "nothing is granted of a budget, because another object has its ledger's name; delete that"
            );
            self.foreign.insert(budget);
        }
    }

    /// Takes in what was read.
    fn learn(&mut self, change: Change) {
        if let Change::Budget(budget) = &change
            && let Some(write) = self.doubts.read(budget)
        {
            self.record(&write);
        }
        if let Change::BudgetGone(name) = &change {
            self.doubts.drop(name);
        }
        self.world.change(change);
    }

    fn now(&self) -> Moment {
        let seconds = unix_millis(self.clock.now()) / 1_000;
        Moment {
            wall: i64::try_from(seconds).unwrap_or(i64::MAX),
            monotonic: self.clock.monotonic(),
        }
    }

    /// Makes the objects that are missing.
    async fn create(&mut self, outcomes: &mut Outcomes) {
        let creations = self.world.creations(self.now());
        let ledger = |creation: &Creation| Object::Ledger(creation.name.clone());
        let (creations, waiting) = self.waits.part(creations, ledger);
        let accounts = waiting.iter().map(|creation| account_of(&creation.spec));
        self.unmade.extend(accounts);
        let store = &self.store;
        let made = each(creations, |creation| async move {
            let made = match store.create(&creation).await {
                // Somebody has just made it, or it is one that the watch has not told yet.
                Err(Failure::Conflict) => match store.read(&creation.name).await {
                    Ok(Some(budget)) => Ok(budget),
                    Ok(None) => Err(Failure::Gone),
                    Err(failure) => Err(failure),
                },
                made => made,
            };
            (creation, made)
        })
        .await;
        for (creation, made) in made {
            let object = ledger(&creation);
            match made {
                Ok(budget) => {
                    outcomes.done(object);
                    self.learn(Change::Budget(Box::new(budget)));
                }
                // It is looked at again in the next round.
                Err(Failure::Foreign(why)) => self.complain_of(creation.name, &why),
                Err(failure) => {
                    self.unmade.push(account_of(&creation.spec));
                    outcomes.fails(object, failure);
                }
            }
        }
    }

    /// Writes ledgers, and then what they did into the audit log.
    async fn settle(&mut self, outcomes: &mut Outcomes) {
        let Turns { ledgers, deletions } = self.world.turns(self.now());
        let ledger = |write: &LedgerWrite| Object::Ledger(write.name.clone());
        let (ledgers, waiting) = self.waits.part(ledgers, ledger);
        for write in waiting {
            self.world.retry_account(write.account);
        }
        let store = &self.store;
        let written = each(ledgers, |write| async move {
            let version = store.write(&write).await;
            let newest = match version {
                Err(Failure::Conflict) => store.read(&write.name).await.ok(),
                Ok(_) | Err(_) => None,
            };
            (write, version, newest)
        })
        .await;
        for (write, version, newest) in written {
            let object = ledger(&write);
            match version {
                Ok(version) => {
                    outcomes.done(object);
                    self.world.wrote(&write, version);
                    self.doubts.drop(&write.name);
                    self.record(&write);
                    continue;
                }
                Err(Failure::Conflict) => {
                    tracing::debug!(
                        budget = write.name,
                        "a ledger was written by somebody else; it is read again"
                    );
                }
                Err(Failure::Gone) => {
                    let name = write.name.clone();
                    self.learn(Change::BudgetGone(name));
                }
                Err(failure) => {
                    if failure.may_be_done() {
                        self.doubts.add(&write);
                    }
                    outcomes.fails(object, failure);
                }
            }
            match newest {
                Some(Some(budget)) => self.learn(Change::Budget(Box::new(budget))),
                Some(None) => self.learn(Change::BudgetGone(write.name.clone())),
                None => {}
            }
            self.world.retry_account(write.account);
        }
        for account in self.unmade.drain(..) {
            self.world.retry_account(account);
        }
        self.delete(deletions, outcomes).await;
    }

    async fn delete(&mut self, deletions: Vec<Deletion>, outcomes: &mut Outcomes) {
        let ledger = |deletion: &Deletion| Object::Ledger(deletion.name.clone());
        // Those that wait are looked at again in the next round.
        let (deletions, _) = self.waits.part(deletions, ledger);
        let store = &self.store;
        let deleted = each(deletions, |deletion| async move {
            let deleted = store.delete(&deletion).await;
            (deletion, deleted)
        })
        .await;
        for (deletion, deleted) in deleted {
            let object = ledger(&deletion);
            match deleted {
                Ok(()) | Err(Failure::Gone) => {
                    let name = deletion.name;
                    outcomes.done(object);
                    tracing::info!(
                        budget = name,
                        "the ledger of a budget that is gone was deleted"
                    );
                    self.learn(Change::BudgetGone(name));
                }
                // It is looked at again in the next round.
                Err(Failure::Conflict) => {}
                Err(failure) => outcomes.fails(object, failure),
            }
        }
    }

    /// Tells nodes what they are granted.
    async fn answer(&mut self, outcomes: &mut Outcomes) {
        let answers = self.world.answers(self.now());
        let grants = |write: &LeaseWrite| Object::Grants(write.node.clone());
        let (answers, waiting) = self.waits.part(answers, grants);
        for write in waiting {
            self.world.retry_node(write.node);
        }
        let store = &self.store;
        let told = each(answers, |write| async move {
            let version = store.answer(&write).await;
            (write, version)
        })
        .await;
        for (write, version) in told {
            let object = grants(&write);
            match version {
                Ok(version) => {
                    outcomes.done(object);
                    self.world.answered(write, version);
                }
                Err(Failure::Gone) => {}
                Err(Failure::Conflict) => self.world.retry_node(write.node),
                Err(failure) => {
                    self.world.retry_node(write.node);
                    outcomes.fails(object, failure);
                }
            }
        }
    }

    /// Says at the policies what is new.
    async fn tell(&mut self, outcomes: &mut Outcomes) {
        let now = self.now();
        let statuses = self.world.statuses(now);
        let store = &self.store;
        let told = each(statuses, |write| async move {
            let told = store.tell(&write).await;
            (write, told)
        })
        .await;
        for (write, told) in told {
            let object = Object::Status(write.policy.clone());
            match told {
                Ok(()) => {
                    outcomes.done(object);
                    if let Some(reason) = &write.overruled {
                        self.record_overrule(&write.uid, reason);
                    }
                    self.world.told(write, now);
                }
                Err(Failure::Gone | Failure::Conflict) => self.world.retry_status(&write, now),
                Err(failure) => {
                    self.world.retry_status(&write, now);
                    outcomes.fails(object, failure);
                }
            }
        }
    }

    fn record(&self, write: &LedgerWrite) {
        let policy = self.world.rules_of(&write.account.policy);
        for entry in record::of_ledger(write, policy, unix_millis(self.clock.now())) {
            self.audit.record(&entry);
        }
    }

    fn record_overrule(&self, uid: &PolicyUid, reason: &str) {
        let at = unix_millis(self.clock.now());
        let entry = record::of_overrule(reason, self.world.rules_of(uid), at);
        self.audit.record(&entry);
    }
}

/// Does the same with each, some at a time; in the order in which they end.
async fn each<W, F: Future>(works: Vec<W>, work: impl Fn(W) -> F) -> Vec<F::Output> {
    futures::stream::iter(works)
        .map(work)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

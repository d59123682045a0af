//! The loop around the world: what was read goes in, and once a second what is to be done is done, and what came of it told back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch::Sender;
use tokio::time::{Instant, MissedTickBehavior};
use tonnage_cache::clock::{Clock, unix_millis};

use super::objects::account_of;
use super::store::{Failure, Store};
use super::turns::{Deletion, LedgerWrite, Turns};
use super::watch::Watches;
use super::world::{Change, Moment, World};
use crate::egress::ledger::{Effect, Ending, Rules};
use crate::egress::terms::{Account, PolicyUid};
use crate::govern::audit::{Audit, Entry, Event, PolicyLine};
use crate::govern::status::BudgetFigure;

/// How often something is done.
const TURN: Duration = Duration::from_secs(1);
/// How often figures are told.
const FIGURES: Duration = Duration::from_secs(10);
/// Writes that are under way at a time.
const AT_ONCE: usize = 16;
/// Longest pause after failures.
const PAUSE: Duration = Duration::from_secs(10);

/// Reads, decides and writes, in turn.
pub(super) struct Keeper {
    watches: Watches,
    store: Store,
    world: World,
    audit: Audit,
    clock: Arc<dyn Clock>,
    /// Accounts whose objects could not be made.
    unmade: Vec<Account>,
    /// Objects that have a ledger's name and are none, once they were told.
    foreign: BTreeSet<String>,
    /// Turns in a row in which something could not be written.
    failures: u32,
    /// What was complained about last, so that an outage is told once.
    complained: Option<Failure>,
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
            unmade: Vec::new(),
            foreign: BTreeSet::new(),
            failures: 0,
            complained: None,
        }
    }

    /// Keeps the ledgers for ever.
    pub(super) async fn keep(&mut self, figures: &Sender<Vec<BudgetFigure>>) {
        let mut turns = tokio::time::interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due = Instant::now();
        let mut told = Instant::now();
        loop {
            tokio::select! {
                changes = self.watches.next() => {
                    for change in changes {
                        self.world.change(change);
                    }
                }
                now = turns.tick() => {
                    if self.watches.are_read() && now >= due {
                        due = now + self.turn().await;
                    }
                    if self.watches.are_read() && now >= told {
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
        let mut worst = self.create().await;
        worst = self.settle().await.or(worst);
        worst = self.answer().await.or(worst);
        worst = self.tell().await.or(worst);
        let Some(failure) = worst else {
            if std::mem::take(&mut self.failures) > 0 {
                tracing::info!("the ledgers of byte budgets are kept again");
            }
            self.complained = None;
            return Duration::ZERO;
        };
        self.failures = self.failures.saturating_add(1);
        if self.complained.as_ref() == Some(&failure) {
            tracing::debug!(%failure, "a ledger, a grant or a status could not be written");
        } else {
            tracing::warn!(%failure, "a ledger, a grant or a status could not be written; it is tried again");
            self.complained = Some(failure);
        }
        let doubled = 2u32.saturating_pow(self.failures.min(8));
        TURN.saturating_mul(doubled).min(PAUSE)
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

    fn now(&self) -> Moment {
        let seconds = unix_millis(self.clock.now()) / 1_000;
        Moment {
            wall: i64::try_from(seconds).unwrap_or(i64::MAX),
            monotonic: self.clock.monotonic(),
        }
    }

    /// Makes the objects that are missing.
    async fn create(&mut self) -> Option<Failure> {
        let creations = self.world.creations(self.now());
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
        let mut worst = None;
        for (creation, made) in made {
            match made {
                Ok(budget) => self.world.change(Change::Budget(Box::new(budget))),
                // It is looked at again in the next round.
                Err(Failure::Foreign(why)) => self.complain_of(creation.name, &why),
                Err(failure) => {
                    self.unmade.push(account_of(&creation.spec));
                    worst = Some(failure);
                }
            }
        }
        worst
    }

    /// Writes ledgers, and then what they did into the audit log.
    async fn settle(&mut self) -> Option<Failure> {
        let Turns { ledgers, deletions } = self.world.turns(self.now());
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
        let mut worst = None;
        for (write, version, newest) in written {
            match version {
                Ok(version) => {
                    self.world.wrote(&write, version);
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
                    self.world.change(Change::BudgetGone(name));
                }
                Err(failure) => worst = Some(failure),
            }
            match newest {
                Some(Some(budget)) => self.world.change(Change::Budget(Box::new(budget))),
                Some(None) => self.world.change(Change::BudgetGone(write.name.clone())),
                None => {}
            }
            self.world.retry_account(write.account);
        }
        for account in self.unmade.drain(..) {
            self.world.retry_account(account);
        }
        self.delete(deletions).await.or(worst)
    }

    async fn delete(&mut self, deletions: Vec<Deletion>) -> Option<Failure> {
        let store = &self.store;
        let deleted = each(deletions, |deletion| async move {
            let deleted = store.delete(&deletion).await;
            (deletion, deleted)
        })
        .await;
        let mut worst = None;
        for (Deletion { name, .. }, deleted) in deleted {
            match deleted {
                Ok(()) | Err(Failure::Gone) => {
                    tracing::info!(
                        budget = name,
                        "the ledger of a budget that is gone was deleted"
                    );
                    self.world.change(Change::BudgetGone(name));
                }
                // It is looked at again in the next round.
                Err(Failure::Conflict) => {}
                Err(failure) => worst = Some(failure),
            }
        }
        worst
    }

    /// Tells nodes what they are granted.
    async fn answer(&mut self) -> Option<Failure> {
        let answers = self.world.answers(self.now());
        let store = &self.store;
        let told = each(answers, |write| async move {
            let version = store.answer(&write).await;
            (write, version)
        })
        .await;
        let mut worst = None;
        for (write, version) in told {
            match version {
                Ok(version) => self.world.answered(write, version),
                Err(Failure::Gone) => {}
                Err(failure) => {
                    self.world.retry_node(write.node);
                    if failure != Failure::Conflict {
                        worst = Some(failure);
                    }
                }
            }
        }
        worst
    }

    /// Says at the policies what is new.
    async fn tell(&mut self) -> Option<Failure> {
        let now = self.now();
        let statuses = self.world.statuses(now);
        let store = &self.store;
        let told = each(statuses, |write| async move {
            let told = store.tell(&write).await;
            (write, told)
        })
        .await;
        let mut worst = None;
        for (write, told) in told {
            match told {
                Ok(()) => {
                    if let Some(reason) = &write.overruled {
                        self.record_overrule(&write.uid, reason);
                    }
                    self.world.told(write, now);
                }
                Err(Failure::Gone | Failure::Conflict) => self.world.retry_status(&write, now),
                Err(failure) => {
                    self.world.retry_status(&write, now);
                    worst = Some(failure);
                }
            }
        }
        worst
    }

    fn record(&self, write: &LedgerWrite) {
        let at = unix_millis(self.clock.now());
        for effect in &write.effects {
            let entry = entry(&write.account, effect, at);
            self.audit.record(&Entry {
                policies: self.policy_lines(&write.account.policy),
                ..entry
            });
        }
    }

    fn record_overrule(&self, uid: &PolicyUid, reason: &str) {
        self.audit.record(&Entry {
            policies: self.policy_lines(uid),
            reason: Some(reason.to_owned()),
            ..Entry::of(Event::Override, unix_millis(self.clock.now()))
        });
    }

    fn policy_lines(&self, uid: &PolicyUid) -> Vec<PolicyLine> {
        let policy = self.world.rules_of(uid);
        policy.map(PolicyLine::of).into_iter().collect()
    }
}

/// What a ledger did, as the audit log has it.
fn entry(account: &Account, effect: &Effect, at: u64) -> Entry {
    let (event, node, bytes, reason) = match effect {
        Effect::Granted { node, bytes, .. } => (Event::Grant, Some(node.clone()), *bytes, None),
        Effect::Settled {
            node,
            granted,
            spent,
            ending,
        } => {
            let why = match ending {
                Ending::Reported => "reported by the node",
                Ending::Lost => {
                    "counted in full: the node's service began anew, or its report was lost"
                }
                Ending::Expired => "counted in full: its time was over",
            };
            let reason = format!("of {granted} bytes granted; {why}");
            (Event::Settle, node.clone(), *spent, Some(reason))
        }
    };
    Entry {
        account: Some(account.clone()),
        node,
        bytes,
        reason,
        ..Entry::of(event, at)
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

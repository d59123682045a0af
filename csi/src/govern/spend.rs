//! The node's purse as everybody on the node uses it: charges, waits for grants, remembers debts. The purse decides
//! (`egress::lease`), the loop in `lease` writes and reads the object; no I/O happens here. What may be spent without a grant is in
//! `debts`.
//!
//! **A wait never misses its grant**: who waits has marked what it knows before it tried, so that whatever comes afterwards wakes it.
//! It tries again every second in any case, because a sibling of the same load that had enough takes the load's wish back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonnage_cache::clock::{Clock, unix_millis};

use crate::crd::{EgressLease, NamespaceUse};
use crate::egress::lease::{Charge, Demand, Incarnation, Lease, Missing, Purse, Receipt};
use crate::egress::ledger::objects::read_lease;
use crate::egress::terms::Account;

mod debts;
mod scribe;
mod shortage;
mod uses;

pub use scribe::Scribe;
pub use shortage::Shortage;

use scribe::{Answer, Asked};
use uses::Uses;

/// How often a load that waits tries again without being woken.
const RETRY: Duration = Duration::from_secs(1);

/// What the node may spend, for all its loads.
#[derive(Debug)]
pub struct Spender {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Changes whenever bytes came, or the word that there are none.
    news: watch::Sender<()>,
    /// Writes down what is asked and answered.
    scribe: OnceLock<Scribe>,
}

#[derive(Debug)]
struct State {
    purse: Purse,
    /// Numbers of demands begin above it.
    floor: u64,
    /// Whether demands were ever made of it.
    has_asked: bool,
    /// How often the controller has said something new.
    heard: u64,
    /// What the controller says now, by account.
    said: BTreeMap<Account, Said>,
    /// Bytes that were spent and not charged yet.
    debts: BTreeMap<Account, u64>,
    uses: Uses,
    asked: Asked,
}

/// The controller's answer about one account.
#[derive(Debug)]
struct Said {
    seq: u64,
    bytes: u64,
    message: Option<String>,
    /// When it was first read.
    at: Instant,
}

impl Spender {
    /// The empty purse of a service that starts; `incarnation` is random and not 0.
    pub fn new(incarnation: Incarnation, clock: Arc<dyn Clock>) -> Arc<Self> {
        let floor = unix_millis(clock.now()) / 1_000;
        Arc::new(Self {
            clock,
            state: Mutex::new(State {
                purse: Purse::new(incarnation, None, floor),
                floor,
                has_asked: false,
                heard: 0,
                said: BTreeMap::new(),
                debts: BTreeMap::new(),
                uses: Uses::default(),
                asked: Asked::default(),
            }),
            news: watch::Sender::new(()),
            scribe: OnceLock::new(),
        })
    }

    /// Has demands and answers written down from now on. The first to be named stays.
    pub fn record_by(&self, scribe: Scribe) {
        self.scribe.get_or_init(|| scribe);
    }

    /// Takes the bytes from every account, or from none and asks for them; never waits. `load` is a number that no other load of this
    /// node has, `foreseen` what the load will still need in all.
    pub fn charge(
        &self,
        accounts: &[Account],
        load: u64,
        bytes: u64,
        foreseen: u64,
    ) -> Result<Receipt, Missing> {
        let accounts: BTreeSet<Account> = accounts.iter().cloned().collect();
        self.try_charge(&Charge {
            accounts: &accounts,
            bytes,
            load,
            foreseen,
        })
    }

    /// The same, waiting for a grant until one of the accounts is known to be exhausted, or nothing was said about it for as long as
    /// `patience`.
    pub async fn take(
        &self,
        accounts: &[Account],
        load: u64,
        bytes: u64,
        foreseen: u64,
        patience: Duration,
    ) -> Result<Receipt, Shortage> {
        let accounts: BTreeSet<Account> = accounts.iter().cloned().collect();
        let charge = Charge {
            accounts: &accounts,
            bytes,
            load,
            foreseen,
        };
        let begun = Instant::now();
        let mut news = self.news.subscribe();
        loop {
            news.mark_unchanged();
            let Missing {
                account,
                is_exhausted,
                ..
            } = match self.try_charge(&charge) {
                Ok(receipt) => return Ok(receipt),
                Err(missing) => missing,
            };
            let (message, answered) = self.answer(&account);
            if is_exhausted {
                return Err(Shortage::Exhausted { account, message });
            }
            let since = answered.map_or(begun, |at| at.max(begun));
            let left = patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                let waited = begun.elapsed();
                return Err(Shortage::Unanswered { account, waited });
            }
            tokio::select! {
                _ = news.changed() => {}
                () = tokio::time::sleep(left.min(RETRY)) => {}
            }
        }
    }

    /// Gives back `unused` bytes of a charge. Where its grant has been accounted for meanwhile, they stay spent.
    pub fn refund(&self, receipt: &Receipt, unused: u64) {
        if unused > 0 {
            self.lock().purse.refund(receipt, unused);
            self.news.send_replace(());
        }
    }

    /// A load has ended, or waits no more.
    pub fn forget(&self, load: u64) {
        self.lock().purse.forget(load);
    }

    /// How often the controller has said something new.
    pub fn heard(&self) -> u64 {
        self.lock().heard
    }

    /// A namespace has received bytes that these accounts pay for. Tells people who spent a budget that namespaces share.
    pub fn note_use(&self, accounts: &[Account], namespace: &str, bytes: u64) {
        let mut state = self.lock();
        for account in accounts {
            state.uses.add(account, namespace, bytes);
        }
    }

    /// What may be spent of an account.
    pub fn left(&self, account: &Account) -> u64 {
        let now = self.clock.monotonic();
        self.lock().purse.left(account, now)
    }

    /// Whether the controller has said last that nothing is left of an account.
    pub fn is_exhausted(&self, account: &Account) -> bool {
        self.lock().purse.is_exhausted(account)
    }

    /// The controller's sentence about an account, if it has one.
    pub fn word(&self, account: &Account) -> Option<String> {
        self.answer(account).0
    }

    /// Which start of the service this is.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.lock().purse.incarnation()
    }

    /// The object as an earlier start has left it: numbers of demands go on above its own. Without effect once there were demands.
    pub(super) fn resume(&self, before: &Lease) {
        let mut state = self.lock();
        if !state.has_asked {
            // What was missed so far is missed again: who waits tries every second.
            state.purse = Purse::new(state.purse.incarnation(), Some(before), state.floor);
        }
    }

    /// Takes what the object's status says: of the controller's answers those to this start of the service.
    pub fn accept(&self, object: &EgressLease) {
        let lease = read_lease(object);
        let lines = object.status.iter().flat_map(|status| &status.grants);
        let mut state = self.lock();
        let now = self.clock.monotonic();
        let (mut said, mut answers) = (BTreeMap::new(), Vec::new());
        for (grant, line) in lease.grants.iter().zip(lines) {
            if grant.incarnation != state.purse.incarnation() {
                continue;
            }
            let is_same = |it: &Said| (it.seq, it.bytes) == (grant.seq, grant.bytes);
            let before = state.said.get(&grant.account).filter(|it| is_same(it));
            let word = Said {
                seq: grant.seq,
                bytes: grant.bytes,
                message: line.message.clone(),
                at: before.map_or_else(Instant::now, |it| it.at),
            };
            said.insert(grant.account.clone(), word);
            if state.purse.accept(std::slice::from_ref(grant), now) {
                answers.push(Answer {
                    account: grant.account.clone(),
                    bytes: grant.bytes,
                    message: line.message.clone(),
                });
            }
        }
        state.said = said;
        let is_new = !answers.is_empty();
        if is_new {
            state.heard = state.heard.saturating_add(1);
            state.pay(now);
        }
        drop(state);
        if is_new {
            self.news.send_replace(());
            if let Some(scribe) = self.scribe.get() {
                scribe.answered(answers, unix_millis(self.clock.now()));
            }
        }
    }

    /// The demands to write now, if any are due: see [`Purse::demands`].
    pub fn demands(&self) -> Option<Vec<Demand>> {
        let mut state = self.lock();
        let now = self.clock.monotonic();
        state.pay(now);
        state.ask(now)
    }

    /// Who spent what a demand of these reports, at most so many.
    pub(super) fn spent_by(&self, demand: &Demand, most: usize) -> Vec<NamespaceUse> {
        self.lock().uses.report(demand, most)
    }

    /// The last demands are in the object.
    pub fn written(&self) {
        let mut state = self.lock();
        state.purse.written();
        let asked = state.asked.written();
        drop(state);
        if let Some(scribe) = self.scribe.get() {
            scribe.asked(&asked, unix_millis(self.clock.now()));
        }
    }

    /// The object is to be written though nothing is new about the demands.
    pub(super) fn repeat(&self) {
        self.lock().purse.repeat();
    }

    /// The service stops: gives everything back, and says what is to be written about that. Debts are charged as far as there is
    /// something to charge them from, and lost otherwise.
    pub(super) fn close(&self) -> Option<Vec<Demand>> {
        let mut state = self.lock();
        let now = self.clock.monotonic();
        state.pay(now);
        state.debts.clear();
        state.purse.close();
        state.ask(now)
    }

    fn try_charge(&self, charge: &Charge<'_>) -> Result<Receipt, Missing> {
        let mut state = self.lock();
        let now = self.clock.monotonic();
        state.purse.charge(charge, now)
    }

    /// What the controller says about an account, and since when.
    fn answer(&self, account: &Account) -> (Option<String>, Option<Instant>) {
        let state = self.lock();
        let said = state.said.get(account);
        (said.and_then(|it| it.message.clone()), said.map(|it| it.at))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The demands that are due, which are handed out to be written.
    fn ask(&mut self, now: Duration) -> Option<Vec<Demand>> {
        let demands = self.purse.demands(now)?;
        self.has_asked = true;
        self.asked.hand_out(&demands);
        Some(demands)
    }
}

#[cfg(test)]
mod tests;

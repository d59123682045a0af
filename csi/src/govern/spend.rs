//! The node's purse as everybody on the node uses it: charges, waits for grants, remembers debts. The purse decides
//! (`egress::lease`), the loop in `lease` writes and reads the object; no I/O happens here.
//!
//! **A wait never misses its grant**: who waits has marked what it knows before it tried, so that whatever comes afterwards wakes it.
//! It tries again every second in any case, because a sibling of the same load that had enough takes the load's wish back.
//!
//! **A debt** is bytes that were spent without a grant. It is charged from whatever the account has, before loads are, and what
//! is left of it is asked for until it is paid; nobody waits for it. It is gone when the service begins anew. Bytes beyond a budget
//! that the controller calls used up are no debt: the ledger shows it as full, and the next window is not to begin with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonnage_cache::clock::{Clock, unix_millis};

use crate::crd::{EgressLease, NamespaceUse};
use crate::egress::lease::{Charge, Demand, Incarnation, Lease, Missing, Purse, Receipt};
use crate::egress::ledger::objects::read_lease;
use crate::egress::terms::{Account, PolicyUid};

mod uses;

use uses::Uses;

/// How often a load that waits tries again without being woken.
const RETRY: Duration = Duration::from_secs(1);
/// The load that debts are; no other has this number.
const DEBT: u64 = u64::MAX;

/// What the node may spend, for all its loads.
#[derive(Debug)]
pub struct Spender {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Changes whenever bytes came, or the word that there are none.
    news: watch::Sender<()>,
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

/// Why a wait for bytes has ended without any.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// The controller says that nothing is left.
    #[error("{}", exhausted(.account, .message.as_deref()))]
    Exhausted {
        /// Which budget.
        account: Account,
        /// The controller's sentence: used, limit, and when bytes come back.
        message: Option<String>,
    },
    /// The controller says nothing.
    #[error("the controller has granted no bytes of budget {} within {} s: see whether tonnage-controller runs and reaches the API server", .account.budget, .waited.as_secs())]
    Unanswered {
        /// Which budget.
        account: Account,
        /// How long the load waited in all.
        waited: Duration,
    },
}

fn exhausted(account: &Account, message: Option<&str>) -> String {
    message.map_or_else(
        || {
            let Account { budget, policy, .. } = account;
            format!(
                "budget {budget} of the EgressPolicy with uid {policy} is used up: wait until its window ends, or ask an administrator to raise it"
            )
        },
        str::to_owned,
    )
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
            }),
            news: watch::Sender::new(()),
        })
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

    /// Spends without a grant: a debt of each account, which is charged from what it has and from its next grants.
    pub fn owe(&self, accounts: &[Account], bytes: u64) {
        let accounts: BTreeSet<&Account> = accounts.iter().collect();
        let mut state = self.lock();
        let now = self.clock.monotonic();
        for account in accounts {
            if !state.purse.is_exhausted(account) {
                let owed = state.debts.entry(account.clone()).or_default();
                *owed = owed.saturating_add(bytes);
            }
        }
        state.pay(now);
    }

    /// Takes back what is still owed of `unused` bytes; what was charged meanwhile stays spent.
    pub fn forgive(&self, accounts: &[Account], unused: u64) {
        if accounts.is_empty() || unused == 0 {
            return;
        }
        let mut state = self.lock();
        for account in accounts {
            if let Some(owed) = state.debts.get_mut(account) {
                *owed = owed.saturating_sub(unused);
            }
        }
        state.debts.retain(|_, owed| *owed > 0);
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

    /// Forgets debts to policies that are no more: nobody will grant anything of their budgets.
    pub fn forgive_all_but(&self, is_known: impl Fn(&PolicyUid) -> bool) {
        let mut state = self.lock();
        state.debts.retain(|account, _| is_known(&account.policy));
        state.uses.forget_all_but(is_known);
        // Those that stay ask again with the next demands.
        state.purse.forget(DEBT);
    }

    /// What may be spent of an account.
    pub fn left(&self, account: &Account) -> u64 {
        let now = self.clock.monotonic();
        self.lock().purse.left(account, now)
    }

    /// What was spent of an account and not charged yet.
    pub fn owed(&self, account: &Account) -> u64 {
        self.lock().debts.get(account).copied().unwrap_or_default()
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
        let mut said = BTreeMap::new();
        for (grant, line) in lease.grants.iter().zip(lines) {
            if grant.incarnation != state.purse.incarnation() {
                continue;
            }
            let is_same = |it: &Said| (it.seq, it.bytes) == (grant.seq, grant.bytes);
            let before = state.said.get(&grant.account).filter(|it| is_same(it));
            let answer = Said {
                seq: grant.seq,
                bytes: grant.bytes,
                message: line.message.clone(),
                at: before.map_or_else(Instant::now, |it| it.at),
            };
            said.insert(grant.account.clone(), answer);
        }
        state.said = said;
        let is_new = state.purse.accept(&lease.grants, now);
        if is_new {
            state.heard = state.heard.saturating_add(1);
            state.pay(now);
        }
        drop(state);
        if is_new {
            self.news.send_replace(());
        }
    }

    /// The demands to write now, if any are due: see [`Purse::demands`].
    pub fn demands(&self) -> Option<Vec<Demand>> {
        let mut state = self.lock();
        let now = self.clock.monotonic();
        state.pay(now);
        let demands = state.purse.demands(now)?;
        state.has_asked = true;
        Some(demands)
    }

    /// Who spent what a demand of these reports, at most so many.
    pub(super) fn spent_by(&self, demand: &Demand, most: usize) -> Vec<NamespaceUse> {
        self.lock().uses.report(demand, most)
    }

    /// The last demands are in the object.
    pub fn written(&self) {
        self.lock().purse.written();
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
        state.purse.demands(now)
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
    /// Charges debts from what their accounts have, and asks for the rest.
    fn pay(&mut self, now: Duration) {
        for (account, owed) in std::mem::take(&mut self.debts) {
            let accounts = BTreeSet::from([account]);
            let left = |account: &Account| self.purse.left(account, now);
            let paid = owed.min(accounts.first().map_or(0, left));
            let mut rest = owed;
            for bytes in [paid, owed.saturating_sub(paid)] {
                let charge = Charge {
                    accounts: &accounts,
                    bytes,
                    load: DEBT,
                    foreseen: 0,
                };
                if bytes > 0 && self.purse.charge(&charge, now).is_ok() {
                    rest = rest.saturating_sub(bytes);
                }
            }
            if rest > 0 {
                let debt = accounts.into_iter().map(|account| (account, rest));
                self.debts.extend(debt);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! The node's purse: charges loads against grants, says what to ask for and when, takes what is granted.
//!
//! `now` is always the node's monotonic clock; the wall clock has no say. The caller locks: every method is one step. It calls
//! [`Purse::demands`] about once a second, which costs nothing while nothing is missing, and lets waiting loads try again whenever
//! [`Purse::accept`] answers `true`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::holding::{Holding, Wish};
use super::{Demand, Grant, Incarnation, Lease};
use crate::egress::terms::Account;

/// How a node uses its lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Least time between two writes of the object; default 5 s.
    pub pause: Duration,
    /// How much earlier than granted a node stops to spend; default 60 s. Covers the drift of two clocks over the term of a
    /// grant, and leaves time to report what is left.
    pub margin: Duration,
    /// After how long without use a grant or a demand is given back; default 60 s.
    pub idle: Duration,
    /// For how long an account that is not used is remembered; default 30 min.
    pub keep: Duration,
    /// Most accounts in the object; default 56: with the longest names their grants take 15.4 KB.
    pub most: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            pause: Duration::from_secs(5),
            margin: Duration::from_mins(1),
            idle: Duration::from_mins(1),
            keep: Duration::from_mins(30),
            most: 56,
        }
    }
}

/// Bytes that a load is about to ask a source for.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    /// Who pays: every one of them in full, or none.
    pub accounts: &'a BTreeSet<Account>,
    /// How many bytes.
    pub bytes: u64,
    /// Which load: any number that other loads of this node do not have.
    pub load: u64,
    /// What the load will need altogether from here on, as far as that is known: is asked for at once.
    pub foreseen: u64,
}

/// A charge that was made, to be refunded at most once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what was not received can be given back"]
pub struct Receipt {
    bytes: u64,
    from: Vec<(Account, u64)>,
}

impl Receipt {
    /// How many bytes were charged.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A charge that was not made. What is missing will be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes are missing in a budget of policy {}", .account.policy)]
pub struct Missing {
    /// The first account that does not suffice; one that has nothing left if there is such a one.
    pub account: Account,
    /// What the charge would have taken.
    pub bytes: u64,
    /// Whether the controller said that nothing is left; otherwise its answer is awaited.
    pub is_exhausted: bool,
}

/// What a node may spend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Purse {
    incarnation: Incarnation,
    rules: Rules,
    holdings: BTreeMap<Account, Holding>,
    /// The highest number in use.
    high: u64,
    /// When a write was last begun.
    written: Option<Duration>,
    /// Whether it is unknown what became of it.
    unsure: bool,
}

impl Purse {
    /// The empty purse of a service that starts: `incarnation` is random, `before` is the node's object if there is one, and
    /// numbers begin above it and above `floor`, such as the wall clock in seconds. Both only save time: a number that is too low
    /// is not answered before the earlier start's grant has run out. That no grant of an earlier start is spent follows from
    /// the incarnation alone.
    pub fn new(incarnation: Incarnation, before: Option<&Lease>, floor: u64) -> Self {
        Self {
            incarnation,
            rules: Rules::default(),
            holdings: BTreeMap::new(),
            high: before.map_or(floor, |lease| lease.highest().max(floor)),
            written: None,
            unsure: false,
        }
    }

    /// With other rules.
    #[must_use]
    pub fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Who spends.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What may be spent of an account.
    pub fn left(&self, account: &Account, now: Duration) -> u64 {
        self.holdings
            .get(account)
            .map_or(0, |holding| holding.left(now))
    }

    /// Whether the controller said that nothing is left of an account, and nothing came since.
    pub fn is_exhausted(&self, account: &Account) -> bool {
        self.holdings.get(account).is_some_and(Holding::is_refused)
    }

    /// Takes the bytes from every account, or from none and remembers who waits for what.
    pub fn charge(&mut self, charge: &Charge<'_>, now: Duration) -> Result<Receipt, Missing> {
        let mut missing: Option<Missing> = None;
        for account in charge.accounts {
            if self.left(account, now) >= charge.bytes {
                continue;
            }
            let holding = self.holdings.entry(account.clone());
            let is_exhausted = holding
                .or_insert_with(Holding::new)
                .miss(charge.load, charge.bytes.max(charge.foreseen));
            if missing
                .as_ref()
                .is_none_or(|other| is_exhausted && !other.is_exhausted)
            {
                missing = Some(Missing {
                    account: account.clone(),
                    bytes: charge.bytes,
                    is_exhausted,
                });
            }
        }
        if let Some(missing) = missing {
            return Err(missing);
        }
        let mut from = Vec::with_capacity(charge.accounts.len());
        for account in charge.accounts {
            if let Some(holding) = self.holdings.get_mut(account) {
                let seq = holding.spend(charge.load, charge.bytes, now);
                from.push((account.clone(), seq));
            }
        }
        Ok(Receipt {
            bytes: charge.bytes,
            from,
        })
    }

    /// Gives back `unused` bytes of a charge. Where its grant has been accounted for meanwhile, they stay spent.
    pub fn refund(&mut self, receipt: &Receipt, unused: u64) {
        let unused = unused.min(receipt.bytes);
        for (account, seq) in &receipt.from {
            if let Some(holding) = self.holdings.get_mut(account) {
                holding.refund(*seq, unused);
            }
        }
    }

    /// A load has ended, or waits no more.
    pub fn forget(&mut self, load: u64) {
        for holding in self.holdings.values_mut() {
            holding.forget(load);
        }
    }

    /// The demands to write now, if any are due. They must be written after this call, in place of all earlier ones and with the
    /// object's resource version as precondition; [`written`](Self::written) tells that it succeeded. Until then they come
    /// again, at the pace of the rules.
    pub fn demands(&mut self, now: Duration) -> Option<Vec<Demand>> {
        let rests = |begun: Duration| now.saturating_sub(begun) < self.rules.pause;
        if self.written.is_some_and(rests) || !(self.move_on(now) || self.unsure) {
            return None;
        }
        self.written = Some(now);
        self.unsure = true;
        Some(self.lines())
    }

    /// The last demands are in the object.
    pub fn written(&mut self) {
        self.unsure = false;
    }

    /// The object does not say any more what was written, or has something else to say: demands come though nothing is new about
    /// them, at the pace of the rules.
    pub fn repeat(&mut self) {
        self.unsure = true;
    }

    /// The service stops: nobody waits any more, and everything is given back. The next [`demands`](Self::demands), which come
    /// at once if there is anything to tell, are the last word of this incarnation.
    pub fn close(&mut self) {
        self.rules.pause = Duration::ZERO;
        self.rules.idle = Duration::ZERO;
        for holding in self.holdings.values_mut() {
            holding.forget_all();
        }
    }

    /// Takes what the object's status says; `true` if loads that wait should try again.
    pub fn accept(&mut self, grants: &[Grant], now: Duration) -> bool {
        let mut is_new = false;
        for grant in grants {
            if grant.incarnation != self.incarnation {
                continue;
            }
            if let Some(holding) = self.holdings.get_mut(&grant.account) {
                is_new |= holding.accept(grant, now, &self.rules);
            }
        }
        is_new
    }

    /// Asks and gives back where that is due, as far as the object has room; `false` if nothing is to be told.
    fn move_on(&mut self, now: Duration) -> bool {
        let rules = &self.rules;
        let mut wanting = Vec::new();
        let mut giving = Vec::new();
        for (account, holding) in &self.holdings {
            match holding.wish(now, rules) {
                Some(Wish::More) => wanting.push((holding.since(), account.clone())),
                Some(Wish::GiveBack) => giving.push(account.clone()),
                None => {}
            }
        }
        if wanting.is_empty() && giving.is_empty() {
            return false;
        }
        for account in &giving {
            if let Some(holding) = self.holdings.get_mut(account) {
                self.high = self.high.max(holding.give_back(now));
            }
        }
        wanting.sort();
        wanting.truncate(self.make_room(wanting.len(), now));
        for (_, account) in &wanting {
            if let Some(holding) = self.holdings.get_mut(account) {
                self.high = self.high.max(holding.ask(now, self.high.saturating_add(1)));
            }
        }
        self.forget_accounts(now);
        !(wanting.is_empty() && giving.is_empty())
    }

    /// Forgets accounts that nothing depends on. A number is left out then: the next demand of such an account must not be taken
    /// for the report of its last grant.
    fn forget_accounts(&mut self, now: Duration) {
        let rules = &self.rules;
        let before = self.holdings.len();
        self.holdings
            .retain(|_, holding| !holding.is_over(now, rules));
        if self.holdings.len() < before {
            self.high = self.high.saturating_add(1);
        }
    }

    /// How many accounts more may ask. Those that were refused long ago make room, and come again later.
    fn make_room(&mut self, wanting: usize, now: Duration) -> usize {
        let asking = self.holdings.values().filter(|it| it.is_asking()).count();
        let mut free = self.rules.most.saturating_sub(asking);
        for holding in self.holdings.values_mut() {
            if free >= wanting {
                break;
            }
            if holding.may_yield(now, &self.rules) {
                self.high = self.high.max(holding.give_back(now));
                free = free.saturating_add(1);
            }
        }
        free
    }

    /// What stands in the object: all that ask, then the newest of those that gave back.
    fn lines(&self) -> Vec<Demand> {
        let mut order: Vec<_> = self.holdings.iter().collect();
        order
            .sort_by_key(|(_, holding)| (!holding.is_asking(), std::cmp::Reverse(holding.since())));
        order
            .into_iter()
            .filter_map(|(account, holding)| holding.demand(account))
            .take(self.rules.most)
            .collect()
    }
}

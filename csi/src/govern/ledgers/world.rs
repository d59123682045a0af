//! Everything that ledgers are kept by, and what is to be done about it. Pure: objects that were read go in as [`Change`]s, writes
//! come out, and what became of each write is told back. Nothing here reads a clock or a network.
//!
//! Each second of the loop is one turn, in this order, and every step builds only on what the API server has:
//!
//! ```text
//! creations ─► turns ─► answers ─► statuses        objects that are missing, ledgers, what nodes are told, what people see
//!     ▲          ▲         ▲           ▲
//!  policies    leases    ledgers as written, of this controller or another
//! ```
//!
//! A world that begins knows nothing: it acts once every kind of object was read, and counts the terms of grants from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::objects::{
    BudgetObject, LeaseObject, PolicyObject, account_of, is_older, object_name, spec_of,
};
use super::standing::{Namespaces, Standing};
use crate::egress::compiled::Compiled;
use crate::egress::ledger::{Asks, Ledger, Rules, Sightings};
use crate::egress::terms::{Account, PolicyUid};
use crate::govern::status::{Board, Tally};

/// How often everything is looked at, whether something seems new or not: grants run out, windows pass.
pub(super) const ROUND: Duration = Duration::from_secs(10);
/// For how long an account that does not exist may be one that is not read yet.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// The time of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, in seconds since 1970 (UTC).
    pub wall: i64,
    /// The process' monotonic clock.
    pub monotonic: Duration,
}

/// An object was read, or is not there any more.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// An `EgressPolicy`.
    Policy(Box<PolicyObject>),
    /// One of this name is gone.
    PolicyGone(String),
    /// A namespace and its labels.
    Namespace(String, BTreeMap<String, String>),
    /// One of this name is gone.
    NamespaceGone(String),
    /// An `EgressBudget`.
    Budget(Box<BudgetObject>),
    /// One of this name is gone.
    BudgetGone(String),
    /// An `EgressLease`; its node has its name.
    Lease(Box<LeaseObject>),
    /// One of this name is gone.
    LeaseGone(String),
}

/// Everything that was read.
#[derive(Debug, Default)]
pub struct World {
    pub(super) rules: Rules,
    pub(super) policies: BTreeMap<PolicyUid, PolicyObject>,
    /// Which uid a policy of a name has.
    uids: BTreeMap<String, PolicyUid>,
    namespaces: Namespaces,
    /// By the name of the object.
    pub(super) budgets: BTreeMap<String, BudgetObject>,
    pub(super) leases: BTreeMap<String, LeaseObject>,
    pub(super) asks: Asks,
    /// By the name of the object.
    pub(super) sightings: BTreeMap<String, Sightings>,
    /// Accounts that are asked and do not exist, and since when.
    pub(super) absent: BTreeMap<Account, Duration>,
    /// Accounts that something is new about.
    pub(super) accounts: BTreeSet<Account>,
    /// Nodes that something is new about.
    pub(super) nodes: BTreeSet<String>,
    /// What is denied.
    pub(super) tally: Tally,
    /// What of policies was said, and when.
    pub(super) board: Board,
    /// When everything is looked at next.
    pub(super) round: Duration,
    /// What is answered by where there is no ledger.
    pub(super) nothing: Ledger,
    /// The time of the last turn.
    pub(super) now: i64,
}

impl World {
    /// Nothing yet; grants are made by `rules`.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            ..Self::default()
        }
    }

    /// Takes in what was read.
    pub fn change(&mut self, change: Change) {
        match change {
            Change::Policy(policy) => self.policy(*policy),
            Change::PolicyGone(name) => {
                if let Some(uid) = self.uids.remove(&name) {
                    self.drop_policy(&uid);
                }
            }
            Change::Namespace(name, labels) => {
                let before = self.namespaces.insert(name.clone(), labels);
                if before.as_ref() != self.namespaces.get(&name) {
                    self.touch(|account| is_in(account, &name));
                }
            }
            Change::NamespaceGone(name) => {
                self.namespaces.remove(&name);
                self.touch(|account| is_in(account, &name));
            }
            Change::Budget(budget) => self.budget(*budget),
            Change::BudgetGone(name) => {
                if let Some(budget) = self.budgets.remove(&name) {
                    self.sightings.remove(&name);
                    self.accounts.insert(budget.account());
                }
            }
            Change::Lease(lease) => self.lease(*lease),
            Change::LeaseGone(name) => {
                if self.leases.remove(&name).is_some() {
                    self.accounts.extend(self.asks.remove(&name));
                    self.nodes.remove(&name);
                    self.tally.forget(&name);
                }
            }
        }
    }

    fn policy(&mut self, policy: PolicyObject) {
        let uid = policy.rules.uid.clone();
        let name = policy.rules.name.clone();
        if let Some(other) = self.uids.insert(name, uid.clone())
            && other != uid
        {
            self.drop_policy(&other);
        }
        let before = self.policies.get(&uid);
        if before == Some(&policy) {
            return;
        }
        let is_other = before.is_none_or(|before| before.rules != policy.rules);
        self.board.is_new(&uid);
        self.policies.insert(uid.clone(), policy);
        if self.tally.add_policy(&uid) {
            // What nodes have told of it before it was read.
            for (node, object) in &self.leases {
                let lines = object.denials.iter();
                let lines = lines.filter(|line| line.policy_uid == uid.0);
                self.tally.read(node, object.lease.incarnation, lines);
            }
        }
        if is_other {
            self.touch(|account| account.policy == uid);
        }
    }

    fn drop_policy(&mut self, uid: &PolicyUid) {
        self.policies.remove(uid);
        self.board.forget(uid);
        self.tally.forget_policy(uid);
        self.touch(|account| account.policy == *uid);
    }

    fn budget(&mut self, budget: BudgetObject) {
        let known = self.budgets.get(&budget.name);
        let is_old = |known: &BudgetObject| {
            known.version == budget.version || is_older(&budget.version, &known.version)
        };
        if known.is_some_and(is_old) {
            return;
        }
        if known.is_some_and(|known| known.uid != budget.uid) {
            self.sightings.remove(&budget.name);
        }
        // Somebody else wrote it, or we have not heard that we did: whoever asks of it is answered by it.
        let account = budget.account();
        self.budgets.insert(budget.name.clone(), budget);
        self.alert(&account);
        self.accounts.insert(account);
    }

    fn lease(&mut self, object: LeaseObject) {
        let node = object.lease.node.clone();
        let known = self.leases.get(&node);
        if known.is_some_and(|known| is_older(&object.version, &known.version)) {
            return;
        }
        self.accounts.extend(self.asks.update(&object.lease));
        let incarnation = object.lease.incarnation;
        self.tally.read(&node, incarnation, &object.denials);
        self.nodes.insert(node.clone());
        self.leases.insert(node, object);
    }

    /// Marks accounts, whether they are asked or have a ledger.
    fn touch(&mut self, is_it: impl Fn(&Account) -> bool) {
        let asked = self.asks.accounts().filter(|account| is_it(account));
        let kept = self.budgets.values().map(BudgetObject::account);
        let touched: Vec<Account> = asked.cloned().chain(kept.filter(|it| is_it(it))).collect();
        self.accounts.extend(touched);
    }

    /// Marks the nodes that wait for an answer of an account.
    pub(super) fn alert(&mut self, account: &Account) {
        let waiting = self
            .asks
            .of(account)
            .iter()
            .filter(|(_, ask)| ask.wanted > 0 && ask.seq > ask.answered)
            .map(|(node, _)| node.clone());
        self.nodes.extend(waiting);
    }

    /// What becomes of an account.
    pub(super) fn standing(&self, account: &Account) -> Standing<'_> {
        Standing::of(account, self.rules_of(&account.policy), &self.namespaces)
    }

    /// What a policy says.
    pub(super) fn rules_of(&self, uid: &PolicyUid) -> Option<&Compiled> {
        self.policies.get(uid).map(|policy| &policy.rules)
    }

    /// What an account's policy is called.
    pub(super) fn policy_name(&self, account: &Account) -> Option<&str> {
        let rules = self.rules_of(&account.policy)?;
        Some(&rules.name)
    }

    /// What an account's object is called; nothing if there is no policy to name it after.
    pub(super) fn name_of(&self, account: &Account) -> Option<String> {
        let spec = spec_of(account, self.policy_name(account)?);
        Some(object_name(&spec))
    }

    /// The object of an account.
    pub(super) fn budget_of(&self, account: &Account) -> Option<&BudgetObject> {
        let budget = self.budgets.get(&self.name_of(account)?)?;
        (account_of(&budget.spec) == *account).then_some(budget)
    }

    /// An account whose ledger could not be written is tried again.
    pub fn retry_account(&mut self, account: Account) {
        self.accounts.insert(account);
    }

    /// A node that could not be answered is tried again.
    pub fn retry_node(&mut self, node: String) {
        self.nodes.insert(node);
    }
}

fn is_in(account: &Account, namespace: &str) -> bool {
    let own = account.namespace.as_ref();
    own.is_some_and(|own| own.0 == namespace)
}

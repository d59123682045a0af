//! What nodes ask, by account: an index over the nodes' objects, kept up to date one object at a time.

use std::collections::{BTreeMap, BTreeSet};

use crate::egress::lease::{Demand, Incarnation, Lease};
use crate::egress::terms::Account;

/// One node's demand of one account, as the node's object shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ask {
    /// Who asks.
    pub incarnation: Incarnation,
    /// Number of the demand.
    pub seq: u64,
    /// Bytes that are missing.
    pub wanted: u64,
    /// What was spent of the grant before.
    pub spent: u64,
    /// The highest demand of this incarnation that the same object shows as granted; 0 if none.
    pub answered: u64,
}

/// What all nodes ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Asks {
    accounts: BTreeMap<Account, BTreeMap<String, Ask>>,
    nodes: BTreeMap<String, BTreeSet<Account>>,
}

/// What is asked of an account that nobody asks.
static NOTHING: BTreeMap<String, Ask> = BTreeMap::new();

impl Ask {
    /// A demand in its object.
    pub fn of(lease: &Lease, demand: &Demand) -> Self {
        let answered = lease
            .grants
            .iter()
            .filter(|grant| grant.incarnation == lease.incarnation && grant.bytes > 0)
            .filter(|grant| grant.account == demand.account)
            .map(|grant| grant.seq);
        Self {
            incarnation: lease.incarnation,
            seq: demand.seq,
            wanted: demand.wanted,
            spent: demand.spent,
            answered: answered.max().unwrap_or_default(),
        }
    }
}

impl Asks {
    /// What is asked of an account, by node.
    pub fn of(&self, account: &Account) -> &BTreeMap<String, Ask> {
        self.accounts.get(account).unwrap_or(&NOTHING)
    }

    /// All accounts that somebody asks.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.keys()
    }

    /// Takes the newest version of a node's object; the answer is of which accounts something else is asked now.
    pub fn update(&mut self, lease: &Lease) -> BTreeSet<Account> {
        let mut gone = self.nodes.remove(&lease.node).unwrap_or_default();
        let mut changed = BTreeSet::new();
        let mut now = BTreeSet::new();
        for demand in &lease.demands {
            let ask = Ask::of(lease, demand);
            gone.remove(&demand.account);
            now.insert(demand.account.clone());
            let of_account = self.accounts.entry(demand.account.clone()).or_default();
            if of_account.insert(lease.node.clone(), ask) != Some(ask) {
                changed.insert(demand.account.clone());
            }
        }
        if !now.is_empty() {
            self.nodes.insert(lease.node.clone(), now);
        }
        for account in gone {
            self.drop_one(&account, &lease.node);
            changed.insert(account);
        }
        changed
    }

    /// A node's object is gone.
    pub fn remove(&mut self, node: &str) -> BTreeSet<Account> {
        let gone = self.nodes.remove(node).unwrap_or_default();
        for account in &gone {
            self.drop_one(account, node);
        }
        gone
    }

    fn drop_one(&mut self, account: &Account, node: &str) {
        if let Some(of_account) = self.accounts.get_mut(account) {
            of_account.remove(node);
            if of_account.is_empty() {
                self.accounts.remove(account);
            }
        }
    }
}

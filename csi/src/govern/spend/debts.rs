//! Bytes that were spent without a grant: debts.
//!
//! A debt is charged from whatever the account has, before loads are, and what is left of it is asked for until it is paid; nobody
//! waits for it. It is gone when the service begins anew. Bytes beyond a budget that the controller calls used up are no debt: the
//! ledger shows it as full, and the next window is not to begin with them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Spender, State};
use crate::egress::lease::Charge;
use crate::egress::terms::{Account, PolicyUid};

/// The load that debts are; no other has this number.
const DEBT: u64 = u64::MAX;

impl Spender {
    /// Spends without a grant: a debt of each account, which is charged from what it has and from its next grants. Says which accounts
    /// owe the bytes now; only those may be forgiven.
    pub fn owe(&self, accounts: &[Account], bytes: u64) -> Vec<Account> {
        let accounts: BTreeSet<&Account> = accounts.iter().collect();
        let mut state = self.lock();
        let now = self.clock.monotonic();
        let mut owing = Vec::with_capacity(accounts.len());
        for account in accounts {
            if !state.purse.is_exhausted(account) {
                let owed = state.debts.entry(account.clone()).or_default();
                *owed = owed.saturating_add(bytes);
                owing.push(account.clone());
            }
        }
        state.pay(now);
        owing
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
        let before = state.debts.len();
        state.debts.retain(|_, owed| *owed > 0);
        if state.debts.len() < before {
            // Nothing is asked for them any more; those that stay ask again with the next demands.
            state.purse.forget(DEBT);
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

    /// What was spent of an account and not charged yet.
    pub fn owed(&self, account: &Account) -> u64 {
        self.lock().debts.get(account).copied().unwrap_or_default()
    }
}

impl State {
    /// Charges debts from what their accounts have, and asks for the rest.
    pub(super) fn pay(&mut self, now: Duration) {
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

//! What is to be done about ledgers: made, written, and deleted when nobody can have anything of them any more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::objects::{BudgetObject, account_of, object_name, spec_of};
use super::standing::Standing;
use super::users;
use super::world::{Moment, ROUND, World};
use crate::crd::{EgressBudgetSpec, EgressBudgetStatus, NamespaceUse};
use crate::egress::ledger::objects::write_ledger;
use crate::egress::ledger::{Ask, Effect, Ending, Expired, Ledger, Turn};
use crate::egress::terms::Account;
use crate::egress::window::Window;

/// An object to be made: an account that is asked for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// What it is called.
    pub name: String,
    /// What it says. Its owner is the policy that it names.
    pub spec: EgressBudgetSpec,
}

/// A ledger to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerWrite {
    /// Whose.
    pub account: Account,
    /// What the object is called.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The version that it was read at: a precondition.
    pub version: String,
    /// What it says of itself.
    pub spec: EgressBudgetSpec,
    /// The ledger.
    pub ledger: Ledger,
    /// The same as the object has it.
    pub status: EgressBudgetStatus,
    /// What that does.
    pub effects: Vec<Effect>,
}

/// An object to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// What it is called.
    pub name: String,
    /// Its uid: a precondition.
    pub uid: String,
    /// The version that it was read at: a precondition.
    pub version: String,
}

/// What ledgers are to be written, and which are to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turns {
    /// To be written.
    pub ledgers: Vec<LedgerWrite>,
    /// To be deleted.
    pub deletions: Vec<Deletion>,
}

impl World {
    /// Objects that are missing.
    pub fn creations(&mut self, now: Moment) -> Vec<Creation> {
        self.now = now.wall;
        let is_asked = |ask: &Ask| ask.wanted > 0;
        let accounts = self.accounts.iter();
        let missing = accounts.filter(|account| self.asks.of(account).values().any(is_asked));
        missing
            .filter_map(|account| {
                let is_open = matches!(self.standing(account), Standing::Open(_));
                let spec = spec_of(account, self.policy_name(account)?);
                let name = object_name(&spec);
                let is_missing = is_open && !self.budgets.contains_key(&name);
                is_missing.then_some(Creation { name, spec })
            })
            .collect()
    }

    /// Ledgers that say something new.
    pub fn turns(&mut self, now: Moment) -> Turns {
        let mut turns = Turns::default();
        self.now = now.wall;
        if now.monotonic >= self.round {
            self.round = now.monotonic.saturating_add(ROUND);
            self.accounts.extend(self.asks.accounts().cloned());
            let kept = self.budgets.values().map(BudgetObject::account);
            self.accounts.extend(kept);
            self.board.is_round();
            self.note_absent(now.monotonic);
            turns.deletions = self.deletions(now);
        }
        let accounts = std::mem::take(&mut self.accounts);
        turns.ledgers = accounts
            .into_iter()
            .filter_map(|account| self.turn(account, now))
            .collect();
        turns
    }

    fn turn(&mut self, account: Account, now: Moment) -> Option<LedgerWrite> {
        let name = self.budget_of(&account)?.name.clone();
        let expired = self.observe(&name, now.monotonic)?;
        let budget = self.budgets.get(&name)?;
        let standing = self.standing(&account);
        let (limit, window) = terms(&standing, &budget.ledger)?;
        let asks = self.asks.of(&account);
        let silenced;
        let asks = match standing {
            Standing::Open(_) => asks,
            Standing::Closed(_) | Standing::Malformed | Standing::Removed | Standing::Gone => {
                silenced = without_wishes(asks);
                &silenced
            }
        };
        let turned = budget.ledger.turn(&Turn {
            limit,
            window: &window,
            wall: now.wall,
            asks,
            expired: &expired,
            rules: &self.rules,
        });
        let ledger = turned.ledger?;
        let users = if account.namespace.is_none() {
            let spent = self.spent(&account, &turned.effects);
            let settled = ledger.settled(&window, ledger.as_of);
            users::add(&budget.users, &spent, settled)
        } else {
            Vec::new()
        };
        let status = EgressBudgetStatus {
            users,
            ..write_ledger(&ledger, &window)
        };
        Some(LedgerWrite {
            account,
            name,
            uid: budget.uid.clone(),
            version: budget.version.clone(),
            spec: budget.spec.clone(),
            ledger,
            status,
            effects: turned.effects,
        })
    }

    /// Looks at a ledger's grants: which are over.
    fn observe(&mut self, name: &str, now: Duration) -> Option<Expired> {
        let ledger = &self.budgets.get(name)?.ledger;
        let sightings = self.sightings.entry(name.to_owned()).or_default();
        Some(sightings.observe(ledger, now))
    }

    /// Who spent what nodes report in this turn.
    fn spent(&self, account: &Account, effects: &[Effect]) -> Vec<NamespaceUse> {
        let reports = effects.iter().filter_map(|effect| match effect {
            Effect::Settled {
                node: Some(node),
                ending: Ending::Reported,
                ..
            } => self.leases.get(node)?.spent_by.get(account),
            Effect::Settled { .. } | Effect::Granted { .. } => None,
        });
        reports.flatten().cloned().collect()
    }

    /// A ledger was written: it is what the API server has at this version.
    pub fn wrote(&mut self, write: &LedgerWrite, version: String) {
        if let Some(budget) = self.budgets.get_mut(&write.name)
            && budget.uid == write.uid
        {
            budget.version = version;
            budget.ledger = write.ledger.clone();
            budget.users.clone_from(&write.status.users);
        }
        for effect in &write.effects {
            match effect {
                Effect::Granted { node, .. } => {
                    self.nodes.insert(node.clone());
                }
                Effect::Settled { .. } => {}
            }
        }
        // What is left may not be enough for the others.
        self.alert(&write.account);
    }

    /// Remembers since when accounts are asked that do not exist; whoever waits for one of them is told, after a while.
    fn note_absent(&mut self, now: Duration) {
        let is_absent = |account: &&Account| !matches!(self.standing(account), Standing::Open(_));
        let absent: Vec<Account> = self.asks.accounts().filter(is_absent).cloned().collect();
        let before = std::mem::take(&mut self.absent);
        for account in absent {
            self.alert(&account);
            let since = before.get(&account).copied().unwrap_or(now);
            self.absent.insert(account, since);
        }
    }

    /// Objects of policies that are gone, once nobody holds anything of them, and of budgets that are gone and of namespaces that are not
    /// selected any more, once nothing counts. What belongs to a policy that cannot be read stays.
    fn deletions(&mut self, now: Moment) -> Vec<Deletion> {
        let names: Vec<String> = self.budgets.keys().cloned().collect();
        names
            .into_iter()
            .filter_map(|name| self.deletion(name, now))
            .collect()
    }

    fn deletion(&mut self, name: String, now: Moment) -> Option<Deletion> {
        let budget = self.budgets.get(&name)?;
        let account = account_of(&budget.spec);
        let is_named_so = self.name_of(&account).is_none_or(|right| right == name);
        let ledger = &budget.ledger;
        let standing = self.standing(&account);
        let counted = terms(&standing, ledger);
        let is_over = match (standing, counted) {
            (Standing::Malformed | Standing::Open(_), _) if is_named_so => return None,
            (Standing::Closed(_) | Standing::Removed, Some((_, window))) if is_named_so => {
                let time = ledger.time(now.wall);
                let is_asked = !self.asks.of(&account).is_empty();
                !is_asked && ledger.used(&window, time) == 0
            }
            (
                Standing::Malformed
                | Standing::Open(_)
                | Standing::Closed(_)
                | Standing::Removed
                | Standing::Gone,
                _,
            ) => {
                let asks = self.asks.of(&account).clone();
                let expired = self.observe(&name, now.monotonic)?;
                is_free(&self.budgets.get(&name)?.ledger, &asks, &expired)
            }
        };
        let budget = self.budgets.get(&name).filter(|_| is_over)?;
        Some(Deletion {
            uid: budget.uid.clone(),
            version: budget.version.clone(),
            name,
        })
    }
}

/// By which limit and in which window a ledger's turn is taken, if it is.
fn terms(standing: &Standing<'_>, ledger: &Ledger) -> Option<(u64, Window)> {
    match standing {
        Standing::Open(allowance) | Standing::Closed(allowance) => {
            Some((allowance.limit_bytes, allowance.window))
        }
        Standing::Removed => Some((ledger.limit, ledger.window?)),
        Standing::Malformed | Standing::Gone => None,
    }
}

/// Demands that only report.
fn without_wishes(asks: &BTreeMap<String, Ask>) -> BTreeMap<String, Ask> {
    let silenced = asks.iter().map(|(node, ask)| {
        let ask = Ask { wanted: 0, ..*ask };
        (node.clone(), ask)
    });
    silenced.collect()
}

/// Whether no node can spend anything of a ledger any more.
fn is_free(ledger: &Ledger, asks: &BTreeMap<String, Ask>, expired: &Expired) -> bool {
    let rows = ledger.rows.iter().all(|(node, row)| {
        let name = (node.clone(), row.incarnation, row.seq);
        let has_reported = |ask: &Ask| ask.seq > row.seq;
        row.held == 0 || expired.rows.contains(&name) || asks.get(node).is_some_and(has_reported)
    });
    let is_over = |id: i64, bytes: u64| bytes == 0 || expired.crowds.contains(&(id, bytes));
    rows && ledger.crowd.iter().all(|it| is_over(it.id, it.bytes))
}

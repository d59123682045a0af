//! What is said of policies, and of their budgets as figures.

use super::objects::{BudgetObject, PolicyObject};
use super::world::{Moment, World};
use crate::crd::EgressPolicyStatus;
use crate::egress::explain::tariff::is_rival;
use crate::egress::terms::PolicyUid;
use crate::govern::status::{BudgetFigure, OVERRULED, Picture, StatusWrite, roll_up};

/// Most ledgers that figures are told of.
const MOST_FIGURES: usize = 2_000;

impl World {
    /// Statuses that say something new.
    pub fn statuses(&mut self, now: Moment) -> Vec<StatusWrite> {
        let all = self.policies.keys();
        let due = self.board.take_due(all, self.leases.len(), now.monotonic);
        let statuses = due.into_iter().map(|uid| self.status_of(uid, now));
        statuses.flatten().collect()
    }

    fn status_of(&mut self, uid: PolicyUid, now: Moment) -> Option<StatusWrite> {
        let policy = self.policies.get(&uid)?;
        let before = policy.status.as_ref();
        let denied = before.and_then(|before| before.denied.as_ref());
        let denied = self.tally.denied(&uid, denied, now.wall);
        let picture = Picture {
            denied,
            ..self.picture(policy, now.wall)
        };
        let status = roll_up(picture);
        if before == Some(&status) {
            return None;
        }
        let known = before.and_then(overrule);
        let overruled = overrule(&status).filter(|message| known != Some(*message));
        let overruled = overruled.map(str::to_owned);
        Some(StatusWrite {
            policy: policy.rules.name.clone(),
            overruled,
            uid,
            status,
        })
    }

    fn picture<'a>(&'a self, policy: &'a PolicyObject, now: i64) -> Picture<'a> {
        let uid = &policy.rules.uid;
        let is_its = |budget: &&BudgetObject| budget.spec.policy_uid == uid.0;
        let mut others = self.policies.values();
        Picture {
            policy: &policy.rules,
            has_rival: others.any(|other| is_rival(&other.rules, &policy.rules)),
            changed_by: policy.changed_by.as_deref(),
            before: policy.status.as_ref(),
            budgets: self.budgets.values().filter(is_its).collect(),
            denied: None,
            now,
        }
    }

    /// A status was written.
    pub fn told(&mut self, write: StatusWrite, now: Moment) {
        self.board.said(&write.uid, now.monotonic);
        if let Some(policy) = self.policies.get_mut(&write.uid) {
            policy.status = Some(write.status);
        }
    }

    /// A status that could not be written is tried again.
    pub fn retry_status(&mut self, write: &StatusWrite, now: Moment) {
        self.board.said(&write.uid, now.monotonic);
        self.board.is_new(&write.uid);
    }

    /// What is used of each budget, as of the last turn, by its ledger; of too many ledgers, those with the least left.
    pub fn figures(&self) -> Vec<BudgetFigure> {
        let budgets = self.budgets.values();
        let mut figures: Vec<BudgetFigure> =
            budgets.filter_map(|budget| self.figure(budget)).collect();
        if figures.len() > MOST_FIGURES {
            figures.sort_by_key(|figure| figure.limit_bytes.saturating_sub(figure.used_bytes));
            figures.truncate(MOST_FIGURES);
        }
        figures
    }

    fn figure(&self, budget: &BudgetObject) -> Option<BudgetFigure> {
        let account = budget.account();
        let allowance = self.standing(&account).allowance()?;
        let ledger = &budget.ledger;
        Some(BudgetFigure {
            policy: budget.spec.policy.clone(),
            budget: account.budget,
            namespace: account.namespace.map(|namespace| namespace.0),
            limit_bytes: allowance.limit_bytes,
            used_bytes: ledger.used(&allowance.window, ledger.time(self.now)),
        })
    }
}

/// What a status says of an emergency.
fn overrule(status: &EgressPolicyStatus) -> Option<&str> {
    let mut conditions = status.conditions.iter();
    let condition = conditions.find(|it| it.reason == OVERRULED)?;
    Some(&condition.message)
}

//! One run: who pays for it, and what becomes of what was paid.

use std::sync::Arc;
use std::time::Duration;

use tonnage_cache::gate::{Demand, Permit, Purpose, Refusal};

use super::tell::Stop;
use super::{Shared, words};
use crate::crd::{Mode, WhenControllerUnreachable};
use crate::egress::lease::Receipt;
use crate::egress::policy::Decision;
use crate::egress::terms::Account;
use crate::govern::pace::Turn;
use crate::govern::spend::Shortage;
use crate::govern::tabs::{Guest, Tab};

/// How long a run waits for the controller's answer: a node asks at most every 5 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// A run that is paid for. Dropped before it was sent it is given back in full, and after that it counts in full unless it is
/// settled.
#[derive(Debug)]
pub(super) struct Paid {
    shared: Arc<Shared>,
    tab: Arc<Tab>,
    guest: Guest,
    receipts: Vec<Receipt>,
    /// Accounts that owe the bytes.
    owed: Vec<Account>,
    bytes: u64,
    /// What it has of the node's speed.
    turn: Option<Turn>,
    is_sent: bool,
    is_settled: bool,
}

/// From where a run's bytes are taken.
#[derive(Debug, Default)]
struct Charged {
    receipts: Vec<Receipt>,
    owed: Vec<Account>,
}

impl Shared {
    /// Finds somebody who pays for a run, and waits until it may begin.
    pub(super) async fn admit(self: &Arc<Self>, demand: &Demand) -> Result<Paid, Refusal> {
        let nobody = || Refusal::Exhausted(words::nobody());
        let tab = self.tabs.find(&demand.load).ok_or_else(nobody)?;
        let rules = self.rules();
        let mut why = None;
        for guest in tab.guests(&rules, self.now_unix()) {
            let refusal = match self.admit_for(&tab, guest, demand).await {
                Ok(paid) => return Ok(paid),
                Err(refusal) => refusal,
            };
            // A no that passes wins over one that does not: it is tried again, and then each is told his own.
            match (&why, &refusal) {
                (None, _) | (Some(Refusal::Denied(_)), Refusal::Exhausted(_)) => {
                    why = Some(refusal);
                }
                (Some(_), _) => {}
            }
        }
        Err(why.unwrap_or_else(nobody))
    }

    async fn admit_for(
        self: &Arc<Self>,
        tab: &Arc<Tab>,
        guest: Guest,
        demand: &Demand,
    ) -> Result<Paid, Refusal> {
        self.check(tab, &guest)?;
        let (rates, namespace) = (&guest.decision.rates, &guest.waiter.namespace);
        if demand.purpose == Purpose::Hedge && self.pace.is_tight(rates, namespace) {
            return Err(Refusal::Exhausted(words::tight()));
        }
        let Charged { receipts, owed } = self.charge(tab, &guest, demand).await?;
        tab.charged(demand.bytes);
        let mut paid = Paid {
            shared: Arc::clone(self),
            tab: Arc::clone(tab),
            guest: guest.clone(),
            receipts,
            owed,
            bytes: demand.bytes,
            turn: None,
            is_sent: false,
            is_settled: false,
        };
        paid.turn = self.pace.enter(rates, namespace, demand.bytes).await;
        Ok(paid)
    }

    /// Whether the rules let somebody load now.
    fn check(&self, tab: &Tab, guest: &Guest) -> Result<(), Refusal> {
        let rules = self.rules();
        if let Err(denial) = &guest.decision.verdict {
            self.denied_midway(&rules, tab, guest, denial);
            return Err(Refusal::Denied(denial.message.clone()));
        }
        let asked = (&*guest.waiter, &tab.wanted);
        self.tell_audited(&rules, asked, (&guest.decision, Some(tab)));
        match rules.stale(&guest.decision) {
            Some(sentence) => Err(self.stopped(tab, guest, (Stop::Stale, sentence))),
            None => Ok(()),
        }
    }

    /// The same after a wait: the rules may have changed, and the pod may be gone.
    fn check_again(&self, tab: &Tab, guest: &Guest) -> Result<(), Refusal> {
        let rules = self.rules();
        let mut guests = tab.guests(&rules, self.now_unix()).into_iter();
        let same = guests.find(|other| other.waiter.id == guest.waiter.id);
        match same {
            Some(guest) => self.check(tab, &guest),
            None => Err(Refusal::Exhausted(words::nobody())),
        }
    }

    /// Takes the bytes from all budgets; those of policies that only watch never refuse.
    async fn charge(&self, tab: &Tab, guest: &Guest, demand: &Demand) -> Result<Charged, Refusal> {
        let enforced = accounts(&guest.decision, Mode::Enforce);
        let mut charged = if enforced.is_empty() {
            Charged::default()
        } else {
            self.take(tab, guest, (&enforced, demand)).await?
        };
        let counted = accounts(&guest.decision, Mode::Audit);
        if counted.is_empty() && charged.receipts.is_empty() {
            return Ok(charged);
        }
        let foreseen = tab.foreseen(demand.bytes);
        if !counted.is_empty() {
            let spender = &self.parts.spender;
            if let Ok(receipt) = spender.charge(&counted, tab.number, demand.bytes, foreseen) {
                charged.receipts.push(receipt);
            } else {
                charged.owed.extend(spender.owe(&counted, demand.bytes));
            }
        }
        if !charged.receipts.is_empty() {
            self.tell_reserved(tab, guest, (demand.bytes, foreseen));
        }
        Ok(charged)
    }

    /// Takes the bytes from budgets that refuse, or lets them owe the bytes where all policies let them.
    async fn take(
        &self,
        tab: &Tab,
        guest: &Guest,
        (accounts, demand): (&[Account], &Demand),
    ) -> Result<Charged, Refusal> {
        let (spender, bytes) = (&self.parts.spender, demand.bytes);
        let decision = &guest.decision;
        let is_hedge = demand.purpose == Purpose::Hedge;
        let is_silent = self.is_silent();
        // A second request that does not come to be stops nothing.
        let refuse = |stop: Stop<'_>, sentence: String| {
            if is_hedge {
                Refusal::Exhausted(words::tight())
            } else {
                self.stopped(tab, guest, (stop, sentence))
            }
        };
        if is_silent
            && decision.unreachable == WhenControllerUnreachable::Deny
            && let Some(account) = accounts.first()
        {
            let sentence = words::unanswered(decision, account, None);
            return Err(refuse(Stop::Unanswered(account), sentence));
        }
        let patience = if is_hedge || is_silent {
            Duration::ZERO
        } else {
            PATIENCE
        };
        let (foreseen, heard) = (tab.foreseen(bytes), spender.heard());
        let taken = spender.take(accounts, tab.number, bytes, foreseen, patience);
        let (account, waited) = match taken.await {
            Ok(receipt) => {
                return Ok(Charged {
                    receipts: vec![receipt],
                    owed: Vec::new(),
                });
            }
            Err(Shortage::Exhausted { account, message }) => {
                let sentence = words::used_up(decision, &account, message.as_deref());
                return Err(refuse(Stop::UsedUp(&account), sentence));
            }
            Err(Shortage::Unanswered { account, waited }) => (account, waited),
        };
        if is_hedge {
            return Err(Refusal::Exhausted(words::tight()));
        }
        if !is_silent {
            self.note_silence(heard);
        }
        match decision.unreachable {
            WhenControllerUnreachable::Allow => Ok(Charged {
                receipts: Vec::new(),
                owed: spender.owe(accounts, bytes),
            }),
            WhenControllerUnreachable::SpendLease | WhenControllerUnreachable::Deny => {
                let waited = (!is_silent).then_some(waited);
                let sentence = words::unanswered(decision, &account, waited);
                Err(refuse(Stop::Unanswered(&account), sentence))
            }
        }
    }
}

/// The accounts that are charged by policies of a mode.
fn accounts(decision: &Decision, mode: Mode) -> Vec<Account> {
    let charges = decision.charges.iter();
    let charges = charges.filter(|charge| charge.mode == mode);
    charges.map(|charge| charge.account.clone()).collect()
}

impl Paid {
    fn end(&mut self, received: u64) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let parts = &self.shared.parts;
        let received = received.min(self.bytes);
        let unused = self.bytes.saturating_sub(received);
        for receipt in &self.receipts {
            parts.spender.refund(receipt, unused);
        }
        parts.spender.forgive(&self.owed, unused);
        let namespace = &self.guest.waiter.namespace;
        if !self.receipts.is_empty() {
            self.tab.release(namespace, unused);
        }
        if received > 0 {
            let source = &self.tab.wanted.source;
            let price = self.guest.decision.price.as_ref();
            parts.cost.settled(source, namespace, received, price);
            let charges = self.guest.decision.charges.iter();
            let accounts: Vec<Account> = charges.map(|charge| charge.account.clone()).collect();
            parts.spender.note_use(&accounts, namespace, received);
        }
        if self.tab.settled(&self.guest, self.bytes, received) {
            self.shared.tell_settled(&self.tab);
        }
        if let Some(turn) = self.turn.take() {
            turn.end(received);
        }
    }
}

impl Permit for Paid {
    fn begin(&mut self) -> bool {
        self.is_sent = self.shared.check_again(&self.tab, &self.guest).is_ok();
        self.is_sent
    }

    fn settle(mut self: Box<Self>, received: u64, _answered: bool) {
        self.end(received);
    }
}

impl Drop for Paid {
    fn drop(&mut self) {
        let received = if self.is_sent { self.bytes } else { 0 };
        self.end(received);
    }
}

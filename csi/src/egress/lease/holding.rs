//! One account in a node's purse: what it holds, what it asks for, which loads wait for it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Demand, Grant, Rules};
use crate::egress::terms::Account;

/// One account.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Holding {
    /// Number of the newest demand; 0 before the first.
    seq: u64,
    /// What was spent of the grant before it.
    spent: u64,
    phase: Phase,
    /// Bytes that each load misses.
    missing: BTreeMap<u64, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Nothing held, nothing asked for.
    Empty { since: Duration },
    /// A demand may have been written, first at `since`.
    Asking {
        since: Duration,
        wanted: u64,
        refused: bool,
    },
    /// A grant.
    Held {
        /// Nothing may be spent from here on.
        until: Duration,
        bytes: u64,
        spent: u64,
        /// When something was spent last.
        used: Duration,
    },
}

/// What should be told to the controller about an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Bytes are missing.
    More,
    /// What is held or asked for is not used.
    GiveBack,
}

impl Holding {
    pub(super) fn new() -> Self {
        Self {
            seq: 0,
            spent: 0,
            phase: Phase::Empty {
                since: Duration::ZERO,
            },
            missing: BTreeMap::new(),
        }
    }

    /// What may still be spent.
    pub(super) fn left(&self, now: Duration) -> u64 {
        match &self.phase {
            Phase::Held {
                until,
                bytes,
                spent,
                ..
            } if now < *until => bytes.saturating_sub(*spent),
            Phase::Held { .. } | Phase::Empty { .. } | Phase::Asking { .. } => 0,
        }
    }

    /// Spends what [`left`](Self::left) covers; the answer is the grant's number.
    pub(super) fn spend(&mut self, load: u64, amount: u64, now: Duration) -> u64 {
        if let Phase::Held { spent, used, .. } = &mut self.phase {
            *spent = spent.saturating_add(amount);
            *used = now;
        }
        self.missing.remove(&load);
        self.seq
    }

    /// Gives back what was spent of grant `seq`, unless the account was told already.
    pub(super) fn refund(&mut self, seq: u64, amount: u64) {
        if let Phase::Held { spent, .. } = &mut self.phase
            && self.seq == seq
        {
            *spent = spent.saturating_sub(amount);
        }
    }

    /// Remembers that a load waits; the answer is whether the controller said that nothing is left.
    pub(super) fn miss(&mut self, load: u64, amount: u64) -> bool {
        self.missing.insert(load, amount);
        self.is_refused()
    }

    /// Whether the controller said that nothing is left.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.phase, Phase::Asking { refused: true, .. })
    }

    pub(super) fn forget(&mut self, load: u64) {
        self.missing.remove(&load);
    }

    pub(super) fn forget_all(&mut self) {
        self.missing.clear();
    }

    pub(super) fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Asking { .. })
    }

    /// Refused, and for so long that another account may have its place in the object.
    pub(super) fn may_yield(&self, now: Duration, rules: &Rules) -> bool {
        match &self.phase {
            Phase::Asking { since, refused, .. } => {
                *refused && now.saturating_sub(*since) >= rules.idle
            }
            Phase::Empty { .. } | Phase::Held { .. } => false,
        }
    }

    /// When the account last had the controller's attention: who waits longest is served first.
    pub(super) fn since(&self) -> Duration {
        match &self.phase {
            Phase::Empty { since } | Phase::Asking { since, .. } => *since,
            Phase::Held { used, .. } => *used,
        }
    }

    pub(super) fn wish(&self, now: Duration, rules: &Rules) -> Option<Wish> {
        let waits = !self.missing.is_empty();
        let idle = |since: Duration| now.saturating_sub(since) >= rules.idle;
        match &self.phase {
            Phase::Empty { .. } => waits.then_some(Wish::More),
            Phase::Asking { since, .. } => (!waits && idle(*since)).then_some(Wish::GiveBack),
            Phase::Held { .. } if waits => Some(Wish::More),
            Phase::Held {
                until,
                bytes,
                spent,
                used,
            } => (bytes > spent && (now >= *until || idle(*used))).then_some(Wish::GiveBack),
        }
    }

    /// Asks for what is missing. The clock of the grant to come starts here, before the demand is written.
    pub(super) fn ask(&mut self, now: Duration, fresh: u64) -> u64 {
        let wanted = self.missing.values().copied().fold(0, u64::saturating_add);
        match &self.phase {
            Phase::Empty { .. } if self.seq == 0 => self.seq = fresh,
            // This number has asked for nothing yet.
            Phase::Empty { .. } => {}
            Phase::Asking { .. } | Phase::Held { .. } => self.end(),
        }
        self.phase = Phase::Asking {
            since: now,
            wanted,
            refused: false,
        };
        self.seq
    }

    /// Ends the grant or the demand; what comes for it from now on is not taken any more.
    pub(super) fn give_back(&mut self, now: Duration) -> u64 {
        self.end();
        self.phase = Phase::Empty { since: now };
        self.seq
    }

    fn end(&mut self) {
        self.spent = match &self.phase {
            Phase::Held { spent, .. } => *spent,
            Phase::Empty { .. } | Phase::Asking { .. } => 0,
        };
        self.seq = self.seq.saturating_add(1);
    }

    /// Takes an answer; `false` if it says nothing new.
    pub(super) fn accept(&mut self, grant: &Grant, now: Duration, rules: &Rules) -> bool {
        let Phase::Asking { since, refused, .. } = &mut self.phase else {
            return false;
        };
        if grant.seq != self.seq {
            return false;
        }
        if grant.bytes == 0 {
            return !std::mem::replace(refused, true);
        }
        let term = Duration::from_secs(u64::from(grant.seconds)).saturating_sub(rules.margin);
        self.phase = Phase::Held {
            until: since.saturating_add(term),
            bytes: grant.bytes,
            spent: 0,
            used: now,
        };
        // Who waited asks again, and is remembered again if this does not suffice.
        self.missing.clear();
        true
    }

    /// Its line in the object; none while a grant is held, which the controller knows.
    pub(super) fn demand(&self, account: &Account) -> Option<Demand> {
        let wanted = match &self.phase {
            Phase::Held { .. } => return None,
            Phase::Empty { .. } => 0,
            Phase::Asking { wanted, .. } => *wanted,
        };
        (self.seq > 0).then(|| Demand {
            account: account.clone(),
            seq: self.seq,
            wanted,
            spent: self.spent,
        })
    }

    /// Whether nothing depends on it any more.
    pub(super) fn is_over(&self, now: Duration, rules: &Rules) -> bool {
        let end = match &self.phase {
            Phase::Empty { since } => *since,
            Phase::Held {
                until,
                bytes,
                spent,
                ..
            } if bytes == spent => *until,
            Phase::Asking { .. } | Phase::Held { .. } => return false,
        };
        self.missing.is_empty() && now.saturating_sub(end) >= rules.keep
    }
}

//! A node's service in the model, and the ways in which it may be broken.

use std::time::Duration;

use tonnage_csi::egress::lease::{Demand, Grant, Incarnation, Lease, Purse};

use super::setting::{Flaw, Setting, TICK};
use super::world::account;

/// A node's service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) purse: Purse,
    /// A write that is under way.
    pub(crate) flight: Option<Vec<Demand>>,
    /// A write that nobody waits for any more, and that may still arrive.
    pub(crate) stray: Option<(Incarnation, Vec<Demand>)>,
    /// The status before the last, which may be read again.
    pub(crate) earlier: Vec<Grant>,
    pub(crate) starts: u8,
    /// When it wrote last, for those flaws that need it.
    asked: u8,
    /// What a service with a flaw finds again when it begins anew.
    saved: Option<Box<Purse>>,
}

impl Node {
    pub(crate) fn new(index: usize, setting: &Setting) -> Self {
        Self {
            purse: purse(index, 1, None, setting),
            flight: None,
            stray: None,
            earlier: Vec::new(),
            starts: 1,
            asked: 0,
            saved: None,
        }
    }

    /// Sends its demands, if there are any.
    pub(crate) fn ask(&mut self, (now, clock): (Duration, u8), setting: &Setting) {
        let before = self.purse.clone();
        self.flight = self.purse.demands(now);
        match setting.flaw {
            Some(Flaw::ReportsAndGoesOn) if before.left(&account(0), now) > 0 => {
                self.purse = before;
            }
            Some(Flaw::CountsFromTheAnswer) => self.asked = clock,
            Some(_) | None => {}
        }
    }

    /// Waits no longer for the write under way.
    pub(crate) fn time_out(&mut self) {
        let incarnation = self.purse.incarnation();
        self.stray = self.flight.take().map(|demands| (incarnation, demands));
    }

    /// Takes an answer; `true` if it would be taken once more.
    pub(crate) fn accept(
        &mut self,
        mut grants: Vec<Grant>,
        (now, clock): (Duration, u8),
        setting: &Setting,
    ) -> bool {
        if setting.flaw == Some(Flaw::CountsFromTheAnswer) {
            let late = u32::from(clock - self.asked) * u32::try_from(TICK).unwrap();
            for grant in &mut grants {
                grant.seconds += late;
            }
        }
        let is_new = self.purse.accept(&grants, now);
        if is_new && setting.flaw == Some(Flaw::RemembersItsLease) {
            self.saved = Some(Box::new(self.purse.clone()));
        }
        self.purse.accept(&grants, now)
    }

    /// Crashes and starts.
    pub(crate) fn begin_anew(&mut self, index: usize, lease: &Lease, setting: &Setting) {
        if self.flight.is_some() {
            self.time_out();
        }
        self.starts += 1;
        self.purse = match self.saved.take() {
            Some(saved) => *saved,
            None => purse(index, self.starts, Some(lease), setting),
        };
    }
}

fn purse(index: usize, starts: u8, before: Option<&Lease>, setting: &Setting) -> Purse {
    let incarnation = u64::try_from(index).unwrap() * 100 + u64::from(starts);
    Purse::new(Incarnation(incarnation), before, 0).with_rules(setting.lease.clone())
}

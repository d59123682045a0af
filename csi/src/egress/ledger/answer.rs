//! What a ledger answers to a demand: the same from every controller that has read the same objects.

use super::{Ask, Ledger, Rules};
use crate::egress::lease::{Grant, Lease};
use crate::egress::terms::Account;
use crate::egress::window::Window;

/// A ledger that is in the API server, and what its policy says.
#[derive(Debug, Clone, Copy)]
pub struct Book<'a> {
    /// The ledger, as it was read or written last.
    pub ledger: &'a Ledger,
    /// In which time its limit holds.
    pub window: &'a Window,
    /// How much is granted.
    pub rules: &'a Rules,
}

/// An answer to one demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Answer {
    /// Bytes; 0 if there are none left.
    pub bytes: u64,
    /// For how long.
    pub seconds: u32,
}

impl Ledger {
    /// Whether a demand has no answer yet, neither here nor in the object that it was read from.
    pub(super) fn is_open(&self, node: &str, ask: &Ask) -> bool {
        let row = self.rows.get(node).map_or(0, |row| row.seq);
        ask.wanted > 0 && ask.seq > ask.answered && ask.seq > row
    }
}

impl Book<'_> {
    /// What is said to a demand: its grant; that nothing is left, while it is open; or nothing yet.
    pub fn answer(&self, node: &str, ask: &Ask) -> Option<Answer> {
        let ledger = self.ledger;
        let row = ledger.rows.get(node).filter(|row| row.held > 0);
        match row {
            Some(row) if row.incarnation == ask.incarnation && row.seq == ask.seq => Some(Answer {
                bytes: row.held,
                seconds: row.seconds,
            }),
            Some(_) | None => {
                let room = ledger.room(self.window, ledger.as_of);
                let bytes = self.rules.portion(ask.wanted, ledger.limit, room);
                let is_refused = bytes == 0 && ledger.is_open(node, ask);
                is_refused.then_some(Answer { bytes, seconds: 0 })
            }
        }
    }
}

/// The grants to write into a node's object, in place of those that it has; `None` if they say nothing new. `find` finds the ledgers
/// as they are in the API server. What is no longer asked for is dropped along with the next write, not by one of its own.
pub fn grants<'a>(
    lease: &Lease,
    find: impl Fn(&Account) -> Option<Book<'a>>,
) -> Option<Vec<Grant>> {
    let grants: Vec<Grant> = lease
        .demands
        .iter()
        .filter_map(|demand| {
            let ask = Ask::of(lease, demand);
            let book = find(&demand.account);
            let answer = book.and_then(|book| book.answer(&lease.node, &ask));
            let said = lease.grants.iter().find(|grant| {
                grant.account == demand.account
                    && grant.incarnation == lease.incarnation
                    && grant.seq == demand.seq
            });
            answer.map_or_else(
                || said.cloned(),
                |answer| {
                    Some(Grant {
                        account: demand.account.clone(),
                        incarnation: lease.incarnation,
                        seq: demand.seq,
                        bytes: answer.bytes,
                        seconds: answer.seconds,
                    })
                },
            )
        })
        .collect();
    let is_new = grants.iter().any(|grant| !lease.grants.contains(grant));
    is_new.then_some(grants)
}

//! Grants without a name. A ledger has room for so many rows; where more nodes hold grants, the oldest are held together. They
//! stay held for their whole term, because nobody can report them any more, and are then settled in full.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::{Ask, Ledger, Row};

/// How long grants are taken into the same crowd, in seconds.
const OPEN: i64 = 60;
/// Most crowds; beyond that the last one takes all.
const MOST: usize = 32;

/// Grants of about the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crowd {
    /// Its name: when it was begun, or a little later; grows.
    pub id: i64,
    /// What they hold.
    pub bytes: u64,
    /// The longest of their terms, counted from the last that came.
    pub seconds: u32,
}

impl Ledger {
    /// Makes room for one more row if there are too many; `false` if none can be spared.
    pub(super) fn spare(&mut self, most: usize, asks: &BTreeMap<String, Ask>, now: i64) -> bool {
        if self.rows.len() < most {
            return true;
        }
        // What is settled goes first, then what ends first.
        let spared = self
            .rows
            .iter()
            .filter(|(node, row)| is_known(row, asks.get(*node)))
            .min_by_key(|(_, row)| (row.held > 0, row.until))
            .map(|(node, _)| node.clone());
        let Some(row) = spared.and_then(|node| self.rows.remove(&node)) else {
            return false;
        };
        if row.held > 0 {
            self.join_crowd(&row, now);
        }
        true
    }

    fn join_crowd(&mut self, row: &Row, now: i64) {
        let is_full = self.crowd.len() >= MOST;
        if let Some(last) = self.crowd.last_mut()
            && (is_full || now < last.id.saturating_add(OPEN))
        {
            last.bytes = last.bytes.saturating_add(row.held);
            last.seconds = last.seconds.max(row.seconds);
            return;
        }
        let newest = self.crowd.last().map(|last| last.id.saturating_add(1));
        self.crowd.push(Crowd {
            id: newest.map_or(now, |newest| newest.max(now)),
            bytes: row.held,
            seconds: row.seconds,
        });
    }
}

/// Whether the node's object shows that the demand was answered: only then may the ledger forget it, because otherwise it would
/// be answered again.
fn is_known(row: &Row, ask: Option<&Ask>) -> bool {
    ask.is_none_or(|ask| match ask.seq.cmp(&row.seq) {
        Ordering::Less => false,
        Ordering::Equal => ask.answered >= row.seq,
        Ordering::Greater => true,
    })
}

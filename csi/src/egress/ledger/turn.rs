//! One turn of a ledger: settle what is over, hear what nodes report, grant what they miss.

use std::collections::BTreeMap;

use super::{Ask, Expired, Ledger, MOST_SETTLED, Row, Rules};
use crate::egress::window::Window;

/// What a turn is taken with.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// What the policy allows now.
    pub limit: u64,
    /// In which time.
    pub window: &'a Window,
    /// The wall clock, in seconds since 1970 (UTC).
    pub wall: i64,
    /// What is asked of the account, by node: see [`Asks::of`](super::Asks::of). All nodes' objects must have been read once.
    pub asks: &'a BTreeMap<String, Ask>,
    /// Grants that are over.
    pub expired: &'a Expired,
    /// How much is granted.
    pub rules: &'a Rules,
}

/// A ledger after a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turned {
    /// The ledger to write, if it says anything new.
    pub ledger: Option<Ledger>,
    /// What was done, for the audit log, once the ledger is written.
    pub effects: Vec<Effect>,
}

/// Something that a turn did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Bytes may be spent.
    Granted {
        /// By which node.
        node: String,
        /// In answer to which demand.
        seq: u64,
        /// How many.
        bytes: u64,
    },
    /// A grant was settled.
    Settled {
        /// Whose; `None` for several that were held together.
        node: Option<String>,
        /// How many bytes it was.
        granted: u64,
        /// How many of them count as spent.
        spent: u64,
        /// Why.
        ending: Ending,
    },
}

/// How a grant ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The node said what it had spent.
    Reported,
    /// The node's service began anew, or its report was lost: counts in full.
    Lost,
    /// Its time was over: counts in full.
    Expired,
}

impl Ledger {
    /// Takes a turn. The answer's ledger must be written with the version of this one as precondition.
    pub fn turn(&self, turn: &Turn<'_>) -> Turned {
        let mut ledger = self.clone();
        ledger.carry(turn.window);
        let mut next = Next {
            ledger,
            now: self.time(turn.wall),
            turn,
            effects: Vec::new(),
        };
        next.ledger.limit = turn.limit;
        next.expire();
        for (node, ask) in turn.asks {
            next.hear(node, ask);
        }
        next.grant();
        if next.ledger == *self {
            return Turned {
                ledger: None,
                effects: Vec::new(),
            };
        }
        next.tidy();
        Turned {
            ledger: Some(next.ledger),
            effects: next.effects,
        }
    }
}

/// A ledger in the middle of its turn.
struct Next<'a> {
    ledger: Ledger,
    now: i64,
    turn: &'a Turn<'a>,
    effects: Vec<Effect>,
}

impl Next<'_> {
    /// Books bytes now, which is no earlier than any of them was spent.
    fn settle(&mut self, node: Option<&str>, granted: u64, (spent, ending): (u64, Ending)) {
        if spent > 0 {
            let key = self.turn.window.key(self.now);
            let settled = self.ledger.settled.entry(key).or_default();
            *settled = settled.saturating_add(spent);
        }
        self.effects.push(Effect::Settled {
            node: node.map(str::to_owned),
            granted,
            spent,
            ending,
        });
    }

    fn expire(&mut self) {
        let expired = self.turn.expired;
        for (node, incarnation, seq) in &expired.rows {
            let is_it = |row: &Row| row.incarnation == *incarnation && row.seq == *seq;
            if self.ledger.rows.get(node).is_some_and(is_it) {
                self.end(node, |held| (held, Ending::Expired));
            }
        }
        let is_over = |id: i64, bytes: u64| expired.crowds.contains(&(id, bytes));
        let mut over = Vec::new();
        self.ledger.crowd.retain(|crowd| {
            let stays = !is_over(crowd.id, crowd.bytes);
            if !stays {
                over.push(crowd.bytes);
            }
            stays
        });
        for bytes in over {
            self.settle(None, bytes, (bytes, Ending::Expired));
        }
    }

    /// Ends a node's grant, if it has one.
    fn end(&mut self, node: &str, spent: impl FnOnce(u64) -> (u64, Ending)) {
        let Some(row) = self.ledger.rows.get_mut(node) else {
            return;
        };
        let held = std::mem::take(&mut row.held);
        if held > 0 {
            self.settle(Some(node), held, spent(held));
        }
    }

    /// A demand ends the grant before it.
    fn hear(&mut self, node: &str, ask: &Ask) {
        let Some(row) = self.ledger.rows.get(node).copied() else {
            return;
        };
        if ask.seq <= row.seq {
            return;
        }
        let is_next = ask.incarnation == row.incarnation && ask.seq == row.seq.saturating_add(1);
        self.end(node, |held| {
            if is_next {
                (ask.spent.min(held), Ending::Reported)
            } else {
                (held, Ending::Lost)
            }
        });
    }

    /// Grants what is missing, first to those whose last grant is longest ago.
    fn grant(&mut self) {
        let turn = self.turn;
        let mut open: Vec<(i64, &String, &Ask)> = turn
            .asks
            .iter()
            .filter(|(node, ask)| self.ledger.is_open(node, ask))
            .map(|(node, ask)| {
                let last = self.ledger.rows.get(node).map_or(i64::MIN, |row| row.until);
                (last, node, ask)
            })
            .collect();
        open.sort_by_key(|(last, _, _)| *last);
        let mut room = self.ledger.room(turn.window, self.now);
        let mut is_full = false;
        for (_, node, ask) in open {
            let bytes = turn.rules.portion(ask.wanted, turn.limit, room);
            if bytes == 0 {
                continue;
            }
            if !self.ledger.rows.contains_key(node) {
                // Who waits for a row is not passed by others with shorter names.
                is_full = is_full || !self.ledger.spare(node, turn, self.now);
                if is_full {
                    continue;
                }
            }
            room = room.saturating_sub(bytes);
            self.enter(node, ask, bytes);
        }
    }

    fn enter(&mut self, node: &str, ask: &Ask, bytes: u64) {
        let seconds = self.turn.rules.seconds;
        let row = Row {
            incarnation: ask.incarnation,
            seq: ask.seq,
            held: bytes,
            seconds,
            until: self.now.saturating_add(i64::from(seconds)),
        };
        self.ledger.rows.insert(node.to_owned(), row);
        self.effects.push(Effect::Granted {
            node: node.to_owned(),
            seq: ask.seq,
            bytes,
        });
    }

    /// Drops what nothing depends on any more. Never a reason to write by itself.
    fn tidy(&mut self) {
        let Self {
            ledger, now, turn, ..
        } = self;
        ledger.as_of = *now;
        ledger.window = Some(*turn.window);
        ledger
            .settled
            .retain(|key, _| turn.window.counts(*key, *now));
        while ledger.settled.len() > MOST_SETTLED {
            let Some((_, oldest)) = ledger.settled.pop_first() else {
                break;
            };
            if let Some(mut next) = ledger.settled.first_entry() {
                let sum = next.get().saturating_add(oldest);
                next.insert(sum);
            }
        }
        // A settled row says that its demand was answered, and those before it, for as long as one of them is still read.
        ledger.rows.retain(|node, row| {
            let name = (node.clone(), row.incarnation, row.seq);
            let is_read = |ask: &Ask| ask.incarnation == row.incarnation && ask.seq <= row.seq;
            row.held > 0
                || turn.asks.get(node).is_some_and(is_read)
                || !turn.expired.rows.contains(&name)
        });
    }
}

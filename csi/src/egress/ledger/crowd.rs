//! Grants without a name. A ledger has room for so many rows; where more nodes hold grants, the oldest are held together. They
//! stay held for their whole term, because nobody can report them any more, and are then settled in full.
//!
//! Rows are bounded by their number and by their bytes. What does not fit is not granted, and waits; no row is ever dropped for want
//! of bytes without being held here.

use std::cmp::Ordering;

use super::{Ask, Ledger, Row, Turn};

/// How long grants are taken into the same crowd, in seconds.
const OPEN: i64 = 60;
/// Most crowds; beyond that the last one takes all.
const MOST: usize = 32;
/// Most bytes of rows as JSON. Keys of a window, crowds and those who spent most take 6 KiB at most, so that a status stays below 16 KiB.
const MOST_BYTES: usize = 10 << 10;
/// Most bytes of a row's JSON but the node's name, where numbers of demands and times have ten digits.
const ROW_BYTES: usize = 132;

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
    /// Makes room for the row of one more node; `false`, and nothing is changed, if not enough rows can be spared.
    pub(super) fn spare(&mut self, node: &str, turn: &Turn<'_>, now: i64) -> bool {
        let Some(spared) = self.spared(node, turn) else {
            return false;
        };
        for node in spared {
            if let Some(row) = self.rows.remove(&node)
                && row.held > 0
            {
                self.join_crowd(&row, now);
            }
        }
        true
    }

    /// Whose rows give way to that of one more node; nothing if too few can.
    fn spared(&self, node: &str, turn: &Turn<'_>) -> Option<Vec<String>> {
        let is_over = |rows: usize, bytes: usize| rows > turn.rules.rows || bytes > MOST_BYTES;
        let mut rows = self.rows.len().saturating_add(1);
        let names = self.rows.keys().map(String::as_str).chain([node]);
        let mut bytes = names.map(row_bytes).fold(0, usize::saturating_add);
        let mut spared = Vec::new();
        if !is_over(rows, bytes) {
            return Some(spared);
        }
        let mut known: Vec<(&String, &Row)> = self
            .rows
            .iter()
            .filter(|(node, row)| is_known(row, turn.asks.get(*node)))
            .collect();
        // What is settled goes first, then what ends first.
        known.sort_by_key(|(_, row)| (row.held > 0, row.until));
        let mut known = known.into_iter();
        while is_over(rows, bytes) {
            let (node, _) = known.next()?;
            rows = rows.saturating_sub(1);
            bytes = bytes.saturating_sub(row_bytes(node));
            spared.push(node.clone());
        }
        Some(spared)
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

fn row_bytes(node: &str) -> usize {
    node.len().saturating_add(ROW_BYTES)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::crd::{CalendarPeriod, NamespaceUse};
    use crate::egress::lease::Incarnation;
    use crate::egress::ledger::objects::write_ledger;
    use crate::egress::ledger::{Expired, MOST_SETTLED, Rules};
    use crate::egress::terms::WindowKey;
    use crate::egress::window::Window;

    const DAILY: Window = Window::Calendar {
        period: CalendarPeriod::Daily,
        offset_seconds: 0,
    };
    const NOON: i64 = 1_795_780_800;
    const GIB: u64 = 1 << 30;
    const SIXTEEN_KIB: usize = 16 << 10;
    const A: Incarnation = Incarnation(u64::MAX);

    type Wishes = BTreeMap<String, Ask>;

    fn name(number: usize, length: usize) -> String {
        format!("{number:0length$}")
    }

    /// Each of these nodes wants a grant for the first time.
    fn wishes(names: impl Iterator<Item = String>) -> Wishes {
        let ask = Ask {
            incarnation: A,
            seq: 1,
            wanted: GIB,
            spent: 0,
            answered: 0,
        };
        names.map(|name| (name, ask)).collect()
    }

    fn turn(ledger: &Ledger, seconds: i64, asks: &Wishes) -> Option<Ledger> {
        let turned = ledger.turn(&Turn {
            limit: 1 << 50,
            window: &DAILY,
            wall: NOON + seconds,
            asks,
            expired: &Expired::default(),
            rules: &Rules::default(),
        });
        turned.ledger
    }

    /// The objects of these nodes show what they were granted.
    fn show<'a>(asks: &mut Wishes, nodes: impl Iterator<Item = &'a String>) {
        for node in nodes {
            let ask = asks.get_mut(node).unwrap();
            ask.answered = ask.seq;
        }
    }

    fn bytes(ledger: &Ledger) -> usize {
        let status = write_ledger(ledger, &DAILY);
        serde_json::to_vec(&status).unwrap().len()
    }

    #[test]
    fn nodes_of_the_longest_names_get_their_turn_and_nothing_that_was_granted_is_lost() {
        let mut asks = wishes((0..100).map(|number| name(number, 253)));
        let mut ledger = Ledger::new(1 << 50);
        for (seconds, granted) in [(0, 26), (1, 52), (2, 78), (3, 100)] {
            ledger = turn(&ledger, seconds, &asks).unwrap();
            assert_eq!(ledger.rows.len(), 26);
            assert_eq!(ledger.held(), granted * GIB);
            assert!(bytes(&ledger) < SIXTEEN_KIB, "{}", bytes(&ledger));
            // Nobody is forgotten before its object shows the answer.
            assert_eq!(turn(&ledger, seconds, &asks), None);
            show(&mut asks, ledger.rows.keys());
        }
    }

    #[test]
    fn who_waits_for_a_row_is_not_passed_by_a_shorter_name() {
        let long = (0..26).map(|number| name(number, 253));
        let mut asks = wishes(long);
        let ledger = turn(&Ledger::new(1 << 50), 0, &asks).unwrap();
        assert_eq!(ledger.rows.len(), 26);
        let (first, second) = (name(26, 253), "z".to_owned());
        asks.extend(wishes([first.clone(), second.clone()].into_iter()));
        assert_eq!(turn(&ledger, 1, &asks), None);
        show(&mut asks, ledger.rows.keys().take(1));
        let ledger = turn(&ledger, 1, &asks).unwrap();
        assert!(ledger.rows.contains_key(&first) && ledger.rows.contains_key(&second));
        assert_eq!((ledger.rows.len(), ledger.held()), (27, 28 * GIB));
    }

    #[test]
    fn the_row_of_a_node_that_has_reported_is_for_who_has_waited_longest() {
        let mut asks = wishes((0..27).map(|number| name(number, 253)));
        let ledger = turn(&Ledger::new(1 << 50), 0, &asks).unwrap();
        let ask = asks.get_mut(&name(0, 253)).unwrap();
        (ask.seq, ask.spent) = (2, GIB);
        let ledger = turn(&ledger, 1, &asks).unwrap();
        assert!(ledger.rows.contains_key(&name(26, 253)));
        assert!(!ledger.rows.contains_key(&name(0, 253)));
        // What was reported is booked, and nothing else came to its end.
        assert_eq!(ledger.settled(&DAILY, NOON + 1), GIB);
        assert_eq!((ledger.rows.len(), ledger.held()), (26, 26 * GIB));
    }

    #[test]
    fn the_largest_status_stays_below_sixteen_kib_whatever_names_are() {
        let user = NamespaceUse {
            namespace: "n".repeat(63),
            bytes: i64::MAX,
        };
        let (expired, rules) = (Expired::default(), Rules::default());
        for (length, most) in [(2, 64), (28, 64), (29, 63), (45, 57), (253, 26)] {
            let asks = wishes((0..=most).map(|number| name(number, length)));
            let turn = Turn {
                limit: 1 << 50,
                window: &DAILY,
                wall: NOON,
                asks: &asks,
                expired: &expired,
                rules: &rules,
            };
            let mut ledger = largest();
            let row = Row {
                incarnation: A,
                seq: 9_999_999_999,
                held: 1 << 63,
                seconds: 900,
                until: 9_999_999_999,
            };
            for number in 0..most {
                let node = name(number, length);
                assert!(ledger.spare(&node, &turn, NOON), "{length} {number}");
                ledger.rows.insert(node, row);
            }
            let full = ledger.clone();
            assert!(!ledger.spare(&name(most, length), &turn, NOON));
            assert_eq!(ledger, full);
            let mut status = write_ledger(&ledger, &DAILY);
            status.users = vec![user.clone(); 16];
            let bytes = serde_json::to_vec(&status).unwrap().len();
            assert!(bytes < SIXTEEN_KIB, "{length}: {bytes}");
        }
    }

    /// As much as there can be, but for rows.
    fn largest() -> Ledger {
        let keys = (0..MOST_SETTLED).map(|number| WindowKey {
            start_unix: NOON + i64::try_from(number).unwrap(),
        });
        let crowd = Crowd {
            id: NOON,
            bytes: 1 << 63,
            seconds: 900,
        };
        Ledger {
            limit: u64::MAX,
            as_of: NOON,
            window: Some(DAILY),
            settled: keys.map(|key| (key, 1 << 63)).collect(),
            crowd: vec![crowd; MOST],
            ..Ledger::default()
        }
    }
}

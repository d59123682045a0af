//! What of a quota is set aside for each node, so that all nodes together never have more than it allows. Pure: the controller's half
//! is [`set_aside`], a node's is [`Claim`]. All amounts are bytes and volumes, and what is said of them holds for each of both.
//!
//! ```text
//! node:        has and wants so much, by number 7  ──NodeCache──►  controller
//! node:  lets in what its row allows  ◄──CacheQuota.status──  row: so much, by number 7
//! ```
//!
//! The rows are the ledger. They are written with the version that was read, so that of two controllers one succeeds, and nothing but
//! the rows decides. For every node the invariant is: what it has is at most its row, as the API server has it.
//!
//! 1. A row grows by what is left of the limit, or to what its node has already.
//! 2. A row shrinks to what its node wants, and only by a report with a higher number than the row answers: reports that come late or
//!    twice shrink nothing. A row that went leaves its number behind, so that they bring nothing back either.
//! 3. A node that has said that it wants less is bound by that at once, until a row answers a later report: so what was given back is
//!    not used any more when another node gets it.
//! 4. A service that starts knows nothing of what its predecessor said, so it lets nothing in until a row answers a report of its own,
//!    whose number is above all that the predecessor said.
//!
//! `csi/src/egress/reservation/tests.rs` searches for schedules in which that fails.

use std::collections::BTreeMap;

use super::quota::Usage;
use crate::crd::{CacheQuotaStatus, Reservation};

/// What is set aside for a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Row {
    /// What it may have.
    pub room: Usage,
    /// Number of the report that this answers.
    pub seq: u64,
}

/// What a node says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// What it has.
    pub has: Usage,
    /// What it would have if all was let in that waits there, what it has included.
    pub wants: Usage,
    /// Grows whenever that changes; `None` where a node knows nothing of reservations: it wants what it has.
    pub seq: Option<u64>,
}

/// What is set aside by one quota.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// By node.
    pub rows: BTreeMap<String, Row>,
    /// No report with a lower number counts of a node that has no row: it may be one from before its row went.
    pub above: u64,
}

impl Ledger {
    /// What a quota's status says; less than nothing is nothing.
    pub fn read(status: Option<&CacheQuotaStatus>) -> Self {
        let number = |number: i64| u64::try_from(number).unwrap_or(0);
        let rows = status.and_then(|status| status.reserved.as_ref());
        let rows = rows.into_iter().flatten().map(|it| {
            let row = Row {
                room: Usage {
                    logical_bytes: number(it.bytes),
                    volumes: number(it.volumes),
                },
                seq: number(it.seq),
            };
            (it.node.clone(), row)
        });
        Self {
            rows: rows.collect(),
            above: status
                .and_then(|status| status.reserved_above)
                .map_or(0, number),
        }
    }

    /// The same as a status has it: the rows, and the number, if there is one.
    pub fn written(self) -> (Vec<Reservation>, Option<i64>) {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let rows = self.rows.into_iter().map(|(node, row)| Reservation {
            node,
            bytes: signed(row.room.logical_bytes),
            volumes: signed(row.room.volumes),
            seq: signed(row.seq),
        });
        let above = (self.above > 0).then(|| signed(self.above));
        (rows.collect(), above)
    }

    /// A node's row, and whether there is one.
    pub fn row(&self, node: &str) -> (Row, bool) {
        let absent = Row {
            room: Usage::NONE,
            seq: self.above.saturating_sub(1),
        };
        self.rows
            .get(node)
            .map_or((absent, false), |row| (*row, true))
    }

    fn remove(&mut self, node: &str, seq: u64) {
        self.rows.remove(node);
        self.above = self.above.max(seq);
    }
}

/// The ledger as it is to be: what nodes do not want any more is free, and what they want beyond their rows is set aside, least first, as
/// far as the limit goes. A node that says nothing of the namespace keeps its row, and one that `is_gone` has none. A node that has no row
/// gets one if that `fits`.
pub fn set_aside(
    limit: Usage,
    before: &Ledger,
    reports: &BTreeMap<String, Report>,
    is_gone: impl Fn(&str) -> bool,
    mut fits: impl FnMut(&str) -> bool,
) -> Ledger {
    let mut next = before.clone();
    for (node, row) in before.rows.iter().filter(|(node, _)| is_gone(node)) {
        next.remove(node, row.seq);
    }
    // Rows go first to those that have something.
    let reports = reports.iter().filter(|(node, _)| !is_gone(node));
    let mut reports: Vec<(&String, &Report)> = reports.collect();
    reports.sort_by_key(|(node, report)| (report.has == Usage::NONE, *node));
    let mut wishes: Vec<(Usage, &String)> = Vec::new();
    for (node, report) in &reports {
        let (row, is_there) = before.row(node);
        let oldest = if is_there { row.seq } else { before.above };
        if report.seq.is_some_and(|seq| seq < oldest.max(1)) {
            continue;
        }
        let taken = row.after(report);
        let more = report.wants.minus(taken.room);
        if taken.room == Usage::NONE && more == Usage::NONE {
            if is_there {
                next.remove(node, taken.seq);
            }
        } else if is_there || fits(node) {
            next.rows.insert((*node).clone(), taken);
            wishes.push((more, node));
        }
    }
    let held: Usage = next.rows.values().map(|row| row.room).sum();
    // What nodes have for which there is no row counts, too.
    let rowless = reports
        .iter()
        .filter(|(node, _)| !next.rows.contains_key(*node));
    let held = held.plus(rowless.map(|(_, report)| report.has).sum());
    let mut left = limit.minus(held);
    wishes.sort_by_key(|(more, node)| (more.logical_bytes, more.volumes, *node));
    for (more, node) in wishes {
        // Parts of a volume are of no use.
        if let Some(row) = next.rows.get_mut(node)
            && more.fits(left)
        {
            row.room = row.room.plus(more);
            left = left.minus(more);
        }
    }
    next
}

impl Row {
    /// What a report leaves of it, and what the node has beyond it.
    fn after(self, report: &Report) -> Self {
        let Report { has, wants, seq } = *report;
        match seq {
            // Who has had a number is bound by numbers only.
            None => Self {
                room: if self.seq == 0 {
                    has
                } else {
                    self.room.at_least(has)
                },
                seq: self.seq,
            },
            Some(seq) if seq > self.seq => Self {
                room: self.room.at_most(wants).at_least(has),
                seq,
            },
            Some(_) => self,
        }
    }
}

/// A node's half, for one namespace. All quotas of the namespace answer the same reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// The number of the first report of this service, and of the last; 0 if there was none.
    first: u64,
    last: u64,
    wants: Usage,
    /// Reports that some row may not answer yet: numbers, which grow, and what was wanted, of which each wants something less than all after
    /// it.
    said: Vec<(u64, Usage)>,
}

/// Most reports that are remembered.
const MOST_SAID: usize = 64;

impl Claim {
    /// What to say now; the number is a new one if there is something new. `floor` is the highest number that was ever said for the
    /// node, as far as others can know; `rows` are those of the namespace's quotas.
    pub fn report(&mut self, has: Usage, wants: Usage, floor: u64, rows: &[Row]) -> Report {
        let wants = wants.at_least(has);
        let is_odd =
            |row: &Row| row.seq > self.last || (row.seq == self.last && !row.room.fits(wants));
        if self.last == 0 || wants != self.wants || rows.iter().any(is_odd) {
            let highest = rows.iter().map(|row| row.seq).max().unwrap_or(0);
            self.last = self.last.max(floor).max(highest).saturating_add(1);
            self.wants = wants;
            if self.first == 0 {
                self.first = self.last;
            }
            self.remember();
        }
        Report {
            has,
            wants,
            seq: Some(self.last),
        }
    }

    fn remember(&mut self) {
        // A later report that wants no more binds in place of those before.
        let newest = self.wants;
        self.said.retain(|(_, wants)| !newest.fits(*wants));
        self.said.push((self.last, self.wants));
        if self.said.len() > MOST_SAID {
            let (_, least) = self.said.remove(0);
            if let Some(first) = self.said.first_mut() {
                first.1 = first.1.at_most(least);
            }
        }
    }

    /// What the node may have by a row.
    pub fn usable(&self, row: Row) -> Usage {
        // It has answered nothing of this service yet.
        if self.first == 0 || row.seq < self.first {
            return Usage::NONE;
        }
        let unanswered = self.said.iter().filter(|(seq, _)| *seq > row.seq);
        unanswered.fold(row.room, |room, (_, wants)| room.at_most(*wants))
    }

    /// Whether the namespace needs a row no more.
    pub fn is_over(&self) -> bool {
        self.wants == Usage::NONE
    }
}

#[cfg(test)]
mod tests;

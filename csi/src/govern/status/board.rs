//! When a policy's status is looked at. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::egress::terms::PolicyUid;

/// Least time between two writes of a policy's status.
const PERIOD: Duration = Duration::from_secs(10);
/// How much longer that is for each node, because all of them read it: a thousand nodes are told once a minute.
const PER_NODE: Duration = Duration::from_millis(60);

/// What of policies is to be said, and when something was said last.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// Policies that are new or another than before.
    new: BTreeSet<PolicyUid>,
    /// Whether all of them are to be looked at.
    all: bool,
    said: BTreeMap<PolicyUid, Duration>,
}

impl Board {
    /// A policy is new, or another than before.
    pub(crate) fn is_new(&mut self, uid: &PolicyUid) {
        self.new.insert(uid.clone());
    }

    /// Figures may have changed.
    pub(crate) fn is_round(&mut self) {
        self.all = true;
    }

    /// A policy is gone.
    pub(crate) fn forget(&mut self, uid: &PolicyUid) {
        self.new.remove(uid);
        self.said.remove(uid);
    }

    /// Its status was written.
    pub(crate) fn said(&mut self, uid: &PolicyUid, now: Duration) {
        self.said.insert(uid.clone(), now);
    }

    /// Policies that are to be looked at now, of all in a cluster of so many nodes. Those whose turn has not come stay.
    pub(crate) fn take_due<'a>(
        &mut self,
        all: impl Iterator<Item = &'a PolicyUid>,
        nodes: usize,
        now: Duration,
    ) -> Vec<PolicyUid> {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        let often = PERIOD.max(PER_NODE.saturating_mul(nodes));
        let is_all = std::mem::take(&mut self.all);
        let mut new = std::mem::take(&mut self.new);
        let mut due = Vec::new();
        for uid in all {
            let period = if new.contains(uid) { PERIOD } else { often };
            let said = self.said.get(uid);
            let is_due = said.is_none_or(|said| now.saturating_sub(*said) >= period);
            if is_due && (is_all || new.contains(uid)) {
                new.remove(uid);
                due.push(uid.clone());
            }
        }
        self.new = new;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(name: &str) -> PolicyUid {
        PolicyUid(name.to_owned())
    }

    fn due(board: &mut Board, nodes: usize, second: u64) -> Vec<String> {
        let all = [uid("a"), uid("b")];
        let due = board.take_due(all.iter(), nodes, Duration::from_secs(second));
        due.into_iter().map(|uid| uid.0).collect()
    }

    #[test]
    fn new_policies_are_due_at_once_and_ten_seconds_after_they_were_written() {
        let mut board = Board::default();
        board.is_new(&uid("a"));
        assert_eq!(due(&mut board, 1_000, 0), ["a"]);
        board.said(&uid("a"), Duration::ZERO);
        board.is_new(&uid("a"));
        assert!(due(&mut board, 1_000, 9).is_empty());
        assert_eq!(due(&mut board, 1_000, 10), ["a"]);
        assert!(due(&mut board, 1_000, 11).is_empty());
    }

    #[test]
    fn figures_are_told_the_less_often_the_more_nodes_read_them() {
        for (nodes, seconds) in [(3, 10), (200, 12), (1_000, 60)] {
            let mut board = Board::default();
            for name in ["a", "b"] {
                board.said(&uid(name), Duration::ZERO);
            }
            board.is_round();
            assert!(due(&mut board, nodes, seconds - 1).is_empty());
            board.is_round();
            assert_eq!(due(&mut board, nodes, seconds), ["a", "b"]);
            // Once a round.
            assert!(due(&mut board, nodes, seconds).is_empty());
        }
    }
}

//! What policies denied, summed up over nodes. Each node counts since its service began; a count that grows is added, one that
//! begins anew is added in full. What a controller adds up is what was said last, or what nodes say now if that is more: so the
//! sum never goes back, and what was denied while no controller looked may be missing from it.

use std::collections::BTreeMap;

use crate::crd::{self, DenialLine};
use crate::egress::lease::Incarnation;
use crate::egress::terms::PolicyUid;
use crate::govern::ledgers::time;

/// Longest sentence in a status, in characters.
const REASON: usize = 1024;

/// What was denied.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    policies: BTreeMap<PolicyUid, Sum>,
    nodes: BTreeMap<String, Node>,
}

/// By one policy.
#[derive(Debug, Default)]
struct Sum {
    count: u64,
    last: Option<DenialLine>,
}

/// What a node has said.
#[derive(Debug)]
struct Node {
    incarnation: Incarnation,
    counts: BTreeMap<PolicyUid, u64>,
}

impl Tally {
    /// Takes what a node says.
    pub(crate) fn read(&mut self, node: &str, incarnation: Incarnation, lines: &[DenialLine]) {
        let known = self.nodes.entry(node.to_owned()).or_insert_with(|| Node {
            incarnation,
            counts: BTreeMap::new(),
        });
        if known.incarnation != incarnation {
            known.incarnation = incarnation;
            known.counts.clear();
        }
        for line in lines {
            let uid = PolicyUid(line.policy_uid.clone());
            let count = u64::try_from(line.count).unwrap_or_default();
            let before = known.counts.insert(uid.clone(), count).unwrap_or_default();
            let new = count.checked_sub(before).unwrap_or(count);
            if new == 0 {
                continue;
            }
            let sum = self.policies.entry(uid).or_default();
            sum.count = sum.count.saturating_add(new);
            let last = sum.last.as_ref().map(|last| last.last_time);
            if last.is_none_or(|last| line.last_time >= last) {
                sum.last = Some(line.clone());
            }
        }
    }

    /// A node's object is gone. What it denied stays denied.
    pub(crate) fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// A policy is gone.
    pub(crate) fn forget_policy(&mut self, uid: &PolicyUid) {
        self.policies.remove(uid);
    }

    /// What a policy denied, of which this was said before.
    pub(crate) fn denied(
        &mut self,
        uid: &PolicyUid,
        before: Option<&crd::Denials>,
    ) -> Option<crd::Denials> {
        let said = before.map_or(0, |before| before.count);
        let said = u64::try_from(said).unwrap_or_default();
        let Some(sum) = self.policies.get_mut(uid) else {
            return before.cloned();
        };
        sum.count = sum.count.max(said);
        let count = i64::try_from(sum.count).unwrap_or(i64::MAX);
        let told = before.and_then(|before| before.last_time.clone());
        let last = sum.last.as_ref().and_then(|last| {
            let at = time(last.last_time)?;
            let is_newer = told.as_ref().is_none_or(|told| at.0 >= told.0);
            is_newer.then_some((last, at))
        });
        Some(match (last, before) {
            (Some((last, at)), _) => crd::Denials {
                count,
                last_reason: Some(last.last_reason.chars().take(REASON).collect()),
                last_namespace: Some(last.last_namespace.clone()),
                last_time: Some(at),
            },
            (None, Some(before)) => crd::Denials {
                count,
                ..before.clone()
            },
            (None, None) => crd::Denials {
                count,
                ..crd::Denials::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(count: i64, second: i64) -> DenialLine {
        DenialLine {
            policy_uid: "u".to_owned(),
            count,
            last_namespace: format!("team-{second}"),
            last_reason: format!("at {second}"),
            last_time: second,
        }
    }

    fn denied(tally: &mut Tally, before: Option<&crd::Denials>) -> crd::Denials {
        tally.denied(&PolicyUid("u".to_owned()), before).unwrap()
    }

    #[test]
    fn counts_of_nodes_and_of_their_services_add_up() {
        let mut tally = Tally::default();
        let (first, second) = (Incarnation(1), Incarnation(2));
        tally.read("a", first, &[line(3, 30)]);
        tally.read("b", first, &[line(2, 20)]);
        assert_eq!(denied(&mut tally, None).count, 5);
        // Read twice, grown, and begun anew.
        tally.read("a", first, &[line(3, 30)]);
        tally.read("a", first, &[line(4, 40)]);
        tally.read("a", second, &[line(2, 50)]);
        // Forgotten by its node for a while.
        tally.read("b", first, &[]);
        tally.read("b", first, &[line(2, 20)]);
        let all = denied(&mut tally, None);
        assert_eq!(all.count, 8);
        assert_eq!(all.last_reason.as_deref(), Some("at 50"));
        assert_eq!(all.last_namespace.as_deref(), Some("team-50"));
        assert_eq!(all.last_time, time(50));
    }

    #[test]
    fn what_was_said_before_does_not_go_back() {
        let before = crd::Denials {
            count: 100,
            last_reason: Some("before".to_owned()),
            last_namespace: None,
            last_time: time(60),
        };
        let mut tally = Tally::default();
        // A new leader, and nobody has denied anything since the nodes' services began.
        assert_eq!(denied(&mut tally, Some(&before)), before);
        tally.read("a", Incarnation(1), &[line(30, 30)]);
        let same = denied(&mut tally, Some(&before));
        assert_eq!(same, before);
        tally.read("a", Incarnation(1), &[line(31, 70)]);
        let next = denied(&mut tally, Some(&same));
        assert_eq!(next.count, 101);
        assert_eq!(next.last_reason.as_deref(), Some("at 70"));
    }

    #[test]
    fn counts_of_nodes_that_are_gone_stay() {
        let mut tally = Tally::default();
        tally.read("a", Incarnation(1), &[line(3, 30)]);
        tally.forget("a");
        assert_eq!(denied(&mut tally, None).count, 3);
        tally.forget_policy(&PolicyUid("u".to_owned()));
        assert_eq!(tally.denied(&PolicyUid("u".to_owned()), None), None);
    }
}

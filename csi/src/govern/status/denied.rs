//! What policies denied, summed up over nodes. Each node counts since its service began; a count that grows is added, one that
//! begins anew is added in full. What a controller adds up is what was said last, or what nodes say now if that is more: so the
//! sum never goes back, and what was denied while no controller looked may be missing from it.
//!
//! Counted is only what is said of policies that there are: uids that no policy has, because it is gone or was never there, take no
//! room, however many policies come and go.
//!
//! Times are those of nodes, and none later than the controller's own: one whose clock is ahead does not keep the last word.

use std::collections::BTreeMap;

use crate::crd::{self, DenialLine};
use crate::egress::lease::Incarnation;
use crate::egress::terms::PolicyUid;
use crate::govern::ledgers::time;

/// Longest sentence in a status, in characters.
const REASON: usize = 1024;
/// Most nodes that are remembered though their objects are gone: one that comes back is not counted twice.
const MOST_GONE: usize = 4096;

/// What was denied.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// All that there are.
    policies: BTreeMap<PolicyUid, Sum>,
    nodes: BTreeMap<String, Node>,
    /// Nodes whose objects are gone, in the order in which they went.
    gone: BTreeMap<u64, String>,
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
    /// Of policies that there are.
    counts: BTreeMap<PolicyUid, u64>,
    /// Under which number it went, if its object is gone.
    went: Option<u64>,
}

impl Tally {
    /// A policy is there; whether it was not before. What nodes have said of one that is new is to be read again.
    pub(crate) fn add_policy(&mut self, uid: &PolicyUid) -> bool {
        let is_new = !self.policies.contains_key(uid);
        if is_new {
            self.policies.insert(uid.clone(), Sum::default());
        }
        is_new
    }

    /// Takes what a node says.
    pub(crate) fn read<'a>(
        &mut self,
        node: &str,
        incarnation: Incarnation,
        lines: impl IntoIterator<Item = &'a DenialLine>,
    ) {
        let known = self.nodes.entry(node.to_owned()).or_insert_with(|| Node {
            incarnation,
            counts: BTreeMap::new(),
            went: None,
        });
        if let Some(went) = known.went.take() {
            self.gone.remove(&went);
        }
        if known.incarnation != incarnation {
            known.incarnation = incarnation;
            known.counts.clear();
        }
        for line in lines {
            let uid = PolicyUid(line.policy_uid.clone());
            let Some(sum) = self.policies.get_mut(&uid) else {
                continue;
            };
            let count = u64::try_from(line.count).unwrap_or_default();
            let before = known.counts.insert(uid, count).unwrap_or_default();
            let new = count.checked_sub(before).unwrap_or(count);
            if new == 0 {
                continue;
            }
            sum.count = sum.count.saturating_add(new);
            let last = sum.last.as_ref().map(|last| last.last_time);
            if last.is_none_or(|last| line.last_time >= last) {
                sum.last = Some(line.clone());
            }
        }
    }

    /// A node's object is gone. What it denied stays denied, and is known again if the object comes back.
    pub(crate) fn forget(&mut self, node: &str) {
        let Some(known) = self.nodes.get_mut(node) else {
            return;
        };
        if known.went.is_some() {
            return;
        }
        let last = self.gone.last_key_value().map_or(0, |(last, _)| *last);
        let next = last.saturating_add(1);
        known.went = Some(next);
        self.gone.insert(next, node.to_owned());
        if self.gone.len() > MOST_GONE
            && let Some((_, first)) = self.gone.pop_first()
        {
            self.nodes.remove(&first);
        }
    }

    /// A policy is gone. What nodes still say of it is not heard.
    pub(crate) fn forget_policy(&mut self, uid: &PolicyUid) {
        self.policies.remove(uid);
        for known in self.nodes.values_mut() {
            known.counts.remove(uid);
        }
    }

    /// What a policy denied until now, of which this was said before.
    pub(crate) fn denied(
        &mut self,
        uid: &PolicyUid,
        before: Option<&crd::Denials>,
        now_unix: i64,
    ) -> Option<crd::Denials> {
        let said = before.map_or(0, |before| before.count);
        let said = u64::try_from(said).unwrap_or_default();
        // Nobody has denied anything by it since the nodes' services began.
        let Some(sum) = self.policies.get_mut(uid).filter(|sum| sum.count > 0) else {
            return before.cloned();
        };
        sum.count = sum.count.max(said);
        let count = i64::try_from(sum.count).unwrap_or(i64::MAX);
        if let Some(last) = &mut sum.last {
            last.last_time = last.last_time.min(now_unix);
        }
        let told = before.and_then(|before| before.last_time.clone());
        let told = told.map(|told| time(now_unix).map_or(told.clone(), |now| told.min(now)));
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

    /// Of one policy.
    fn tally() -> Tally {
        let mut tally = Tally::default();
        assert!(tally.add_policy(&PolicyUid("u".to_owned())));
        tally
    }

    fn denied(tally: &mut Tally, before: Option<&crd::Denials>) -> crd::Denials {
        tally
            .denied(&PolicyUid("u".to_owned()), before, 1_000)
            .unwrap()
    }

    #[test]
    fn counts_of_nodes_and_of_their_services_add_up() {
        let mut tally = tally();
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
        let mut tally = tally();
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
        let mut tally = tally();
        tally.read("a", Incarnation(1), &[line(3, 30)]);
        tally.forget("a");
        assert_eq!(denied(&mut tally, None).count, 3);
        tally.forget_policy(&PolicyUid("u".to_owned()));
        assert_eq!(tally.denied(&PolicyUid("u".to_owned()), None, 1_000), None);
    }

    #[test]
    fn a_node_that_comes_back_is_not_counted_twice() {
        let mut tally = tally();
        tally.read("a", Incarnation(1), &[line(3, 30)]);
        tally.forget("a");
        tally.forget("a");
        tally.read("a", Incarnation(1), &[line(4, 40)]);
        assert_eq!(denied(&mut tally, None).count, 4);
        assert!(tally.gone.is_empty());
        // Its service began anew meanwhile.
        tally.forget("a");
        tally.read("a", Incarnation(2), &[line(1, 50)]);
        assert_eq!(denied(&mut tally, None).count, 5);
    }

    fn line_of(uid: &str, count: i64) -> DenialLine {
        DenialLine {
            policy_uid: uid.to_owned(),
            ..line(count, 30)
        }
    }

    #[test]
    fn a_node_that_makes_up_policies_is_not_heard() {
        let mut tally = tally();
        for index in 0..1_000 {
            tally.read("a", Incarnation(index), &[line_of(&index.to_string(), 1)]);
        }
        assert_eq!(tally.policies.len(), 1);
        assert!(tally.nodes["a"].counts.is_empty());
        tally.read("a", Incarnation(1_000), &[line(1, 30)]);
        assert_eq!(denied(&mut tally, None).count, 1);
    }

    #[test]
    fn policies_that_come_and_go_leave_room_for_the_next() {
        let mut tally = Tally::default();
        let mut lines = Vec::new();
        for index in 0..1_000 {
            let name = index.to_string();
            let uid = PolicyUid(name.clone());
            assert!(tally.add_policy(&uid));
            assert!(!tally.add_policy(&uid));
            // The node goes on telling of some that are gone.
            lines.push(line_of(&name, 2));
            let told = lines.iter().rev().take(64);
            tally.read("a", Incarnation(1), told);
            let said = tally.denied(&uid, None, 1_000).map(|said| said.count);
            assert_eq!(said, Some(2), "{index}");
            tally.forget_policy(&uid);
        }
        tally.read("a", Incarnation(1), &lines);
        assert!(tally.policies.is_empty());
        assert!(tally.nodes["a"].counts.is_empty());
    }

    #[test]
    fn a_policy_that_comes_back_is_counted_as_nodes_tell_of_it_now() {
        let mut tally = tally();
        let uid = PolicyUid("u".to_owned());
        tally.read("a", Incarnation(1), &[line(3, 30)]);
        let before = denied(&mut tally, None);
        tally.forget_policy(&uid);
        tally.read("a", Incarnation(1), &[line(3, 30)]);
        tally.add_policy(&uid);
        assert_eq!(denied(&mut tally, Some(&before)), before);
        tally.read("a", Incarnation(1), &[line(3, 30)]);
        assert_eq!(denied(&mut tally, Some(&before)).count, 3);
        tally.read("a", Incarnation(1), &[line(4, 40)]);
        assert_eq!(denied(&mut tally, Some(&before)).count, 4);
    }

    #[test]
    fn of_nodes_that_are_gone_so_many_are_remembered() {
        let mut tally = tally();
        for index in 0..=MOST_GONE {
            let node = index.to_string();
            tally.read(&node, Incarnation(1), &[line(1, 30)]);
            tally.forget(&node);
        }
        assert_eq!(
            (tally.nodes.len(), tally.gone.len()),
            (MOST_GONE, MOST_GONE)
        );
        assert!(!tally.nodes.contains_key("0"));
    }

    #[test]
    fn times_that_have_not_come_are_taken_for_now() {
        let mut tally = tally();
        tally.read("ahead", Incarnation(1), &[line(1, 9_000)]);
        let first = denied(&mut tally, None);
        assert_eq!(first.last_time, time(1_000));
        tally.read("right", Incarnation(1), &[line(1, 1_001)]);
        let second = tally.denied(&PolicyUid("u".to_owned()), Some(&first), 1_005);
        let second = second.unwrap();
        assert_eq!(second.last_namespace.as_deref(), Some("team-1001"));
        // What another leader said of a time far off is not believed for ever.
        let told = crd::Denials {
            last_time: time(9_000),
            ..second
        };
        tally.read("right", Incarnation(1), &[line(2, 1_010)]);
        let third = tally.denied(&PolicyUid("u".to_owned()), Some(&told), 1_010);
        assert_eq!(third.unwrap().last_time, time(1_010));
    }
}

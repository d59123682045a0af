//! From what nodes have to what is said of a quota. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::uses::Uses;
use crate::crd::{CacheQuotaStatus, MOST_NODES, NodeUse, Reservation, SourceCondition, json_bytes};
use crate::egress::quota::{Limits, Usage};
use crate::egress::reservation::{Ledger, set_aside};
use crate::size::ByteSize;

/// The condition's type.
const READY: &str = "Ready";
/// Most bytes of a status as JSON; the rest of 16 KiB is for the object.
const MOST_BYTES: usize = 13 << 10;
/// Most bytes of what is set aside, as JSON: 122 nodes whose names have 15 characters, by [`ROW_BYTES`].
const MOST_RESERVED: usize = 11 << 10;
/// Bytes of a row's JSON but the node's name, where its numbers are those of a million volumes of 9 PB and of a million statements.
const ROW_BYTES: usize = 77;

/// A quota of which something is said.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) namespace: &'a str,
    pub(super) limits: Result<&'a Limits, &'a String>,
    pub(super) generation: Option<i64>,
    /// What was said before: since when it is ready follows from it.
    pub(super) before: Option<&'a CacheQuotaStatus>,
    /// Nodes may not have said yet what they have: nothing is set aside before.
    pub(super) is_founding: bool,
}

/// What is to be said, with what is set aside.
pub(super) fn status(
    quota: &Subject<'_>,
    uses: &Uses,
    (reserved, reserved_above): SetAside,
    now: Timestamp,
) -> CacheQuotaStatus {
    let said = quota.before.map(|before| before.nodes.as_slice());
    let nodes = uses.of(quota.namespace, said.unwrap_or_default());
    let sum = |of: fn(&NodeUse) -> i64| nodes.iter().map(of).fold(0, i64::saturating_add);
    let (logical_bytes, volumes) = (sum(|it| it.logical_bytes), sum(|it| it.volumes));
    let plural = if nodes.len() == 1 { "" } else { "s" };
    let counts_volumes = quota.limits.is_ok_and(|it| it.cluster.volumes.is_some());
    let number = match volumes {
        _ if !counts_volumes => String::new(),
        1 => " in 1 volume".to_owned(),
        _ => format!(" in {volumes} volumes"),
    };
    let bytes = size(logical_bytes);
    let words = format!("{bytes}{number} on {} node{plural}", nodes.len());
    let mut status = CacheQuotaStatus {
        observed_generation: quota.generation,
        conditions: vec![ready(quota, uses, now)],
        used: Some(words),
        fullest: quota.limits.ok().and_then(|limits| fullest(limits, &nodes)),
        logical_bytes,
        volumes,
        nodes,
        reserved,
        reserved_above,
    };
    status.nodes.truncate(MOST_NODES);
    // Names may be four times as long as they usually are.
    while json_bytes(&status) > MOST_BYTES && status.nodes.pop().is_some() {}
    status
}

/// What is set aside for nodes, and the number above which reports count, as a status has them.
pub(super) type SetAside = (Option<Vec<Reservation>>, Option<i64>);

/// What is to be set aside, where the cluster is limited. Where it is not limited any more, rows go with what nodes have; those of a quota
/// that nobody understands stay.
pub(super) fn reserved(quota: &Subject<'_>, uses: &Uses) -> SetAside {
    let said = quota.before.and_then(|before| before.reserved.as_ref());
    let above = quota.before.and_then(|before| before.reserved_above);
    let Ok(limits) = quota.limits else {
        return (said.cloned(), above);
    };
    let before = Ledger::read(quota.before);
    if (!limits.cluster.is_set() && before.rows.is_empty()) || (said.is_none() && quota.is_founding)
    {
        return (None, above);
    }
    let size = |node: &str| node.len().saturating_add(ROW_BYTES);
    let taken = before.rows.keys();
    let taken = taken.fold(0usize, |sum, node| sum.saturating_add(size(node)));
    let mut room = MOST_RESERVED.saturating_sub(taken);
    let fits = |node: &str| {
        let left = room.checked_sub(size(node));
        room = left.unwrap_or(room);
        left.is_some()
    };
    let limit = match limits.cluster {
        most if most.is_set() => most.all(),
        _ => Usage::NONE,
    };
    let reports = uses.reports(quota.namespace);
    let next = set_aside(limit, &before, &reports, |it| uses.is_gone(it), fits);
    let (rows, above) = next.written();
    (Some(rows), above)
}

/// The node with the least room, by bytes if they are limited.
fn fullest(limits: &Limits, nodes: &[NodeUse]) -> Option<String> {
    if let Some(limit) = limits.node.logical_bytes {
        let node = nodes.first()?;
        let used = size(node.logical_bytes);
        return Some(format!("{} {used} of {}", node.node, ByteSize(limit)));
    }
    let limit = limits.node.volumes?;
    // The first of equals, as above.
    let node = nodes.iter().rev().max_by_key(|it| it.volumes)?;
    Some(format!("{} {} of {limit} volumes", node.node, node.volumes))
}

fn ready(quota: &Subject<'_>, uses: &Uses, now: Timestamp) -> SourceCondition {
    let (status, reason, message) = match quota.limits {
        Ok(_) => (
            "True",
            "InForce",
            match unclear(uses) {
                Some(unclear) => format!("it decides which new volumes are published; {unclear}"),
                None => "it decides which new volumes are published".to_owned(),
            },
        ),
        Err(why) => (
            "False",
            "Malformed",
            format!("no new volume of the namespace is published until it is mended: {why}"),
        ),
    };
    let before = quota.before.into_iter().flat_map(|it| &it.conditions);
    let mut same = before.filter(|it| it.kind == READY && it.status == status);
    let since = same.next().map(|it| it.last_transition_time.clone());
    SourceCondition {
        kind: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: since.unwrap_or(Time(now)),
        observed_generation: quota.generation,
    }
}

/// Whose figures are old, if anybody's are.
fn unclear(uses: &Uses) -> Option<String> {
    let (first, others) = uses.unclear()?;
    let others = match others {
        0 => String::new(),
        1 => " and 1 other node".to_owned(),
        others => format!(" and {others} other nodes"),
    };
    Some(format!(
        "what NodeCache {first}{others} says of namespaces cannot be understood, and what was known before counts: let the controller and the nodes run the same version"
    ))
}

fn size(bytes: i64) -> ByteSize {
    ByteSize(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::MISSING;
    use super::*;
    use crate::crd::NamespaceContent;
    use crate::egress::quota::Most;

    const GIB: i64 = 1 << 30;

    fn line(namespace: &str, gib: i64, volumes: i64) -> NamespaceContent {
        NamespaceContent {
            namespace: namespace.to_owned(),
            logical_bytes: gib * GIB,
            volumes,
            physical_bytes: gib * GIB / 2,
            shared_bytes: 7,
            wanted_bytes: None,
            wanted_volumes: None,
            seq: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// With what is to be set aside by then.
    fn status(quota: &Subject<'_>, uses: &Uses, now: Timestamp) -> CacheQuotaStatus {
        super::status(quota, uses, reserved(quota, uses), now)
    }

    fn said(limits: &Result<Limits, String>, uses: &Uses) -> CacheQuotaStatus {
        let quota = Subject {
            namespace: "team-a",
            limits: limits.as_ref(),
            generation: Some(2),
            before: None,
            is_founding: false,
        };
        status(&quota, uses, at(10))
    }

    fn per_node(bytes: Option<u64>, volumes: Option<u64>) -> Limits {
        Limits {
            node: most(bytes, volumes),
            cluster: Most::default(),
        }
    }

    const fn most(logical_bytes: Option<u64>, volumes: Option<u64>) -> Most {
        Most {
            logical_bytes,
            volumes,
        }
    }

    fn in_cluster(bytes: Option<u64>, volumes: Option<u64>) -> Limits {
        Limits {
            node: Most::default(),
            cluster: most(bytes, volumes),
        }
    }

    #[test]
    fn nodes_are_summed_and_the_fullest_is_named() {
        let mut uses = Uses::default();
        uses.set("gpu-1", vec![line("team-a", 20, 3), line("team-b", 9, 9)]);
        uses.set("gpu-2", vec![line("team-a", 46, 1)]);
        let status = said(&Ok(per_node(Some(50 << 30), Some(4))), &uses);
        assert_eq!(status.logical_bytes, 66 * GIB);
        assert_eq!(status.volumes, 4);
        assert_eq!(status.used.as_deref(), Some("66.0 GiB on 2 nodes"));
        assert_eq!(
            status.fullest.as_deref(),
            Some("gpu-2 46.0 GiB of 50.0 GiB")
        );
        let nodes: Vec<&str> = status.nodes.iter().map(|it| it.node.as_str()).collect();
        assert_eq!(nodes, ["gpu-2", "gpu-1"]);
        assert_eq!(status.nodes[0].physical_bytes, 23 * GIB);
        assert_eq!(status.nodes[0].shared_bytes, 7);
        assert_eq!(status.conditions[0].status, "True");
        let by_volumes = said(&Ok(per_node(None, Some(4))), &uses);
        assert_eq!(by_volumes.fullest.as_deref(), Some("gpu-1 3 of 4 volumes"));
        assert_eq!(said(&Ok(per_node(None, None)), &uses).fullest, None);
    }

    #[test]
    fn a_node_that_is_gone_or_has_nothing_more_is_not_counted() {
        let mut uses = Uses::default();
        uses.set("gpu-1", vec![line("team-a", 20, 3)]);
        uses.set("gpu-2", vec![line("team-a", 10, 1)]);
        uses.set("gpu-1", vec![line("team-b", 1, 1)]);
        let status = said(&Ok(per_node(Some(1 << 30), None)), &uses);
        assert_eq!(status.used.as_deref(), Some("10.0 GiB on 1 node"));
        uses.forget("gpu-2");
        let status = said(&Ok(per_node(Some(1 << 30), None)), &uses);
        assert_eq!(status.used.as_deref(), Some("0 B on 0 nodes"));
        assert_eq!((status.fullest, status.nodes), (None, Vec::new()));
    }

    #[test]
    fn what_nodes_want_is_set_aside_and_goes_with_them() {
        let asks = |has: i64, wants: i64, seq| NamespaceContent {
            wanted_bytes: Some(wants * GIB),
            wanted_volumes: Some(i64::from(wants > 0)),
            seq: Some(seq),
            ..line("team-a", has, i64::from(has > 0))
        };
        let limits = Ok(in_cluster(Some(50 << 30), None));
        let mut uses = Uses::default();
        uses.set("gpu-1", vec![asks(10, 30, 4)]);
        uses.set("gpu-2", vec![asks(0, 30, 1)]);
        uses.set("older", vec![line("team-a", 2, 1)]);
        let first = said(&limits, &uses);
        let row = |node: &str, gib: i64, seq| Reservation {
            node: node.to_owned(),
            bytes: gib * GIB,
            volumes: i64::from(gib > 0),
            seq,
        };
        let rows = [row("gpu-1", 30, 4), row("gpu-2", 0, 1), row("older", 2, 0)];
        assert_eq!(first.reserved.as_deref(), Some(rows.as_slice()));
        let gone = |uses: &mut Uses, node: &str| {
            uses.forget(node);
            let now = Instant::now();
            uses.look_for([node].into_iter(), now);
            assert!(!uses.is_gone(node), "its list may be old");
            uses.look_for([node].into_iter(), now + MISSING);
        };
        gone(&mut uses, "gpu-1");
        let next = |limits: &Result<Limits, String>, uses: &Uses, before| {
            let quota = Subject {
                namespace: "team-a",
                limits: limits.as_ref(),
                generation: Some(2),
                before: Some(before),
                is_founding: false,
            };
            status(&quota, uses, at(10))
        };
        let second = next(&limits, &uses, &first);
        let rows = [row("gpu-2", 30, 1), row("older", 2, 0)];
        assert_eq!(second.reserved.as_deref(), Some(rows.as_slice()));
        assert_eq!(second.reserved_above, Some(4));
        // One that nobody understands changes nothing, and one without a limit counts what is there.
        let bad = Err("no".to_owned());
        assert_eq!(next(&bad, &uses, &second).reserved, second.reserved);
        let free = Ok(per_node(Some(1), None));
        uses.set("gpu-2", vec![asks(0, 0, 2)]);
        let rows = [row("older", 2, 0)];
        let third = next(&free, &uses, &second);
        assert_eq!(third.reserved.as_deref(), Some(rows.as_slice()));
        gone(&mut uses, "older");
        assert_eq!(next(&free, &uses, &third).reserved, Some(Vec::new()));
        assert_eq!(said(&free, &uses).reserved, None);
    }

    #[test]
    fn volumes_are_set_aside_and_told_where_they_are_limited() {
        let asks = |has: i64, wants: i64| NamespaceContent {
            wanted_bytes: Some(9 * GIB),
            wanted_volumes: Some(wants),
            seq: Some(1),
            ..line("team-a", 3, has)
        };
        let mut uses = Uses::default();
        uses.set("gpu-1", vec![asks(1, 3)]);
        uses.set("gpu-2", vec![asks(0, 1)]);
        let status = said(&Ok(in_cluster(None, Some(3))), &uses);
        let rows = status.reserved.unwrap().into_iter();
        let rows: Vec<(i64, i64)> = rows.map(|it| (it.bytes / GIB, it.volumes)).collect();
        // Two more for the first would be one more than there is room for.
        assert_eq!(rows, [(3, 1), (9, 1)]);
        assert_eq!(
            status.used.as_deref(),
            Some("6.0 GiB in 1 volume on 2 nodes")
        );
    }

    #[test]
    fn there_are_as_many_rows_as_fit_and_the_rest_of_the_status_gives_way() {
        let mut uses = Uses::default();
        for number in 0..1_000 {
            let name = format!("gpu-{number:04}.example");
            let asks = NamespaceContent {
                wanted_bytes: Some(i64::MAX / 2_000),
                seq: Some(i64::MAX / 2_000),
                ..line("team-a", 0, 1)
            };
            uses.set(&name, vec![asks]);
        }
        let limits = Ok(in_cluster(Some(u64::MAX >> 1), None));
        let status = said(&limits, &uses);
        let rows = status.reserved.as_ref().unwrap();
        assert!((120..200).contains(&rows.len()), "{}", rows.len());
        assert!(json_bytes(&status) <= MOST_BYTES, "{}", json_bytes(&status));
    }

    #[test]
    fn a_malformed_quota_says_so_and_since_when() {
        let uses = Uses::default();
        let bad = Err("spec.perNode.volumes is negative".to_owned());
        let first = said(&bad, &uses);
        assert_eq!(
            first.conditions[0].message,
            "no new volume of the namespace is published until it is mended: spec.perNode.volumes is negative"
        );
        let subject = |limits, before| Subject {
            namespace: "team-a",
            limits,
            generation: Some(3),
            before: Some(before),
            is_founding: false,
        };
        let again = status(&subject(bad.as_ref(), &first), &uses, at(20));
        assert_eq!(again.conditions[0].last_transition_time, Time(at(10)));
        let good = Ok(per_node(Some(1), None));
        let mended = status(&subject(good.as_ref(), &again), &uses, at(30));
        assert_eq!(mended.conditions[0].reason, "InForce");
        assert_eq!(mended.conditions[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn a_thousand_nodes_of_the_longest_names_fit() {
        let mut uses = Uses::default();
        for number in 0..1_000 {
            let name = format!("{number:0253}");
            uses.set(&name, vec![line("team-a", number, 1)]);
        }
        let status = said(&Ok(per_node(Some(1), None)), &uses);
        assert_eq!(status.logical_bytes, 499_500 * GIB);
        assert!(json_bytes(&status) <= MOST_BYTES);
        assert!(status.nodes.len() > 20, "{}", status.nodes.len());
        assert_eq!(status.nodes[0].logical_bytes, 999 * GIB);
        let mut short = Uses::default();
        for number in 0..1_000 {
            let name = format!("gpu-{number:04}.example");
            short.set(&name, vec![line("team-a", number, 1)]);
        }
        let status = said(&Ok(per_node(Some(1), None)), &short);
        assert_eq!(status.nodes.len(), MOST_NODES);
    }
}

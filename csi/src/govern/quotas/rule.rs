//! One `CacheQuota` with what it has set aside, for this node and for others. Pure.

use std::collections::BTreeMap;

use tonnage_cache::path::Escaped;

use crate::crd::CacheQuota;
use crate::egress::quota::{Most, Quota, Usage};
use crate::egress::reservation::{Ledger, Row};

/// All quotas, by namespace and name.
pub(super) type Rules = BTreeMap<String, BTreeMap<String, Rule>>;

/// A quota as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) quota: Quota,
    /// What is set aside for other nodes, as the controller wrote last.
    pub(super) elsewhere: Usage,
    /// What is set aside for this one, and whether anything was.
    pub(super) row: Row,
    pub(super) has_row: bool,
}

impl Rule {
    pub(super) fn of(object: &CacheQuota, node: &str) -> Self {
        let ledger = Ledger::read(object.status.as_ref());
        let others = ledger.rows.iter().filter(|(name, _)| *name != node);
        let elsewhere = others.map(|(_, row)| row.room).sum();
        let (row, has_row) = ledger.row(node);
        Self {
            quota: Quota::of(object),
            elsewhere,
            row,
            has_row,
        }
    }

    /// A quota that cannot be understood lets nothing new in.
    pub(super) fn malformed(name: String, why: &str) -> Self {
        let why = format!("its object cannot be understood: {}", Escaped(why));
        Self {
            quota: Quota {
                name,
                limits: Err(why),
            },
            elsewhere: Usage::NONE,
            row: Row::default(),
            has_row: false,
        }
    }

    /// The most that there may be in the cluster, if that is limited.
    pub(super) fn cluster(&self) -> Option<Most> {
        let limits = self.quota.limits.as_ref().ok();
        limits.map(|limits| limits.cluster).filter(Most::is_set)
    }

    pub(super) fn counts_the_cluster(&self) -> bool {
        self.cluster().is_some()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_set_aside_is_told_apart_by_node_and_never_negative() {
        let object: CacheQuota = serde_json::from_value(json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "CacheQuota",
            "metadata": {"name": "q", "namespace": "team-a"},
            "spec": {"cluster": {"logicalBytes": "1Ti"}},
            "status": {"reserved": [
                {"node": "gpu-1", "bytes": 40, "volumes": 2, "seq": 3},
                {"node": "gpu-2", "bytes": 30, "volumes": 7, "seq": 9},
                {"node": "gpu-3", "bytes": -7, "volumes": -1, "seq": -1},
                {"node": "gpu-4", "bytes": 5},
            ], "reservedAbove": 8},
        }))
        .unwrap();
        let of = |node: &str| {
            let rule = Rule::of(&object, node);
            (rule.row, rule.elsewhere)
        };
        let usage = |logical_bytes, volumes| Usage {
            logical_bytes,
            volumes,
        };
        let row = |bytes, volumes, seq| Row {
            room: usage(bytes, volumes),
            seq,
        };
        assert_eq!(of("gpu-1"), (row(40, 2, 3), usage(35, 7)));
        assert_eq!(of("gpu-3"), (row(0, 0, 0), usage(75, 9)));
        assert_eq!(of("gpu-9"), (row(0, 0, 7), usage(75, 9)));
    }
}

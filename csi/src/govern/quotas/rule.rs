//! One `CacheQuota` with what it has set aside, for this node and for others. Pure.

use std::collections::BTreeMap;

use tonnage_cache::path::Escaped;

use crate::crd::CacheQuota;
use crate::egress::quota::Quota;
use crate::egress::reservation::{Ledger, Row};

/// All quotas, by namespace and name.
pub(super) type Rules = BTreeMap<String, BTreeMap<String, Rule>>;

/// A quota as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) quota: Quota,
    /// Bytes that are set aside for other nodes, as the controller wrote last.
    pub(super) elsewhere: u64,
    /// What is set aside for this one, and whether anything was.
    pub(super) row: Row,
    pub(super) has_row: bool,
}

impl Rule {
    pub(super) fn of(object: &CacheQuota, node: &str) -> Self {
        let ledger = Ledger::read(object.status.as_ref());
        let others = ledger.rows.iter().filter(|(name, _)| *name != node);
        let elsewhere = others.fold(0u64, |sum, (_, row)| sum.saturating_add(row.bytes));
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
            elsewhere: 0,
            row: Row::default(),
            has_row: false,
        }
    }

    pub(super) fn counts_the_cluster(&self) -> bool {
        let limits = self.quota.limits.as_ref();
        limits.is_ok_and(|limits| limits.cluster_bytes.is_some())
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
                {"node": "gpu-1", "bytes": 40, "seq": 3},
                {"node": "gpu-2", "bytes": 30, "seq": 9},
                {"node": "gpu-3", "bytes": -7, "seq": -1},
                {"node": "gpu-4", "bytes": 5},
            ], "reservedAbove": 8},
        }))
        .unwrap();
        let of = |node: &str| {
            let rule = Rule::of(&object, node);
            (rule.row, rule.elsewhere)
        };
        let row = |bytes, seq| Row { bytes, seq };
        assert_eq!(of("gpu-1"), (row(40, 3), 35));
        assert_eq!(of("gpu-3"), (row(0, 0), 75));
        assert_eq!(of("gpu-9"), (row(0, 7), 75));
    }
}

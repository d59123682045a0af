//! One `CacheQuota` with what its namespace has on other nodes. Pure.

use std::collections::BTreeMap;

use tonnage_cache::path::Escaped;

use crate::crd::{CacheQuota, CacheQuotaStatus};
use crate::egress::quota::Quota;

/// All quotas, by namespace and name.
pub(super) type Rules = BTreeMap<String, BTreeMap<String, Rule>>;

/// A quota as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) quota: Quota,
    /// Bytes that the namespace has on other nodes, as the controller wrote last.
    pub(super) elsewhere: u64,
}

impl Rule {
    pub(super) fn of(object: &CacheQuota, node: &str) -> Self {
        let status = object.status.as_ref();
        Self {
            quota: Quota::of(object),
            elsewhere: status.map_or(0, |status| elsewhere(status, node)),
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
        }
    }

    pub(super) fn counts_the_cluster(&self) -> bool {
        let limits = self.quota.limits.as_ref();
        limits.is_ok_and(|limits| limits.cluster_bytes.is_some())
    }
}

/// The sum without what this node has added to it. A status names the nodes that use most; one that it does not name has used
/// less than each of those, and counts its own share twice: of 65 nodes, less than a 65th of the sum.
fn elsewhere(status: &CacheQuotaStatus, node: &str) -> u64 {
    let own = status.nodes.iter().find(|it| it.node == node);
    let own = own.map_or(0, |own| own.logical_bytes.max(0));
    let others = status.logical_bytes.saturating_sub(own);
    u64::try_from(others).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::NodeUse;

    fn a_use(node: &str, logical_bytes: i64) -> NodeUse {
        NodeUse {
            node: node.to_owned(),
            logical_bytes,
            volumes: 1,
            physical_bytes: 0,
            shared_bytes: 0,
        }
    }

    #[test]
    fn elsewhere_is_the_sum_without_the_own_share() {
        let status = CacheQuotaStatus {
            logical_bytes: 100,
            nodes: vec![a_use("gpu-1", 40), a_use("gpu-2", 30)],
            ..CacheQuotaStatus::default()
        };
        assert_eq!(elsewhere(&status, "gpu-1"), 60);
        assert_eq!(elsewhere(&status, "gpu-2"), 70);
        // It is among those that are not named, or uses nothing.
        assert_eq!(elsewhere(&status, "gpu-9"), 100);
    }

    #[test]
    fn a_status_that_makes_no_sense_counts_nothing_below_zero() {
        let status = CacheQuotaStatus {
            logical_bytes: 10,
            nodes: vec![a_use("gpu-1", 40), a_use("gpu-2", -30)],
            ..CacheQuotaStatus::default()
        };
        assert_eq!(elsewhere(&status, "gpu-1"), 0);
        assert_eq!(elsewhere(&status, "gpu-2"), 10);
    }
}

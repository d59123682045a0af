//! How much content the volumes of a namespace may have: what `CacheQuota`s say of one volume more. Decided before a byte is
//! fetched, and only of volumes that are not there yet: a quota that is lowered below what is used refuses new volumes and
//! touches none that exists.
//!
//! Bytes are those that volumes show. Two volumes of the same content count twice, also where the disk has it once; retained
//! content counts as a volume.

use kube::ResourceExt as _;

use crate::crd::{CacheQuota, CacheQuotaSpec, ClusterQuota, NodeQuota, Quantity};
use crate::size::ByteSize;

/// A `CacheQuota` read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// Its name.
    pub name: String,
    /// Its limits, or in a sentence why it is malformed: then it lets no new volume be published.
    pub limits: Result<Limits, String>,
}

/// The limits of a quota; what is not set is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on one node.
    pub node_bytes: Option<u64>,
    /// Volumes on one node.
    pub node_volumes: Option<u64>,
    /// Bytes on all nodes together.
    pub cluster_bytes: Option<u64>,
}

/// What volumes of a namespace use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that they show.
    pub logical_bytes: u64,
    /// How many there are.
    pub volumes: u64,
}

/// Where something is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// On the node that decides.
    Node,
    /// On all nodes together.
    Cluster,
}

/// What a quota says no to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// Name of the quota.
    pub quota: String,
    /// What, with figures, and what to do.
    pub message: String,
}

impl Quota {
    /// Reads an object.
    pub fn of(quota: &CacheQuota) -> Self {
        Self {
            name: quota.name_any(),
            limits: Limits::of(&quota.spec),
        }
    }
}

impl Limits {
    fn of(spec: &CacheQuotaSpec) -> Result<Self, String> {
        let CacheQuotaSpec { per_node, cluster } = spec;
        let bytes = |name: &str, value: Option<&Quantity>| {
            let bytes = value.map(Quantity::bytes).transpose();
            bytes.map_err(|why| format!("spec.{name}.logicalBytes: {why}"))
        };
        let mut limits = Self::default();
        if let Some(NodeQuota {
            logical_bytes,
            volumes,
        }) = per_node
        {
            limits.node_bytes = bytes("perNode", logical_bytes.as_ref())?;
            let volumes = volumes.map(u64::try_from).transpose();
            limits.node_volumes =
                volumes.map_err(|_| "spec.perNode.volumes is negative".to_owned())?;
        }
        if let Some(ClusterQuota { logical_bytes }) = cluster {
            limits.cluster_bytes = bytes("cluster", logical_bytes.as_ref())?;
        }
        Ok(limits)
    }
}

/// Whether a namespace that uses so much in one place may have one more volume of `new_bytes` there. All quotas of the
/// namespace must let it; the first by name that does not says why.
pub fn decide(quotas: &[Quota], place: Place, used: Usage, new_bytes: u64) -> Result<(), Exceeded> {
    let mut quotas: Vec<&Quota> = quotas.iter().collect();
    quotas.sort_by(|a, b| a.name.cmp(&b.name));
    for quota in quotas {
        if let Err(message) = quota.check(place, used, new_bytes) {
            return Err(Exceeded {
                quota: quota.name.clone(),
                message,
            });
        }
    }
    Ok(())
}

impl Quota {
    fn check(&self, place: Place, used: Usage, new_bytes: u64) -> Result<(), String> {
        let name = &self.name;
        let limits = self.limits.as_ref().map_err(|why| {
            format!("CacheQuota {name} lets no new volume be published until it is mended: {why}")
        })?;
        let (bytes, volumes, field, place) = match place {
            Place::Node => (
                limits.node_bytes,
                limits.node_volumes,
                "perNode",
                "on this node",
            ),
            Place::Cluster => (limits.cluster_bytes, None, "cluster", "in the cluster"),
        };
        if let Some(limit) = volumes
            && used.volumes >= limit
        {
            return Err(format!(
                "the namespace has {} volumes {place} and CacheQuota {name} allows {limit}: delete pods or retained content, or ask an administrator to raise spec.{field}.volumes",
                used.volumes
            ));
        }
        let wanted = used.logical_bytes.saturating_add(new_bytes);
        if let Some(limit) = bytes
            && wanted > limit
        {
            return Err(format!(
                "the volume has {} and the namespace's others {place} have {}, together more than the {} that CacheQuota {name} allows: delete pods or retained content, or ask an administrator to raise spec.{field}.logicalBytes",
                ByteSize(new_bytes),
                ByteSize(used.logical_bytes),
                ByteSize(limit)
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn quota(name: &str, spec: &Value) -> Quota {
        let object: CacheQuota = serde_json::from_value(json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "CacheQuota",
            "metadata": {"name": name, "namespace": "team-a"},
            "spec": spec,
        }))
        .unwrap();
        Quota::of(&object)
    }

    const fn used(gib: u64, volumes: u64) -> Usage {
        Usage {
            logical_bytes: gib << 30,
            volumes,
        }
    }

    #[test]
    fn a_volume_that_fits_exactly_is_let_in_and_one_byte_more_is_not() {
        let quota = quota(
            "q",
            &json!({"perNode": {"logicalBytes": "50Gi", "volumes": 4}}),
        );
        let decide = |used, bytes| decide(std::slice::from_ref(&quota), Place::Node, used, bytes);
        assert_eq!(decide(used(46, 3), 4 << 30), Ok(()));
        assert_eq!(
            decide(used(46, 3), (4 << 30) + 1).unwrap_err().message,
            "the volume has 4.0 GiB and the namespace's others on this node have 46.0 GiB, together more than the 50.0 GiB that CacheQuota q allows: delete pods or retained content, or ask an administrator to raise spec.perNode.logicalBytes"
        );
        assert_eq!(
            decide(used(1, 4), 0).unwrap_err().message,
            "the namespace has 4 volumes on this node and CacheQuota q allows 4: delete pods or retained content, or ask an administrator to raise spec.perNode.volumes"
        );
        // Lowered below what is used.
        assert!(decide(used(60, 1), 0).is_err());
        assert!(decide(used(u64::MAX >> 30, 1), u64::MAX).is_err());
    }

    #[test]
    fn each_place_has_its_own_limits_and_every_quota_holds() {
        let quotas = [
            quota(
                "wide",
                &json!({"perNode": {"logicalBytes": "50Gi"}, "cluster": {"logicalBytes": "100Gi"}}),
            ),
            quota("narrow", &json!({"perNode": {"volumes": 2}})),
        ];
        assert_eq!(
            decide(&quotas, Place::Cluster, used(90, 9), 10 << 30),
            Ok(())
        );
        let exceeded = decide(&quotas, Place::Cluster, used(90, 9), 11 << 30).unwrap_err();
        assert_eq!(exceeded.quota, "wide");
        assert!(
            exceeded.message.contains("in the cluster have 90.0 GiB"),
            "{}",
            exceeded.message
        );
        assert_eq!(
            decide(&quotas, Place::Node, used(1, 2), 1)
                .unwrap_err()
                .quota,
            "narrow"
        );
        assert_eq!(decide(&[], Place::Node, used(1 << 20, 1 << 20), 1), Ok(()));
    }

    #[test]
    fn a_malformed_quota_lets_nothing_new_in() {
        for (spec, why) in [
            (
                json!({"perNode": {"logicalBytes": "50GiB"}}),
                r#"spec.perNode.logicalBytes: "50GiB" is not a number of bytes: write 500Gi, 1.5T or 1000000"#,
            ),
            (
                json!({"perNode": {"volumes": -1}}),
                "spec.perNode.volumes is negative",
            ),
        ] {
            let exceeded = decide(&[quota("q", &spec)], Place::Node, Usage::default(), 0);
            assert_eq!(
                exceeded.unwrap_err().message,
                format!("CacheQuota q lets no new volume be published until it is mended: {why}")
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_let_in_stays_within_every_limit(
            limits in proptest::collection::vec(proptest::option::of(0u64..100), 1..4),
            volumes in proptest::collection::vec(0u64..40, 0..12),
        ) {
            let quotas: Vec<Quota> = limits
                .iter()
                .enumerate()
                .map(|(index, limit)| Quota {
                    name: format!("q{index}"),
                    limits: Ok(Limits { node_bytes: *limit, ..Limits::default() }),
                })
                .collect();
            let mut used = Usage::default();
            let smallest = limits.iter().flatten().min();
            for bytes in volumes {
                let fits = smallest.is_none_or(|limit| used.logical_bytes + bytes <= *limit);
                prop_assert_eq!(decide(&quotas, Place::Node, used, bytes).is_ok(), fits);
                if fits {
                    used.logical_bytes += bytes;
                    used.volumes += 1;
                }
            }
        }
    }
}

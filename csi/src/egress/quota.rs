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

/// The limits of a quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// On one node.
    pub node: Most,
    /// On all nodes together.
    pub cluster: Most,
}

/// The most that there may be in one place; what is not set is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Most {
    /// Bytes.
    pub logical_bytes: Option<u64>,
    /// Volumes.
    pub volumes: Option<u64>,
}

/// What volumes of a namespace use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that they show.
    pub logical_bytes: u64,
    /// How many there are.
    pub volumes: u64,
}

impl Usage {
    /// Nothing at all.
    pub const NONE: Self = Self {
        logical_bytes: 0,
        volumes: 0,
    };

    /// One volume of so many bytes.
    pub const fn volume(logical_bytes: u64) -> Self {
        Self {
            logical_bytes,
            volumes: 1,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// What is left without the other; never less than nothing.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    /// Of bytes and of volumes the smaller number.
    #[must_use]
    pub fn at_most(self, other: Self) -> Self {
        self.with(other, u64::min)
    }

    /// Of bytes and of volumes the larger number.
    #[must_use]
    pub fn at_least(self, other: Self) -> Self {
        self.with(other, u64::max)
    }

    /// Whether there is room for it, in bytes and in volumes.
    pub const fn fits(self, room: Self) -> bool {
        self.logical_bytes <= room.logical_bytes && self.volumes <= room.volumes
    }

    fn with(self, other: Self, of: fn(u64, u64) -> u64) -> Self {
        Self {
            logical_bytes: of(self.logical_bytes, other.logical_bytes),
            volumes: of(self.volumes, other.volumes),
        }
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::NONE, Self::plus)
    }
}

impl Most {
    /// Whether anything is limited.
    pub const fn is_set(&self) -> bool {
        self.logical_bytes.is_some() || self.volumes.is_some()
    }

    /// The most as a use; as much as there can be of what is not limited.
    pub fn all(&self) -> Usage {
        Usage {
            logical_bytes: self.logical_bytes.unwrap_or(u64::MAX),
            volumes: self.volumes.unwrap_or(u64::MAX),
        }
    }

    /// Of a use what is limited.
    pub fn limited(&self, used: Usage) -> Usage {
        Usage {
            logical_bytes: self.logical_bytes.map_or(0, |_| used.logical_bytes),
            volumes: self.volumes.map_or(0, |_| used.volumes),
        }
    }
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
        let mut limits = Self::default();
        if let Some(NodeQuota {
            logical_bytes,
            volumes,
        }) = per_node
        {
            limits.node = Most::of("perNode", logical_bytes.as_ref(), *volumes)?;
        }
        if let Some(ClusterQuota {
            logical_bytes,
            volumes,
        }) = cluster
        {
            limits.cluster = Most::of("cluster", logical_bytes.as_ref(), *volumes)?;
        }
        Ok(limits)
    }
}

impl Most {
    fn of(field: &str, bytes: Option<&Quantity>, volumes: Option<i64>) -> Result<Self, String> {
        let bytes = bytes.map(Quantity::bytes).transpose();
        let volumes = volumes.map(u64::try_from).transpose();
        Ok(Self {
            logical_bytes: bytes.map_err(|why| format!("spec.{field}.logicalBytes: {why}"))?,
            volumes: volumes.map_err(|_| format!("spec.{field}.volumes is negative"))?,
        })
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
        let (most, field, place) = match place {
            Place::Node => (limits.node, "perNode", "on this node"),
            Place::Cluster => (limits.cluster, "cluster", "in the cluster"),
        };
        if let Some(limit) = most.volumes
            && used.volumes >= limit
        {
            let plural = if used.volumes == 1 { "" } else { "s" };
            return Err(format!(
                "the namespace has {} volume{plural} {place} and CacheQuota {name} allows {limit}: delete pods or retained content, or ask an administrator to raise spec.{field}.volumes",
                used.volumes
            ));
        }
        let wanted = used.logical_bytes.saturating_add(new_bytes);
        if let Some(limit) = most.logical_bytes
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
                &json!({"perNode": {"logicalBytes": "50Gi"}, "cluster": {"logicalBytes": "100Gi", "volumes": 12}}),
            ),
            quota("narrow", &json!({"perNode": {"volumes": 2}})),
        ];
        assert_eq!(
            decide(&quotas, Place::Cluster, used(0, 12), 0)
                .unwrap_err()
                .message,
            "the namespace has 12 volumes in the cluster and CacheQuota wide allows 12: delete pods or retained content, or ask an administrator to raise spec.cluster.volumes"
        );
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
            (
                json!({"cluster": {"volumes": -1}}),
                "spec.cluster.volumes is negative",
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
                    limits: Ok(Limits {
                        node: Most { logical_bytes: *limit, volumes: None },
                        cluster: Most::default(),
                    }),
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

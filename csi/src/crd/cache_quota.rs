//! `CacheQuota`: how much content the volumes of a namespace may have, on each node and in the cluster. Each namespace pays
//! fully for what it uses, also where its content is stored once for several; what that saves is shown beside.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::Quantity;
use super::source::SourceCondition;

/// Most nodes that a status names: those that use most.
pub const MOST_NODES: usize = 64;

/// How much a namespace may have.
#[derive(
    CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq,
)]
#[kube(
    group = "tonnage.dev",
    version = "v1alpha1",
    kind = "CacheQuota",
    plural = "cachequotas",
    shortname = "tquota",
    category = "tonnage",
    namespaced,
    status = "CacheQuotaStatus",
    derive = "PartialEq",
    doc = "A CacheQuota limits the content that volumes of its namespace may have: inline volumes, claims, and what is retained after a pod's end. It is decided before anything is downloaded. Lowering it never hurts a running pod; new ones are refused until there is room. Several in one namespace all hold.",
    printcolumn(
        name = "Per node",
        type_ = "string",
        json_path = ".spec.perNode.logicalBytes"
    ),
    printcolumn(
        name = "Volumes",
        type_ = "integer",
        json_path = ".spec.perNode.volumes"
    ),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.cluster.logicalBytes"
    ),
    printcolumn(
        name = "Cluster volumes",
        type_ = "integer",
        json_path = ".spec.cluster.volumes",
        priority = 1
    ),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.used"),
    printcolumn(name = "Fullest", type_ = "string", json_path = ".status.fullest"),
    printcolumn(
        name = "Changed by",
        type_ = "string",
        json_path = ".metadata.annotations.tonnage\\.dev/changed-by",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(validation = kube::core::Rule::new("has(self.perNode) && (has(self.perNode.logicalBytes) || has(self.perNode.volumes)) || has(self.cluster) && (has(self.cluster.logicalBytes) || has(self.cluster.volumes))").message("a CacheQuota must limit something: set logicalBytes or volumes of perNode or of cluster"))]
#[serde(rename_all = "camelCase")]
pub struct CacheQuotaSpec {
    /// On each node; the node itself decides, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_node: Option<NodeQuota>,
    /// On all nodes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterQuota>,
}

/// Limits on each node. What is not set is not limited.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeQuota {
    /// Bytes that the volumes show, summed over volumes: content that two of them share counts twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("type(self) == int ? self >= 0 : isQuantity(self) && quantity(self).isInteger() && quantity(self).compareTo(quantity('0')) >= 0").message("perNode.logicalBytes must be a whole number of bytes such as 500Gi"))]
    pub logical_bytes: Option<Quantity>,
    /// Volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub volumes: Option<i64>,
}

/// Limits on all nodes together. What is not set is not limited.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterQuota {
    /// Bytes that the volumes show, summed over volumes and nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("type(self) == int ? self >= 0 : isQuantity(self) && quantity(self).isInteger() && quantity(self).compareTo(quantity('0')) >= 0").message("cluster.logicalBytes must be a whole number of bytes such as 10Ti"))]
    pub logical_bytes: Option<Quantity>,
    /// Volumes, summed over nodes: what is shown on three nodes is three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub volumes: Option<i64>,
}

/// What is used.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CacheQuotaStatus {
    /// The generation that all of this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the quota is in force, or what is wrong with it; then no new volume of the namespace is published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<SourceCondition>,
    /// In words: `1.2 TiB on 8 nodes`, or where volumes are limited in the cluster `1.2 TiB in 40 volumes on 8 nodes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<String>,
    /// The node with the least room, in words: `gpu-0001 46.1 GiB of 50.0 GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fullest: Option<String>,
    /// Bytes that volumes of the namespace show, on all nodes.
    #[serde(default)]
    pub logical_bytes: i64,
    /// Volumes on all nodes.
    #[serde(default)]
    pub volumes: i64,
    /// The nodes that use most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub nodes: Vec<NodeUse>,
    /// By node, how much of `spec.cluster` is set aside for it. No node lets in more than that, and all of it together is at most
    /// the limit, or what the nodes had when the quota was made or lowered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub reserved: Option<Vec<Reservation>>,
    /// Of a node that is not among them, no statement with a lower number counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub reserved_above: Option<i64>,
}

/// What is set aside for a node.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// The node.
    pub node: String,
    /// Bytes that volumes may show there.
    #[schemars(range(min = 0))]
    pub bytes: i64,
    /// Volumes that there may be.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub volumes: i64,
    /// Number of the statement of the node's `NodeCache` that this answers.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seq: i64,
}

/// What a namespace uses on a node.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeUse {
    /// The node.
    pub node: String,
    /// Bytes that volumes show, retained content included.
    pub logical_bytes: i64,
    /// Volumes.
    pub volumes: i64,
    /// Bytes on the disk, once per file.
    #[serde(default)]
    pub physical_bytes: i64,
    /// Of those, bytes that another namespace uses too.
    #[serde(default)]
    pub shared_bytes: i64,
}

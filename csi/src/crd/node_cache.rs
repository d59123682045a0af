//! `NodeCache`: what the driver of one node says about its cache. Written by that node alone, read by people and dashboards;
//! nothing is configured here.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most namespaces that a status names: those that use most.
pub const MOST_NAMESPACES: usize = 64;

/// Nothing: a `NodeCache` is named by its node, and there is nothing to set.
#[derive(
    CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq,
)]
#[kube(
    group = "tonnage.dev",
    version = "v1alpha1",
    kind = "NodeCache",
    plural = "nodecaches",
    shortname = "tnc",
    category = "tonnage",
    status = "NodeCacheStatus",
    derive = "PartialEq",
    doc = "A NodeCache says what the cache of one node holds, how full it is, what its latest loads cost and whether it is sound. The driver of the node writes it, under the node's name and owned by the Node: when something has changed, at most once a minute (every 10 s where a CacheQuota with a limit for the cluster is concerned), and once an hour in any case.",
    printcolumn(
        name = "Capacity",
        type_ = "string",
        json_path = ".status.readable.capacity"
    ),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.readable.used"),
    printcolumn(name = "Saved", type_ = "string", json_path = ".status.readable.saved"),
    printcolumn(
        name = "Volumes",
        type_ = "integer",
        json_path = ".status.publishedVolumes"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Damaged",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Damaged')].status",
        priority = 1
    ),
    printcolumn(
        name = "Observed",
        type_ = "date",
        json_path = ".status.observedAt",
        priority = 1
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.driverVersion",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct NodeCacheSpec {}

/// What the node's driver found. Figures that could not be read yet are absent.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCacheStatus {
    /// When this was written. More than two hours ago: the driver does not run on the node, or cannot reach the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Version of the driver that wrote it.
    #[serde(default)]
    pub driver_version: String,
    /// Capacity, use and saving in units, for the columns of `kubectl get`.
    #[serde(default)]
    pub readable: ReadableFigures,
    /// Most bytes that the cache can occupy: its limit (`cacheSize` of the node group), or the file system without `reservedBytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub capacity_bytes: Option<i64>,
    /// Bytes of disk that the cache occupies, each file counted once, with unfinished downloads and bookkeeping, as of
    /// `countedAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub used_bytes: Option<i64>,
    /// Bytes that the cache's file system has left, for whomever. Others may write there too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub free_bytes: Option<i64>,
    /// Bytes of the file system that the cache leaves to others (`floor` of the node group).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub reserved_bytes: Option<i64>,
    /// Bytes of disk that storing equal files once saves: what all volumes' files would occupy apart, less what they do,
    /// as of `countedAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub saved_bytes: Option<i64>,
    /// Distinct files that are stored, as of `countedAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub objects: Option<i64>,
    /// Contents that are laid out as a directory tree and can be mounted at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub views: Option<i64>,
    /// Volumes that are mounted into pods of the node.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub published_volumes: i64,
    /// When the files were counted. Large caches are counted more seldom than this object is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_at: Option<Time>,
    /// How many contents are stored; `manifests` lists the largest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub manifest_count: Option<i64>,
    /// The largest contents, largest first: 50, or as many as fit into an object of 16 KiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub manifests: Vec<CachedManifest>,
    /// The latest loads, newest first: 10, or as many as fit into an object of 16 KiB. `tonnage loads` on the node has more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub loads: Vec<CacheLoad>,
    /// What namespaces with a `CacheQuota` have on the node, largest first: 64, or as many as fit into an object of 16 KiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub namespaces: Vec<NamespaceContent>,
    /// `Ready`: the cache can be read and takes volumes. `DiskPressure`: less than `reservedBytes` is free. `Damaged`:
    /// stored files turned out to be bad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<NodeCacheCondition>,
}

/// Figures as people read them, such as `1.7 TiB`; `-` where nothing is known.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ReadableFigures {
    /// `capacityBytes` in units.
    pub capacity: String,
    /// `usedBytes` in units, and its share of the capacity.
    pub used: String,
    /// `savedBytes` in units.
    pub saved: String,
}

/// One content: a set of files, stored once however many volumes show it.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CachedManifest {
    /// Digest of its manifest, which a volume can ask for with the attribute `digest`.
    #[schemars(length(min = 64, max = 64))]
    pub digest: String,
    /// Bytes of its files together.
    #[schemars(range(min = 0))]
    pub bytes: i64,
    /// How many files.
    #[schemars(range(min = 0))]
    pub files: i64,
    /// Name of a Source that it was loaded from, if that is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Path below that Source; absent for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Volumes of running pods that show it. It is not evicted while there are any.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub volumes: i64,
    /// Whether it is kept though no volume shows it: by `retain` of a volume, or by `tonnage cache pin`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// When its last use ended, to about a minute; what was released longest ago is evicted first. Absent while it is in use,
    /// and where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_released: Option<Time>,
}

/// One load: from the first call for a pod's volume to its mount.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CacheLoad {
    /// When it ended.
    pub time: Time,
    /// Namespace of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Name of the Source.
    pub source: String,
    /// Path below the Source; absent for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes of the volume.
    #[schemars(range(min = 0))]
    pub bytes: i64,
    /// Bytes by where they came from, without zeros: `source`, `resumed`, `unchanged`, `dedup`, `cached`; `retry` and `hedge`
    /// were received besides. As in the metric `tonnage_bytes_total`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bytes_by_origin: BTreeMap<String, i64>,
    /// How long it took, in milliseconds.
    #[schemars(range(min = 0))]
    pub milliseconds: i64,
}

/// What volumes of a namespace, and what is retained for it, have on the node.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceContent {
    /// The namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Bytes that volumes show, summed over volumes; those of volumes that are being loaded are among them once they were let in.
    #[schemars(range(min = 0))]
    pub logical_bytes: i64,
    /// Volumes, each once however many pods show it; retained content is one.
    #[schemars(range(min = 0))]
    pub volumes: i64,
    /// Bytes of their files on the disk, once per file.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub physical_bytes: i64,
    /// Of those, bytes that another namespace uses too.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub shared_bytes: i64,
    /// What `logicalBytes` would be with all volumes that wait for it to be set aside in a `CacheQuota` of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub wanted_bytes: Option<i64>,
    /// What `volumes` would be with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub wanted_volumes: Option<i64>,
    /// Number of this statement; it grows with every other `wantedBytes` or `wantedVolumes`, and `CacheQuota`s answer it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub seq: Option<i64>,
}

/// One condition, as Kubernetes' own.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCacheCondition {
    /// What it is about.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word for why.
    pub reason: String,
    /// One sentence for why, and what to do.
    pub message: String,
    /// Since when it has this status.
    pub last_transition_time: Time,
}

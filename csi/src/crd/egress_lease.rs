//! `EgressLease`: the conversation of one node with the controller about bytes. The node asks in the specification, the
//! controller answers in the status; each writes only its own half, so neither ever overwrites the other.
//!
//! A line is named by its account: policy, budget and namespace. `seq` numbers what a node asks on that line; a grant carries
//! the number that it answers, so a message that is lost, repeated or late changes nothing.
//!
//! What the node has denied travels along, so that the controller can tell it at the policies.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::egress_policy_status::NamespaceUse;

/// Most lines of an object, in either half.
pub const MOST_LINES: usize = 64;
/// Most policies whose denials an object tells.
pub const MOST_DENIALS: usize = 16;
/// Most characters of a denial's sentence.
pub const LONGEST_SENTENCE: usize = 512;

/// What a node asks for. The object's name is the node's, and the Node owns it.
#[derive(
    CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq,
)]
#[kube(
    group = "tonnage.dev",
    version = "v1alpha1",
    kind = "EgressLease",
    plural = "egressleases",
    shortname = "telease",
    category = "tonnage",
    status = "EgressLeaseStatus",
    derive = "PartialEq",
    doc = "An EgressLease is how a node gets bytes of budgets to spend: the node writes its demands into the specification, the controller writes its grants into the status. Its name is the name of the node. Nobody else should write it.",
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct EgressLeaseSpec {
    /// Which start of the node's service wrote the demands: 16 hexadecimal digits, drawn at random.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub incarnation: String,
    /// What it asks for, one line per account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub demands: Vec<DemandLine>,
    /// What it has denied, one line per policy: those that denied last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub denials: Vec<DenialLine>,
}

/// One demand.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DemandLine {
    /// Uid of the `EgressPolicy`.
    #[schemars(length(min = 1, max = 64))]
    pub policy_uid: String,
    /// Name of one of its budgets.
    #[schemars(length(min = 1, max = 32))]
    pub budget: String,
    /// The namespace that asks; absent where the budget is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// Number of this demand; grows with each.
    #[schemars(range(min = 1))]
    pub seq: i64,
    /// How many bytes are missing; 0 gives back without asking for more.
    #[schemars(range(min = 0))]
    pub wanted_bytes: i64,
    /// How many bytes it spent of the grant before, to which nothing is added any more.
    #[schemars(range(min = 0))]
    pub spent_bytes: i64,
    /// Of a shared budget: who spent them; those who spent most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub spent_by: Vec<NamespaceUse>,
}

/// What one policy has denied on the node.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DenialLine {
    /// Uid of the `EgressPolicy`.
    #[schemars(length(min = 1, max = 64))]
    pub policy_uid: String,
    /// How often, since the start of the node's service that `incarnation` names.
    #[schemars(range(min = 0))]
    pub count: i64,
    /// The namespace of the last denial.
    #[schemars(length(max = 63))]
    pub last_namespace: String,
    /// Its sentence, cut short if it is long.
    #[schemars(length(max = 512))]
    pub last_reason: String,
    /// When that was, in seconds since 1970 (UTC).
    pub last_time: i64,
}

/// What the controller grants.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EgressLeaseStatus {
    /// One line per demand that was answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub grants: Vec<GrantLine>,
}

/// One grant.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GrantLine {
    /// Uid of the `EgressPolicy`.
    #[schemars(length(min = 1, max = 64))]
    pub policy_uid: String,
    /// Name of one of its budgets.
    #[schemars(length(min = 1, max = 32))]
    pub budget: String,
    /// The namespace; absent where the budget is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// Which start of the node's service may spend it.
    #[schemars(length(max = 16))]
    pub incarnation: String,
    /// Number of the demand that it answers.
    #[schemars(range(min = 1))]
    pub seq: i64,
    /// How many bytes may be spent; 0 says that none are left, and that the demand stands.
    #[schemars(range(min = 0))]
    pub bytes: i64,
    /// For how long, counted by the node from before it wrote the demand.
    #[schemars(range(min = 0))]
    pub duration_seconds: i64,
    /// Why fewer than wanted: which budget, used and limit, and when bytes come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

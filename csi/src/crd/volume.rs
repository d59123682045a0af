//! `Volume`: what `CreateVolume` froze, one per claim, the revision included where the controller could find it out.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A provisioned volume: written by the controller when a claim is made.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[kube(
    group = "tonnage.dev",
    version = "v1alpha1",
    kind = "Volume",
    plural = "volumes",
    shortname = "tvol",
    category = "tonnage",
    derive = "PartialEq",
    doc = "A Volume records what a claim asked for when it was provisioned. The controller writes it once; its name is the volume handle of the PersistentVolume. The attribute `revision` is the one revision that every pod of the claim sees; it was resolved when the claim was made. Without it, as where the source is read with the pods' own keys or tokens, each node binds the claim to the revision that it finds first.",
    printcolumn(
        name = "Source",
        type_ = "string",
        json_path = ".spec.attributes.source"
    ),
    printcolumn(name = "Path", type_ = "string", json_path = ".spec.attributes.path"),
    printcolumn(
        name = "Namespace",
        type_ = "string",
        json_path = ".spec.claim.namespace"
    ),
    printcolumn(name = "Claim", type_ = "string", json_path = ".spec.claim.name"),
    printcolumn(
        name = "Revision",
        type_ = "string",
        json_path = ".spec.attributes.revision",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(validation = kube::core::Rule::new("self == oldSelf").message("a Volume cannot be changed; make another claim"))]
#[serde(rename_all = "camelCase")]
pub struct VolumeSpec {
    /// Name of the `CreateVolume` request; the Volume's own name follows from it.
    #[schemars(length(min = 1, max = 256))]
    pub request_name: String,
    /// What the volume shows: `source`, `path` and the optional attributes, as in a pod's `volumeAttributes`; `revision` as
    /// the controller resolved it.
    pub attributes: BTreeMap<String, String>,
    /// Size that the claim asked for, in bytes, which is a limit; 0 if it asked for none.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub capacity_bytes: i64,
    /// The claim that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<ClaimReference>,
}

/// A claim.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

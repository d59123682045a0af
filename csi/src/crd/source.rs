//! `Source`: an admin-defined place to read from, and who may.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod auth;

pub use auth::{
    AuthMode, AwsRole, AzureIdentity, GcpPool, GrantPolicy, NodeIdentity, SourceAuth,
    WorkloadIdentity,
};

/// A place in object storage that pods may read from, and which pods.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "tonnage.dev",
    version = "v1alpha1",
    kind = "Source",
    plural = "sources",
    shortname = "tsrc",
    category = "tonnage",
    status = "SourceStatus",
    derive = "PartialEq",
    doc = "A Source is a place in object storage that an administrator lets pods read from: where it is, how requests are signed, and who may use it. Volumes name it in the attribute `source`.",
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Auth", type_ = "string", json_path = ".spec.auth.mode"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(
        name = "Since",
        type_ = "date",
        json_path = ".status.conditions[?(@.type=='Ready')].lastTransitionTime"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = kube::core::Rule::new("!has(self.auth) || !has(self.auth.workloadIdentity) || (self.url.startsWith('s3://') ? has(self.auth.workloadIdentity.aws) : self.url.startsWith('gs://') ? has(self.auth.workloadIdentity.gcp) : self.url.startsWith('az://') && has(self.auth.workloadIdentity.azure))").message("auth.workloadIdentity must name the cloud of the url: aws for s3://, gcp for gs://, azure for az://"),
    validation = kube::core::Rule::new("!has(self.auth) || self.auth.mode != 'Node' || self.url.matches('^(s3|gs|az)://')").message("auth.mode Node is for s3://, gs:// and az:// urls: requests to a web server are not signed")
)]
pub struct SourceSpec {
    /// Where it is: `s3://bucket/base`, `gs://bucket/base`, `az://account/container/base` or `https://host/base`. Without
    /// credentials, query or fragment.
    #[schemars(length(min = 6, max = 2048))]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^(s3|gs|az|https?)://[^/?#@]+(/[^?#]*)?$')").message("url must be s3://bucket[/base], gs://bucket[/base], az://account/container[/base] or https://host[/base], without user, query or fragment"))]
    pub url: String,
    /// URL of the store's API where it is not the cloud's own, such as `https://minio.storage.svc:9000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^https?://[^/?#@]+/?$')").message("endpoint must be https://host[:port] or http://host[:port]"))]
    pub endpoint: Option<String>,
    /// S3 region; default `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where S3 requests name the bucket; default: in the path if `endpoint` is set or the bucket's name has a dot, otherwise
    /// in the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addressing: Option<AddressingStyle>,
    /// How requests are signed. Default: not at all.
    #[serde(default)]
    pub auth: SourceAuth,
    /// Who may use the source. Any entry suffices; without entries nobody may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub consumers: Vec<Consumer>,
    /// Whether volumes must name a revision or a digest. `Optional` (default) lets inline volumes take what is there when
    /// the pod starts; `Required` refuses what is not pinned.
    #[serde(default)]
    pub revision_policy: RevisionPolicy,
    /// Files below an `https` URL, which cannot be listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10000))]
    pub files: Vec<String>,
    /// PEM certificates of the authorities to trust in place of the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("self.contains('-----BEGIN CERTIFICATE-----')").message("caBundle must be PEM certificates"))]
    pub ca_bundle: Option<String>,
    /// HTTP proxy through which the store and token services are connected to, by `CONNECT`, such as
    /// `http://proxy.example.com:3128`; default: none, whatever the environment says. The proxy looks names up, so that rules on
    /// addresses, `allowedCIDRs` among them, are about the proxy's. An instance's metadata service is asked without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 266))]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^http://([A-Za-z0-9._-]+|[[][0-9A-Fa-f:.]+[]]):[0-9]{1,5}$')").message("proxy must be http://host:port and nothing more, also where the store is https"))]
    pub proxy: Option<String>,
    /// Ranges (CIDR) that may be connected to although they are closed: loopback, the API server's own address, and the service
    /// and pod ranges that the installation names (`clusterCIDRs` of the chart). Other private ranges are open, link-local and
    /// metadata addresses never.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        rename = "allowedCIDRs"
    )]
    #[schemars(length(max = 32))]
    pub allowed_cidrs: Vec<String>,
    /// Other hosts that an unsigned request may be redirected to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub redirect_hosts: Vec<String>,
    /// Limits of one listing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ListingLimits>,
}

/// Where S3 requests name the bucket.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressingStyle {
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    Virtual,
}

/// Some pods, by namespace and service account, and what they may read.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Consumer {
    /// Which namespaces. An empty selector is all of them.
    pub namespaces: NamespaceSelector,
    /// Names of service accounts in those namespaces; empty: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub service_accounts: Vec<String>,
    /// Paths below the source that they may read, and all below each, such as `llama-3.1-8b`; empty: all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub paths: Vec<String>,
}

/// Namespaces by name or by label; a namespace matches if `names` is empty or names it, and it has all labels.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceSelector {
    /// Names of namespaces; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub names: Vec<String>,
    /// Labels that the namespace must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

/// Whether volumes must be pinned.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RevisionPolicy {
    /// They may.
    #[default]
    Optional,
    /// They must name a revision or a digest.
    Required,
}

/// Limits of one listing; what is not set has the driver's default.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ListingLimits {
    /// Most objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub objects: Option<i64>,
    /// Most bytes of content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub bytes: Option<i64>,
    /// Longest time in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub listing_seconds: Option<i64>,
}

/// What the controller found out about a source.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// The generation that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the source can be reached and read with its credentials, or why not. `TrustNotRestricted`, for mode
    /// `WorkloadIdentity`: a service account that is no consumer could read it too, so that `consumers` can be passed by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<SourceCondition>,
}

/// One condition, as Kubernetes' own.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SourceCondition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word for why.
    pub reason: String,
    /// One sentence for why, and what to do.
    pub message: String,
    /// Since when it has this status.
    pub last_transition_time: Time,
    /// The generation that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

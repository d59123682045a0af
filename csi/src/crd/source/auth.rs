//! How requests of a `Source` are signed, and how a pod's right is proved: the part of the specification under `auth`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How requests of a source are signed.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = kube::core::Rule::new("self.mode == 'SharedSecret' ? has(self.secretName) : !has(self.secretName)").message("auth.secretName names the Secret of mode SharedSecret and belongs to no other mode"),
    validation = kube::core::Rule::new("self.mode == 'WorkloadIdentity' ? has(self.workloadIdentity) : !has(self.workloadIdentity)").message("auth.workloadIdentity says whom a pod's service account is to be in the cloud: mode WorkloadIdentity needs it, and it belongs to no other mode"),
    validation = kube::core::Rule::new("self.mode == 'Node' || !has(self.node)").message("auth.node belongs to mode Node"),
    validation = kube::core::Rule::new("self.mode in ['PodSecret', 'WorkloadIdentity'] || !(has(self.grantPolicy) || has(self.grantTTLSeconds) || (has(self.perObject) && self.perObject))").message("auth.grantPolicy, auth.grantTTLSeconds and auth.perObject belong to the modes PodSecret and WorkloadIdentity: in the others spec.consumers alone says who may read"),
    validation = kube::core::Rule::new("!has(self.grantTTLSeconds) || !has(self.grantPolicy) || self.grantPolicy == 'VerifyUntilTTL'").message("auth.grantTTLSeconds belongs to grantPolicy VerifyUntilTTL")
)]
pub struct SourceAuth {
    /// `Anonymous` (default); `SharedSecret` (a Secret in Tonnage's own namespace, with keys `accessKeyId`,
    /// `secretAccessKey` and optionally `sessionToken` for `s3://`, the first two, an HMAC key, for `gs://`, and `accountKey` or
    /// `sasToken` for `az://`); `PodSecret` (the same keys in the Secret that the volume names
    /// in `nodePublishSecretRef`); `WorkloadIdentity` (temporary keys that the cloud gives for the token of the pod's service
    /// account); or `Node` (temporary keys of the node's own instance role, from its metadata service).
    #[serde(default)]
    pub mode: AuthMode,
    /// Name of the Secret of mode `SharedSecret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// Whom a pod's service account is to be in the cloud, for mode `WorkloadIdentity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
    /// Details of mode `Node`; none are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeIdentity>,
    /// How often a pod's own right is proved at the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_policy: Option<GrantPolicy>,
    /// How long a proof holds in seconds; default 600. Rights that the store has taken away are noticed so much later.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "grantTTLSeconds"
    )]
    #[schemars(range(min = 1, max = 86400))]
    pub grant_ttl_seconds: Option<i64>,
    /// Reads a byte of every file for a proof rather than of 8 at most, where rights differ from file to file. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub per_object: bool,
}

/// Where the keys of a source come from.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// Requests are not signed.
    #[default]
    Anonymous,
    /// Keys from a Secret in Tonnage's own namespace; `consumers` says who may use them.
    SharedSecret,
    /// Keys from the Secret that the volume names; they are the pod's own.
    PodSecret,
    /// Temporary keys for the pod's service account, in exchange for its token.
    WorkloadIdentity,
    /// Temporary keys of the node's instance role; `consumers` says who may use them.
    Node,
}

/// How often a pod's own right is proved at the store, by a listing and a byte of some files: once, and again when
/// `grantTTLSeconds` are over (`VerifyUntilTTL`, the default); at every mount (`AlwaysVerify`); or never, so that `consumers` alone
/// says who may read what is cached (`NeverVerify`).
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GrantPolicy {
    /// Once, until the proof's time is over.
    #[default]
    VerifyUntilTTL,
    /// At every mount.
    AlwaysVerify,
    /// Never.
    NeverVerify,
}

/// Whom a pod's service account is to be in the cloud: a role of AWS, a pool of Google Cloud, or an identity of Azure.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = kube::core::Rule::new("[has(self.aws), has(self.gcp), has(self.azure)].filter(one, one).size() == 1").message("auth.workloadIdentity must have exactly one of aws, gcp and azure"))]
pub struct WorkloadIdentity {
    /// Audience of the pod's token for the cloud; it must be among the chart's `csiDriver.tokenAudiences`. Default:
    /// `sts.amazonaws.com` (AWS), `https:` and `gcp.audience` (Google Cloud), `api://AzureADTokenExchange` (Azure).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub audience: Option<String>,
    /// A role of AWS, or of a store with an STS like Amazon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsRole>,
    /// A workload identity pool of Google Cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcp: Option<GcpPool>,
    /// An application or a user-assigned identity of Azure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureIdentity>,
}

/// A role of AWS (`AssumeRoleWithWebIdentity`).
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AwsRole {
    /// ARN of the role. Its trust policy must name the service accounts that may assume it in a condition on the token's
    /// subject (`<issuer>:sub`): without one, every service account of the cluster may.
    #[schemars(length(min = 12, max = 2048))]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^arn:[^:]+:[^:]+:.+$')").message("aws.roleArn must be the ARN of a role, such as arn:aws:iam::123456789012:role/models"))]
    pub role_arn: String,
    /// Name of sessions in AWS's audit log; default: `<namespace>.<service account>`, cut to 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^[A-Za-z0-9_+=,.@-]{2,64}$')").message("aws.sessionName must be 2 to 64 letters, digits and _+=,.@-"))]
    pub session_name: Option<String>,
    /// URL of STS; default: `https://sts.<region>.amazonaws.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^https?://[^/?#@]+/?$')").message("aws.stsEndpoint must be https://host[:port] or http://host[:port]"))]
    pub sts_endpoint: Option<String>,
    /// How long keys are valid in seconds; default 900. The role's own limit must allow more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 900, max = 43200))]
    pub duration_seconds: Option<i64>,
}

/// A workload identity pool of Google Cloud.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GcpPool {
    /// Full name of the pool's provider:
    /// `//iam.googleapis.com/projects/<number>/locations/global/workloadIdentityPools/<pool>/providers/<provider>`.
    #[schemars(length(max = 512))]
    #[x_kube(validation = kube::core::Rule::new("self.startsWith('//iam.googleapis.com/')").message("gcp.audience must be the full name of the pool's provider, which begins with //iam.googleapis.com/projects/"))]
    pub audience: String,
    /// Mail address of a service account that the pool's principal impersonates; default: none, the principal reads itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^[A-Za-z0-9._-]+@[A-Za-z0-9.-]+$')").message("gcp.serviceAccount must be a mail address such as models@project.iam.gserviceaccount.com"))]
    pub service_account: Option<String>,
    /// URL of the token service; default `https://sts.googleapis.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^https?://[^/?#@]+/?$')").message("gcp.tokenEndpoint must be https://host[:port] or http://host[:port]"))]
    pub token_endpoint: Option<String>,
    /// URL of the service that impersonates; default `https://iamcredentials.googleapis.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^https?://[^/?#@]+/?$')").message("gcp.impersonationEndpoint must be https://host[:port] or http://host[:port]"))]
    pub impersonation_endpoint: Option<String>,
}

/// An application or a user-assigned identity of Azure, with a federated credential for the service account.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AzureIdentity {
    /// Id of the directory (tenant).
    #[schemars(length(max = 64))]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^[A-Za-z0-9._-]+$')").message("azure.tenantId must be the id of the directory"))]
    pub tenant_id: String,
    /// Client id of the application or identity.
    #[schemars(length(max = 64))]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^[A-Za-z0-9._-]+$')").message("azure.clientId must be the client id of the application or the managed identity"))]
    pub client_id: String,
    /// URL of the authority; default `https://login.microsoftonline.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^https?://[^/?#@]+/?$')").message("azure.authority must be https://host[:port] or http://host[:port]"))]
    pub authority: Option<String>,
}

/// Details of mode `Node`.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeIdentity {
    /// URL of the instance's metadata service where it is not the cloud's own (EC2, Compute Engine, Azure). The rules for
    /// addresses hold for it as for any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^https?://[^/?#@]+/?$')").message("node.endpoint must be https://host[:port] or http://host[:port]"))]
    pub endpoint: Option<String>,
}

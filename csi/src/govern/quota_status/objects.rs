//! The status of quotas at the API server.

use std::time::Duration;

use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tonnage_cache::error::chain;

use super::Key;
use crate::crd::{CacheQuota, CacheQuotaStatus};

/// Who writes a status.
const MANAGER: &str = "tonnage-controller";
/// Longest wait for the API server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a status was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The object has changed since it was read, or is gone.
    #[error("it has changed meanwhile")]
    Outdated,
    /// RBAC or the schema is against it.
    #[error(
        "the API server does not take it ({0}): install the chart's ClusterRole and custom resources of this version"
    )]
    Refused(String),
    /// Any other answer.
    #[error("the API server answers {0}")]
    Status(u16),
    /// No answer.
    #[error("the API server cannot be reached")]
    Unreachable,
}

/// Quotas whatever they look like: also one that cannot be understood has a status.
#[derive(Debug)]
pub(super) struct Objects {
    client: Client,
    kind: ApiResource,
}

/// `kube::Client` shows nothing of itself.
struct Client(kube::Client);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Objects {
    pub(super) fn new(client: kube::Client) -> Self {
        Self {
            client: Client(client),
            kind: ApiResource::erase::<CacheQuota>(&()),
        }
    }

    /// Writes a status if the object is still the version that was read; of one that `is_odd`, what is set aside is left alone. Returns
    /// its new version.
    pub(super) async fn write(
        &self,
        (namespace, name): &Key,
        version: Option<&str>,
        (status, is_odd): (&CacheQuotaStatus, bool),
    ) -> Result<Option<String>, Failure> {
        let client = self.client.0.clone();
        let objects = Api::<DynamicObject>::namespaced_with(client, namespace, &self.kind);
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let mut patch = patch(version, status);
        if is_odd && let Some(status) = patch["status"].as_object_mut() {
            status.remove("reserved");
            status.remove("reservedAbove");
        }
        let patch = Patch::Merge(patch);
        let answer = objects.patch_status(name, &params, &patch);
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(object)) => Ok(object.metadata.resource_version),
            Ok(Err(error)) => Err(failure(error)),
            Err(_) => Err(Failure::Unreachable),
        }
    }
}

/// What is not said is taken away.
fn patch(version: Option<&str>, status: &CacheQuotaStatus) -> Value {
    let CacheQuotaStatus {
        observed_generation,
        conditions,
        used,
        fullest,
        logical_bytes,
        volumes,
        nodes,
        reserved,
        reserved_above,
    } = status;
    json!({
        "metadata": {"resourceVersion": version},
        "status": {
            "observedGeneration": observed_generation,
            "conditions": conditions,
            "used": used,
            "fullest": fullest,
            "logicalBytes": logical_bytes,
            "volumes": volumes,
            "nodes": nodes,
            "reserved": reserved,
            "reservedAbove": reserved_above,
        },
    })
}

fn failure(error: kube::Error) -> Failure {
    let kube::Error::Api(status) = error else {
        tracing::debug!(error = chain(&error), "the API server failed");
        return Failure::Unreachable;
    };
    match status.code {
        404 | 409 => Failure::Outdated,
        400 | 401 | 403 | 422 => Failure::Refused(status.message),
        code => Failure::Status(code),
    }
}

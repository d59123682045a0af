//! The node's object at the API server, by server-side apply: what is applied is what the object says of its owner and its
//! status, whatever others wrote there.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tonnage_cache::error::chain;
use tonnage_cache::path::Escaped;

use crate::crd::{NodeCache, NodeCacheStatus};

/// Who writes the object.
const MANAGER: &str = "tonnage-node";

/// Why the object is not as it should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Error {
    /// The object is not there any more.
    #[error("it was deleted")]
    Gone,
    /// Another writer came between.
    #[error("somebody else wrote it at the same time")]
    Conflict,
    /// The node's name is not that of a Node.
    #[error("there is no Node {}: give the driver the node's name in the cluster with --node-id", Escaped(.0))]
    NoNode(String),
    /// The kind is not installed.
    #[error(
        "the API server does not know nodecaches.tonnage.dev: install Tonnage's custom resources"
    )]
    NoKind,
    /// RBAC or an admission policy is against it, or the schema.
    #[error(
        "the API server does not take it ({0}): install the chart's ClusterRole, admission policies and custom resources of this version"
    )]
    Refused(String),
    /// Any other answer.
    #[error("the API server answers {0}")]
    Status(u16),
    /// No answer that can be understood.
    #[error("the API server cannot be reached")]
    Unreachable,
    /// No answer.
    #[error("the API server does not answer")]
    Silent,
}

/// The one object that is written here.
#[derive(Debug)]
pub(super) struct Objects {
    /// Whatever it looks like: also one that cannot be understood is replaced.
    caches: Api<DynamicObject>,
    nodes: Api<Node>,
    kind: ApiResource,
    node: String,
}

impl Objects {
    pub(super) fn new(client: kube::Client, node: String) -> Self {
        let kind = ApiResource::erase::<NodeCache>(&());
        Self {
            caches: Api::all_with(client.clone(), &kind),
            nodes: Api::all(client),
            kind,
            node,
        }
    }

    /// Makes the object, or takes it over: it is owned by the Node, so that it goes with it. Says what its status is.
    pub(super) async fn ensure(&self) -> Result<Option<NodeCacheStatus>, Error> {
        let node = self.nodes.get_metadata_opt(&self.node).await;
        let node = node.map_err(|error| failure(error, Error::NoKind))?;
        let uid = node.and_then(|node| node.metadata.uid);
        let uid = uid.ok_or_else(|| Error::NoNode(self.node.clone()))?;
        let object = self.object(&json!({
            "metadata": {
                "name": self.node,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid}],
            },
            "spec": {},
        }));
        let (params, patch) = (params(), Patch::Apply(&object));
        let applied = self.caches.patch(&self.node, &params, &patch).await;
        let applied = applied.map_err(|error| failure(error, Error::NoKind))?;
        let status = applied.data.get("status").cloned();
        Ok(status.and_then(|status| serde_json::from_value(status).ok()))
    }

    /// Writes the status; [`Error::Gone`] if there is no object.
    pub(super) async fn set(&self, status: &NodeCacheStatus) -> Result<(), Error> {
        let object = self.object(&json!({
            "metadata": {"name": self.node},
            "status": status,
        }));
        let (params, patch) = (params(), Patch::Apply(&object));
        let applied = self.caches.patch_status(&self.node, &params, &patch).await;
        applied
            .map(drop)
            .map_err(|error| failure(error, Error::Gone))
    }

    fn object(&self, rest: &Value) -> Value {
        let mut object = json!({"apiVersion": self.kind.api_version, "kind": self.kind.kind});
        if let (Some(object), Some(rest)) = (object.as_object_mut(), rest.as_object()) {
            object.extend(rest.clone());
        }
        object
    }
}

fn params() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

/// What an error means; `absent` is what "not found" does.
fn failure(error: kube::Error, absent: Error) -> Error {
    let kube::Error::Api(status) = error else {
        tracing::debug!(error = chain(&error), "the API server failed");
        return Error::Unreachable;
    };
    match status.code {
        404 => absent,
        409 => Error::Conflict,
        400 | 401 | 403 | 422 => Error::Refused(status.message),
        code => Error::Status(code),
    }
}

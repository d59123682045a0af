//! The node's object at the API server, by server-side apply: what is applied is what the object says of its owner and its
//! status, whatever others wrote there.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use crate::crd::{NodeCache, NodeCacheStatus};
use crate::node_object::Error;

/// Who writes the object.
const MANAGER: &str = "tonnage-node";

/// Plural of its kind.
const KIND: &str = "nodecaches";

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
        let node = node.map_err(|error| Error::of(error, Error::NoKind(KIND)))?;
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
        let applied = applied.map_err(|error| Error::of(error, Error::NoKind(KIND)))?;
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
            .map_err(|error| Error::of(error, Error::Gone))
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

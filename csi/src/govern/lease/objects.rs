//! The node's `EgressLease` at the API server. It is written whole, with the version that was read as precondition, so that a
//! write that was overtaken fails and nobody's is lost; the status is the controller's and is not touched. Server-side apply would
//! not do: it has no such precondition.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, PostParams};
use serde_json::json;

use crate::crd::{EgressLease, EgressLeaseSpec};
use crate::node_object::Error;

/// Who writes the specification.
const MANAGER: &str = "tonnage-node";

/// Plural of its kind.
const KIND: &str = "egressleases";

/// The object as it was read.
#[derive(Debug)]
pub(super) struct Seen {
    /// What of it can be understood; the rest is empty.
    pub(super) object: EgressLease,
    /// Whether that is all of the specification.
    pub(super) is_clear: bool,
}

impl Seen {
    pub(super) fn read(object: &DynamicObject) -> Self {
        let spec = object.data.get("spec").cloned();
        let spec: Option<EgressLeaseSpec> = spec.and_then(|spec| serde_json::from_value(spec).ok());
        let status = object.data.get("status").cloned();
        Self {
            is_clear: spec.is_some(),
            object: EgressLease {
                metadata: object.metadata.clone(),
                spec: spec.unwrap_or_default(),
                status: status.and_then(|status| serde_json::from_value(status).ok()),
            },
        }
    }

    /// Whether it is an older version than `other`. Versions of one kind can be compared (Kubernetes 1.35 promises it, and it was
    /// always so); what is no number is taken for new.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        let number = |seen: &Self| -> Option<u64> {
            let version = seen.object.metadata.resource_version.as_deref()?;
            version.parse().ok()
        };
        number(self)
            .zip(number(other))
            .is_some_and(|(own, other)| own < other)
    }
}

/// The one object that is written here.
#[derive(Debug)]
pub(super) struct Objects {
    /// Whatever it looks like: also one that cannot be understood is replaced.
    leases: Api<DynamicObject>,
    nodes: Api<Node>,
    kind: ApiResource,
    node: String,
}

impl Objects {
    pub(super) fn new(client: kube::Client, node: String) -> Self {
        let kind = ApiResource::erase::<EgressLease>(&());
        Self {
            leases: Api::all_with(client.clone(), &kind),
            nodes: Api::all(client),
            kind,
            node,
        }
    }

    /// For the watch.
    pub(super) fn api(&self) -> Api<DynamicObject> {
        self.leases.clone()
    }

    /// Who should own the object, so that it goes with the Node.
    pub(super) async fn owner(&self) -> Result<OwnerReference, Error> {
        let node = self.nodes.get_metadata_opt(&self.node).await;
        let node = node.map_err(|error| Error::of(error, Error::NoKind(KIND)))?;
        let uid = node.and_then(|node| node.metadata.uid);
        Ok(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node.clone(),
            uid: uid.ok_or_else(|| Error::NoNode(self.node.clone()))?,
            ..OwnerReference::default()
        })
    }

    /// Reads the object.
    pub(super) async fn find(&self) -> Result<Option<DynamicObject>, Error> {
        let found = self.leases.get_opt(&self.node).await;
        found.map_err(|error| Error::of(error, Error::NoKind(KIND)))
    }

    /// Makes the object; [`Error::Conflict`] if there is one.
    pub(super) async fn create(
        &self,
        owner: &OwnerReference,
        spec: &EgressLeaseSpec,
    ) -> Result<DynamicObject, Error> {
        let object = self.object(ObjectMeta::default(), owner, spec);
        let created = self.leases.create(&params(), &object).await;
        created.map_err(|error| Error::of(error, Error::NoKind(KIND)))
    }

    /// Writes the object that was read with this metadata; [`Error::Conflict`] if it is another one now, [`Error::Gone`] if there is
    /// none.
    pub(super) async fn replace(
        &self,
        before: &ObjectMeta,
        owner: &OwnerReference,
        spec: &EgressLeaseSpec,
    ) -> Result<DynamicObject, Error> {
        // What others have put there stays: labels, annotations, finalizers.
        let metadata = ObjectMeta {
            managed_fields: None,
            ..before.clone()
        };
        let object = self.object(metadata, owner, spec);
        let replaced = self.leases.replace(&self.node, &params(), &object).await;
        replaced.map_err(|error| Error::of(error, Error::Gone))
    }

    fn object(
        &self,
        metadata: ObjectMeta,
        owner: &OwnerReference,
        spec: &EgressLeaseSpec,
    ) -> DynamicObject {
        let mut object = DynamicObject::new(&self.node, &self.kind).data(json!({"spec": spec}));
        object.metadata = ObjectMeta {
            name: Some(self.node.clone()),
            owner_references: Some(vec![owner.clone()]),
            ..metadata
        };
        object
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

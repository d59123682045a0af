//! Reading and writing the objects. Every write of a ledger or of grants carries the version that was read, so that of two
//! controllers one succeeds; nothing here is tried twice. While the API server does not answer, it is not asked either.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams,
    Preconditions,
};
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tonnage_cache::error::chain;

use super::answers::LeaseWrite;
use super::objects::BudgetObject;
use super::silence::Silence;
use super::turns::{Creation, Deletion, LedgerWrite};
use crate::crd::{EgressBudget, EgressLease, EgressLeaseSpec, EgressPolicy};
use crate::govern::status::StatusWrite;

/// Who writes.
const MANAGER: &str = "tonnage-controller";
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why something was not read or written.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub(super) enum Failure {
    /// The object is another one than was read.
    #[error("somebody else wrote it at the same time")]
    Conflict,
    /// There is no such object.
    #[error("it is not there")]
    Gone,
    /// There is one of that name that is no ledger.
    #[error("an object has its name that is no ledger: {0}")]
    Foreign(String),
    /// RBAC is against it, or the schema.
    #[error(
        "the API server does not take it ({0}): install the chart's ClusterRole and custom resources of this version"
    )]
    Refused(String),
    /// Any other answer.
    #[error("the API server answers {0}")]
    Status(u16),
    /// An answer that cannot be understood; perhaps it was done.
    #[error("the API server's answer cannot be understood")]
    Unclear,
    /// No answer; perhaps it was done.
    #[error("the API server does not answer")]
    Silent,
    /// It was not asked, because it answers nobody.
    #[error("the API server is not asked, because it does not answer")]
    Skipped,
}

impl Failure {
    /// Whether it may have been done all the same.
    pub(super) fn may_be_done(&self) -> bool {
        match self {
            Self::Status(_) | Self::Unclear | Self::Silent => true,
            Self::Conflict | Self::Gone | Self::Foreign(_) | Self::Refused(_) | Self::Skipped => {
                false
            }
        }
    }
}

/// The objects.
#[derive(Debug)]
pub(super) struct Store {
    budgets: Api<EgressBudget>,
    /// The same, whatever they look like.
    any: Api<DeserializeGuard<EgressBudget>>,
    leases: Api<EgressLease>,
    policies: Api<DynamicObject>,
    kind: ApiResource,
    silence: Mutex<Silence>,
}

impl Store {
    pub(super) fn new(client: kube::Client) -> Self {
        let kind = ApiResource::erase::<EgressPolicy>(&());
        Self {
            budgets: Api::all(client.clone()),
            any: Api::all(client.clone()),
            leases: Api::all(client.clone()),
            policies: Api::all_with(client, &kind),
            kind,
            silence: Mutex::default(),
        }
    }

    /// Another turn begins.
    pub(super) fn try_again(&self) {
        self.silence().try_again();
    }

    /// Whether nobody is answered.
    pub(super) fn is_silent(&self) -> bool {
        self.silence().is_total()
    }

    fn silence(&self) -> MutexGuard<'_, Silence> {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an object with an empty ledger, owned by its policy.
    pub(super) async fn create(&self, creation: &Creation) -> Result<BudgetObject, Failure> {
        let Creation { name, spec } = creation;
        let owner = OwnerReference {
            api_version: self.kind.api_version.clone(),
            kind: self.kind.kind.clone(),
            name: spec.policy.clone(),
            uid: spec.policy_uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        let mut object = EgressBudget::new(name, spec.clone());
        object.metadata.owner_references = Some(vec![owner]);
        let params = params();
        let answer = self.budgets.create(&params, &object);
        let made = self.ask(name, answer).await?;
        BudgetObject::read(&made).map_err(Failure::Foreign)
    }

    /// Reads an object.
    pub(super) async fn read(&self, name: &str) -> Result<Option<BudgetObject>, Failure> {
        let Some(object) = self.ask(name, self.any.get_opt(name)).await? else {
            return Ok(None);
        };
        let read = object
            .0
            .map_err(|invalid| invalid.error)
            .and_then(|object| BudgetObject::read(&object));
        read.map(Some).map_err(Failure::Foreign)
    }

    /// Writes a ledger; says at which version it is then.
    pub(super) async fn write(&self, write: &LedgerWrite) -> Result<String, Failure> {
        let object = EgressBudget {
            metadata: ObjectMeta {
                name: Some(write.name.clone()),
                uid: Some(write.uid.clone()),
                resource_version: Some(write.version.clone()),
                ..ObjectMeta::default()
            },
            spec: write.spec.clone(),
            status: Some(write.status.clone()),
        };
        let params = params();
        let answer = self.budgets.replace_status(&write.name, &params, &object);
        let written = self.ask(&write.name, answer).await?;
        written.resource_version().ok_or(Failure::Unclear)
    }

    /// Deletes an object, if it is the one that was read.
    pub(super) async fn delete(&self, deletion: &Deletion) -> Result<(), Failure> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: Some(deletion.version.clone()),
                uid: Some(deletion.uid.clone()),
            }),
            ..DeleteParams::default()
        };
        let answer = self.any.delete(&deletion.name, &params);
        self.ask(&deletion.name, answer).await.map(drop)
    }

    /// Tells a node what it is granted; says at which version its object is then.
    pub(super) async fn answer(&self, write: &LeaseWrite) -> Result<String, Failure> {
        // Of a status nothing else is written: what the specification says here is not looked at.
        let object = EgressLease {
            metadata: ObjectMeta {
                name: Some(write.node.clone()),
                resource_version: Some(write.version.clone()),
                ..ObjectMeta::default()
            },
            spec: EgressLeaseSpec::default(),
            status: Some(write.status.clone()),
        };
        let params = params();
        let answer = self.leases.replace_status(&write.node, &params, &object);
        let written = self.ask(&write.node, answer).await?;
        written.resource_version().ok_or(Failure::Unclear)
    }

    /// Says something of a policy.
    pub(super) async fn tell(&self, write: &StatusWrite) -> Result<(), Failure> {
        let object = json!({
            "apiVersion": self.kind.api_version,
            "kind": self.kind.kind,
            "metadata": {"name": write.policy, "uid": write.uid},
            "status": write.status,
        });
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&object));
        let answer = self.policies.patch_status(&write.policy, &params, &patch);
        self.ask(&write.policy, answer).await.map(drop)
    }

    async fn ask<T>(
        &self,
        object: &str,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Failure> {
        let answers = {
            let silence = self.silence();
            if silence.is_total() {
                return Err(Failure::Skipped);
            }
            silence.answers()
        };
        let failure = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => {
                self.silence().ends();
                return Ok(answer);
            }
            Ok(Err(kube::Error::Api(status))) => match status.code {
                404 => Failure::Gone,
                409 => Failure::Conflict,
                400 | 401 | 403 | 422 => Failure::Refused(status.message.clone()),
                code => Failure::Status(code),
            },
            Ok(Err(kube::Error::SerdeError(error))) => {
                tracing::debug!(error = chain(&error), object, "an answer is unclear");
                Failure::Unclear
            }
            Ok(Err(error)) => {
                tracing::debug!(error = chain(&error), object, "the API server failed");
                Failure::Silent
            }
            Err(_) => Failure::Silent,
        };
        let mut silence = self.silence();
        if failure == Failure::Silent {
            silence.goes_on(object, answers);
        } else {
            silence.ends();
        }
        Err(failure)
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

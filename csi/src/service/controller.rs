//! The Controller service: volumes are records. `CreateVolume` never downloads, `DeleteVolume` never touches a bucket.

use std::collections::HashMap;
use std::sync::Arc;

use tonic::{Code, Request, Response, Status};
use tonnage_cache::clock::Clock;
use tonnage_cache::error::{Kind, chain};
use tonnage_proto::csi::controller_server::Controller;
use tonnage_proto::csi::controller_service_capability::{Rpc as Advertised, Type, rpc};
use tonnage_proto::csi::validate_volume_capabilities_response::Confirmed;
use tonnage_proto::csi::{
    CapacityRange, ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse,
    ControllerServiceCapability, CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest,
    DeleteVolumeResponse, ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
    Volume as CsiVolume,
};

use super::capability;
use crate::identity::Secrets;
use crate::loads::Observer;
use crate::provision::{self, Provisioner};
use crate::status::{Cause, Rpc, answer};
use crate::volume::{self, Attributes, VolumeId};
use crate::volumes::{Claim, Volume};

/// Keys that external-provisioner adds to the parameters (`--extra-create-metadata`).
const CLAIM_NAME: &str = "csi.storage.k8s.io/pvc/name";
const CLAIM_NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";

/// The controller service.
#[derive(Debug, Clone)]
pub struct ControllerService {
    provisioner: Arc<Provisioner>,
    clock: Arc<dyn Clock>,
    observers: Vec<Arc<dyn Observer>>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Volume(#[from] volume::Error),
    #[error(transparent)]
    Provision(#[from] provision::Error),
    #[error("{0}")]
    Unsupported(&'static str),
    #[error(
        "required_bytes {required} is more than limit_bytes {limit}, or one of them is negative"
    )]
    Range { required: i64, limit: i64 },
    #[error("volume {0} does not exist")]
    NoVolume(VolumeId),
}

impl Error {
    fn cause(&self) -> Cause {
        Cause::Kind(match self {
            Self::Volume(error) => error.kind(),
            Self::Provision(error) => return error.cause(),
            Self::Unsupported(_) => Kind::Invalid,
            Self::NoVolume(_) => Kind::NotFound,
            Self::Range { .. } => return Cause::OutOfRange,
        })
    }
}

impl ControllerService {
    /// A service whose volumes are made by this provisioner.
    pub fn new(
        provisioner: Provisioner,
        clock: Arc<dyn Clock>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            provisioner: Arc::new(provisioner),
            clock,
            observers,
        }
    }

    async fn timed<T>(
        &self,
        rpc: Rpc,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let started = self.clock.monotonic();
        let result = work
            .await
            .map_err(|error| answer(rpc, error.cause(), &chain(&error), &Secrets::default()));
        let time = self.clock.monotonic().saturating_sub(started);
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        for observer in &self.observers {
            observer.call_ended(rpc.name(), code, time);
        }
        if let Err(status) = &result {
            tracing::info!(rpc = rpc.name(), code = ?status.code(), message = status.message(), "call failed");
        }
        result.map(Response::new)
    }

    async fn create(&self, request: CreateVolumeRequest) -> Result<CreateVolumeResponse, Error> {
        let recorded = self.provisioner.create(parse(request)?).await?;
        Ok(CreateVolumeResponse {
            volume: Some(CsiVolume {
                capacity_bytes: i64::try_from(recorded.capacity_bytes).unwrap_or(i64::MAX),
                volume_id: recorded.id(),
                volume_context: recorded.attributes.to_map(),
                content_source: None,
                accessible_topology: Vec::new(),
            }),
        })
    }

    async fn delete(&self, request: DeleteVolumeRequest) -> Result<DeleteVolumeResponse, Error> {
        let id = VolumeId::parse(&request.volume_id)?;
        self.provisioner.delete(&id).await?;
        Ok(DeleteVolumeResponse {})
    }

    async fn validate(
        &self,
        request: ValidateVolumeCapabilitiesRequest,
    ) -> Result<ValidateVolumeCapabilitiesResponse, Error> {
        let id = VolumeId::parse(&request.volume_id)?;
        if request.volume_capabilities.is_empty() {
            return Err(volume::Error::Missing("volume_capabilities").into());
        }
        let volume = self.provisioner.find(&id).await?;
        let volume = volume.ok_or(Error::NoVolume(id))?;
        let context = volume.attributes.to_map();
        let doubt = match capability::created(&request.volume_capabilities) {
            Err(error) => Some(error.to_string()),
            Ok(()) if !request.volume_context.is_empty() && request.volume_context != context => {
                Some("the volume context is not that of the volume".to_owned())
            }
            Ok(()) => None,
        };
        let confirmed = doubt.is_none().then_some(Confirmed {
            volume_context: request.volume_context,
            volume_capabilities: request.volume_capabilities,
            parameters: request.parameters,
            mutable_parameters: request.mutable_parameters,
        });
        Ok(ValidateVolumeCapabilitiesResponse {
            confirmed,
            message: doubt.unwrap_or_default(),
        })
    }
}

/// What a request asks for. All that is wrong with it shows on the claim and not at its first pod.
fn parse(request: CreateVolumeRequest) -> Result<Volume, Error> {
    if request.name.is_empty() {
        return Err(volume::Error::Missing("name").into());
    }
    capability::created(&request.volume_capabilities)?;
    if request.volume_content_source.is_some() {
        return Err(Error::Unsupported(
            "volumes cannot be made from snapshots or other volumes",
        ));
    }
    let capacity_bytes = capacity(request.capacity_range.as_ref())?;
    let mut attributes = Attributes::parse(&request.parameters)?;
    if capacity_bytes > 0 {
        let limit = attributes
            .limit_bytes
            .map_or(capacity_bytes, |limit| limit.min(capacity_bytes));
        attributes.limit_bytes = Some(limit);
    }
    Ok(Volume {
        claim: claim(&request.parameters),
        name: request.name,
        attributes,
        capacity_bytes,
    })
}

/// The claim that a volume is made for, if the provisioner says which.
fn claim(parameters: &HashMap<String, String>) -> Option<Claim> {
    let get = |key: &str| parameters.get(key).filter(|value| !value.is_empty());
    Some(Claim {
        namespace: get(CLAIM_NAMESPACE)?.clone(),
        name: get(CLAIM_NAME)?.clone(),
    })
}

/// The size of a volume is exactly what the claim requires: it is a limit, nothing is reserved.
fn capacity(range: Option<&CapacityRange>) -> Result<u64, Error> {
    let (required, limit) = range.map_or((0, 0), |range| (range.required_bytes, range.limit_bytes));
    let fits = limit == 0 || required <= limit;
    match u64::try_from(required) {
        Ok(bytes) if fits && limit >= 0 => Ok(bytes),
        _ => Err(Error::Range { required, limit }),
    }
}

#[tonic::async_trait]
impl Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        self.timed(Rpc::CreateVolume, self.create(request.into_inner()))
            .await
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        self.timed(Rpc::DeleteVolume, self.delete(request.into_inner()))
            .await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        self.timed(
            Rpc::ValidateVolumeCapabilities,
            self.validate(request.into_inner()),
        )
        .await
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let capabilities = [
            rpc::Type::CreateDeleteVolume,
            rpc::Type::SingleNodeMultiWriter,
        ]
        .map(|kind| ControllerServiceCapability {
            r#type: Some(Type::Rpc(Advertised {
                r#type: kind.into(),
            })),
        });
        Ok(Response::new(ControllerGetCapabilitiesResponse {
            capabilities: capabilities.to_vec(),
        }))
    }
}

//! The Node service, without staging: one entry serves inline, claimed and static volumes. Calls that come before the
//! store is open are answered UNAVAILABLE.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tonnage_cache::clock::Clock;
use tonnage_cache::error::{Kind, chain};
use tonnage_proto::csi::node_server::Node;
use tonnage_proto::csi::node_service_capability::{Rpc as Advertised, Type, rpc};
use tonnage_proto::csi::volume_usage::Unit;
use tonnage_proto::csi::{
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
    NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, VolumeUsage,
};

use super::capability;
use crate::identity::{Credentials, Secrets};
use crate::loads::Observer;
use crate::publish::{Error, PublishRequest, Publisher};
use crate::status::{Cause, Rpc, answer};
use crate::volume::{self, VolumeContext, VolumeId};

/// What the service is made of.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// Name of the node.
    pub node_id: String,
    /// Set once the store is open.
    pub publisher: Arc<OnceLock<Arc<Publisher>>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who wants to know of calls.
    pub observers: Vec<Arc<dyn Observer>>,
}

/// The node service.
#[derive(Debug, Clone)]
pub struct NodeService {
    facts: NodeFacts,
}

impl NodeService {
    /// A service of these parts.
    pub fn new(facts: NodeFacts) -> Self {
        Self { facts }
    }

    fn publisher(&self) -> Result<&Arc<Publisher>, Status> {
        self.facts
            .publisher
            .get()
            .ok_or_else(|| Status::unavailable("the driver is starting: its store is not open yet"))
    }

    async fn timed<T>(
        &self,
        rpc: Rpc,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let started = self.facts.clock.monotonic();
        let result = work.await;
        let time = self.facts.clock.monotonic().saturating_sub(started);
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        for observer in &self.facts.observers {
            observer.call_ended(rpc.name(), code, time);
        }
        if let Err(status) = &result {
            tracing::info!(rpc = rpc.name(), code = ?status.code(), message = status.message(), seconds = time.as_secs_f64(), "call failed");
        }
        result.map(Response::new)
    }

    async fn publish(
        &self,
        metadata: MetadataMap,
        request: NodePublishVolumeRequest,
    ) -> Result<NodePublishVolumeResponse, Status> {
        let secrets = Secrets::of_request(&request.secrets, &request.volume_context);
        let fail = |error: &Error| failed(Rpc::NodePublishVolume, error, &secrets);
        let parsed = parse(&metadata, request, &secrets).map_err(|error| fail(&error.into()))?;
        self.publisher()?
            .publish(parsed)
            .await
            .map_err(|error| fail(&error))?;
        Ok(NodePublishVolumeResponse {})
    }

    async fn unpublish(
        &self,
        request: NodeUnpublishVolumeRequest,
    ) -> Result<NodeUnpublishVolumeResponse, Status> {
        let none = Secrets::default();
        let fail = |error: Error| failed(Rpc::NodeUnpublishVolume, &error, &none);
        let volume_id = VolumeId::parse(&request.volume_id).map_err(|error| fail(error.into()))?;
        required("target_path", &request.target_path).map_err(|error| fail(error.into()))?;
        self.publisher()?
            .unpublish(volume_id, &request.target_path)
            .await
            .map_err(fail)?;
        Ok(NodeUnpublishVolumeResponse {})
    }

    async fn stats(
        &self,
        request: NodeGetVolumeStatsRequest,
    ) -> Result<NodeGetVolumeStatsResponse, Status> {
        let none = Secrets::default();
        let fail = |error: Error| failed(Rpc::NodeGetVolumeStats, &error, &none);
        let volume_id = VolumeId::parse(&request.volume_id).map_err(|error| fail(error.into()))?;
        required("volume_path", &request.volume_path).map_err(|error| fail(error.into()))?;
        let usage = self
            .publisher()?
            .usage(&volume_id, &request.volume_path)
            .await
            .map_err(fail)?;
        Ok(NodeGetVolumeStatsResponse {
            usage: vec![
                full(Unit::Bytes, usage.bytes),
                full(Unit::Inodes, usage.files),
            ],
        })
    }
}

/// A read-only volume is full: nothing is available.
fn full(unit: Unit, amount: u64) -> VolumeUsage {
    let amount = i64::try_from(amount).unwrap_or(i64::MAX);
    VolumeUsage {
        available: 0,
        total: amount,
        used: amount,
        unit: unit.into(),
    }
}

fn required(name: &'static str, value: &str) -> Result<(), volume::Error> {
    if value.is_empty() {
        Err(volume::Error::Missing(name))
    } else {
        Ok(())
    }
}

fn parse(
    metadata: &MetadataMap,
    request: NodePublishVolumeRequest,
    secrets: &Secrets,
) -> Result<PublishRequest, volume::Error> {
    let volume_id = VolumeId::parse(&request.volume_id)?;
    required("target_path", &request.target_path)?;
    let (access, flags) = capability::published(request.volume_capability.as_ref())?;
    let context = VolumeContext::parse(&request.volume_context)?;
    Ok(PublishRequest {
        volume_id,
        target: request.target_path,
        attributes: context.attributes,
        credentials: Credentials {
            pod: context.pod,
            secrets: secrets.clone(),
        },
        ephemeral: context.ephemeral,
        access,
        readonly: request.readonly,
        flags,
        deadline: metadata
            .get("grpc-timeout")
            .and_then(|value| value.to_str().ok())
            .and_then(timeout),
    })
}

/// The `grpc-timeout` header (gRPC over HTTP/2, "Timeout"): up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn failed(rpc: Rpc, error: &Error, secrets: &Secrets) -> Status {
    let cause = error.cause();
    if matches!(
        cause,
        Cause::Kind(Kind::Internal | Kind::Corrupt) | Cause::LeftBehind
    ) {
        tracing::error!(
            rpc = rpc.name(),
            error = secrets.redact(&chain(error)),
            "call failed by no fault of its caller"
        );
    }
    answer(rpc, cause, &chain(error), secrets)
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.timed(
            Rpc::NodePublishVolume,
            Box::pin(self.publish(metadata, request)),
        )
        .await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        self.timed(
            Rpc::NodeUnpublishVolume,
            self.unpublish(request.into_inner()),
        )
        .await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        self.timed(Rpc::NodeGetVolumeStats, self.stats(request.into_inner()))
            .await
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        // No limit, and no topology: a ReadOnlyMany claim must mount on any node.
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.facts.node_id.clone(),
            max_volumes_per_node: 0,
            accessible_topology: None,
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capabilities =
            [rpc::Type::GetVolumeStats, rpc::Type::SingleNodeMultiWriter].map(|kind| {
                NodeServiceCapability {
                    r#type: Some(Type::Rpc(Advertised {
                        r#type: kind.into(),
                    })),
                }
            });
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: capabilities.to_vec(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_header_is_read_in_every_unit() {
        for (text, expected) in [
            ("2M", Some(Duration::from_mins(2))),
            ("1H", Some(Duration::from_hours(1))),
            ("30S", Some(Duration::from_secs(30))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("500u", Some(Duration::from_micros(500))),
            ("9n", Some(Duration::from_nanos(9))),
            ("123456789S", None),
            ("", None),
            ("S", None),
            ("12", None),
            ("-1S", None),
            ("1ß", None),
        ] {
            assert_eq!(timeout(text), expected, "{text}");
        }
    }
}

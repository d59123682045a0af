//! The calls themselves: one connection per operation, as kubelet makes them, over a UNIX socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonnage_proto::csi;
use tonnage_proto::csi::controller_client::ControllerClient;
use tonnage_proto::csi::identity_client::IdentityClient;
use tonnage_proto::csi::node_client::NodeClient;
use tonnage_proto::csi::volume_capability::access_mode::Mode;
use tonnage_proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};

/// Connects to a socket; a refused connection is UNAVAILABLE, as in kubelet's events.
pub async fn connect(socket: &Path) -> Result<Channel, Status> {
    Endpoint::try_from(format!("unix://{}", socket.display()))
        .map_err(|error| Status::internal(error.to_string()))?
        .connect()
        .await
        .map_err(|error| Status::unavailable(format!("connect {}: {error}", socket.display())))
}

/// Whether kubelet believes after `code` that something may be left, and cleans up later; after any other
/// error it believes that nothing is.
pub const fn is_uncertain(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
    )
}

/// Asks for the node's capabilities twice, then publishes, all within `deadline`. A call that outlives it is dropped: the
/// server sees a cancelled stream.
pub async fn publish(
    socket: &Path,
    request: csi::NodePublishVolumeRequest,
    deadline: Duration,
) -> Result<(), Status> {
    let started = Instant::now();
    let call = async {
        let mut client = NodeClient::new(connect(socket).await?);
        for _ in 0..2 {
            client
                .node_get_capabilities(csi::NodeGetCapabilitiesRequest {})
                .await?;
        }
        let mut request = Request::new(request);
        request.set_timeout(deadline.saturating_sub(started.elapsed()));
        client.node_publish_volume(request).await.map(drop)
    };
    within(deadline, call).await
}

/// Unpublishes within `deadline`.
pub async fn unpublish(
    socket: &Path,
    volume_id: &str,
    target: &Path,
    deadline: Duration,
) -> Result<(), Status> {
    let mut request = Request::new(csi::NodeUnpublishVolumeRequest {
        volume_id: volume_id.to_owned(),
        target_path: target.to_string_lossy().into_owned(),
    });
    request.set_timeout(deadline);
    let call = async {
        let mut client = NodeClient::new(connect(socket).await?);
        client.node_unpublish_volume(request).await.map(drop)
    };
    within(deadline, call).await
}

/// Asks for a volume's figures: (bytes total, used, available).
pub async fn stats(
    socket: &Path,
    volume_id: &str,
    target: &Path,
) -> Result<(i64, i64, i64), Status> {
    let request = csi::NodeGetVolumeStatsRequest {
        volume_id: volume_id.to_owned(),
        volume_path: target.to_string_lossy().into_owned(),
        ..Default::default()
    };
    let answer = NodeClient::new(connect(socket).await?)
        .node_get_volume_stats(request)
        .await?
        .into_inner();
    answer
        .usage
        .iter()
        .find(|usage| usage.unit == csi::volume_usage::Unit::Bytes as i32)
        .map(|usage| (usage.total, usage.used, usage.available))
        .ok_or_else(|| Status::internal("the answer has no bytes"))
}

/// Whether the service says that it is ready.
pub async fn probe(socket: &Path) -> Result<bool, Status> {
    let answer = IdentityClient::new(connect(socket).await?)
        .probe(csi::ProbeRequest {})
        .await?;
    Ok(answer.into_inner().ready.unwrap_or(true))
}

/// external-provisioner's side: claims become volumes.
#[derive(Debug, Clone)]
pub struct Provisioner {
    socket: PathBuf,
}

impl Provisioner {
    /// Its deadline for every call.
    pub const DEADLINE: Duration = Duration::from_secs(10);

    /// A provisioner that speaks to `socket`.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Makes the volume of the claim `name` of a storage class with `parameters`.
    pub async fn create(
        &self,
        name: &str,
        parameters: &[(&str, &str)],
        required_bytes: i64,
    ) -> Result<csi::Volume, Status> {
        let request = csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(csi::CapacityRange {
                required_bytes,
                limit_bytes: 0,
            }),
            volume_capabilities: vec![csi::VolumeCapability {
                access_mode: Some(AccessMode {
                    mode: Mode::MultiNodeReaderOnly.into(),
                }),
                access_type: Some(AccessType::Mount(MountVolume::default())),
            }],
            parameters: parameters
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..Default::default()
        };
        let call = async {
            let mut client = ControllerClient::new(connect(&self.socket).await?);
            client.create_volume(request).await
        };
        within(Self::DEADLINE, call)
            .await?
            .into_inner()
            .volume
            .ok_or_else(|| Status::internal("the answer names no volume"))
    }

    /// Deletes a volume.
    pub async fn delete(&self, volume_id: &str) -> Result<(), Status> {
        let request = csi::DeleteVolumeRequest {
            volume_id: volume_id.to_owned(),
            ..Default::default()
        };
        let call = async {
            let mut client = ControllerClient::new(connect(&self.socket).await?);
            client.delete_volume(request).await.map(drop)
        };
        within(Self::DEADLINE, call).await
    }
}

async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match timeout(deadline, call).await {
        Ok(result) => result.map_err(as_kubelet_sees_it),
        Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
    }
}

/// A connection that broke is UNAVAILABLE to kubelet's gRPC library; this one calls it unknown or internal. Only an
/// error made here has a source: what a server says has none.
fn as_kubelet_sees_it(status: Status) -> Status {
    let is_local = std::error::Error::source(&status).is_some();
    if is_local && matches!(status.code(), Code::Unknown | Code::Internal) {
        return Status::unavailable(format!("the connection broke: {}", status.message()));
    }
    status
}

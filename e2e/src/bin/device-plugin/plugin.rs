//! The plugin's side of the API: devices that are always well. A container that is given some finds their names in its environment.

use std::collections::HashMap;

use tokio_stream::StreamExt as _;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};
use tonnage_proto::deviceplugin::device_plugin_server::DevicePlugin;
use tonnage_proto::deviceplugin::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerAllocateResponse, Device,
    DevicePluginOptions, Empty, ListAndWatchResponse,
};

/// Variable with the names of a container's devices, with commas between them.
pub(crate) const VARIABLE: &str = "DEVICES";

/// So and so many devices, by name.
#[derive(Debug, Clone)]
pub(crate) struct Plugin {
    devices: Vec<Device>,
}

impl Plugin {
    /// `gpu-0`, `gpu-1` and so on for `nvidia.com/gpu`.
    pub(crate) fn new(resource: &str, devices: usize) -> Self {
        let stem = resource.rsplit('/').next().unwrap_or(resource);
        let device = |number| Device {
            id: format!("{stem}-{number}"),
            health: "Healthy".to_owned(),
        };
        Self {
            devices: (0..devices).map(device).collect(),
        }
    }
}

#[tonic::async_trait]
impl DevicePlugin for Plugin {
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    /// All of them, and then nothing more until kubelet leaves.
    async fn list_and_watch(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<BoxStream<ListAndWatchResponse>>, Status> {
        let devices = self.devices.clone();
        let all = tokio_stream::once(Ok(ListAndWatchResponse { devices }));
        let all: BoxStream<ListAndWatchResponse> = Box::pin(all.chain(tokio_stream::pending()));
        Ok(Response::new(all))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let given = |container: ContainerAllocateRequest| ContainerAllocateResponse {
            envs: HashMap::from([(VARIABLE.to_owned(), container.devices_ids.join(","))]),
        };
        let containers = request.into_inner().container_requests.into_iter();
        Ok(Response::new(AllocateResponse {
            container_responses: containers.map(given).collect(),
        }))
    }
}

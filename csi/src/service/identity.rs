//! The Identity service. `Probe` says what is known already: it never waits for disk or network.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::{Request, Response, Status};
use tonnage_proto::csi::identity_server::Identity;
use tonnage_proto::csi::plugin_capability::{Service, Type, service};
use tonnage_proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, PluginCapability, ProbeRequest, ProbeResponse,
};

/// Who this plugin is.
#[derive(Debug, Clone)]
pub struct IdentityService {
    name: String,
    ready: Arc<AtomicBool>,
}

impl IdentityService {
    /// The plugin `name`; `ready` says whether it can work yet.
    pub fn new(name: impl Into<String>, ready: Arc<AtomicBool>) -> Self {
        Self {
            name: name.into(),
            ready,
        }
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: HashMap::new(),
        }))
    }

    /// The plugin's, not the process's: the node service's socket, too, says that there is a controller.
    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let controller = Type::Service(Service {
            r#type: service::Type::ControllerService.into(),
        });
        Ok(Response::new(GetPluginCapabilitiesResponse {
            capabilities: vec![PluginCapability {
                r#type: Some(controller),
            }],
        }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse {
            ready: Some(self.ready.load(Ordering::Acquire)),
        }))
    }
}

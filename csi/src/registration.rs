//! Registration with kubelet: kubelet watches its `plugins_registry` for sockets and asks each who it is (plugin
//! registration API v1). The socket goes when the driver ends, so that kubelet stops calling it.

use std::path::{Path, PathBuf};

use tonic::{Request, Response, Status};
use tonnage_proto::registration::registration_server::Registration;
use tonnage_proto::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};

/// CSI versions that kubelet's check knows.
const VERSIONS: [&str; 1] = ["1.0.0"];

/// Says to kubelet where the CSI socket is.
#[derive(Debug, Clone)]
pub struct RegistrationService {
    name: String,
    endpoint: PathBuf,
}

impl RegistrationService {
    /// The driver `name` at the socket `endpoint`, as kubelet sees it.
    pub fn new(name: impl Into<String>, endpoint: &Path) -> Self {
        Self {
            name: name.into(),
            endpoint: endpoint.to_path_buf(),
        }
    }
}

/// The registration socket of a driver in kubelet's directory for them.
pub fn socket_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}-reg.sock"))
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.name.clone(),
            endpoint: self.endpoint.to_string_lossy().into_owned(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("registered with kubelet");
        } else {
            // Kubelet asks again when it starts anew or the socket does; a refused driver works for those that call it.
            tracing::error!(
                error = status.error,
                "kubelet refuses to register the driver"
            );
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

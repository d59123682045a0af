//! Generated gRPC types: the Container Storage Interface 1.13.0 (`csi.v1`) and kubelet's plugin
//! registration API. The interface files are vendored unchanged in `proto/`; this crate exists so that
//! the lints that generated code sets off stay off here only.

/// Container Storage Interface 1.13.0, package `csi.v1`.
#[allow(clippy::all, clippy::pedantic)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// Kubelet's plugin registration API, `k8s.io/kubelet/pkg/apis/pluginregistration/v1`.
#[allow(clippy::all, clippy::pedantic)]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

//! Generated gRPC types: the Container Storage Interface 1.13.0 (`csi.v1`), kubelet's plugin registration API and
//! what is read of its PodResources API. The interface files of the former two are vendored unchanged in `proto/`; this
//! crate exists so that the lints that generated code sets off stay off here only.

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

/// Kubelet's PodResources API, `k8s.io/kubelet/pkg/apis/podresources/v1`: the part that is read here.
#[allow(clippy::all, clippy::pedantic)]
pub mod podresources {
    tonic::include_proto!("v1");
}

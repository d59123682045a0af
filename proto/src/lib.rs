//! Generated gRPC types: the Container Storage Interface 1.13.0 (`csi.v1`), kubelet's plugin registration API,
//! what is read of its PodResources API, and what tests speak of its device plugin API. The interface files of the former two are
//! vendored unchanged in `proto/`; this crate exists so that the lints that generated code sets off stay off here only.

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

/// Kubelet's device plugin API, `k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1`: the part that the tests' device plugin speaks.
#[allow(clippy::all, clippy::pedantic)]
pub mod deviceplugin {
    tonic::include_proto!("v1beta1");
}

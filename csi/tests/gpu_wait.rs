//! GPUs that wait, against a server that speaks as kubelet's `PodResources` API does, over a socket.

use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonnage_cache::digest::Digest;
use tonnage_cache::report::{Phase, Report};
use tonnage_csi::govern::gpu::{GpuSeconds, GpuWait};
use tonnage_csi::loads::{Load, Observer as _};
use tonnage_csi::server::{Routes, Socket};
use tonnage_csi::volume::PodInfo;
use tonnage_proto::podresources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use tonnage_proto::podresources::{
    ContainerDevices, ContainerResources, ListPodResourcesRequest, ListPodResourcesResponse,
    PodResources,
};

/// Pod `server-0` of namespace `team` has two GPUs.
#[derive(Debug, Clone, Copy)]
struct Kubelet;

#[tonic::async_trait]
impl PodResourcesLister for Kubelet {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        let devices = |resource: &str, ids: &[&str]| ContainerDevices {
            resource_name: resource.to_owned(),
            device_ids: ids.iter().map(ToString::to_string).collect(),
        };
        let pod = PodResources {
            name: "server-0".to_owned(),
            namespace: "team".to_owned(),
            containers: vec![ContainerResources {
                name: "server".to_owned(),
                devices: vec![
                    devices("rdma/hca", &["mlx5_0"]),
                    devices("nvidia.com/gpu", &["GPU-1", "GPU-2"]),
                ],
                dynamic_resources: Vec::new(),
            }],
        };
        Ok(Response::new(ListPodResourcesResponse {
            pod_resources: vec![pod],
        }))
    }
}

fn load(pod: &str, seconds: u64) -> Load {
    let mut report = Report::default();
    report.add_phase(Phase::Transfer, Duration::from_secs(seconds));
    Load {
        ended_millis: 0,
        volume: "csi-1".to_owned(),
        pod: Some(PodInfo {
            name: pod.to_owned(),
            namespace: "team".to_owned(),
            uid: "3f2a".to_owned(),
            service_account: "default".to_owned(),
        }),
        source: "models".to_owned(),
        path: String::new(),
        revision: Digest::of(b"r"),
        digest: Digest::of(b"m"),
        report,
    }
}

#[tokio::test]
async fn kubelet_says_how_many_gpus_waited() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubelet.sock");
    let socket = Socket::bind(&path).await.unwrap();
    let routes = Routes::new().with(PodResourcesListerServer::new(Kubelet));
    let seconds = GpuSeconds::default();
    let (wait, count) = GpuWait::new(&path, seconds.clone());
    wait.load_ended(&load("server-0", 30));
    wait.load_ended(&load("server-0", 12));
    wait.load_ended(&load("without-gpus", 100));
    // The queue ends here, and the count with it.
    drop(wait);
    tokio::select! {
        () = socket.serve(routes, CancellationToken::new()) => {}
        () = count.run(CancellationToken::new()) => {}
    }
    let mut registry = Registry::default();
    seconds.register(registry.sub_registry_with_prefix("tonnage"));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let samples: Vec<&str> = text.lines().filter(|it| !it.starts_with('#')).collect();
    assert_eq!(
        samples,
        [r#"tonnage_gpu_wait_seconds_total{namespace="team",source="models"} 84.0"#]
    );
}

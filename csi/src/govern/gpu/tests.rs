//! What is counted, and what happens without kubelet; `csi/tests/gpu_wait.rs` has one that answers at once.

use std::collections::VecDeque;

use prometheus_client::encoding::text::encode;
use tokio::net::UnixListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonnage_cache::report::{Phase, Report};
use tonnage_proto::podresources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use tonnage_proto::podresources::{
    ClaimResource, ContainerResources, DynamicResource, ListPodResourcesResponse,
};

use super::*;

/// The load of pod `server-0` of namespace `team`.
fn load(seconds: u64) -> Load {
    let mut report = Report::default();
    report.add_phase(Phase::Transfer, Duration::from_secs(seconds));
    Load::of_a_pod(0, report)
}

/// Pod `server-0` with that many claimed GPUs.
fn server_0(gpus: usize) -> PodResources {
    let device = |number| ClaimResource {
        driver_name: "gpu.nvidia.com".to_owned(),
        pool_name: "node-1".to_owned(),
        device_name: format!("gpu-{number}"),
    };
    let claim = DynamicResource {
        claim_name: "claim".to_owned(),
        claim_namespace: "team".to_owned(),
        claim_resources: (0..gpus).map(device).collect(),
    };
    PodResources {
        name: "server-0".to_owned(),
        namespace: "team".to_owned(),
        containers: vec![ContainerResources {
            name: "server".to_owned(),
            devices: Vec::new(),
            dynamic_resources: vec![claim],
        }],
    }
}

fn samples(seconds: &GpuSeconds) -> Vec<String> {
    let mut registry = Registry::default();
    seconds.register(registry.sub_registry_with_prefix("tonnage"));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// Gives one answer after the other; where there is none, it is about to start.
#[derive(Debug)]
struct Kubelet(Mutex<VecDeque<Option<Vec<PodResources>>>>);

#[tonic::async_trait]
impl PodResourcesLister for Kubelet {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        let answer = self.0.lock().unwrap().pop_front().flatten();
        let pod_resources = answer.ok_or_else(|| Status::unavailable("it is about to start"))?;
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }
}

/// What one load of 30 s has added when kubelet has given two answers: the second one because nothing more is to come.
async fn counted(answers: [Option<Vec<PodResources>>; 2]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kubelet.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let incoming = futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let kubelet = PodResourcesListerServer::new(Kubelet(Mutex::new(answers.into())));
    let served = Server::builder().serve_with_incoming(kubelet, incoming);
    let seconds = GpuSeconds::default();
    let (wait, count) = GpuWait::new(&socket, seconds.clone());
    wait.load_ended(&load(30));
    drop(wait);
    tokio::select! {
        ended = served => panic!("kubelet has ended: {ended:?}"),
        () = count.run(CancellationToken::new()) => {}
    }
    samples(&seconds)
}

#[tokio::test]
async fn gpus_of_a_claim_that_is_prepared_after_the_load_are_counted_with_the_next_answer() {
    let answers = [Some(vec![server_0(0)]), Some(vec![server_0(2)])];
    assert_eq!(
        counted(answers).await,
        [r#"tonnage_gpu_wait_seconds_total{namespace="team",source="models"} 60.0"#]
    );
}

#[tokio::test]
async fn a_load_is_counted_once_whatever_the_next_answer_is() {
    let answers = [Some(vec![server_0(1)]), Some(vec![server_0(2)])];
    assert_eq!(
        counted(answers).await,
        [r#"tonnage_gpu_wait_seconds_total{namespace="team",source="models"} 30.0"#]
    );
}

#[tokio::test]
async fn a_kubelet_that_fails_at_first_costs_no_load() {
    let answers = [None, Some(vec![server_0(2)])];
    assert_eq!(
        counted(answers).await,
        [r#"tonnage_gpu_wait_seconds_total{namespace="team",source="models"} 60.0"#]
    );
}

#[tokio::test]
async fn a_pod_without_gpus_adds_nothing() {
    let answers = [Some(vec![server_0(0)]), Some(Vec::new())];
    assert!(counted(answers).await.is_empty());
}

#[tokio::test]
async fn without_a_socket_nothing_is_counted_and_nobody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let seconds = GpuSeconds::default();
    let (wait, count) = GpuWait::new(&directory.path().join("kubelet.sock"), seconds.clone());
    wait.load_ended(&load(30));
    drop(wait);
    count.run(CancellationToken::new()).await;
    assert!(samples(&seconds).is_empty());
}

#[tokio::test]
async fn a_socket_that_nobody_serves_costs_the_loads_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kubelet.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let seconds = GpuSeconds::default();
    let (wait, count) = GpuWait::new(&socket, seconds.clone());
    wait.load_ended(&load(30));
    drop(wait);
    count.run(CancellationToken::new()).await;
    assert!(samples(&seconds).is_empty());
}

#[tokio::test]
async fn it_ends_when_it_is_to_although_loads_wait() {
    let seconds = GpuSeconds::default();
    let (wait, count) = GpuWait::new(Path::new("/nowhere/kubelet.sock"), seconds.clone());
    wait.load_ended(&load(30));
    let stop = CancellationToken::new();
    stop.cancel();
    count.run(stop).await;
    assert!(samples(&seconds).is_empty());
}

#[test]
fn the_thousand_and_first_pair_is_counted_as_other() {
    let seconds = GpuSeconds::default();
    for number in 0..=MOST_PAIRS {
        seconds.add(&format!("team-{number}"), "models", 1.0);
    }
    seconds.add("team-0", "models", 1.0);
    let shown = samples(&seconds);
    assert_eq!(shown.len(), MOST_PAIRS + 1);
    for line in [
        r#"tonnage_gpu_wait_seconds_total{namespace="other",source="models"} 1.0"#,
        r#"tonnage_gpu_wait_seconds_total{namespace="team-0",source="models"} 2.0"#,
    ] {
        assert!(shown.iter().any(|it| it == line), "{line}");
    }
}

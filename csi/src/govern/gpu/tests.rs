//! What is counted, and what happens without kubelet; `csi/tests/gpu_wait.rs` has one that answers.

use prometheus_client::encoding::text::encode;
use tokio::net::UnixListener;
use tonnage_cache::report::{Phase, Report};
use tonnage_proto::podresources::{
    ClaimResource, ContainerDevices, ContainerResources, DynamicResource,
};

use super::*;

fn devices(resource: &str, ids: &[&str]) -> ContainerDevices {
    ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: ids.iter().map(ToString::to_string).collect(),
    }
}

fn claim(driver: &str, names: &[&str]) -> DynamicResource {
    let device = |name: &&str| ClaimResource {
        driver_name: driver.to_owned(),
        pool_name: "node-1".to_owned(),
        device_name: (*name).to_owned(),
    };
    DynamicResource {
        claim_name: "claim".to_owned(),
        claim_namespace: "team".to_owned(),
        claim_resources: names.iter().map(device).collect(),
    }
}

fn container(devices: Vec<ContainerDevices>, claims: Vec<DynamicResource>) -> ContainerResources {
    ContainerResources {
        name: "c".to_owned(),
        devices,
        dynamic_resources: claims,
    }
}

fn pod(name: &str, containers: Vec<ContainerResources>) -> PodResources {
    PodResources {
        name: name.to_owned(),
        namespace: "team".to_owned(),
        containers,
    }
}

/// Two GPUs, and something else.
fn server_0() -> PodResources {
    let nics = devices("rdma/hca", &["mlx5_0"]);
    let gpus = devices("nvidia.com/gpu", &["GPU-1", "GPU-2"]);
    pod("server-0", vec![container(vec![nics, gpus], Vec::new())])
}

/// The load of pod `server-0` of namespace `team`.
fn load(seconds: u64) -> Load {
    let mut report = Report::default();
    report.add_phase(Phase::Transfer, Duration::from_secs(seconds));
    Load::of_a_pod(0, report)
}

fn samples(seconds: &GpuSeconds) -> Vec<String> {
    let mut registry = Registry::default();
    seconds.register(registry.sub_registry_with_prefix("tonnage"));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[test]
fn gpus_are_counted_once_by_whatever_way_a_pod_has_them() {
    for (containers, wanted) in [
        (Vec::new(), 0),
        (server_0().containers, 2),
        (
            // Two containers share one.
            vec![
                container(vec![devices("amd.com/gpu", &["0", "1"])], Vec::new()),
                container(vec![devices("amd.com/gpu", &["1"])], Vec::new()),
            ],
            2,
        ),
        (
            vec![container(
                vec![devices("nvidia.com/mig-1g.10gb", &["MIG-1"])],
                vec![
                    claim("gpu.nvidia.com", &["gpu-0", "gpu-1"]),
                    claim("nic.example.com", &["a"]),
                ],
            )],
            3,
        ),
    ] {
        assert_eq!(gpus(&pod("p", containers)), wanted);
    }
}

#[test]
fn what_is_a_gpu_is_in_the_words_of_its_name() {
    for name in [
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "nvidia.com/mig-3g.40gb",
        "amd.com/gpu",
        "gpu.intel.com/i915",
        "gpu.nvidia.com",
    ] {
        assert!(is_gpu(name), "{name}");
    }
    for name in [
        "rdma/hca",
        "example.com/gpus-of-nobody",
        "migration.io/x",
        "cpu",
        "",
    ] {
        assert!(!is_gpu(name), "{name}");
    }
}

#[test]
fn a_load_counts_its_time_for_each_gpu_of_its_pod() {
    let seconds = GpuSeconds::default();
    let (_, count) = GpuWait::new(Path::new("/nowhere"), seconds.clone());
    let waited = |pod: &str, seconds| Waited {
        namespace: "team".to_owned(),
        pod: pod.to_owned(),
        source: "models".to_owned(),
        time: Duration::from_secs(seconds),
    };
    let loads = [
        waited("server-0", 30),
        waited("server-0", 12),
        waited("gone", 5),
    ];
    count.count(&loads, &[pod("other", Vec::new()), server_0()]);
    assert_eq!(
        samples(&seconds),
        [r#"tonnage_gpu_wait_seconds_total{namespace="team",source="models"} 84.0"#]
    );
}

#[tokio::test]
async fn without_a_socket_nothing_is_counted_and_nothing_waits() {
    let directory = tempfile::tempdir().unwrap();
    let seconds = GpuSeconds::default();
    let (wait, count) = GpuWait::new(&directory.path().join("kubelet.sock"), seconds.clone());
    count.run(CancellationToken::new()).await;
    wait.load_ended(&load(30));
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

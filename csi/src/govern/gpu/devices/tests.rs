//! Which names are of GPUs, and that each GPU of a pod counts once.

use proptest::collection::vec;
use proptest::prelude::*;
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

fn pod(containers: Vec<ContainerResources>) -> PodResources {
    PodResources {
        name: "server-0".to_owned(),
        namespace: "team".to_owned(),
        containers,
    }
}

#[test]
fn a_pod_without_devices_has_no_gpu() {
    assert_eq!(gpus(&pod(Vec::new())), 0);
    let nics = devices("rdma/hca", &["mlx5_0", "mlx5_1"]);
    assert_eq!(gpus(&pod(vec![container(vec![nics], Vec::new())])), 0);
}

#[test]
fn what_two_containers_share_is_one_gpu() {
    let containers = vec![
        container(vec![devices("amd.com/gpu", &["0", "1"])], Vec::new()),
        container(vec![devices("amd.com/gpu", &["1"])], Vec::new()),
    ];
    assert_eq!(gpus(&pod(containers)), 2);
}

/// kubelet lists the devices of a resource once for each NUMA node.
#[test]
fn gpus_of_two_numa_nodes_add_up() {
    let near = devices("nvidia.com/gpu", &["GPU-1", "GPU-2"]);
    let far = devices("nvidia.com/gpu", &["GPU-7"]);
    assert_eq!(gpus(&pod(vec![container(vec![near, far], Vec::new())])), 3);
}

#[test]
fn shares_of_one_gpu_are_one_gpu() {
    let shares = devices(
        "nvidia.com/gpu.shared",
        &["GPU-1::0", "GPU-1::3", "GPU-2::1"],
    );
    assert_eq!(gpus(&pod(vec![container(vec![shares], Vec::new())])), 2);
}

#[test]
fn parts_and_claimed_devices_count_one_each() {
    let parts = devices("nvidia.com/mig-1g.10gb", &["MIG-1"]);
    let claims = vec![
        claim("gpu.nvidia.com", &["gpu-0", "gpu-1"]),
        claim("nic.example.com", &["a"]),
    ];
    assert_eq!(gpus(&pod(vec![container(vec![parts], claims)])), 3);
}

#[test]
fn what_is_a_gpu_is_in_the_words_of_its_name() {
    for name in [
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "nvidia.com/mig-3g.40gb",
        "amd.com/gpu",
        "amd.com/cpx_nps4",
        "gpu.intel.com/i915",
        "gpu.nvidia.com",
        "GPU.example.com",
    ] {
        assert!(is_gpu(name), "{name}");
    }
    for name in [
        "rdma/hca",
        "google.com/tpu",
        "aliyun.com/gpu-mem",
        "gpu.intel.com/i915_monitoring",
        "nvidia.com/gpumem",
        "example.com/gpus-of-nobody",
        "migration.io/x",
        "cpu",
        "",
    ] {
        assert!(!is_gpu(name), "{name}");
    }
}

/// A device of a container: which resource, which device of it, which share of that.
fn held() -> impl Strategy<Value = (usize, u8, Option<u8>)> {
    (0..4_usize, 0..6_u8, proptest::option::of(0..3_u8))
}

const RESOURCES: [&str; 4] = [
    "nvidia.com/gpu",
    "nvidia.com/mig-1g.10gb",
    "rdma/hca",
    "aliyun.com/gpu-mem",
];

proptest! {
    #[test]
    fn each_gpu_of_a_pod_counts_once_however_it_is_listed(listed in vec(vec(held(), 0..12), 0..5)) {
        let mut wanted: Vec<(usize, u8)> = listed
            .iter()
            .flatten()
            .filter(|(resource, ..)| *resource < 2)
            .map(|(resource, device, _)| (*resource, *device))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let of = |list: &Vec<(usize, u8, Option<u8>)>| {
            let each = list.iter().map(|(resource, device, share)| {
                let share = share.map_or_else(String::new, |share| format!("::{share}"));
                devices(RESOURCES[*resource], &[&format!("D-{device}{share}")])
            });
            container(each.collect(), Vec::new())
        };
        prop_assert_eq!(gpus(&pod(listed.iter().map(of).collect())), wanted.len());
    }

    #[test]
    fn no_name_of_a_device_or_resource_is_too_strange_to_be_counted(resource in "(nvidia\\.com/gpu[.-])?.{0,20}", ids in vec(".{0,40}", 0..8)) {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let counted = gpus(&pod(vec![container(vec![devices(&resource, &ids)], Vec::new())]));
        prop_assert!(counted <= ids.len());
        prop_assert_eq!(counted > 0, is_gpu(&resource) && !ids.is_empty());
    }
}

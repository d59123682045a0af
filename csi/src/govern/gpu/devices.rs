//! How many GPUs a pod has, by what kubelet lists of its containers. Nobody says which devices are GPUs: their names do.
//!
//! | what | counts |
//! |---|---|
//! | `nvidia.com/gpu`, `nvidia.com/gpu.shared`, `amd.com/gpu`, `gpu.intel.com/xe` | each device; shares of one (`GPU-2f…::0`, `GPU-2f…::1`) together as one |
//! | `nvidia.com/mig-1g.10gb`, `amd.com/cpx_nps4` | each part of a GPU as one: it waits like a whole one |
//! | devices of claims (`ResourceClaim`) of `gpu.nvidia.com`, `gpu.amd.com`, `gpu.intel.com` | each device |
//! | `aliyun.com/gpu-mem`, `gpu.intel.com/i915_monitoring` | nothing: they measure a GPU, or watch it |
//! | TPUs, Gaudis, network cards | nothing |

use std::collections::HashSet;

use tonnage_proto::podresources::PodResources;

/// Words of the names of GPUs and of their parts: NVIDIA's MIG, and the ways to partition one of AMD's.
const GPUS: [&str; 7] = ["gpu", "mig", "spx", "dpx", "tpx", "qpx", "cpx"];
/// Words of names that have such a word and are none.
const NONE: [&str; 5] = ["mem", "memory", "core", "cores", "monitoring"];
/// Before the number of a share, as NVIDIA's device plugin writes it.
const SHARE: &str = "::";

/// How many GPUs the containers of a pod have together: containers may have one in common.
pub(super) fn gpus(pod: &PodResources) -> usize {
    let mut found = HashSet::new();
    for container in &pod.containers {
        for devices in &container.devices {
            if is_gpu(&devices.resource_name) {
                let ids = devices.device_ids.iter().map(|id| whole(id));
                found.extend(ids.map(|id| (devices.resource_name.as_str(), "", id)));
            }
        }
        let claims = container.dynamic_resources.iter();
        for device in claims.flat_map(|claim| &claim.claim_resources) {
            if is_gpu(&device.driver_name) {
                found.insert((
                    device.driver_name.as_str(),
                    device.pool_name.as_str(),
                    device.device_name.as_str(),
                ));
            }
        }
    }
    found.len()
}

/// Whether a resource or a driver is of GPUs or of parts of them.
fn is_gpu(name: &str) -> bool {
    let has = |known: &[&str]| {
        let mut words = name.split(|it: char| !it.is_ascii_alphanumeric());
        words.any(|word| known.iter().any(|it| it.eq_ignore_ascii_case(word)))
    };
    has(&GPUS) && !has(&NONE)
}

/// The GPU that a device is, or is a share of.
fn whole(id: &str) -> &str {
    id.split_once(SHARE).map_or(id, |(gpu, _)| gpu)
}

#[cfg(test)]
mod tests;

//! How long GPUs waited for weights: of each load of a pod, its time multiplied by the GPUs of the pod. What devices a pod has is
//! kubelet's to say, over the socket of its `PodResources` API; where there is no such socket nothing is counted.
//!
//! Nobody waits for it: a load is put on a queue, and all that are on it are looked up with one call. Volumes of one pod that
//! load at the same time count each; a pod's GPUs are those of all its containers, each once.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Endpoint;
use tonnage_cache::error::chain;
use tonnage_proto::podresources::pod_resources_lister_client::PodResourcesListerClient;
use tonnage_proto::podresources::{ListPodResourcesRequest, PodResources};

use crate::loads::{Load, Observer};

/// The socket, below kubelet's directory.
pub const SOCKET: &str = "pod-resources/kubelet.sock";

/// Most pairs of namespace and source.
const MOST_PAIRS: usize = 1_000;
/// Namespace of all further ones.
const OTHER: &str = "other";
/// Loads that may wait to be counted; further ones are not.
const QUEUE: usize = 1_024;
/// Longest wait for kubelet.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer: about 30 times what a full node has to say.
const ANSWER_MAX: usize = 16 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    namespace: String,
    source: String,
}

/// The metric.
#[derive(Debug, Clone, Default)]
pub struct GpuSeconds {
    family: Family<Labels, Counter<f64, AtomicU64>>,
    known: Arc<Mutex<HashSet<Labels>>>,
}

impl GpuSeconds {
    /// Adds the metric to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "gpu_wait",
            "Time that GPUs waited for loads: time of a load multiplied by the GPUs of its pod",
            Unit::Seconds,
            self.family.clone(),
        );
    }

    fn add(&self, namespace: &str, source: &str, seconds: f64) {
        let mut labels = Labels {
            namespace: namespace.to_owned(),
            source: source.to_owned(),
        };
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() < MOST_PAIRS {
                known.insert(labels.clone());
            } else if !known.contains(&labels) {
                OTHER.clone_into(&mut labels.namespace);
            }
        }
        self.family.get_or_create(&labels).inc_by(seconds);
    }
}

/// A load that a pod waited for.
#[derive(Debug)]
struct Waited {
    namespace: String,
    pod: String,
    source: String,
    time: Duration,
}

/// Hears of loads.
#[derive(Debug)]
pub struct GpuWait {
    queue: Sender<Waited>,
}

/// Looks pods up and counts.
#[derive(Debug)]
pub struct GpuCount {
    queue: Receiver<Waited>,
    socket: PathBuf,
    seconds: GpuSeconds,
    /// Whether the last call failed, so that an outage is told once.
    fails: bool,
}

impl GpuWait {
    /// An observer, and what counts for it, with kubelet's socket.
    pub fn new(socket: &Path, seconds: GpuSeconds) -> (Self, GpuCount) {
        let (sender, queue) = channel(QUEUE);
        let count = GpuCount {
            queue,
            socket: socket.to_path_buf(),
            seconds,
            fails: false,
        };
        (Self { queue: sender }, count)
    }
}

impl Observer for GpuWait {
    fn load_ended(&self, load: &Load) {
        let Some(pod) = &load.pod else { return };
        let waited = Waited {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            source: load.source.clone(),
            time: load.total(),
        };
        // Closed where there is no socket; full where kubelet is slow.
        if let Err(error) = self.queue.try_send(waited) {
            tracing::trace!(%error, "the GPUs of a load are not counted");
        }
    }

    fn call_ended(&self, _rpc: &'static str, _code: Code, _time: Duration) {}

    fn published(&self, _targets: usize) {}
}

impl GpuCount {
    /// Counts until `stop`; not at all if there is no socket.
    pub async fn run(mut self, stop: CancellationToken) {
        if tokio::fs::metadata(&self.socket).await.is_err() {
            tracing::info!(
                socket = %self.socket.display(),
                "kubelet's PodResources socket is not there: the time that GPUs wait is not counted"
            );
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        let mut loads = Vec::new();
        while self.queue.recv_many(&mut loads, QUEUE).await > 0 {
            match tokio::time::timeout(PATIENCE, self.list()).await {
                Ok(Ok(pods)) => {
                    self.fails = false;
                    self.count(&loads, &pods);
                }
                Ok(Err(error)) => self.complain(&error),
                Err(_) => self.complain("it does not answer"),
            }
            loads.clear();
        }
    }

    /// A connection for each call: they are seldom, and kubelet may be another one by then.
    async fn list(&self) -> Result<Vec<PodResources>, String> {
        let endpoint = Endpoint::try_from(format!("unix://{}", self.socket.display()));
        let endpoint = endpoint.map_err(|error| chain(&error))?;
        let channel = endpoint.connect().await.map_err(|error| chain(&error))?;
        let mut client =
            PodResourcesListerClient::new(channel).max_decoding_message_size(ANSWER_MAX);
        let answer = client.list(ListPodResourcesRequest {}).await;
        let answer =
            answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
        Ok(answer.into_inner().pod_resources)
    }

    fn count(&self, loads: &[Waited], pods: &[PodResources]) {
        let gpus: HashMap<(&str, &str), usize> = pods
            .iter()
            .map(|pod| ((pod.namespace.as_str(), pod.name.as_str()), gpus(pod)))
            .collect();
        for load in loads {
            let gpus = gpus.get(&(load.namespace.as_str(), load.pod.as_str()));
            let gpus = gpus.copied().unwrap_or(0);
            if gpus > 0 {
                #[expect(clippy::cast_precision_loss, reason = "a handful of GPUs")]
                let seconds = load.time.as_secs_f64() * gpus as f64;
                self.seconds.add(&load.namespace, &load.source, seconds);
            }
        }
    }

    fn complain(&mut self, error: &str) {
        if std::mem::replace(&mut self.fails, true) {
            tracing::debug!(error, "kubelet does not say which GPUs pods have");
        } else {
            tracing::warn!(
                error,
                "kubelet does not say which GPUs pods have; loads meanwhile are not counted"
            );
        }
    }
}

/// How many GPUs the containers of a pod have together.
fn gpus(pod: &PodResources) -> usize {
    let mut found = HashSet::new();
    for container in &pod.containers {
        for devices in &container.devices {
            if is_gpu(&devices.resource_name) {
                let ids = devices.device_ids.iter();
                found.extend(ids.map(|id| (devices.resource_name.as_str(), "", id.as_str())));
            }
        }
        let claims = container.dynamic_resources.iter();
        for device in claims.flat_map(|claim| &claim.claim_resources) {
            if is_gpu(&device.driver_name) {
                let pool = device.pool_name.as_str();
                found.insert((
                    device.driver_name.as_str(),
                    pool,
                    device.device_name.as_str(),
                ));
            }
        }
    }
    found.len()
}

/// Whether a resource or driver is of GPUs, or of parts of them: `nvidia.com/gpu`, `amd.com/gpu`, `gpu.intel.com/i915`,
/// `nvidia.com/mig-1g.10gb`, `gpu.nvidia.com`.
fn is_gpu(name: &str) -> bool {
    let mut words = name.split(|it: char| !it.is_ascii_alphanumeric());
    words.any(|word| word.eq_ignore_ascii_case("gpu") || word.eq_ignore_ascii_case("mig"))
}

#[cfg(test)]
mod tests;

//! How long GPUs waited for weights: of each load of a pod, its time multiplied by the GPUs of the pod. What devices a pod has is
//! kubelet's to say, over the socket of its `PodResources` API; while there is no such socket nothing is counted.
//!
//! Nobody waits for it: a load is put on a queue, and all that are on it are looked up with one call (`looks` says when, `devices`
//! what of the answer is a GPU). The call is `List`, which every kubelet answers since Kubernetes 1.28; `Get`, of one pod, is there
//! by default from 1.34 on only, and would be a call for each load. A load counts once, however often kubelet has called for it. Volumes of
//! one pod that load at the same time count each; a pod's GPUs are those of all its containers, each once, but for init containers that
//! end: of them kubelet lists nothing.

mod devices;
mod looks;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Endpoint;
use tonnage_cache::error::chain;
use tonnage_proto::podresources::pod_resources_lister_client::PodResourcesListerClient;
use tonnage_proto::podresources::{ListPodResourcesRequest, PodResources};

use crate::loads::{Load, Observer};
use looks::{Looks, Waited};

/// The socket, below kubelet's directory.
pub const SOCKET: &str = "pod-resources/kubelet.sock";

/// Most pairs of namespace and source.
const MOST_PAIRS: usize = 1_000;
/// Namespace of all further ones.
const OTHER: &str = "other";
/// Loads that may wait to be looked at; further ones are not counted.
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
    looks: Looks,
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
            looks: Looks::default(),
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
        // Full where kubelet is slow; closed where nobody counts any more.
        if let Err(error) = self.queue.try_send(waited) {
            tracing::trace!(%error, "the GPUs of a load are not counted");
        }
    }

    fn call_ended(&self, _rpc: &'static str, _code: Code, _time: Duration) {}

    fn published(&self, _targets: usize) {}
}

impl GpuCount {
    /// Counts until `stop`, or until there is nobody who could tell of a load.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        let mut ended = Vec::new();
        loop {
            let open = tokio::select! {
                count = self.queue.recv_many(&mut ended, QUEUE) => count > 0,
                () = until(self.looks.due()) => true,
            };
            let now = Instant::now();
            self.looks.add(ended.drain(..), now);
            // At the end all that still wait are looked up once more.
            if self.looks.due().is_some_and(|due| due <= now || !open) {
                self.look().await;
            }
            if !open {
                return;
            }
        }
    }

    async fn look(&mut self) {
        let answer = tokio::time::timeout(PATIENCE, self.list()).await;
        let answer = answer.unwrap_or_else(|_| Err("it does not answer".to_owned()));
        match &answer {
            Ok(_) => self.fails = false,
            Err(error) => self.complain(error),
        }
        let pods = answer.unwrap_or_default();
        for (load, gpus) in self.looks.looked(&pods, Instant::now()) {
            let seconds = load.time.saturating_mul(gpus).as_secs_f64();
            self.seconds.add(&load.namespace, &load.source, seconds);
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

    fn complain(&mut self, error: &str) {
        if std::mem::replace(&mut self.fails, true) {
            tracing::debug!(error, "kubelet does not say which GPUs pods have");
        } else {
            tracing::warn!(
                error,
                socket = %self.socket.display(),
                "kubelet does not say which GPUs pods have; what they wait is not counted unless it does within minutes"
            );
        }
    }
}

/// Waits until then, or for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

//! A node without a kernel: the real gRPC server on a temporary socket, a real cache, sources in memory and on disk, and a
//! mounter that remembers. It can be restarted, with or without a reboot.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonnage_cache::cache::{Cache, Config};
use tonnage_cache::clock::{Clock, SystemClock};
use tonnage_cache::gate::{Gate, OpenGate};
use tonnage_cache::source::Source;
use tonnage_cache::source::location::Location;
use tonnage_cache::store::Env;
use tonnage_csi::crd;
use tonnage_csi::govern::audit::Audit;
use tonnage_csi::govern::cost::Cost;
use tonnage_csi::govern::gate::{self, EgressGate};
use tonnage_csi::govern::quotas::Quotas;
use tonnage_csi::govern::rules::Rulebook;
use tonnage_csi::grant::OpenGrants;
use tonnage_csi::identity::Principal;
use tonnage_csi::loads::{Journal, Load, Observer};
use tonnage_csi::mount::FakeMounter;
use tonnage_csi::policy::{Authorized, Authorizer, Question, Refusal};
use tonnage_csi::publish::{Holds, Parts, Publisher};
use tonnage_csi::server::{Routes, Socket};
use tonnage_csi::service::{IdentityService, NodeFacts, NodeService};
use tonnage_csi::sources::Sources;
use tonnage_csi::target::KubeletRoot;
use tonnage_csi::upkeep::Upkeep;
use tonnage_proto::csi::identity_server::IdentityServer;
use tonnage_proto::csi::node_client::NodeClient;
use tonnage_proto::csi::node_server::NodeServer;
use tonnage_proto::csi::volume_capability::access_mode::Mode;
use tonnage_proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use tonnage_proto::csi::{
    NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
    VolumeCapability, VolumeUsage,
};

use crate::granter::Granter;
use crate::paper::Paper;
use crate::source::HeldSource;

/// Says yes until it is told what else to say, believes a pod its namespace, and counts how often it was asked.
#[derive(Debug, Default)]
pub(crate) struct Doorman {
    answer: Mutex<Option<Refusal>>,
    object: Mutex<Option<Arc<crd::Source>>>,
    asked: Mutex<u64>,
}

impl Doorman {
    pub(crate) fn refuse(&self, refusal: Refusal) {
        *self.answer.lock().unwrap() = Some(refusal);
    }

    /// From now on it is this object that says yes.
    pub(crate) fn go_by(&self, object: Arc<crd::Source>) {
        *self.object.lock().unwrap() = Some(object);
    }

    pub(crate) fn asked(&self) -> u64 {
        *self.asked.lock().unwrap()
    }
}

impl Authorizer for Doorman {
    fn authorize<'a>(
        &'a self,
        question: &'a Question<'a>,
    ) -> BoxFuture<'a, Result<Authorized, Refusal>> {
        *self.asked.lock().unwrap() += 1;
        let refusal = self.answer.lock().unwrap().clone();
        let pod = question.credentials.pod.as_ref();
        let namespace = pod.map_or("default", |pod| pod.namespace.as_str());
        let principal = Principal {
            name: "pod".to_owned(),
            namespace: namespace.to_owned(),
            service_account: "default".to_owned(),
            labels: Arc::default(),
        };
        let authorized = Authorized {
            principal,
            object: self.object.lock().unwrap().clone(),
        };
        Box::pin(std::future::ready(refusal.map_or(Ok(authorized), Err)))
    }
}

/// Takes as long over a load as the test holds its lock.
#[derive(Debug)]
struct SlowObserver(Arc<tokio::sync::Mutex<()>>);

impl Observer for SlowObserver {
    fn load_ended(&self, _: &Load) {
        drop(self.0.blocking_lock());
    }

    fn call_ended(&self, _: &'static str, _: Code, _: Duration) {}

    fn published(&self, _: usize) {}
}

/// A running driver.
struct Running {
    publisher: Arc<Publisher>,
    sources: Sources,
    governor: Option<EgressGate>,
    granter: Granter,
    cache: Arc<Cache>,
    stop: CancellationToken,
    server: JoinHandle<()>,
    client: NodeClient<Channel>,
}

pub(crate) struct World {
    directory: tempfile::TempDir,
    pub(crate) mounter: Arc<FakeMounter>,
    pub(crate) doorman: Arc<Doorman>,
    pub(crate) source: Arc<HeldSource>,
    /// Held by a test that wants accounts of loads to be slow.
    pub(crate) reporting: Arc<tokio::sync::Mutex<()>>,
    /// Most bytes of the cache, from its next start on.
    pub(crate) max_bytes: Option<u64>,
    boot: String,
    /// Rules of egress, where some govern.
    rules: Option<Rulebook>,
    /// The audit log of the node, over all of its starts.
    paper: Paper,
    running: Option<Running>,
}

/// A pod's volume, as kubelet words it.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) volume_id: String,
    pub(crate) target: PathBuf,
    pub(crate) request: NodePublishVolumeRequest,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// A node on which these rules govern.
    pub(crate) async fn start_governed(rules: Rulebook) -> Self {
        Self::start_with(Some(rules)).await
    }

    async fn start_with(rules: Option<Rulebook>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("kubelet/pods")).unwrap();
        let source = Arc::new(HeldSource::new());
        source.put("llama/model.safetensors", content(1, (2 << 20) + 17));
        source.put("llama/tokenizer/vocab.json", content(2, 900));
        let mut world = Self {
            directory,
            mounter: Arc::default(),
            doorman: Arc::default(),
            source,
            reporting: Arc::default(),
            max_bytes: None,
            boot: "boot-1".to_owned(),
            rules,
            paper: Paper::default(),
            running: None,
        };
        world.start_driver().await;
        world
    }

    pub(crate) async fn start_driver(&mut self) {
        let env = Env {
            boot_id: self.boot.clone(),
            ..Env::real()
        };
        let mut config = Config::new(self.path("cache"));
        config.revision_ttl = Duration::ZERO;
        config.store.max_bytes = self.max_bytes;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let mut sources = Sources::default();
        let granter = Granter::new();
        let governor = self.governor(&sources, &clock, &granter);
        let gate = governor.clone().map_or_else(OpenGate::shared, |gate| {
            let gate: Arc<dyn Gate> = Arc::new(gate);
            gate
        });
        let cache = Cache::open(config, env, gate).await.unwrap();
        sources
            .add("models", Arc::clone(&self.source) as Arc<dyn Source>)
            .unwrap();
        let parts = Parts {
            cache: Arc::clone(&cache),
            upkeep: Upkeep::new(Arc::clone(cache.store())).unwrap(),
            mounter: Arc::clone(&self.mounter) as _,
            root: KubeletRoot::open(&self.path("kubelet")).unwrap(),
            sources: sources.clone(),
            authorizer: Arc::clone(&self.doorman) as _,
            grants: Arc::new(OpenGrants),
            governor: governor.clone(),
            quotas: Quotas::none(),
            clock: Arc::clone(&clock),
            boot_id: self.boot.clone(),
            holds: Holds {
                default: Duration::from_mins(1),
                longest: None,
            },
            observers: vec![
                Arc::new(SlowObserver(Arc::clone(&self.reporting))),
                Arc::new(Journal::new(cache.store().records().clone())),
            ],
        };
        let publisher = tokio::task::spawn_blocking(move || Publisher::open(parts))
            .await
            .unwrap()
            .unwrap();
        let facts = NodeFacts {
            node_id: "node-1".to_owned(),
            publisher: Arc::new(OnceLock::from(Arc::clone(&publisher))),
            clock,
            observers: Vec::new(),
        };
        let ready = Arc::new(AtomicBool::new(true));
        let routes = Routes::new()
            .with(IdentityServer::new(IdentityService::new(
                "csi.tonnage.dev",
                ready,
            )))
            .with(
                NodeServer::new(NodeService::new(facts))
                    .max_decoding_message_size(tonnage_csi::server::MESSAGE_MAX),
            );
        let socket = Socket::bind(&self.socket()).await.unwrap();
        let stop = CancellationToken::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "the handle is joined in `stop_driver`"
        )]
        let server = tokio::spawn(socket.serve(routes, stop.clone()));
        let client = NodeClient::new(connect(&self.socket()).await);
        self.running = Some(Running {
            publisher,
            sources,
            governor,
            granter,
            cache,
            stop,
            server,
            client,
        });
    }

    fn governor(
        &self,
        sources: &Sources,
        clock: &Arc<dyn Clock>,
        granter: &Granter,
    ) -> Option<EgressGate> {
        let rulebook = self.rules.clone()?;
        let location = Location {
            host: "held.example.com".to_owned(),
            bucket: "weights".to_owned(),
            ..Location::default()
        };
        sources.locations().put("models", location);
        Some(EgressGate::new(gate::Parts {
            rulebook,
            spender: Arc::clone(granter.spender()),
            locations: sources.locations().clone(),
            denials: Arc::default(),
            audit: Audit::to(self.paper.clone()),
            cost: Cost::new(),
            clock: Arc::clone(clock),
            node: "node-1".to_owned(),
        }))
    }

    /// Ends the driver; mounts stay.
    pub(crate) async fn stop_driver(&mut self) {
        let Running {
            publisher,
            cache,
            stop,
            server,
            client,
            sources: _,
            governor: _,
            granter: _,
        } = self.running.take().unwrap();
        drop(client);
        stop.cancel();
        server.await.unwrap();
        publisher.close().await;
        cache.store().sync_now().await;
        assert_eq!(
            Arc::strong_count(&publisher),
            1,
            "a task outlives the driver"
        );
    }

    pub(crate) async fn restart(&mut self) {
        self.stop_driver().await;
        self.start_driver().await;
    }

    pub(crate) async fn reboot(&mut self) {
        self.stop_driver().await;
        self.mounter.reboot();
        self.boot.push('x');
        self.start_driver().await;
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(below)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("csi.sock")
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn client(&self) -> NodeClient<Channel> {
        self.running().client.clone()
    }

    pub(crate) fn publisher(&self) -> &Arc<Publisher> {
        &self.running().publisher
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.running().sources
    }

    /// How many loads the gate knows.
    pub(crate) fn governed_loads(&self) -> usize {
        let governor = self.running().governor.as_ref();
        governor.map_or(0, |gate| gate.tabs().count())
    }

    /// Grants bytes of budgets to the driver.
    pub(crate) fn granter(&self) -> &Granter {
        &self.running().granter
    }

    /// What the audit log says once the driver has ended.
    pub(crate) fn audited(&self) -> String {
        assert!(self.running.is_none(), "more may follow");
        self.paper.text()
    }

    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.running().cache
    }

    /// An inline volume of `path`; kubelet has made the target's parent.
    pub(crate) fn pod(&self, name: &str, path: &str) -> Pod {
        let volume_id = format!("csi-{name}");
        let volume = self.path(&format!(
            "kubelet/pods/{name}/volumes/kubernetes.io~csi/weights"
        ));
        std::fs::create_dir_all(&volume).unwrap();
        let target = volume.join("mount");
        let request = NodePublishVolumeRequest {
            volume_id: volume_id.clone(),
            target_path: target.to_str().unwrap().to_owned(),
            volume_capability: Some(VolumeCapability {
                access_mode: Some(AccessMode {
                    mode: Mode::SingleNodeWriter.into(),
                }),
                access_type: Some(AccessType::Mount(MountVolume::default())),
            }),
            readonly: true,
            volume_context: [
                ("source", "models"),
                ("path", path),
                ("csi.storage.k8s.io/ephemeral", "true"),
                ("csi.storage.k8s.io/pod.name", name),
                ("csi.storage.k8s.io/pod.namespace", "default"),
                ("csi.storage.k8s.io/pod.uid", name),
                ("csi.storage.k8s.io/serviceAccount.name", "default"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
            ..NodePublishVolumeRequest::default()
        };
        Pod {
            volume_id,
            target,
            request,
        }
    }

    /// A pod of the claim `claim`.
    pub(crate) fn claim_pod(&self, claim: &str, name: &str, path: &str) -> Pod {
        let mut pod = self.pod(name, path);
        claim.clone_into(&mut pod.volume_id);
        claim.clone_into(&mut pod.request.volume_id);
        pod.request
            .volume_context
            .remove("csi.storage.k8s.io/ephemeral");
        pod
    }

    pub(crate) async fn publish(&self, pod: &Pod) -> Result<(), Status> {
        self.client()
            .node_publish_volume(pod.request.clone())
            .await
            .map(drop)
    }

    /// A publish whose deadline leaves no time to wait.
    pub(crate) async fn publish_hastily(&self, pod: &Pod) -> Result<(), Status> {
        let mut request = Request::new(pod.request.clone());
        request.set_timeout(Duration::from_secs(3));
        self.client().node_publish_volume(request).await.map(drop)
    }

    pub(crate) async fn unpublish(&self, pod: &Pod) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: pod.volume_id.clone(),
            target_path: pod.request.target_path.clone(),
        };
        self.client().node_unpublish_volume(request).await.map(drop)
    }

    pub(crate) async fn stats(
        &self,
        volume_id: &str,
        path: &str,
    ) -> Result<Vec<VolumeUsage>, Status> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: volume_id.to_owned(),
            volume_path: path.to_owned(),
            ..NodeGetVolumeStatsRequest::default()
        };
        let answer = self.client().node_get_volume_stats(request).await?;
        Ok(answer.into_inner().usage)
    }

    /// The view that is mounted on a pod's target, topmost.
    pub(crate) fn view(&self, pod: &Pod) -> PathBuf {
        let mounts = self.mounter.attached();
        mounts
            .iter()
            .rev()
            .find(|(_, target)| *target == pod.target)
            .expect("nothing is mounted")
            .0
            .clone()
    }

    /// Nothing is published, waits, runs, is mounted or recorded, and no target is left.
    pub(crate) fn assert_nothing_is_left(&self, pods: &[&Pod]) {
        assert_eq!(
            self.publisher().counts(),
            (0, 0, 0),
            "published, waiters, loads"
        );
        assert_eq!(self.mounter.attached(), []);
        let store = self.cache().store();
        assert_eq!(
            store.records().list("volumes").unwrap(),
            Vec::<String>::new()
        );
        for pod in pods {
            assert!(!pod.target.exists(), "{}", pod.target.display());
            assert!(
                pod.target.parent().unwrap().exists(),
                "kubelet's directory is not ours"
            );
        }
    }

    /// No lease is held but those of `holders`.
    pub(crate) fn holders(&self) -> usize {
        self.cache().store().leases().count()
    }
}

pub(crate) async fn connect(socket: &Path) -> Channel {
    Endpoint::try_from(format!("unix://{}", socket.display()))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

/// Bytes that follow from `seed`.
pub(crate) fn content(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// The same pod in another namespace.
pub(crate) fn of_namespace(pod: Pod, namespace: &str) -> Pod {
    with(pod, &[("csi.storage.k8s.io/pod.namespace", namespace)])
}

/// Attributes of a pod beside the usual.
pub(crate) fn with(mut pod: Pod, attributes: &[(&str, &str)]) -> Pod {
    let more: HashMap<String, String> = attributes
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    pod.request.volume_context.extend(more);
    pod
}

pub(crate) fn with_mode(mut pod: Pod, mode: Mode) -> Pod {
    pod.request.volume_capability.as_mut().unwrap().access_mode =
        Some(AccessMode { mode: mode.into() });
    pod
}

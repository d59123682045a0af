//! The only place that builds the real parts: node and controller, from settings to a running service and back.
//!
//! The node listens first and opens its store after that, so that kubelet finds it registered while the store is
//! being looked at; until then calls are answered UNAVAILABLE and `Probe` says not ready. A store that another process owns is
//! waited for. The API server is not: in a cluster the services start without it, and sources come when it does. Stopping: no
//! new calls, running ones end, fetches stop (what is verified stays), mounts stay.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonnage_cache::cache;
use tonnage_cache::gate::address::Cidr;
use tonnage_cache::source::config::SourceConfig;

use crate::egress::policy::DefaultEgress;
use crate::server::{Health, serve_http};

mod controller;
mod error;
mod governed;
mod node;
mod vitals;

pub use controller::controller;
pub use error::Error;
pub use node::node;
use vitals::Vitals;

/// The servers of a service; they end when its token is cancelled.
type Servers = JoinSet<()>;

/// Waits for all of them, also where one has died.
async fn until_ended(servers: &mut Servers) -> Result<(), Error> {
    let mut result = Ok(());
    while let Some(ended) = servers.join_next().await {
        result = result.and(ended.map_err(|_| Error::Task));
    }
    result
}

/// How a service works in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// Namespace of the service, where the Secrets of its sources and its Lease are.
    pub namespace: String,
    /// Service and pod ranges of the cluster, closed to sources whose `allowedCIDRs` does not name them.
    pub cluster_cidrs: Vec<Cidr>,
}

/// Settings of the node service.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// CSI socket.
    pub endpoint: PathBuf,
    /// Cache and its store.
    pub cache: cache::Config,
    /// Where content may come from; empty in a cluster.
    pub sources: Vec<SourceConfig>,
    /// `Some`: sources, and who may use them, are the API server's to say.
    pub kubernetes: Option<Kubernetes>,
    /// Name of this node.
    pub node_id: String,
    /// Kubelet's directory.
    pub kubelet_dir: PathBuf,
    /// Kubelet's `plugins_registry`; `None`: no registration.
    pub registration_dir: Option<PathBuf>,
    /// Address of health and metrics; `None`: not served.
    pub http_address: Option<SocketAddr>,
    /// How long a publish without a deadline waits.
    pub hold: Duration,
    /// How long a publish waits at most, whatever its deadline.
    pub hold_max: Option<Duration>,
    /// OTLP/gRPC collector; `None`: no traces.
    pub otlp_endpoint: Option<String>,
    /// Whether, in a cluster, the cache may lie on kubelet's file system.
    pub force_root_filesystem: bool,
    /// What holds, in a cluster, in namespaces that no `EgressPolicy` selects.
    pub default_egress: DefaultEgress,
    /// Name of the driver.
    pub driver_name: String,
}

/// Settings of the controller service.
#[derive(Debug, Clone)]
pub struct ControllerSettings {
    /// CSI socket.
    pub endpoint: PathBuf,
    /// Sources that claims may name; empty in a cluster.
    pub sources: Vec<SourceConfig>,
    /// `Some`: sources are the API server's to say, and volumes are recorded there.
    pub kubernetes: Option<Kubernetes>,
    /// Directory of the volume records; not used in a cluster.
    pub volumes_dir: PathBuf,
    /// Address of health and metrics; `None`: not served.
    pub http_address: Option<SocketAddr>,
    /// What claims get, in a cluster, of namespaces that no `EgressPolicy` selects: what their pods get on the nodes.
    pub default_egress: DefaultEgress,
    /// Name of the driver.
    pub driver_name: String,
}

/// After how long without a byte an answer is not waited for any more: the longest watch has 290 s.
const SILENCE: Duration = Duration::from_secs(310);

/// A client of the API server: by `KUBECONFIG` where that is set, otherwise by the pod's service account. Connects to nothing.
async fn api_server() -> Result<kube::Client, Error> {
    let mut config = Box::pin(kube::Config::infer())
        .await
        .map_err(|error| Error::ApiServer(error.to_string()))?;
    // Who asks has pauses of its own, and a request that is made again fifteen times within one of them takes minutes.
    config.default_retry = false;
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    kube::Client::try_from(config).map_err(|error| Error::ApiServer(error.to_string()))
}

/// Serves health and metrics, if there is an address for them.
async fn serve_health(
    servers: &mut Servers,
    address: Option<SocketAddr>,
    vitals: &Arc<Vitals>,
    serving: &CancellationToken,
) -> Result<(), Error> {
    if let Some(address) = address {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Error::Http { address, source })?;
        let health: Arc<dyn Health> = Arc::clone(vitals) as Arc<dyn Health>;
        let stop = serving.clone();
        servers.spawn(serve_http(listener, health, stop));
    }
    Ok(())
}

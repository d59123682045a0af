//! The only place that builds the real parts: node and controller, from settings to a running service and back.
//!
//! The node listens first and opens its store after that, so that kubelet finds it registered while the store is
//! being looked at; until then calls are answered UNAVAILABLE and `Probe` says not ready. A store that another process owns is
//! waited for. Stopping: no new calls, running ones end, fetches stop (what is verified stays), mounts stay.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonnage_cache::cache::{self, Cache};
use tonnage_cache::clock::{Clock, SystemClock};
use tonnage_cache::error::{Kind, PathError, chain};
use tonnage_cache::gate::{Gate, OpenGate};
use tonnage_cache::source::config::SourceConfig;
use tonnage_cache::store::{self, Env};
use tonnage_proto::csi::controller_server::ControllerServer;
use tonnage_proto::csi::identity_server::IdentityServer;
use tonnage_proto::csi::node_server::NodeServer;
use tonnage_proto::registration::registration_server::RegistrationServer;

use crate::control::{self, Control};
use crate::grant::OpenGrants;
use crate::loads::{Journal, Observer};
use crate::log::{self, LoadLog};
use crate::metrics::Metrics;
use crate::mount::KernelMounter;
use crate::policy::StaticAuthorizer;
use crate::publish::{self, Holds, Parts, Publisher};
use crate::registration::{RegistrationService, socket_path};
use crate::server::{self, Health, MESSAGE_MAX, Routes, Socket, serve_http};
use crate::service::{ControllerService, IdentityService, NodeFacts, NodeService};
use crate::sources::{self, Sources};
use crate::target::{self, KubeletRoot};
use crate::trace::{self, Traces};
use crate::upkeep::Upkeep;
use crate::volumes::{self, VolumeFiles};

/// How often forgotten waiters are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// How often a store that another process owns is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Settings of the node service.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// CSI socket.
    pub endpoint: PathBuf,
    /// Cache and its store.
    pub cache: cache::Config,
    /// Where content may come from.
    pub sources: Vec<SourceConfig>,
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
    /// Name of the driver.
    pub driver_name: String,
}

/// Settings of the controller service.
#[derive(Debug, Clone)]
pub struct ControllerSettings {
    /// CSI socket.
    pub endpoint: PathBuf,
    /// Sources that claims may name.
    pub sources: Vec<SourceConfig>,
    /// Directory of the volume records.
    pub volumes_dir: PathBuf,
    /// Address of health and metrics; `None`: not served.
    pub http_address: Option<SocketAddr>,
    /// Name of the driver.
    pub driver_name: String,
}

/// Why a service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The HTTP address.
    #[error("listen on {address}")]
    Http {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A source.
    #[error(transparent)]
    Sources(#[from] sources::Error),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The store's records.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Kubelet's directory.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// What is published cannot be known.
    #[error(transparent)]
    Publish(#[from] publish::Error),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] control::Error),
    /// The collector.
    #[error(transparent)]
    Trace(#[from] trace::Error),
    /// The volume records.
    #[error(transparent)]
    Volumes(#[from] volumes::Error),
    /// A file.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A background task died.
    #[error("a background task ended early")]
    Task,
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Server(server::Error::InUse { .. }) => Kind::Busy,
            Self::Server(server::Error::Path(error)) | Self::Path(error) => error.kind(),
            Self::Http { .. } | Self::Task => Kind::Internal,
            Self::Sources(error) => error.kind(),
            Self::Cache(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Target(error) => error.kind(),
            Self::Publish(error) => match error.cause() {
                crate::status::Cause::Kind(kind) => kind,
                crate::status::Cause::Exists
                | crate::status::Cause::OutOfRange
                | crate::status::Cause::LeftBehind => Kind::Internal,
            },
            Self::Control(error) => error.kind(),
            Self::Trace(_) => Kind::Invalid,
            Self::Volumes(error) => error.kind(),
        }
    }
}

/// What HTTP shows.
#[derive(Debug)]
struct Vitals {
    ready: Arc<AtomicBool>,
    /// Why not, while it is not.
    waiting_for: Mutex<String>,
    metrics: Arc<Metrics>,
}

impl Vitals {
    fn new(metrics: Arc<Metrics>, waiting_for: &str) -> Arc<Self> {
        Arc::new(Self {
            ready: Arc::default(),
            waiting_for: Mutex::new(waiting_for.to_owned()),
            metrics,
        })
    }

    fn is_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    fn waits_for(&self, what: String) {
        *self
            .waiting_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = what;
    }
}

impl Health for Vitals {
    fn readiness(&self) -> Result<(), String> {
        if self.ready.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self
            .waiting_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    fn metrics(&self) -> String {
        self.metrics.text()
    }
}

/// Runs the node service until `stop`. Mounted volumes stay mounted.
pub async fn node(settings: NodeSettings, stop: CancellationToken) -> Result<(), Error> {
    log::start();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Arc::new(Metrics::new());
    let vitals = Vitals::new(Arc::clone(&metrics), "the store is being opened");
    let traces = settings
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| Traces::to(endpoint, &settings.node_id))
        .transpose()?;
    let traces = traces.map(Arc::new);
    let mut observers: Vec<Arc<dyn Observer>> = vec![metrics, Arc::new(LoadLog)];
    observers.extend(
        traces
            .iter()
            .map(|traces| Arc::clone(traces) as Arc<dyn Observer>),
    );
    let publisher = Arc::new(OnceLock::new());
    let facts = NodeFacts {
        node_id: settings.node_id.clone(),
        publisher: Arc::clone(&publisher),
        clock,
        observers: observers.clone(),
    };
    // Ends the servers also when the rest fails.
    let serving = stop.child_token();
    let _ends = serving.clone().drop_guard();
    let mut servers = JoinSet::new();
    listen(&mut servers, &settings, facts, &vitals, &serving).await?;
    let result = work(
        &settings,
        &vitals,
        &publisher,
        observers,
        &mut servers,
        &stop,
    )
    .await;
    serving.cancel();
    while let Some(ended) = servers.join_next().await {
        ended.map_err(|_| Error::Task)?;
    }
    if let Some(publisher) = publisher.get() {
        publisher.close().await;
    }
    if let Some(traces) = traces {
        tokio::task::spawn_blocking(move || traces.close())
            .await
            .map_err(|_| Error::Task)?;
    }
    result
}

type Servers = JoinSet<()>;

/// Opens all sockets and serves them.
async fn listen(
    servers: &mut Servers,
    settings: &NodeSettings,
    facts: NodeFacts,
    vitals: &Arc<Vitals>,
    serving: &CancellationToken,
) -> Result<(), Error> {
    let identity = IdentityServer::new(IdentityService::new(
        &settings.driver_name,
        Arc::clone(&vitals.ready),
    ));
    let node = NodeServer::new(NodeService::new(facts));
    let routes = Routes::new()
        .with(identity.max_decoding_message_size(MESSAGE_MAX))
        .with(node.max_decoding_message_size(MESSAGE_MAX));
    let socket = Socket::bind(&settings.endpoint).await?;
    servers.spawn(socket.serve(routes, serving.clone()));
    serve_health(servers, settings.http_address, vitals, serving).await?;
    if let Some(directory) = &settings.registration_dir {
        let service = RegistrationService::new(&settings.driver_name, &settings.endpoint);
        let routes = Routes::new()
            .with(RegistrationServer::new(service).max_decoding_message_size(MESSAGE_MAX));
        let socket = Socket::bind(&socket_path(directory, &settings.driver_name)).await?;
        servers.spawn(socket.serve(routes, serving.clone()));
    }
    Ok(())
}

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

/// Opens the store, takes over what is published, and works until `stop` or until a server fails.
async fn work(
    settings: &NodeSettings,
    vitals: &Arc<Vitals>,
    publisher: &OnceLock<Arc<Publisher>>,
    mut observers: Vec<Arc<dyn Observer>>,
    servers: &mut Servers,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let gate = OpenGate::shared();
    let sources = Sources::build(&settings.sources, &gate)?;
    let root = KubeletRoot::open(&settings.kubelet_dir)?;
    let env = Env::real();
    let opened = tokio::select! {
        opened = open(settings, &env, &gate, vitals) => opened?,
        () = stop.cancelled() => return Ok(()),
    };
    let Opened { cache, upkeep } = opened;
    observers.push(Arc::new(Journal::new(cache.store().records().clone())));
    let parts = Parts {
        cache,
        mounter: Arc::new(KernelMounter),
        root,
        sources,
        authorizer: Arc::new(StaticAuthorizer::new("static")),
        grants: Arc::new(OpenGrants),
        clock: env.clock,
        boot_id: env.boot_id,
        holds: Holds {
            default: settings.hold,
            longest: settings.hold_max,
        },
        observers,
    };
    let opened = tokio::task::spawn_blocking(move || Publisher::open(parts))
        .await
        .map_err(|_| Error::Task)??;
    let publisher = publisher.get_or_init(|| opened);
    let control = Control::bind(upkeep)?;
    let control_stop = stop.child_token();
    let _control_ends = control_stop.clone().drop_guard();
    servers.spawn(control.serve(control_stop));
    vitals.is_ready();
    tracing::info!(
        node.id = settings.node_id,
        published = publisher.counts().0,
        "ready"
    );
    let mut sweeps = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = sweeps.tick() => publisher.sweep(),
            Some(ended) = servers.join_next() => ended.map_err(|_| Error::Task)?,
        }
    }
}

struct Opened {
    cache: Arc<Cache>,
    upkeep: Arc<Upkeep>,
}

/// Opens the cache, waiting while another process owns its store.
async fn open(
    settings: &NodeSettings,
    env: &Env,
    gate: &Arc<dyn Gate>,
    vitals: &Vitals,
) -> Result<Opened, Error> {
    loop {
        match Cache::open(settings.cache.clone(), env.clone(), Arc::clone(gate)).await {
            Ok(cache) => {
                let store = Arc::clone(cache.store());
                let upkeep = tokio::task::spawn_blocking(move || Upkeep::new(store))
                    .await
                    .map_err(|_| Error::Task)??;
                return Ok(Opened { cache, upkeep });
            }
            Err(error) if error.kind() == Kind::Busy => {
                let why = chain(&error);
                tracing::warn!(error = why, "waiting for the store");
                vitals.waits_for(why);
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs the controller service until `stop`.
pub async fn controller(
    settings: ControllerSettings,
    stop: CancellationToken,
) -> Result<(), Error> {
    log::start();
    let metrics = Arc::new(Metrics::new());
    let vitals = Vitals::new(Arc::clone(&metrics), "starting");
    let sources = Arc::new(Sources::build(&settings.sources, &OpenGate::shared())?);
    let directory = settings.volumes_dir.clone();
    let records = tokio::task::spawn_blocking(move || VolumeFiles::open(&directory))
        .await
        .map_err(|_| Error::Task)??;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let service = ControllerService::new(Arc::new(records), sources, clock, vec![metrics]);
    let identity = IdentityServer::new(IdentityService::new(
        &settings.driver_name,
        Arc::clone(&vitals.ready),
    ));
    let routes = Routes::new()
        .with(identity.max_decoding_message_size(MESSAGE_MAX))
        .with(ControllerServer::new(service).max_decoding_message_size(MESSAGE_MAX));
    let serving = stop.child_token();
    let _ends = serving.clone().drop_guard();
    let mut servers = JoinSet::new();
    let socket = Socket::bind(&settings.endpoint).await?;
    serve_health(&mut servers, settings.http_address, &vitals, &serving).await?;
    vitals.is_ready();
    tracing::info!("ready");
    servers.spawn(socket.serve(routes, serving));
    while let Some(ended) = servers.join_next().await {
        ended.map_err(|_| Error::Task)?;
    }
    Ok(())
}

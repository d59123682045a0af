//! The node: sockets first, then the store, then work until the stop.
//!
//! In a cluster five more parts are the API server's: which sources there are, who may use them, what egress is governed by, the
//! events of pods, and the node's own `NodeCache`.
//! None of them is waited for here: while the API server is away, what is published stays, and a new publish is told.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonnage_cache::cache::Cache;
use tonnage_cache::clock::{Clock, SystemClock};
use tonnage_cache::error::{IoContext as _, Kind, PathError, chain};
use tonnage_cache::gate::{Gate, OpenGate};
use tonnage_cache::store::Env;
use tonnage_proto::csi::identity_server::IdentityServer;
use tonnage_proto::csi::node_server::NodeServer;
use tonnage_proto::registration::registration_server::RegistrationServer;

use super::governed::{Around, Governance};
use super::{
    Error, Kubernetes, NodeSettings, Servers, Vitals, api_server, serve_health, until_ended,
};
use crate::access::KubernetesAuthorizer;
use crate::access::proof::ProbeGrants;
use crate::control::Control;
use crate::events::Events;
use crate::govern::gate::EgressGate;
use crate::govern::gpu::{self, GpuWait};
use crate::govern::quotas::{self, Quotas};
use crate::grant::{Grants, OpenGrants};
use crate::loads::{Journal, Observer};
use crate::log::{self, LoadLog};
use crate::metrics::Metrics;
use crate::mount::KernelMounter;
use crate::node_cache::{self, Notes};
use crate::policy::{Authorizer, StaticAuthorizer};
use crate::publish::{Holds, Parts, Publisher};
use crate::registration::{RegistrationService, socket_path};
use crate::server::{MESSAGE_MAX, Routes, Socket};
use crate::service::{IdentityService, NodeFacts, NodeService};
use crate::sources::{Sources, watch};
use crate::target::KubeletRoot;
use crate::trace::Traces;
use crate::upkeep::Upkeep;

/// How often forgotten waiters are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// How often a store that another process owns is tried again.
const RETRY: Duration = Duration::from_secs(1);

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
    let cost = Arc::clone(metrics.cost());
    let gpu_seconds = metrics.gpu_seconds().clone();
    let mut observers: Vec<Arc<dyn Observer>> = vec![metrics, Arc::new(LoadLog)];
    observers.extend(
        traces
            .iter()
            .map(|traces| Arc::clone(traces) as Arc<dyn Observer>),
    );
    // Ends the servers also when the rest fails.
    let serving = stop.child_token();
    let _ends = serving.clone().drop_guard();
    let mut servers = Servers::new();
    // What is leased is given back when nothing is loaded any more.
    let leasing = CancellationToken::new();
    let _gives_back = leasing.clone().drop_guard();
    let mut lessees = Servers::new();
    let access = if let Some(kubernetes) = &settings.kubernetes {
        let client = api_server().await?;
        let (events, poster) =
            Events::new(client.clone(), &settings.driver_name, &settings.node_id);
        observers.push(Arc::new(events));
        servers.spawn(poster.run(serving.clone()));
        let (gpus, count) = GpuWait::new(&settings.kubelet_dir.join(gpu::SOCKET), gpu_seconds);
        observers.push(Arc::new(gpus));
        servers.spawn(count.run(serving.clone()));
        let sources = Sources::awaited();
        let governance = Governance::new(Around {
            settings: &settings,
            locations: sources.locations(),
            cost,
            clock: &clock,
        });
        let access = Access::of_cluster(&client, sources, &governance);
        let parts = access.watched(client.clone(), kubernetes, &clock);
        servers.spawn(watch::run(parts, serving.clone()));
        governance.spawn(&client, (&mut servers, &serving), (&mut lessees, &leasing));
        access
    } else {
        Access::configured(&settings)?
    };
    let publisher = Arc::new(OnceLock::new());
    let facts = NodeFacts {
        node_id: settings.node_id.clone(),
        publisher: Arc::clone(&publisher),
        clock,
        observers: observers.clone(),
    };
    listen(&mut servers, &settings, facts, &vitals, &serving).await?;
    let result = work(
        &settings,
        access,
        (&vitals, &publisher),
        observers,
        &mut servers,
        &stop,
    )
    .await;
    serving.cancel();
    let served = until_ended(&mut servers).await;
    // Also after a server has died: loads stop and mounts come to their end before anything that they use goes.
    if let Some(publisher) = publisher.get() {
        publisher.close().await;
    }
    leasing.cancel();
    let leased = until_ended(&mut lessees).await;
    remove_own_directory(&settings);
    if let Some(traces) = traces {
        tokio::task::spawn_blocking(move || traces.close())
            .await
            .map_err(|_| Error::Task)?;
    }
    result.and(served).and(leased)
}

/// What may be read, and by whom.
struct Access {
    gate: Arc<dyn Gate>,
    governor: Option<EgressGate>,
    sources: Sources,
    authorizer: Arc<dyn Authorizer>,
    grants: Arc<dyn Grants>,
    /// The API server, in a cluster.
    cluster: Option<kube::Client>,
    quotas: Arc<Quotas>,
}

impl Access {
    /// All that is configured, by everyone.
    fn configured(settings: &NodeSettings) -> Result<Self, Error> {
        let gate = OpenGate::shared();
        Ok(Self {
            sources: Sources::build(&settings.sources, &gate)?,
            authorizer: Arc::new(StaticAuthorizer::new("static")),
            grants: Arc::new(OpenGrants),
            gate,
            governor: None,
            cluster: None,
            quotas: Quotas::none(),
        })
    }

    /// What the API server says, with a proof at the store, and by the rules of egress.
    fn of_cluster(client: &kube::Client, sources: Sources, governance: &Governance) -> Self {
        let Governance {
            gate,
            rulebook,
            node,
            clock,
            ..
        } = governance;
        let authorizer = KubernetesAuthorizer::new(
            client.clone(),
            sources.clone(),
            node.clone(),
            Arc::clone(clock),
        );
        Self {
            authorizer: Arc::new(authorizer.governed_by(rulebook.clone())),
            grants: Arc::new(ProbeGrants::new(sources.clone(), Arc::clone(clock))),
            gate: Arc::new(gate.clone()),
            governor: Some(gate.clone()),
            sources,
            cluster: Some(client.clone()),
            quotas: Arc::clone(&governance.quotas),
        }
    }

    /// What keeps the sources up to date.
    fn watched(
        &self,
        client: kube::Client,
        kubernetes: &Kubernetes,
        clock: &Arc<dyn Clock>,
    ) -> watch::Parts {
        watch::Parts {
            client,
            namespace: kubernetes.namespace.clone(),
            sources: self.sources.clone(),
            gate: Arc::clone(&self.gate),
            cluster_cidrs: kubernetes.cluster_cidrs.clone(),
            clock: Arc::clone(clock),
        }
    }
}

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

/// Opens the store, takes over what is published, and works until `stop` or until a server fails.
async fn work(
    settings: &NodeSettings,
    access: Access,
    (vitals, publisher): (&Arc<Vitals>, &OnceLock<Arc<Publisher>>),
    mut observers: Vec<Arc<dyn Observer>>,
    servers: &mut Servers,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let Access {
        gate,
        governor,
        sources,
        authorizer,
        grants,
        cluster,
        quotas,
    } = access;
    let root = KubeletRoot::open(&settings.kubelet_dir)?;
    if settings.kubernetes.is_some() && !settings.force_root_filesystem {
        check_disk(&settings.kubelet_dir, &settings.cache.store.root)?;
    }
    let env = Env::real();
    let opened = tokio::select! {
        opened = open(settings, &env, &gate, vitals) => opened?,
        () = stop.cancelled() => return Ok(()),
    };
    let Opened { cache, upkeep } = opened;
    observers.push(Arc::new(Journal::new(cache.store().records().clone())));
    let report = cluster.map(|client| node_cache::Parts {
        client,
        node: settings.node_id.clone(),
        store: Arc::clone(cache.store()),
        notes: Arc::new(Notes::default()),
        quotas: Arc::clone(&quotas),
        clock: Arc::clone(&env.clock),
    });
    if let Some(report) = &report {
        observers.push(Arc::clone(&report.notes) as Arc<dyn Observer>);
    }
    let store = Arc::clone(cache.store());
    let parts = Parts {
        cache,
        upkeep: Arc::clone(&upkeep),
        mounter: Arc::new(KernelMounter::new()),
        root,
        sources,
        authorizer,
        grants,
        governor,
        quotas: Arc::clone(&quotas),
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
    let working = stop.child_token();
    let _ends = working.clone().drop_guard();
    servers.spawn(control.serve(working.clone()));
    if let Some(report) = report {
        servers.spawn(quotas::keep_looking(quotas, store, working.clone()));
        servers.spawn(node_cache::run(report, working));
    }
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

/// Kubelet's directory for this driver goes with the socket in it, so that an uninstall leaves nothing below kubelet's.
fn remove_own_directory(settings: &NodeSettings) {
    let own = settings.endpoint.parent();
    let own = own.filter(|own| {
        own.file_name()
            .is_some_and(|name| *name == *settings.driver_name)
    });
    // What is not empty stays: it is somebody's.
    if let Some(Err(error)) = own.map(std::fs::remove_dir) {
        tracing::debug!(%error, "the socket's directory stays");
    }
}

/// Refuses a cache on kubelet's file system. One that does not exist yet is where its parent is.
fn check_disk(kubelet: &Path, cache: &Path) -> Result<(), Error> {
    let device =
        |path: &Path| Ok::<_, PathError>(std::fs::metadata(path).at("look at", path)?.dev());
    let place = cache.ancestors().find(|place| place.exists());
    if device(kubelet)? == device(place.unwrap_or(cache))? {
        return Err(Error::KubeletDisk {
            cache: cache.to_path_buf(),
        });
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_on_the_file_system_of_kubelet_is_refused_also_before_it_is_made() {
        let here = tempfile::tempdir().unwrap();
        let cache = here.path().join("not/yet");
        let error = check_disk(here.path(), &cache).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(
            error.to_string().contains("--force-root-filesystem"),
            "{error}"
        );
        check_disk(here.path(), Path::new("/proc")).unwrap();
    }
}

//! The controller: records of volumes, and no downloads. Outside of a cluster the records are files; in one they are objects
//! of the API server, sources and rules of egress come from there, and the replica that leads keeps the status of sources, the ledgers
//! of byte budgets and the status of quotas, and tells Prometheus what is used of budgets.

use std::sync::Arc;

use tokio::sync::watch::Sender;
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::{Clock, SystemClock};
use tonnage_cache::gate::OpenGate;
use tonnage_proto::csi::controller_server::ControllerServer;
use tonnage_proto::csi::identity_server::IdentityServer;

use super::{ControllerSettings, Error, Kubernetes, Servers, Vitals, api_server, serve_health};
use crate::govern::audit::Audit;
use crate::govern::rules::{self, Rulebook};
use crate::govern::{ledgers, quota_status};
use crate::log;
use crate::metrics::Metrics;
use crate::provision::Provisioner;
use crate::reconcile;
use crate::server::{MESSAGE_MAX, Routes, Socket};
use crate::service::{ControllerService, IdentityService};
use crate::sources::{Sources, watch};
use crate::volumes::{VolumeFiles, VolumeObjects};

/// Runs the controller service until `stop`.
pub async fn controller(
    settings: ControllerSettings,
    stop: CancellationToken,
) -> Result<(), Error> {
    log::start();
    let metrics = Arc::new(Metrics::new());
    let vitals = Vitals::new(Arc::clone(&metrics), "starting");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let serving = stop.child_token();
    let _ends = serving.clone().drop_guard();
    let mut servers = Servers::new();
    let provisioner = match &settings.kubernetes {
        None => of_files(&settings).await?,
        Some(kubernetes) => {
            let rulebook = Rulebook::new(settings.default_egress, Arc::clone(&clock));
            let governed = (kubernetes, rulebook);
            in_cluster(governed, &clock, &metrics, (&mut servers, &serving)).await?
        }
    };
    let service = ControllerService::new(provisioner, clock, vec![metrics]);
    let identity = IdentityServer::new(IdentityService::new(
        &settings.driver_name,
        Arc::clone(&vitals.ready),
    ));
    let routes = Routes::new()
        .with(identity.max_decoding_message_size(MESSAGE_MAX))
        .with(ControllerServer::new(service).max_decoding_message_size(MESSAGE_MAX));
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

/// Configured sources, and records in a directory.
async fn of_files(settings: &ControllerSettings) -> Result<Provisioner, Error> {
    let sources = Sources::build(&settings.sources, &OpenGate::shared())?;
    let directory = settings.volumes_dir.clone();
    let records = tokio::task::spawn_blocking(move || VolumeFiles::open(&directory))
        .await
        .map_err(|_| Error::Task)??;
    Ok(Provisioner::new(Arc::new(records), sources))
}

/// Sources, rules of egress and records of the API server, and what keeps the former up to date here and the sources' status there.
/// Nothing is waited for: while the API server is away, calls are told so.
async fn in_cluster(
    (kubernetes, rulebook): (&Kubernetes, Rulebook),
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    (servers, serving): (&mut Servers, &CancellationToken),
) -> Result<Provisioner, Error> {
    let Kubernetes {
        namespace,
        cluster_cidrs,
    } = kubernetes;
    let client = api_server().await?;
    let sources = Sources::awaited();
    let watched = watch::Parts {
        client: client.clone(),
        namespace: namespace.clone(),
        sources: sources.clone(),
        gate: OpenGate::shared(),
        cluster_cidrs: cluster_cidrs.clone(),
        clock: Arc::clone(clock),
    };
    servers.spawn(watch::run(watched, serving.clone()));
    let (followed, time) = (rulebook.clone(), Arc::clone(clock));
    servers.spawn(rules::run(client.clone(), followed, time, serving.clone()));
    let leads = govern(&client, clock, metrics, (&mut *servers, serving));
    let parts = reconcile::Parts {
        client: client.clone(),
        namespace: namespace.clone(),
        sources: sources.clone(),
        identity: identity(),
        leads,
        clock: Arc::clone(clock),
    };
    servers.spawn(reconcile::run(parts, serving.clone()));
    let records = Arc::new(VolumeObjects::new(client.clone()));
    let provisioner = Provisioner::in_cluster(records, sources, client, Arc::clone(clock));
    // A queue of its own: however many claims are refused, no line of a ledger is dropped for them.
    Ok(provisioner.governed_by(rulebook, Audit::to_log(), Arc::clone(clock)))
}

/// Keeps the ledgers of byte budgets and the status of quotas, and their metrics, while this replica leads; whether it does is to be
/// told to what is returned.
fn govern(
    client: &kube::Client,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
    (servers, serving): (&mut Servers, &CancellationToken),
) -> Sender<bool> {
    let leads = Sender::new(false);
    let figures = Sender::new(Vec::new());
    metrics.follow(leads.subscribe(), figures.subscribe());
    let parts = ledgers::Parts {
        client: client.clone(),
        leading: leads.subscribe(),
        audit: Audit::to_log(),
        figures,
        clock: Arc::clone(clock),
    };
    servers.spawn(ledgers::run(parts, serving.clone()));
    let parts = quota_status::Parts {
        client: client.clone(),
        leading: leads.subscribe(),
        clock: Arc::clone(clock),
    };
    servers.spawn(quota_status::run(parts, serving.clone()));
    leads
}

/// Name of this replica: its host's, which in a cluster is its pod's, and its process there.
fn identity() -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("{host}_{}", std::process::id())
}

#[cfg(test)]
mod tests;

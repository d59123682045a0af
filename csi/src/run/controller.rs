//! The controller: records of volumes, and no downloads.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::{Clock, SystemClock};
use tonnage_cache::gate::OpenGate;
use tonnage_proto::csi::controller_server::ControllerServer;
use tonnage_proto::csi::identity_server::IdentityServer;

use super::{ControllerSettings, Error, Servers, Vitals, serve_health};
use crate::log;
use crate::metrics::Metrics;
use crate::server::{MESSAGE_MAX, Routes, Socket};
use crate::service::{ControllerService, IdentityService};
use crate::sources::Sources;
use crate::volumes::VolumeFiles;

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
    let mut servers = Servers::new();
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

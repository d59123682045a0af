//! `tonnage node` and `tonnage controller`: settings in, a service that runs until it is asked to stop.

use tokio_util::sync::CancellationToken;
use tonnage_csi::run;

use crate::args::service::{Controller, Node};
use crate::config::Config;
use crate::exit::{Code, Failure};

pub(super) async fn node(
    args: Node,
    config: &Config,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let settings = args.settings(config)?;
    run::node(settings, stop.clone())
        .await
        .map_err(|error| Failure::of("run the node service", error.kind(), &error))?;
    Ok(Code::Done)
}

pub(super) async fn controller(
    args: Controller,
    config: &Config,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let settings = args.settings(config)?;
    run::controller(settings, stop.clone())
        .await
        .map_err(|error| Failure::of("run the controller service", error.kind(), &error))?;
    Ok(Code::Done)
}

//! The commands of the program, one file each or a family to a file. A command takes its arguments apart, asks
//! the library, and shows the answer; decisions lie in the library.

use std::sync::Arc;

use clap::CommandFactory as _;
use tokio_util::sync::CancellationToken;
use tonnage_cache::cache::Cache;
use tonnage_cache::gate::OpenGate;
use tonnage_cache::store::{Env, Lease};
use tonnage_csi::upkeep::Upkeep;

use crate::args::place::Place;
use crate::args::{Args, Completions, Global, Verb};
use crate::config::{self, Config};
use crate::console::Console;
use crate::exit::{Code, Failure};

mod bundle;
mod cluster;
mod crds;
mod doctor;
mod egress;
mod inventory;
mod load;
mod mount;
mod policy;
mod quota;
mod service;
mod space;
mod uninstall_check;
mod upkeep;

/// Runs the command that `args` name.
pub(crate) async fn run(
    args: Args,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Args {
        global: Global { config, quiet: _ },
        verb,
    } = args;
    let config = config::load(config.as_deref())?;
    match verb {
        Verb::Pull(args) => Box::pin(load::pull(*args, &config, console, stop)).await,
        Verb::Resolve(args) => Box::pin(load::resolve(*args, &config, console, stop)).await,
        Verb::Mount(args) => Box::pin(mount::mount(*args, &config, console, stop)).await,
        Verb::Unmount(args) => Box::pin(mount::unmount(args, &config, console, stop)).await,
        Verb::Cache(verb) => Box::pin(upkeep::run(verb, &config, console, stop)).await,
        Verb::Loads(args) => inventory::loads(args, &config, console),
        Verb::Doctor(args) => Box::pin(doctor::run(args, &config, console)).await,
        Verb::Export(args) => Box::pin(bundle::export(args, &config, console, stop)).await,
        Verb::Import(args) => Box::pin(bundle::import(args, &config, console, stop)).await,
        Verb::Egress(args) => Box::pin(egress::run(args, console, stop)).await,
        Verb::Quota(args) => Box::pin(quota::run(args, console, stop)).await,
        Verb::Policy(verb) => Box::pin(policy::run(verb, console, stop)).await,
        Verb::Node(args) => Box::pin(service::node(*args, &config, stop)).await,
        Verb::Controller(args) => Box::pin(service::controller(*args, &config, stop)).await,
        Verb::Crds => crds::crds(console),
        Verb::UninstallCheck(args) => Box::pin(uninstall_check::run(args, console, stop)).await,
        Verb::Completions(Completions { shell }) => completions(shell, console),
    }
}

fn completions(shell: clap_complete::Shell, console: &Console) -> Result<Code, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "tonnage", &mut script);
    console.result(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Code::Done)
}

/// A cache that this process owns, with the leases that keep from eviction what others left in use.
struct Owned {
    cache: Arc<Cache>,
    upkeep: Arc<Upkeep>,
    _volumes: Vec<Lease>,
}

/// Opens the cache for this process, or says who has it and what to do.
async fn open(place: Place, config: &Config) -> Result<Owned, Failure> {
    let settings = place.cache(config)?;
    let what = format!("open the cache {}", settings.store.root.display());
    let cache = Cache::open(settings, Env::real(), OpenGate::shared())
        .await
        .map_err(|error| advise(Failure::of(what.clone(), error.kind(), &error)))?;
    let upkeep = Upkeep::new(Arc::clone(cache.store()))
        .map_err(|error| Failure::of(what, error.kind(), &error))?;
    let volumes = inventory::hold_volumes(cache.store())?;
    Ok(Owned {
        cache,
        upkeep,
        _volumes: volumes,
    })
}

fn advise(failure: Failure) -> Failure {
    match failure.code {
        Code::Busy => {
            failure.or_advise("wait for it, or choose another directory with --cache-dir")
        }
        Code::Denied => {
            failure.or_advise("choose another --cache-dir, or change its owner or mode")
        }
        Code::Done
        | Code::Unfit
        | Code::Usage
        | Code::Data
        | Code::Missing
        | Code::Credentials
        | Code::Unavailable
        | Code::Internal
        | Code::Limit
        | Code::Space
        | Code::Conflict
        | Code::Interrupted
        | Code::Terminated => failure,
    }
}

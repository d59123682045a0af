//! `tonnage policy`: questions to the rules of egress, of a cluster or of files, that load nothing.

use tokio_util::sync::CancellationToken;

use crate::args::policy::Policy;
use crate::console::Console;
use crate::exit::{Code, Failure};

mod explain;
mod facts;
mod files;
mod installation;
mod malformed;
mod simulate;

pub(super) async fn run(
    verb: Policy,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    match verb {
        Policy::Explain(args) => Box::pin(explain::run(*args, console, stop)).await,
        Policy::Simulate(args) => simulate::run(&args, console),
    }
}

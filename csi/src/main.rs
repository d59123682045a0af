//! The `tonnage` program: reads the command line, runs one command to its end, and turns the outcome into one
//! sentence and an exit code. The first Ctrl-C or SIGTERM asks the command to stop and waits for it, so that
//! what has arrived is kept; the second ends the program at once.

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::console::Console;
use crate::exit::{Code, Failure};

mod args;
mod command;
mod config;
mod console;
mod exit;
mod progress;

/// How long blocking work may take to end after the command has ended.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(refusal) => return refuse(&refusal),
    };
    let console = Console::new(args.global.quiet);
    #[cfg(feature = "failpoints")]
    if let Err(why) = tonnage_csi::failpoints::arm() {
        console.say(Failure::new(Code::Usage, "arm the crash point", why));
        return Code::Usage.into();
    }
    if !args.verb.is_service() {
        log_on_standard_error();
    }
    match serve(args, &console) {
        Ok(code) => code.into(),
        Err(failure) => {
            if failure.code != Code::Done {
                console.say(&failure);
            }
            failure.code.into()
        }
    }
}

/// The services set up logs of their own. Elsewhere the one sentence at the end is what a person reads, and
/// `RUST_LOG` shows more.
fn log_on_standard_error() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
}

/// Help and version are results; everything else is a wrong command line.
fn refuse(refusal: &clap::Error) -> ExitCode {
    // The stream may be closed; there is nowhere left to say so.
    let _unwritten = refusal.print();
    if refusal.use_stderr() {
        Code::Usage
    } else {
        Code::Done
    }
    .into()
}

fn serve(args: Args, console: &Console) -> Result<Code, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("start the program's threads", &error))?;
    let outcome = runtime.block_on(until_stopped(args, console));
    runtime.shutdown_timeout(GRACE);
    outcome
}

/// Runs the command; a signal cancels it, and a second one does not wait for it.
async fn until_stopped(args: Args, console: &Console) -> Result<Code, Failure> {
    let stop = CancellationToken::new();
    let mut signals =
        Signals::listen().map_err(|error| Failure::io("listen for signals", &error))?;
    let mut work = pin!(command::run(args, console, &stop));
    let code = tokio::select! {
        outcome = &mut work => return outcome,
        code = signals.next() => code,
    };
    stop.cancel();
    console.remark("stopping; once more to stop at once");
    tokio::select! {
        outcome = &mut work => outcome.map_err(|failure| failure.or_stopped(code)),
        _ = signals.next() => end_at_once(console, code),
    }
}

/// Ends the program where it stands. Nothing is dropped: a lease that went now would leave its content to eviction while a thread
/// is still mounting it.
#[expect(
    clippy::exit,
    reason = "threads that may block are not waited for, and nothing that they use is taken from them"
)]
fn end_at_once(console: &Console, code: Code) -> ! {
    console.say(Failure::stopped(code));
    std::process::exit(code.number().into())
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Code {
        tokio::select! {
            _ = self.interrupt.recv() => Code::Interrupted,
            _ = self.terminate.recv() => Code::Terminated,
        }
    }
}

//! What the suites in `harness/` are made of, one subcommand each. Results go to standard output, one line each.

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tonnage_benches::experiment::Mode;
use tonnage_benches::kubelet::{self, Burst};
use tonnage_benches::read::{self, Lane};
use tonnage_benches::server::{Serve, Server, Settings};
use tonnage_benches::{experiment, heat, limits};
use tonnage_cache::clock::{Clock as _, SystemClock};

/// Measures what Tonnage is compared with.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Serve),
    /// Receive an object and throw it away; prints seconds
    Network {
        address: SocketAddr,
        path: String,
        size: u64,
        #[arg(long, default_value_t = 8)]
        connections: usize,
    },
    /// Write random bytes past the page cache; prints seconds
    Disk {
        path: PathBuf,
        size: u64,
        #[arg(long, default_value_t = 8)]
        writers: usize,
    },
    /// Receive an object and write it in one way; prints seconds
    Stage {
        address: SocketAddr,
        path: String,
        size: u64,
        to: PathBuf,
        #[arg(long, value_enum)]
        mode: Mode,
    },
    /// Hash bytes that are in the processor's cache; prints seconds
    Hash {
        size: u64,
    },
    /// Read every byte of files and directories; prints seconds, sum and bytes
    Read {
        #[arg(long, value_enum, default_value = "mmap")]
        lane: Lane,
        paths: Vec<PathBuf>,
    },
    /// Publish and unpublish pods of one model as kubelet does; prints the times as JSON
    Publish(Burst),
    /// Touch and free memory; prints the bytes per second of the pass
    Heat {
        size: usize,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    match Cli::parse().command {
        Command::Serve(serve) => {
            let server = Server::bind(Settings::from(serve))?;
            writeln!(out, "{}", server.endpoint()?)?;
            out.flush()?;
            server.serve()?;
        }
        Command::Network {
            address,
            path,
            size,
            connections,
        } => {
            let took = limits::network(address, (&path, size), connections)?;
            writeln!(out, "{}", took.as_secs_f64())?;
        }
        Command::Disk {
            path,
            size,
            writers,
        } => {
            let took = limits::disk(&path, size, writers)?;
            writeln!(out, "{}", took.as_secs_f64())?;
        }
        Command::Stage {
            address,
            path,
            size,
            to,
            mode,
        } => {
            let took = experiment::stage(address, (&path, size), &to, mode)?;
            writeln!(out, "{}", took.as_secs_f64())?;
        }
        Command::Hash { size } => writeln!(out, "{}", limits::hash(size).as_secs_f64())?,
        Command::Read { lane, paths } => {
            let clock = SystemClock::new();
            let total = read::all(paths, lane)?;
            let seconds = clock.monotonic().as_secs_f64();
            writeln!(out, "{seconds} {} {}", total.sum, total.bytes)?;
        }
        Command::Publish(burst) => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let times = runtime.block_on(kubelet::burst(burst))?;
            writeln!(out, "{}", serde_json::to_string(&times)?)?;
        }
        Command::Heat { size } => writeln!(out, "{}", heat::pass(size)?)?,
    }
    Ok(())
}

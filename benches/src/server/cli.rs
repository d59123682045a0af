//! The server's words on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Bucket, Settings, Shape};

/// Serve a directory as S3 on loopback until ended; prints the endpoint as its first line
#[derive(Debug, Args)]
pub struct Serve {
    /// Directory whose subdirectories are buckets.
    root: PathBuf,
    /// Port on 127.0.0.1; 0 picks a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Speak TLS and write the authority's certificate here.
    #[arg(long)]
    ca_out: Option<PathBuf>,
    /// Milliseconds before the first byte of an object.
    #[arg(long, default_value_t = 0)]
    first_byte_ms: u64,
    /// Bytes per second of each connection.
    #[arg(long)]
    connection_rate: Option<u64>,
    /// Bytes per second of all connections.
    #[arg(long)]
    total_rate: Option<u64>,
    /// Thousandths of the ranges that are slow.
    #[arg(long, default_value_t = 0)]
    slow_permille: u64,
    /// How many times slower.
    #[arg(long, default_value_t = 20)]
    slow_factor: u64,
    /// Rate of a range that is not slow, where connections are not limited.
    #[arg(long, default_value_t = 200_000_000)]
    typical_rate: u64,
    /// Thousandths of the ranges that are refused or cut.
    #[arg(long, default_value_t = 0)]
    error_permille: u64,
    /// Which ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl From<Serve> for Settings {
    fn from(cli: Serve) -> Self {
        Self {
            root: cli.root,
            port: cli.port,
            ca_out: cli.ca_out,
            shape: Shape {
                first_byte: Duration::from_millis(cli.first_byte_ms),
                connection_rate: cli.connection_rate,
                total: cli.total_rate.map(Bucket::new),
                slow_permille: cli.slow_permille,
                slow_factor: cli.slow_factor,
                typical_rate: cli.typical_rate,
                error_permille: cli.error_permille,
                seed: cli.seed,
                ..Shape::default()
            },
        }
    }
}

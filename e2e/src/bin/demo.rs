//! Stages a model through the real services on this machine and shows what it took.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tonnage_e2e::demo::{Settings, run};
use tonnage_e2e::signals::stopped;

/// Stages a model from an S3 server on loopback through the real node and controller services, as kubelet
/// would, and shows what it took. Leaves nothing behind.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Directory of a model of your own, in place of a generated one.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Size of the generated model.
    #[arg(long, default_value = "1GiB", value_parser = bytes)]
    size: u64,
    /// Show the files without mounting them, as where neither root nor user namespaces are to be had.
    #[arg(long)]
    no_mount: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..).unwrap_or_default() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err("write a size as 512MiB or 1GiB".to_owned()),
    };
    let count: u64 = digits
        .parse()
        .map_err(|_| "write a size as 512MiB or 1GiB".to_owned())?;
    count
        .checked_mul(unit)
        .ok_or_else(|| "that is too large".to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    let Args {
        model,
        size,
        no_mount,
    } = Args::parse();
    let settings = Settings {
        model,
        size,
        no_mount,
    };
    let outcome = tokio::select! {
        outcome = run(settings) => outcome,
        // What was begun is taken down as the story is dropped.
        () = stopped() => Err("stopped; nothing is left".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            // Nothing is left to do if standard error is closed.
            drop(writeln!(std::io::stderr(), "demo: {error}"));
            ExitCode::FAILURE
        }
    }
}

//! What kubelet and external-provisioner say to the driver, from a shell: one operation per run, for the scripts
//! in `e2e/`.
//!
//! It makes the library's calls with kubelet's deadline and back-off, makes the target's parent as kubelet does, and
//! prints what a script needs on stdout. It holds no state: the caller keeps the volume id. Restarts and pods that
//! live on are the emulator's in the library, not this program's.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use tonnage_e2e::kubelet::{
    Pod, Provisioner, Timing, is_uncertain, probe, publish, stats, unpublish,
};

/// Key of the pod's tokens among a request's secrets.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Speaks to the driver as kubelet and external-provisioner do.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Wait until the service says that it is ready.
    Wait {
        #[arg(long)]
        socket: PathBuf,
        /// Seconds to wait at most.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Publish: the volume of a claim where a controller is named, inline otherwise; prints volume id and target.
    Publish(Publish),
    /// Print the bytes that the volume uses.
    Stats {
        #[arg(long)]
        node_socket: PathBuf,
        #[arg(long)]
        volume_id: String,
        #[arg(long)]
        target: PathBuf,
    },
    /// Unpublish, and delete the volume where a controller is named.
    Unpublish {
        #[arg(long)]
        node_socket: PathBuf,
        #[arg(long)]
        controller_socket: Option<PathBuf>,
        #[arg(long)]
        volume_id: String,
        #[arg(long)]
        target: PathBuf,
    },
}

#[derive(Args)]
struct Publish {
    #[arg(long)]
    node_socket: PathBuf,
    #[arg(long)]
    controller_socket: Option<PathBuf>,
    /// Name of the claim's volume, or of the pod.
    #[arg(long, default_value = "e2e")]
    name: String,
    /// Uid of the pod. Default: one that follows from the name.
    #[arg(long)]
    uid: Option<String>,
    /// Namespace of the pod.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// Service account of the pod.
    #[arg(long, default_value = "default")]
    service_account: String,
    /// Send what is on standard input as the pod's tokens: JSON as kubelet writes it.
    #[arg(long)]
    tokens: bool,
    #[arg(long)]
    kubelet_dir: PathBuf,
    /// Seconds of retries at most.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    #[arg(long)]
    source: String,
    #[arg(long, default_value = "")]
    path: String,
    /// The claim's size in bytes: a limit.
    #[arg(long, default_value_t = 1 << 40)]
    capacity: i64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    match run(Cli::parse().command).await {
        Ok(answer) => {
            writeln!(std::io::stdout(), "{answer}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            writeln!(std::io::stderr(), "{}", words(error.as_ref()))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// An error; what a driver answers, as kubelet shows it in a pod's events.
fn words(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<Status>() {
        Some(status) => format!(
            "rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        ),
        None => error.to_string(),
    }
}

async fn run(command: Command) -> Result<String, Box<dyn Error>> {
    match command {
        Command::Wait { socket, seconds } => {
            let ready = async || match probe(&socket).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(Status::unavailable("the service says that it is not ready")),
                Err(status) => Err(status),
            };
            let every = Duration::from_millis(100);
            retry(Duration::from_secs(seconds), |_| every, ready).await?;
            Ok("ready".to_owned())
        }
        Command::Publish(asked) => publish_volume(asked).await,
        Command::Stats {
            node_socket,
            volume_id,
            target,
        } => {
            let (_, used, _) = stats(&node_socket, &volume_id, &target).await?;
            Ok(used.to_string())
        }
        Command::Unpublish {
            node_socket,
            controller_socket,
            volume_id,
            target,
        } => {
            let deadline = Timing::default().deadline;
            unpublish(&node_socket, &volume_id, &target, deadline).await?;
            if let Some(socket) = controller_socket {
                Provisioner::new(&socket).delete(&volume_id).await?;
            }
            Ok(volume_id)
        }
    }
}

/// Publishes, and returns volume id and target.
async fn publish_volume(asked: Publish) -> Result<String, Box<dyn Error>> {
    let attributes = [("source", &*asked.source), ("path", &*asked.path)];
    let given = attributes.map(|it| (!it.1.is_empty()).then_some(it));
    let attributes: Vec<(&str, &str)> = given.into_iter().flatten().collect();
    let mut pod = match &asked.controller_socket {
        Some(socket) => {
            let provisioner = Provisioner::new(socket);
            let volume = provisioner
                .create(&asked.name, &attributes, asked.capacity)
                .await?;
            Pod::of_claim(&asked.name, &volume)
        }
        None => Pod::inline(&asked.name, &attributes),
    };
    pod.namespace = asked.namespace;
    pod.service_account = asked.service_account;
    if let Some(uid) = asked.uid {
        pod.uid = uid;
    }
    if asked.tokens {
        let tokens = std::io::read_to_string(std::io::stdin())?;
        pod.secrets.insert(TOKENS.to_owned(), tokens);
    }
    let limit = Duration::from_secs(asked.seconds);
    publish_within(limit, &asked.node_socket, &pod, &asked.kubelet_dir).await?;
    let target = pod.target(&asked.kubelet_dir);
    Ok(format!("{} {}", pod.volume_id, target.display()))
}

async fn publish_within(
    limit: Duration,
    socket: &Path,
    pod: &Pod,
    kubelet_dir: &Path,
) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(pod.volume_dir(kubelet_dir))?;
    let timing = Timing::default();
    let request = pod.publish_request(kubelet_dir);
    let call = async || publish(socket, request.clone(), timing.deadline).await;
    retry(limit, |failures| timing.pause(failures), call).await?;
    Ok(())
}

/// Calls until it succeeds, ends with a code that kubelet takes for final, or `limit` has passed.
async fn retry(
    limit: Duration,
    pause: impl Fn(u32) -> Duration,
    call: impl AsyncFn() -> Result<(), Status>,
) -> Result<(), Status> {
    let start = Instant::now();
    let mut failures = 0;
    loop {
        let done = call().await;
        failures += 1;
        let code = done.as_ref().map_or_else(Status::code, |()| Code::Ok);
        if !is_uncertain(code) || start.elapsed() + pause(failures) > limit {
            return done;
        }
        sleep(pause(failures)).await;
    }
}

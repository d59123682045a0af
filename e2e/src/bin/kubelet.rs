//! What kubelet and external-provisioner say to the driver, from a shell: one call per run, for the scripts in `e2e/`.
//!
//! It makes the calls with kubelet's deadline, retries the codes that kubelet retries, makes the target's parent
//! as kubelet does, and prints what a script needs on stdout. It holds no state: the caller keeps the volume id.
//! The emulator with virtual time, restarts and one operation per volume is the library's, not this program.

use std::{
    collections::HashMap,
    error::Error,
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use tokio::time::{Instant, sleep};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonnage_proto::csi::{
    CapacityRange, CreateVolumeRequest, DeleteVolumeRequest, NodeGetVolumeStatsRequest,
    NodePublishVolumeRequest, NodeUnpublishVolumeRequest, ProbeRequest, VolumeCapability,
    controller_client::ControllerClient,
    identity_client::IdentityClient,
    node_client::NodeClient,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
};

/// Kubelet's deadline for a CSI call.
const CALL_DEADLINE: Duration = Duration::from_mins(2);
/// Kubelet's first and longest back-off between attempts.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(122));

#[derive(Parser)]
#[command(about = "Speaks to the driver as kubelet and external-provisioner do")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Wait until the service answers Probe.
    Wait {
        #[arg(long)]
        socket: PathBuf,
        /// Seconds to wait at most.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// `CreateVolume`; prints the volume id.
    Create {
        #[arg(long)]
        controller_socket: PathBuf,
        #[arg(long)]
        name: String,
        /// Requested size in bytes.
        #[arg(long, default_value_t = 1 << 40)]
        capacity: i64,
        #[command(flatten)]
        reference: Reference,
    },
    /// `NodePublishVolume`, after `CreateVolume` where a controller is named, inline otherwise; prints the volume id.
    Publish {
        #[arg(long)]
        node_socket: PathBuf,
        #[arg(long)]
        controller_socket: Option<PathBuf>,
        /// Name of the volume.
        #[arg(long, default_value = "pvc-e2e")]
        name: String,
        #[arg(long)]
        target: PathBuf,
        /// Seconds of retries at most.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        #[command(flatten)]
        reference: Reference,
    },
    /// `NodeGetVolumeStats`; prints bytes used and files.
    Stats {
        #[arg(long)]
        node_socket: PathBuf,
        #[arg(long)]
        volume_id: String,
        #[arg(long)]
        target: PathBuf,
    },
    /// `NodeUnpublishVolume`, then `DeleteVolume` where a controller is named.
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
struct Reference {
    #[arg(long)]
    source: String,
    #[arg(long)]
    path: Option<String>,
    /// Further attributes, `key=value`.
    #[arg(long = "attribute", value_parser = key_value)]
    attributes: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Reference {
    fn into_attributes(self) -> HashMap<String, String> {
        let path = self.path.map(|path| ("path".to_owned(), path));
        let source = ("source".to_owned(), self.source);
        self.attributes
            .into_iter()
            .chain(path)
            .chain([source])
            .collect()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let answer = run(Cli::parse().command).await?;
    writeln!(std::io::stdout(), "{answer}")?;
    Ok(())
}

async fn run(command: Command) -> Result<String, Box<dyn Error>> {
    match command {
        Command::Wait { socket, seconds } => {
            let limit = Duration::from_secs(seconds);
            retry(limit, |code| code == Code::Unavailable, || probe(&socket)).await?;
            Ok("ready".to_owned())
        }
        Command::Create {
            controller_socket,
            name,
            capacity,
            reference,
        } => Ok(create(&controller_socket, name, capacity, reference)
            .await?
            .0),
        Command::Publish {
            node_socket,
            controller_socket,
            name,
            target,
            seconds,
            reference,
        } => {
            let (volume_id, context) = match controller_socket {
                Some(socket) => create(&socket, name, 1 << 40, reference).await?,
                None => (name, inline(reference)),
            };
            let request = publish_request(&volume_id, &target, context);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            let client = NodeClient::new(connect(&node_socket).await?);
            let publish = || {
                let (mut client, request) = (client.clone(), timed(request.clone()));
                async move { client.node_publish_volume(request).await.map(drop) }
            };
            retry(Duration::from_secs(seconds), is_uncertain, publish).await?;
            Ok(volume_id)
        }
        Command::Stats {
            node_socket,
            volume_id,
            target,
        } => stats(&node_socket, volume_id, &target).await,
        Command::Unpublish {
            node_socket,
            controller_socket,
            volume_id,
            target,
        } => {
            let request = NodeUnpublishVolumeRequest {
                volume_id: volume_id.clone(),
                target_path: target.to_string_lossy().into_owned(),
            };
            let mut node = NodeClient::new(connect(&node_socket).await?);
            node.node_unpublish_volume(timed(request)).await?;
            if let Some(socket) = controller_socket {
                let request = DeleteVolumeRequest {
                    volume_id: volume_id.clone(),
                    ..Default::default()
                };
                ControllerClient::new(connect(&socket).await?)
                    .delete_volume(timed(request))
                    .await?;
            }
            Ok(volume_id)
        }
    }
}

async fn create(
    socket: &Path,
    name: String,
    capacity: i64,
    reference: Reference,
) -> Result<(String, HashMap<String, String>), Box<dyn Error>> {
    let request = CreateVolumeRequest {
        name,
        capacity_range: Some(CapacityRange {
            required_bytes: capacity,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![reader_only()],
        parameters: reference.into_attributes(),
        ..Default::default()
    };
    let mut client = ControllerClient::new(connect(socket).await?);
    let volume = client
        .create_volume(timed(request))
        .await?
        .into_inner()
        .volume
        .ok_or("the answer names no volume")?;
    Ok((volume.volume_id, volume.volume_context))
}

async fn stats(socket: &Path, volume_id: String, target: &Path) -> Result<String, Box<dyn Error>> {
    let request = NodeGetVolumeStatsRequest {
        volume_id,
        volume_path: target.to_string_lossy().into_owned(),
        ..Default::default()
    };
    let mut client = NodeClient::new(connect(socket).await?);
    let usage = client
        .node_get_volume_stats(timed(request))
        .await?
        .into_inner()
        .usage;
    let used: Vec<String> = usage.iter().map(|u| u.used.to_string()).collect();
    Ok(used.join(" "))
}

async fn probe(socket: &Path) -> Result<(), Status> {
    let channel = connect(socket)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    IdentityClient::new(channel)
        .probe(ProbeRequest {})
        .await
        .map(drop)
}

async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    Endpoint::try_from(format!("unix://{}", socket.display()))?
        .connect()
        .await
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    request
}

/// The codes after which kubelet believes that something may be left and asks again.
fn is_uncertain(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
    )
}

/// Calls until it succeeds, fails with a code that `again` does not hold for, or `limit` has passed.
async fn retry<F, R>(limit: Duration, again: fn(Code) -> bool, call: F) -> Result<(), Status>
where
    F: Fn() -> R,
    R: Future<Output = Result<(), Status>>,
{
    let start = Instant::now();
    let mut pause = BACK_OFF.0;
    loop {
        match call().await {
            Err(status) if again(status.code()) && start.elapsed() + pause < limit => {
                sleep(pause).await;
                pause = BACK_OFF.1.min(pause * 2);
            }
            done => return done,
        }
    }
}

fn publish_request(
    volume_id: &str,
    target: &Path,
    context: HashMap<String, String>,
) -> NodePublishVolumeRequest {
    let pod = [
        ("csi.storage.k8s.io/pod.name", "e2e"),
        ("csi.storage.k8s.io/pod.namespace", "default"),
        (
            "csi.storage.k8s.io/pod.uid",
            "5f0c2b3e-6a0d-4e0c-9d3c-0e2e0e2e0e2e",
        ),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
    ];
    let pod = pod.map(|(key, value)| (key.to_owned(), value.to_owned()));
    NodePublishVolumeRequest {
        volume_id: volume_id.to_owned(),
        target_path: target.to_string_lossy().into_owned(),
        volume_capability: Some(reader_only()),
        readonly: true,
        volume_context: context.into_iter().chain(pod).collect(),
        ..Default::default()
    }
}

fn inline(reference: Reference) -> HashMap<String, String> {
    let ephemeral = ("csi.storage.k8s.io/ephemeral".to_owned(), "true".to_owned());
    reference
        .into_attributes()
        .into_iter()
        .chain([ephemeral])
        .collect()
}

fn reader_only() -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::MultiNodeReaderOnly.into(),
        }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

//! A device plugin without hardware: registers a resource at kubelet's own socket, has as many devices of it as it is told, and lets
//! kubelet give them to containers.
//!
//! It runs until it is stopped. A kubelet that starts empties the directory of device plugins, which is how plugins learn that they have
//! to register again: so does this one.

mod plugin;

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonnage_csi::server::{Routes, Socket};
use tonnage_e2e::kubelet::connect;
use tonnage_e2e::signals::stopped;
use tonnage_proto::deviceplugin::device_plugin_server::DevicePluginServer;
use tonnage_proto::deviceplugin::registration_client::RegistrationClient;
use tonnage_proto::deviceplugin::{DevicePluginOptions, RegisterRequest};

use plugin::Plugin;

/// Kubelet's socket, where plugins register.
const KUBELET: &str = "kubelet.sock";
/// The one version of the API.
const VERSION: &str = "v1beta1";
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(100);

/// Advertises devices that do not exist to a kubelet.
#[derive(Debug, Parser)]
struct Args {
    /// Name of the resource.
    #[arg(long, default_value = "nvidia.com/gpu")]
    resource: String,
    /// How many devices of it there are.
    #[arg(long, default_value_t = 4)]
    devices: usize,
    /// Kubelet's directory of device plugins.
    #[arg(long, default_value = "/var/lib/kubelet/device-plugins")]
    dir: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    tokio::select! {
        ended = keep(&args) => ended,
        () = stopped() => Ok(()),
    }
}

/// Serves and registers, again after each start of kubelet. The socket goes with the future.
async fn keep(args: &Args) -> Result<(), Box<dyn Error>> {
    let plugin = Plugin::new(&args.resource, args.devices);
    let endpoint = format!("{}.sock", args.resource.replace('/', "-"));
    let path = args.dir.join(&endpoint);
    let request = RegisterRequest {
        version: VERSION.to_owned(),
        endpoint,
        resource_name: args.resource.clone(),
        options: Some(DevicePluginOptions::default()),
    };
    loop {
        let socket = Socket::bind(&path).await?;
        let routes = Routes::new().with(DevicePluginServer::new(plugin.clone()));
        // Kubelet calls back before it answers, so both go on at once.
        let known = async {
            register(&args.dir.join(KUBELET), &request).await?;
            writeln!(std::io::stdout(), "{} is registered", args.resource)?;
            gone(&path).await;
            Ok::<(), Box<dyn Error>>(())
        };
        tokio::select! {
            () = socket.serve(routes, CancellationToken::new()) => {}
            known = known => known?,
        }
    }
}

/// Tries until kubelet is there; what it refuses is final.
async fn register(kubelet: &Path, request: &RegisterRequest) -> Result<(), Status> {
    loop {
        let call = async {
            let mut client = RegistrationClient::new(connect(kubelet).await?);
            client.register(request.clone()).await.map(drop)
        };
        match call.await {
            Err(status) if status.code() == Code::Unavailable => sleep(PAUSE).await,
            done => return done,
        }
    }
}

/// Waits until there is no such socket any more.
async fn gone(path: &Path) {
    while path.symlink_metadata().is_ok() {
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests;

//! Arguments of the two services, and the settings that they and the configuration file add up to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use tonnage_csi::run::{ControllerSettings, NodeSettings};

use super::place::{Place, Sources};
use crate::config::{self, Config};
use crate::exit::{Code, Failure};
use tonnage_csi::size::Span;

mod kubernetes;

use kubernetes::Kubernetes;

/// What kubelet and Kubernetes' objects call this driver.
pub(crate) const DRIVER_NAME: &str = "csi.tonnage.dev";
const HOLD: Duration = Duration::from_mins(1);

/// `tonnage node`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  tonnage node --sources /etc/tonnage/sources.toml --cache-dir /mnt/nvme/tonnage
  tonnage node --kubernetes --registration-dir /var/lib/kubelet/plugins_registry

Runs until SIGTERM or Ctrl-C. Mounted volumes stay mounted: a restarted service takes them over. Logs are JSON on \
standard error; RUST_LOG selects what is logged.")]
pub(crate) struct Node {
    /// Socket that kubelet calls [default: `unix:///csi/csi.sock`]
    #[arg(long, value_name = "SOCKET", env = "TONNAGE_ENDPOINT_SOCKET")]
    pub(crate) endpoint: Option<String>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME", env = "TONNAGE_NODE_ID")]
    #[expect(clippy::struct_field_names, reason = "CSI's word, and the flag's")]
    pub(crate) node_id: Option<String>,
    /// Directory of kubelet; targets outside it are refused [default: /var/lib/kubelet]
    #[arg(long, value_name = "DIR", env = "TONNAGE_KUBELET_DIR")]
    pub(crate) kubelet_dir: Option<PathBuf>,
    /// Directory in which to register with kubelet (its `plugins_registry`); not set: do not register
    #[arg(long, value_name = "DIR", env = "TONNAGE_REGISTRATION_DIR")]
    pub(crate) registration_dir: Option<PathBuf>,
    /// Address of /livez, /readyz and /metrics; not set: none
    #[arg(long, value_name = "ADDRESS", env = "TONNAGE_HTTP_ADDRESS")]
    pub(crate) http_address: Option<SocketAddr>,
    /// How long a publish waits for its bytes when the caller sets no deadline [default: 60s]
    #[arg(long, value_name = "TIME", env = "TONNAGE_HOLD")]
    pub(crate) hold: Option<Span>,
    /// Longest wait of a publish, whatever the caller's deadline
    #[arg(long, value_name = "TIME", env = "TONNAGE_HOLD_MAX")]
    pub(crate) hold_max: Option<Span>,
    /// How long one listing of a source serves all who ask for it [default: 60s]
    #[arg(long, value_name = "TIME", env = "TONNAGE_REVISION_TTL")]
    pub(crate) revision_ttl: Option<Span>,
    /// OTLP/gRPC collector that gets a trace of every load; not set: none
    #[arg(long, value_name = "URL", env = "TONNAGE_OTLP_ENDPOINT")]
    pub(crate) otlp_endpoint: Option<String>,
    /// Accept, in a cluster, a cache on kubelet's file system, where a full one can make kubelet evict pods
    #[arg(long, env = "TONNAGE_FORCE_ROOT_FILESYSTEM")]
    pub(crate) force_root_filesystem: bool,
    #[command(flatten)]
    pub(crate) kubernetes: Kubernetes,
    #[command(flatten)]
    pub(crate) sources: Sources,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// `tonnage controller`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  tonnage controller --sources /etc/tonnage/sources.toml
  tonnage controller --kubernetes --namespace tonnage

Runs until SIGTERM or Ctrl-C. It records volumes and never downloads.")]
pub(crate) struct Controller {
    /// Socket that the provisioner calls [default: `unix:///csi/csi.sock`]
    #[arg(long, value_name = "SOCKET", env = "TONNAGE_ENDPOINT_SOCKET")]
    pub(crate) endpoint: Option<String>,
    /// Directory of the volume records [default: /var/lib/tonnage-controller]
    #[arg(long, value_name = "DIR", env = "TONNAGE_VOLUMES_DIR")]
    pub(crate) volumes_dir: Option<PathBuf>,
    /// Address of /livez, /readyz and /metrics; not set: none
    #[arg(long, value_name = "ADDRESS", env = "TONNAGE_HTTP_ADDRESS")]
    pub(crate) http_address: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) kubernetes: Kubernetes,
    #[command(flatten)]
    pub(crate) sources: Sources,
}

/// `tonnage uninstall-check`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Example:
  tonnage uninstall-check --wait 5m

Kubelet cannot unmount a volume without its driver: a pod that is deleted then stays Terminating. Asks the API server of the \
pod that this runs in, or that of KUBECONFIG, for all pods and PersistentVolumes; ends with 1 if a pod uses a volume.")]
pub(crate) struct UninstallCheck {
    /// How long pods that are being deleted, and an API server that does not answer, are waited for
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub(crate) wait: Span,
}

impl Node {
    /// The settings that flags, environment and file add up to.
    pub(crate) fn settings(self, config: &Config) -> Result<NodeSettings, Failure> {
        let Self {
            endpoint,
            node_id,
            kubelet_dir,
            registration_dir,
            http_address,
            hold,
            hold_max,
            revision_ttl,
            otlp_endpoint,
            force_root_filesystem,
            kubernetes,
            sources,
            place,
        } = self;
        let config::Node {
            endpoint: file_endpoint,
            node_id: file_node_id,
            kubelet_dir: file_kubelet_dir,
            registration_dir: file_registration_dir,
            http_address: file_http_address,
            hold: file_hold,
            hold_max: file_hold_max,
            revision_ttl: file_revision_ttl,
            otlp_endpoint: file_otlp,
            force_root_filesystem: file_force,
            default_egress: file_egress,
            kubernetes: file_kubernetes,
            cluster_cidr: file_cluster,
            namespace: file_namespace,
        } = config.node.clone();
        let mut cache = place.cache(config)?;
        if let Some(Span(ttl)) = revision_ttl.or(file_revision_ttl) {
            cache.revision_ttl = ttl;
        }
        let time = |span: Option<Span>| span.map(|Span(time)| time);
        let sources = sources.all(config)?;
        let default_egress = kubernetes.default_egress(file_egress);
        let kubernetes = kubernetes
            .or(file_kubernetes, file_namespace, file_cluster)
            .settings(&sources)?;
        Ok(NodeSettings {
            endpoint: socket(endpoint.or(file_endpoint))?,
            cache,
            sources,
            kubernetes,
            node_id: node_id.or(file_node_id).unwrap_or_else(host_name),
            kubelet_dir: kubelet_dir
                .or(file_kubelet_dir)
                .unwrap_or_else(|| "/var/lib/kubelet".into()),
            registration_dir: registration_dir.or(file_registration_dir),
            http_address: http_address.or(file_http_address),
            hold: time(hold.or(file_hold)).unwrap_or(HOLD),
            hold_max: time(hold_max.or(file_hold_max)),
            otlp_endpoint: otlp_endpoint.or(file_otlp),
            force_root_filesystem: force_root_filesystem || file_force,
            default_egress,
            driver_name: DRIVER_NAME.to_owned(),
        })
    }
}

impl Controller {
    /// The settings that flags, environment and file add up to.
    pub(crate) fn settings(self, config: &Config) -> Result<ControllerSettings, Failure> {
        let Self {
            endpoint,
            volumes_dir,
            http_address,
            kubernetes,
            sources,
        } = self;
        let config::Controller {
            endpoint: file_endpoint,
            volumes_dir: file_volumes_dir,
            http_address: file_http_address,
            default_egress: file_egress,
            kubernetes: file_kubernetes,
            cluster_cidr: file_cluster,
            namespace: file_namespace,
        } = config.controller.clone();
        let sources = sources.all(config)?;
        let default_egress = kubernetes.default_egress(file_egress);
        let kubernetes = kubernetes
            .or(file_kubernetes, file_namespace, file_cluster)
            .settings(&sources)?;
        Ok(ControllerSettings {
            endpoint: socket(endpoint.or(file_endpoint))?,
            sources,
            kubernetes,
            volumes_dir: volumes_dir
                .or(file_volumes_dir)
                .unwrap_or_else(|| "/var/lib/tonnage-controller".into()),
            http_address: http_address.or(file_http_address),
            default_egress,
            driver_name: DRIVER_NAME.to_owned(),
        })
    }
}

/// `unix:///path`, `unix:path` or a plain absolute path.
fn socket(written: Option<String>) -> Result<PathBuf, Failure> {
    let written = written.unwrap_or_else(|| "unix:///csi/csi.sock".to_owned());
    let path = written
        .strip_prefix("unix://")
        .or_else(|| written.strip_prefix("unix:"))
        .unwrap_or(&written);
    if path.starts_with('/') && !path.ends_with('/') {
        return Ok(path.into());
    }
    Err(Failure::new(
        Code::Usage,
        format!("use the endpoint \"{}\"", written.escape_default()),
        "it is not a UNIX socket",
    )
    .or_advise("write unix:///path/to/csi.sock"))
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tonnage_csi::egress::policy;

    use super::*;
    use crate::config::DefaultEgress;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        controller: Controller,
    }

    #[test]
    fn a_controller_s_default_is_the_flag_s_then_the_file_s_and_otherwise_allows() {
        let settled = |words: &[&str], file: Option<DefaultEgress>| {
            let words = ["controller"].iter().chain(words);
            let Line { controller } = Line::try_parse_from(words).unwrap();
            let config = Config {
                controller: config::Controller {
                    default_egress: file,
                    ..config::Controller::default()
                },
                ..Config::default()
            };
            controller.settings(&config).unwrap().default_egress
        };
        let (allow, deny) = (policy::DefaultEgress::Allow, policy::DefaultEgress::Deny);
        assert_eq!(settled(&[], None), allow);
        assert_eq!(settled(&["--default-egress=deny"], None), deny);
        assert_eq!(settled(&[], Some(DefaultEgress::Deny)), deny);
        let word = ["--default-egress=allow"];
        assert_eq!(settled(&word, Some(DefaultEgress::Deny)), allow);
    }

    #[test]
    fn an_endpoint_is_an_absolute_socket_path() {
        assert_eq!(socket(None).unwrap(), PathBuf::from("/csi/csi.sock"));
        assert_eq!(
            socket(Some("unix:/run/x.sock".into())).unwrap(),
            PathBuf::from("/run/x.sock")
        );
        assert_eq!(
            socket(Some("/run/x.sock".into())).unwrap(),
            PathBuf::from("/run/x.sock")
        );
        for bad in ["tcp://127.0.0.1:1", "unix://run/x", "", "unix:///"] {
            assert_eq!(
                socket(Some(bad.into())).unwrap_err().code,
                Code::Usage,
                "{bad}"
            );
        }
    }
}

//! The node service as `run` builds it: start, registration, health, a store that another process owns, stop.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets what it does not expect fails"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonnage_cache::cache::Config;
use tonnage_csi::egress::policy::DefaultEgress;
use tonnage_csi::run::{self, NodeSettings};
use tonnage_csi::server::{Health, serve_http};
use tonnage_proto::csi::identity_client::IdentityClient;
use tonnage_proto::csi::node_client::NodeClient;
use tonnage_proto::csi::node_service_capability::{Type, rpc};
use tonnage_proto::csi::{
    NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeStageVolumeRequest,
    NodeUnpublishVolumeRequest, ProbeRequest,
};
use tonnage_proto::registration::registration_client::RegistrationClient;
use tonnage_proto::registration::{InfoRequest, RegistrationStatus};

struct Node {
    endpoint: PathBuf,
    stop: CancellationToken,
    service: JoinHandle<Result<(), run::Error>>,
}

impl Node {
    fn start(directory: &Path, name: &str) -> Self {
        let endpoint = directory.join(format!("{name}/csi.sock"));
        std::fs::create_dir_all(directory.join("kubelet")).unwrap();
        let settings = NodeSettings {
            endpoint: endpoint.clone(),
            cache: Config::new(directory.join("cache")),
            sources: Vec::new(),
            node_id: name.to_owned(),
            kubelet_dir: directory.join("kubelet"),
            registration_dir: Some(directory.join(format!("{name}/registry"))),
            http_address: None,
            hold: Duration::from_mins(1),
            hold_max: None,
            otlp_endpoint: Some("http://127.0.0.1:9".to_owned()),
            driver_name: "csi.tonnage.dev".to_owned(),
            force_root_filesystem: false,
            default_egress: DefaultEgress::Allow,
            kubernetes: None,
        };
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the handle is joined in `end`")]
        let service = tokio::spawn(run::node(settings, stop.clone()));
        Self {
            endpoint,
            stop,
            service,
        }
    }

    async fn is_ready(&self) -> bool {
        let answer = IdentityClient::new(connect(&self.endpoint).await)
            .probe(ProbeRequest {})
            .await;
        answer.unwrap().into_inner().ready == Some(true)
    }

    async fn ready(&self) {
        while !self.is_ready().await {
            tokio::task::yield_now().await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.service.await.unwrap().unwrap();
        assert!(!self.endpoint.exists(), "the socket stays behind");
    }
}

async fn connect(socket: &Path) -> Channel {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
    loop {
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_registers_says_what_it_can_and_leaves_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(directory.path(), "a");
    node.ready().await;
    let registry = directory.path().join("a/registry/csi.tonnage.dev-reg.sock");
    let mut registration = RegistrationClient::new(connect(&registry).await);
    let info = registration
        .get_info(InfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (info.r#type.as_str(), info.name.as_str()),
        ("CSIPlugin", "csi.tonnage.dev")
    );
    assert_eq!(info.endpoint, node.endpoint.to_str().unwrap());
    assert_eq!(info.supported_versions, ["1.0.0"]);
    registration
        .notify_registration_status(RegistrationStatus {
            plugin_registered: true,
            error: String::new(),
        })
        .await
        .unwrap();
    let mut client = NodeClient::new(connect(&node.endpoint).await);
    let info = client
        .node_get_info(NodeGetInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            info.node_id.as_str(),
            info.max_volumes_per_node,
            info.accessible_topology
        ),
        ("a", 0, None)
    );
    let answer = client
        .node_get_capabilities(NodeGetCapabilitiesRequest {})
        .await
        .unwrap()
        .into_inner();
    let kinds: Vec<i32> = answer
        .capabilities
        .into_iter()
        .map(|capability| match capability.r#type {
            Some(Type::Rpc(rpc)) => rpc.r#type,
            None => 0,
        })
        .collect();
    assert_eq!(
        kinds,
        [
            rpc::Type::GetVolumeStats as i32,
            rpc::Type::SingleNodeMultiWriter as i32
        ]
    );
    let staged = client
        .node_stage_volume(NodeStageVolumeRequest::default())
        .await;
    assert_eq!(staged.unwrap_err().code(), Code::Unimplemented);
    assert!(directory.path().join("cache/control.sock").exists());
    node.end().await;
    assert!(!registry.exists() && !directory.path().join("cache/control.sock").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_on_one_store_is_not_ready_until_the_first_ends() {
    let directory = tempfile::tempdir().unwrap();
    let first = Node::start(directory.path(), "a");
    first.ready().await;
    let second = Node::start(directory.path(), "b");
    assert!(!second.is_ready().await);
    let request = NodeUnpublishVolumeRequest {
        volume_id: "v".to_owned(),
        target_path: directory
            .path()
            .join("kubelet/x")
            .to_str()
            .unwrap()
            .to_owned(),
    };
    let error = NodeClient::new(connect(&second.endpoint).await)
        .node_unpublish_volume(request)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(first.is_ready().await);
    first.end().await;
    second.ready().await;
    second.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_for_its_store_can_be_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let first = Node::start(directory.path(), "a");
    first.ready().await;
    let second = Node::start(directory.path(), "b");
    assert!(!second.is_ready().await);
    second.end().await;
    first.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubelet_directory_that_is_missing_is_said_at_start() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "x").unwrap();
    let settings = NodeSettings {
        endpoint: directory.path().join("csi.sock"),
        cache: Config::new(directory.path().join("cache")),
        sources: Vec::new(),
        node_id: "a".to_owned(),
        kubelet_dir: directory.path().join("none"),
        registration_dir: None,
        http_address: None,
        hold: Duration::ZERO,
        hold_max: None,
        otlp_endpoint: None,
        driver_name: "csi.tonnage.dev".to_owned(),
        force_root_filesystem: false,
        default_egress: DefaultEgress::Allow,
        kubernetes: None,
    };
    let error = run::node(settings, CancellationToken::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
    assert!(!directory.path().join("csi.sock").exists());
}

#[derive(Debug)]
struct Patient(Result<(), String>);

impl Health for Patient {
    fn readiness(&self) -> Result<(), String> {
        self.0.clone()
    }

    fn metrics(&self) -> String {
        "tonnage_published_volumes 0\n# EOF\n".to_owned()
    }
}

async fn get(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn health_and_metrics_are_served_over_http() {
    for (health, status) in [
        (Ok(()), "HTTP/1.1 200 "),
        (
            Err("the store is locked by process 7".to_owned()),
            "HTTP/1.1 503 ",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let asked = async {
            let ready = get(address, "GET /readyz").await;
            assert!(ready.starts_with(status), "{ready}");
            if let Err(why) = &health {
                assert!(ready.contains(why), "{ready}");
            }
            assert!(
                get(address, "GET /livez")
                    .await
                    .starts_with("HTTP/1.1 200 ")
            );
            let metrics = get(address, "GET /metrics").await;
            assert!(
                metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"),
                "{metrics}"
            );
            assert!(
                get(address, "GET /etc/passwd")
                    .await
                    .starts_with("HTTP/1.1 404 ")
            );
            assert!(
                get(address, "POST /metrics")
                    .await
                    .starts_with("HTTP/1.1 405 ")
            );
            stop.cancel();
        };
        tokio::join!(
            serve_http(listener, Arc::new(Patient(health.clone())), stop.clone()),
            asked
        );
    }
}

//! The controller service over its socket, as external-provisioner calls it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets what it does not expect fails"
)]

use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonnage_cache::source::config::SourceConfig;
use tonnage_csi::egress::policy::DefaultEgress;
use tonnage_csi::run::{self, ControllerSettings};
use tonnage_proto::csi::controller_client::ControllerClient;
use tonnage_proto::csi::controller_service_capability::{Type, rpc};
use tonnage_proto::csi::identity_client::IdentityClient;
use tonnage_proto::csi::volume_capability::access_mode::Mode;
use tonnage_proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use tonnage_proto::csi::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerGetCapabilitiesRequest,
    CreateVolumeRequest, DeleteVolumeRequest, GetPluginCapabilitiesRequest, GetPluginInfoRequest,
    ProbeRequest, ValidateVolumeCapabilitiesRequest, Volume, VolumeCapability,
};

#[path = "controller/cluster.rs"]
mod cluster;

struct Place {
    directory: tempfile::TempDir,
    stop: CancellationToken,
    service: Option<JoinHandle<Result<(), run::Error>>>,
}

impl Place {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut place = Self {
            directory,
            stop: CancellationToken::new(),
            service: None,
        };
        std::fs::create_dir(place.at("bucket")).unwrap();
        place.run().await;
        place
    }

    fn at(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    async fn run(&mut self) {
        let settings = ControllerSettings {
            endpoint: self.at("run/csi.sock"),
            sources: vec![SourceConfig {
                name: "models".to_owned(),
                url: format!("file://{}", self.at("bucket").display()),
                ..SourceConfig::default()
            }],
            kubernetes: None,
            volumes_dir: self.at("volumes"),
            http_address: None,
            default_egress: DefaultEgress::Allow,
            driver_name: "csi.tonnage.dev".to_owned(),
        };
        self.stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the handle is joined in `end`")]
        let service = tokio::spawn(run::controller(settings, self.stop.clone()));
        self.service = Some(service);
        while !self.at("run/csi.sock").exists() {
            tokio::task::yield_now().await;
        }
    }

    async fn end(&mut self) {
        self.stop.cancel();
        self.service.take().unwrap().await.unwrap().unwrap();
        assert!(!self.at("run/csi.sock").exists(), "the socket stays behind");
    }

    async fn client(&self) -> ControllerClient<Channel> {
        ControllerClient::new(connect(&self.at("run/csi.sock")).await)
    }

    async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        Ok(self
            .client()
            .await
            .create_volume(request)
            .await?
            .into_inner()
            .volume
            .unwrap())
    }

    async fn delete(&self, volume_id: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest {
            volume_id: volume_id.to_owned(),
            ..DeleteVolumeRequest::default()
        };
        self.client().await.delete_volume(request).await.map(drop)
    }

    fn records(&self) -> usize {
        std::fs::read_dir(self.at("volumes")).unwrap().count()
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

fn capability(mode: Mode) -> VolumeCapability {
    VolumeCapability {
        access_mode: Some(AccessMode { mode: mode.into() }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

fn claim(name: &str, bytes: i64) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(CapacityRange {
            required_bytes: bytes,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![capability(Mode::MultiNodeReaderOnly)],
        parameters: [
            ("source", "models"),
            ("path", "llama"),
            ("csi.storage.k8s.io/pvc/name", "claim"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        ..CreateVolumeRequest::default()
    }
}

#[tokio::test]
async fn a_volume_is_its_name_and_lasts_until_it_is_deleted() {
    let mut place = Place::start().await;
    let volume = place.create(claim("pvc-1", 1 << 30)).await.unwrap();
    assert_eq!(volume.capacity_bytes, 1 << 30);
    assert!(volume.volume_id.starts_with("v1-") && volume.volume_id.len() == 35);
    let expected = [
        ("source", "models"),
        ("path", "llama"),
        ("limitBytes", "1073741824"),
    ];
    assert_eq!(
        volume.volume_context,
        expected
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    );
    assert!(volume.accessible_topology.is_empty());
    place.end().await;
    place.run().await;
    assert_eq!(place.create(claim("pvc-1", 1 << 30)).await.unwrap(), volume);
    let other = place.create(claim("PVC-1-1A2B", 1)).await.unwrap();
    assert_ne!(other.volume_id, volume.volume_id);
    for id in [
        &volume.volume_id,
        &volume.volume_id,
        "fake-vol-id",
        "../../etc",
    ] {
        place.delete(id).await.unwrap();
    }
    assert_eq!(place.records(), 1);
    place.end().await;
}

#[tokio::test]
async fn without_a_cluster_nothing_is_known_of_claims_and_nothing_is_listed() {
    let place = Place::start().await;
    let mut request = claim("pvc-1", 7);
    let key = "csi.storage.k8s.io/pvc/namespace";
    request.parameters.insert(key.to_owned(), "team".to_owned());
    let volume = place.create(request).await.unwrap();
    assert!(!volume.volume_context.contains_key("revision"));
    assert_eq!(place.create(claim("pvc-1", 7)).await.unwrap(), volume);
}

#[tokio::test]
async fn the_same_name_with_anything_else_exists_already() {
    let place = Place::start().await;
    place.create(claim("pvc-1", 7)).await.unwrap();
    let mut other_path = claim("pvc-1", 7);
    other_path
        .parameters
        .insert("path".to_owned(), "mistral".to_owned());
    for request in [other_path, claim("pvc-1", 8)] {
        assert_eq!(
            place.create(request).await.unwrap_err().code(),
            Code::AlreadyExists
        );
    }
    place.create(claim("pvc-1", 7)).await.unwrap();
}

#[tokio::test]
async fn what_no_pod_could_mount_is_refused_at_the_claim() {
    let place = Place::start().await;
    let change = |change: fn(&mut CreateVolumeRequest)| {
        let mut request = claim("pvc-1", 7);
        change(&mut request);
        request
    };
    let set = |key: &'static str, value: &'static str| {
        let mut request = claim("pvc-1", 7);
        request.parameters.insert(key.to_owned(), value.to_owned());
        request
    };
    let cases = [
        (change(|it| it.name.clear()), Code::InvalidArgument, "name"),
        (
            change(|it| it.volume_capabilities.clear()),
            Code::InvalidArgument,
            "volume_capabilities",
        ),
        (
            change(|it| it.volume_capabilities = vec![capability(Mode::MultiNodeMultiWriter)]),
            Code::InvalidArgument,
            "ReadOnlyMany",
        ),
        (
            change(|it| {
                it.volume_capabilities[0].access_type = Some(AccessType::Block(BlockVolume {}));
            }),
            Code::InvalidArgument,
            "Filesystem",
        ),
        (
            change(|it| it.capacity_range.as_mut().unwrap().limit_bytes = 6),
            Code::OutOfRange,
            "limit_bytes",
        ),
        (
            change(|it| it.capacity_range.as_mut().unwrap().required_bytes = -1),
            Code::OutOfRange,
            "-1",
        ),
        (set("source", "nowhere"), Code::NotFound, "nowhere"),
        (set("path", "../up"), Code::InvalidArgument, "../up"),
        (set("include", "["), Code::InvalidArgument, "["),
        (
            set("endpoint", "http://evil"),
            Code::InvalidArgument,
            "endpoint",
        ),
    ];
    for (request, code, word) in cases {
        let error = place.create(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(word), "{error}");
    }
    assert_eq!(place.records(), 0);
}

#[tokio::test]
async fn capabilities_are_confirmed_or_doubted_for_volumes_that_exist() {
    let place = Place::start().await;
    let volume = place.create(claim("pvc-1", 7)).await.unwrap();
    let ask = async |id: &str, capabilities: Vec<VolumeCapability>| {
        let request = ValidateVolumeCapabilitiesRequest {
            volume_id: id.to_owned(),
            volume_capabilities: capabilities,
            ..ValidateVolumeCapabilitiesRequest::default()
        };
        place
            .client()
            .await
            .validate_volume_capabilities(request)
            .await
            .map(tonic::Response::into_inner)
    };
    let one = vec![capability(Mode::SingleNodeWriter)];
    let answer = ask(&volume.volume_id, one.clone()).await.unwrap();
    assert_eq!(answer.confirmed.unwrap().volume_capabilities, one);
    let answer = ask(
        &volume.volume_id,
        vec![capability(Mode::MultiNodeMultiWriter)],
    )
    .await
    .unwrap();
    assert!(answer.confirmed.is_none() && answer.message.contains("ReadOnlyMany"));
    assert_eq!(
        ask("", one.clone()).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(
        ask(&volume.volume_id, Vec::new()).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(
        ask("fake-vol-id-1", one).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn the_plugin_says_who_it_is_and_what_it_can() {
    let place = Place::start().await;
    let mut identity = IdentityClient::new(connect(&place.at("run/csi.sock")).await);
    let info = identity
        .get_plugin_info(GetPluginInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.name, "csi.tonnage.dev");
    assert!(!info.vendor_version.is_empty());
    assert_eq!(
        identity
            .probe(ProbeRequest {})
            .await
            .unwrap()
            .into_inner()
            .ready,
        Some(true)
    );
    let plugin = identity
        .get_plugin_capabilities(GetPluginCapabilitiesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(plugin.capabilities.len(), 1);
    let mut controller = place.client().await;
    let answer = controller
        .controller_get_capabilities(ControllerGetCapabilitiesRequest {})
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
            rpc::Type::CreateDeleteVolume as i32,
            rpc::Type::SingleNodeMultiWriter as i32
        ]
    );
    let expand = controller
        .controller_expand_volume(ControllerExpandVolumeRequest::default())
        .await;
    assert_eq!(expand.unwrap_err().code(), Code::Unimplemented);
    let node =
        tonnage_proto::csi::node_client::NodeClient::new(connect(&place.at("run/csi.sock")).await)
            .node_get_info(tonnage_proto::csi::NodeGetInfoRequest {})
            .await;
    assert_eq!(node.unwrap_err().code(), Code::Unimplemented);
}

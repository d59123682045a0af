//! Claims in a cluster: the controller service over an API server that keeps what it is given, and a source in memory.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonnage_cache::clock::{Clock, SystemClock};
use tonnage_cache::path::RelPath;
use tonnage_cache::source::location::Location;
use tonnage_cache::source::{self, Entry, Limits, Listing, Source, Version, fingerprint};
use tonnage_csi::crd;
use tonnage_csi::egress::compiled::Compiled;
use tonnage_csi::egress::policy::DefaultEgress;
use tonnage_csi::govern::audit::Audit;
use tonnage_csi::govern::rules::Rulebook;
use tonnage_csi::provision::Provisioner;
use tonnage_csi::service::ControllerService;
use tonnage_csi::sources::Sources;
use tonnage_csi::volumes::VolumeObjects;
use tonnage_proto::csi::controller_server::Controller as _;
use tonnage_proto::csi::volume_capability::access_mode::Mode;
use tonnage_proto::csi::{
    CapacityRange, CreateVolumeRequest, DeleteVolumeRequest, ValidateVolumeCapabilitiesRequest,
    Volume,
};
use tower_test::mock::Handle;

use super::capability;

const UID: &str = "0b2ffb6c-3c0e-4b0a-9d3e-0f6f3f1f7c11";
const VOLUMES: &str = "/apis/tonnage.dev/v1alpha1/volumes";

/// Objects by path, and what was asked.
#[derive(Debug, Default)]
struct ApiServer {
    objects: Mutex<BTreeMap<String, Value>>,
    requests: Mutex<Vec<String>>,
}

impl ApiServer {
    fn put(&self, path: &str, object: Value) {
        self.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    /// A claim `llama` of a namespace, with this path.
    fn claim(&self, namespace: &str, path: &str) {
        let claim = json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": "llama",
                "namespace": namespace,
                "uid": UID,
                "annotations": {"tonnage.dev/path": path},
            },
        });
        let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/llama");
        self.put(&path, claim);
    }

    /// What has been asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    fn volumes(&self) -> Vec<Value> {
        let objects = self.objects.lock().unwrap();
        let volumes = objects.iter().filter(|(path, _)| path.starts_with(VOLUMES));
        volumes.map(|(_, object)| object.clone()).collect()
    }

    fn answer(&self, method: &str, path: &str, sent: &[u8]) -> (u16, Value) {
        let line = format!("{method} {path}");
        self.requests.lock().unwrap().push(line.clone());
        let refusal = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": code});
            (code, status)
        };
        let mut objects = self.objects.lock().unwrap();
        let absent = || refusal(404, "NotFound");
        match method {
            "GET" => objects
                .get(path)
                .map_or_else(absent, |object| (200, object.clone())),
            "DELETE" => objects.remove(path).map_or_else(absent, |it| (200, it)),
            "POST" => {
                let object: Value = serde_json::from_slice(sent).unwrap();
                let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
                if objects.contains_key(&path) {
                    return refusal(409, "AlreadyExists");
                }
                objects.insert(path, object.clone());
                (201, object)
            }
            _ => panic!("{line}"),
        }
    }
}

async fn serve(mut handle: Handle<Request<Body>, Response<Body>>, server: Arc<ApiServer>) {
    while let Some((request, respond)) = handle.next_request().await {
        let (parts, body) = request.into_parts();
        let sent = body.collect_bytes().await.unwrap();
        let (status, answer) = server.answer(parts.method.as_str(), parts.uri.path(), &sent);
        let body = Body::from(serde_json::to_vec(&answer).unwrap());
        respond.send_response(Response::builder().status(status).body(body).unwrap());
    }
}

/// Sizes by key; listed and never read.
#[derive(Debug, Default)]
struct Shelf {
    files: Mutex<BTreeMap<String, u64>>,
    listed: Mutex<Vec<String>>,
    delay: Mutex<Duration>,
    is_down: Mutex<bool>,
}

impl Shelf {
    fn put(&self, key: &str, size: u64) {
        self.files.lock().unwrap().insert(key.to_owned(), size);
    }

    fn entries(&self, prefix: &str) -> Vec<Entry> {
        let under = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        let files = self.files.lock().unwrap();
        files
            .iter()
            .filter_map(|(key, size)| {
                Some(Entry {
                    path: RelPath::parse(key.strip_prefix(&under)?).unwrap(),
                    key: key.clone(),
                    size: *size,
                    version: Version::default(),
                })
            })
            .collect()
    }

    /// What has been listed since the last time.
    fn listed(&self) -> Vec<String> {
        std::mem::take(&mut self.listed.lock().unwrap())
    }
}

impl Source for Shelf {
    fn name(&self) -> &'static str {
        "shelf"
    }

    fn uid(&self) -> &'static str {
        "memory://shelf"
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        _: &'a Limits,
    ) -> BoxFuture<'a, Result<Listing, source::Error>> {
        self.listed.lock().unwrap().push(prefix.to_owned());
        let delay = *self.delay.lock().unwrap();
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            if *self.is_down.lock().unwrap() {
                return Err(source::Error::Unavailable {
                    subject: "bucket \"b\"".to_owned(),
                    what: "connection refused".to_owned(),
                });
            }
            let entries = self.entries(prefix);
            if entries.is_empty() {
                return Err(source::Error::NotFound(format!(
                    "\"{prefix}\" in bucket \"b\""
                )));
            }
            Ok(Listing {
                entries,
                markers: 0,
            })
        })
    }

    fn open<'a>(
        &'a self,
        _: &'a Entry,
        _: Range<u64>,
    ) -> BoxFuture<'a, Result<source::Body, source::Error>> {
        panic!("a controller downloads nothing")
    }
}

struct Cluster {
    server: Arc<ApiServer>,
    shelf: Arc<Shelf>,
    sources: Sources,
    service: ControllerService,
    _tasks: JoinSet<()>,
}

impl Cluster {
    /// With the source `models`, which namespace `team` may use, and its claim `llama` for the path `llama`.
    fn new() -> Self {
        let cluster = Self::of(Sources::default());
        cluster.source(&json!({}));
        cluster.server.claim("team", "llama");
        cluster.shelf.put("base/llama/config.json", 2);
        cluster.shelf.put("base/llama/model.safetensors", 40);
        cluster
    }

    fn of(sources: Sources) -> Self {
        Self::with(sources, |provisioner| provisioner)
    }

    fn with(sources: Sources, govern: impl FnOnce(Provisioner) -> Provisioner) -> Self {
        let (service, handle) = tower_test::mock::pair();
        let client = kube::Client::new(service, "tonnage");
        let server = Arc::new(ApiServer::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(handle, Arc::clone(&server)));
        let clock = Arc::new(SystemClock::new());
        let records = Arc::new(VolumeObjects::new(client.clone()));
        let provisioner = Provisioner::in_cluster(records, sources.clone(), client, clock);
        let provisioner = govern(provisioner);
        let service = ControllerService::new(provisioner, Arc::new(SystemClock::new()), Vec::new());
        Self {
            server,
            shelf: Arc::default(),
            sources,
            service,
            _tasks: tasks,
        }
    }

    /// Sets the source `models`, with some fields of its specification changed.
    fn source(&self, changes: &Value) {
        let mut spec = json!({
            "url": "s3://b",
            "consumers": [{"namespaces": {"names": ["team"]}}],
        });
        for (key, value) in changes.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let object = json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "Source",
            "metadata": {"name": "models", "uid": "u", "generation": 1},
            "spec": spec,
        });
        let object: crd::Source = serde_json::from_value(object).unwrap();
        let place = Arc::clone(&self.shelf);
        self.sources.put(Arc::new(object), place);
    }

    async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        let answer = self
            .service
            .create_volume(tonic::Request::new(request))
            .await?;
        Ok(answer.into_inner().volume.unwrap())
    }

    /// Creating fails with this code, the words are in its message, and nothing is recorded.
    async fn refuses(&self, request: CreateVolumeRequest, code: Code, words: &[&str]) {
        let error = self.create(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        for word in words {
            assert!(error.message().contains(word), "{error}");
        }
        assert_eq!(self.server.volumes(), Vec::<Value>::new());
    }
}

/// What external-provisioner asks for claim `llama` of a namespace, whose class has the path `base`.
fn request(namespace: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: format!("pvc-{UID}"),
        capacity_range: Some(CapacityRange {
            required_bytes: 1000,
            limit_bytes: 0,
        }),
        volume_capabilities: vec![capability(Mode::MultiNodeReaderOnly)],
        parameters: map(&[
            ("source", "models"),
            ("path", "base"),
            ("csi.storage.k8s.io/pv/name", &format!("pvc-{UID}")),
            ("csi.storage.k8s.io/pvc/name", "llama"),
            ("csi.storage.k8s.io/pvc/namespace", namespace),
        ]),
        ..CreateVolumeRequest::default()
    }
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn with(key: &str, value: &str) -> CreateVolumeRequest {
    let mut request = request("team");
    request.parameters.insert(key.to_owned(), value.to_owned());
    request
}

/// A request of a provisioner without `--extra-create-metadata`.
fn bare(path: &str) -> CreateVolumeRequest {
    CreateVolumeRequest {
        parameters: map(&[("source", "models"), ("path", path)]),
        ..request("team")
    }
}

#[tokio::test]
async fn a_claim_is_frozen_with_its_path_and_its_revision() {
    let cluster = Cluster::new();
    let volume = cluster.create(request("team")).await.unwrap();
    let revision = fingerprint(&cluster.shelf.entries("base/llama")).to_hex();
    let expected = map(&[
        ("source", "models"),
        ("path", "base/llama"),
        ("revision", &revision),
        ("limitBytes", "1000"),
    ]);
    assert_eq!(volume.volume_context, expected);
    assert_eq!(volume.capacity_bytes, 1000);
    let record = format!("{VOLUMES}/{}", volume.volume_id);
    assert_eq!(
        cluster.server.asked(),
        [
            format!("GET {record}"),
            "GET /api/v1/namespaces/team/persistentvolumeclaims/llama".to_owned(),
            format!("POST {VOLUMES}"),
        ]
    );
    assert_eq!(cluster.shelf.listed(), ["base/llama"]);
    let volumes = cluster.server.volumes();
    let [object] = volumes.as_slice() else {
        panic!("{volumes:?}");
    };
    assert_eq!(
        object["spec"]["claim"],
        json!({"namespace": "team", "name": "llama"})
    );
    assert_eq!(object["spec"]["attributes"]["revision"], revision);
    let request = ValidateVolumeCapabilitiesRequest {
        volume_id: volume.volume_id.clone(),
        volume_capabilities: vec![capability(Mode::MultiNodeReaderOnly)],
        volume_context: volume.volume_context.clone(),
        ..ValidateVolumeCapabilitiesRequest::default()
    };
    let answer = cluster
        .service
        .validate_volume_capabilities(tonic::Request::new(request))
        .await
        .unwrap();
    assert!(answer.into_inner().confirmed.is_some());
}

#[tokio::test]
async fn a_retry_returns_the_record_whatever_has_changed_since() {
    let cluster = Cluster::new();
    let volume = cluster.create(request("team")).await.unwrap();
    cluster.server.claim("team", "mistral");
    cluster.shelf.put("base/llama/config.json", 3);
    cluster.source(&json!({"consumers": []}));
    cluster.server.asked();
    cluster.shelf.listed();
    assert_eq!(cluster.create(request("team")).await.unwrap(), volume);
    assert_eq!(
        cluster.server.asked(),
        [format!("GET {VOLUMES}/{}", volume.volume_id)]
    );
    assert_eq!(cluster.shelf.listed(), Vec::<String>::new());
    for other in [
        with("path", "elsewhere"),
        with("include", "*.json"),
        with("limitBytes", "7"),
        request("other"),
        bare("base"),
    ] {
        let error = cluster.create(other).await.unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    }
}

#[tokio::test]
async fn of_two_at_once_one_wins_and_both_get_its_volume() {
    let cluster = Cluster::new();
    let (one, two) = tokio::join!(
        cluster.create(request("team")),
        cluster.create(request("team"))
    );
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(cluster.server.volumes().len(), 1);
}

#[tokio::test]
async fn a_deleted_volume_is_made_anew_from_what_is_there() {
    let cluster = Cluster::new();
    let first = cluster.create(request("team")).await.unwrap();
    for _ in 0..2 {
        let request = DeleteVolumeRequest {
            volume_id: first.volume_id.clone(),
            ..DeleteVolumeRequest::default()
        };
        cluster
            .service
            .delete_volume(tonic::Request::new(request))
            .await
            .unwrap();
    }
    assert_eq!(cluster.server.volumes(), Vec::<Value>::new());
    cluster.shelf.put("base/llama/config.json", 3);
    let second = cluster.create(request("team")).await.unwrap();
    assert_eq!(second.volume_id, first.volume_id);
    assert_ne!(
        second.volume_context["revision"],
        first.volume_context["revision"]
    );
}

#[tokio::test]
async fn what_no_pod_of_the_claim_could_read_is_refused_before_anything_is_listed() {
    let cluster = Cluster::new();
    cluster.server.claim("other", "llama");
    let denied = Code::PermissionDenied;
    let words = ["namespace other", "source \"models\"", "consumers"];
    cluster.refuses(request("other"), denied, &words).await;
    cluster.source(&json!({"consumers": []}));
    for request in [request("team"), bare("base")] {
        cluster.refuses(request, denied, &["nobody may use"]).await;
    }
    let mistral =
        json!([{"namespaces": {"names": ["team"]}, "paths": ["base/mistral", "base/llam"]}]);
    cluster.source(&json!({"consumers": mistral}));
    let words = ["namespace team", "source \"models\" at \"base/llama\""];
    cluster.refuses(request("team"), denied, &words).await;
    assert_eq!(cluster.shelf.listed(), Vec::<String>::new());
    let base = json!([{"namespaces": {"names": ["team"]}, "paths": ["base/"]}]);
    cluster.source(&json!({"consumers": base}));
    cluster.create(request("team")).await.unwrap();
}

#[tokio::test]
async fn labels_of_the_claim_s_namespace_are_read_where_consumers_ask_for_them() {
    let cluster = Cluster::new();
    let consumers = json!([{"namespaces": {"matchLabels": {"tier": "ml"}}}]);
    cluster.source(&json!({"consumers": consumers}));
    let namespace = |labels: &Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": labels}});
    let path = "/api/v1/namespaces/team";
    cluster.server.put(path, namespace(&json!({"tier": "ml"})));
    cluster.create(request("team")).await.unwrap();
    assert!(cluster.server.asked().contains(&format!("GET {path}")));

    let cluster = Cluster::new();
    cluster.source(&json!({"consumers": consumers}));
    cluster.server.put(path, namespace(&json!({"tier": "web"})));
    cluster
        .refuses(request("team"), Code::PermissionDenied, &["namespace team"])
        .await;
}

#[tokio::test]
async fn a_claim_that_is_not_the_request_s_or_leads_elsewhere_is_refused() {
    let cluster = Cluster::new();
    let mut forged = request("team");
    forged.name = "pvc-00000000-0000-0000-0000-000000000000".to_owned();
    cluster
        .refuses(forged, Code::FailedPrecondition, &["claim team/llama", UID])
        .await;
    cluster.server.claim("team", "../other");
    let words = [
        "annotation tonnage.dev/path of claim team/llama",
        "../other",
    ];
    cluster
        .refuses(request("team"), Code::InvalidArgument, &words)
        .await;
    cluster
        .refuses(request("gone"), Code::NotFound, &["claim gone/llama"])
        .await;
    let unknown = with("source", "nowhere");
    cluster.refuses(unknown, Code::NotFound, &["nowhere"]).await;
}

#[tokio::test]
async fn a_claim_without_files_or_smaller_than_they_are_is_refused() {
    let cluster = Cluster::new();
    cluster.server.claim("team", "absent");
    let words = ["source \"models\" at \"base/absent\"", "annotation"];
    cluster
        .refuses(request("team"), Code::NotFound, &words)
        .await;
    cluster.server.claim("team", "llama");
    let nothing = with("include", "*.gguf");
    cluster
        .refuses(nothing, Code::NotFound, &["include and exclude"])
        .await;
    let mut small = request("team");
    small.capacity_range = Some(CapacityRange {
        required_bytes: 41,
        limit_bytes: 0,
    });
    let words = ["42 bytes", "41 bytes"];
    cluster
        .refuses(small, Code::FailedPrecondition, &words)
        .await;
    *cluster.shelf.is_down.lock().unwrap() = true;
    cluster
        .refuses(request("team"), Code::Unavailable, &["connection refused"])
        .await;
    *cluster.shelf.is_down.lock().unwrap() = false;
    cluster.create(request("team")).await.unwrap();
}

#[tokio::test]
async fn what_is_pinned_or_read_with_a_pod_s_keys_is_not_listed() {
    let pin = "c0".repeat(32);
    for (request, changes) in [
        (with("revision", &pin), json!({})),
        (with("digest", &pin), json!({"revisionPolicy": "Required"})),
        (request("team"), json!({"auth": {"mode": "PodSecret"}})),
    ] {
        let cluster = Cluster::new();
        cluster.source(&changes);
        let asked = request.parameters.get("revision").cloned();
        let volume = cluster.create(request.clone()).await.unwrap();
        assert_eq!(volume.volume_context.get("revision"), asked.as_ref());
        assert_eq!(cluster.shelf.listed(), Vec::<String>::new());
        assert_eq!(cluster.create(request).await.unwrap(), volume);
    }
    let cluster = Cluster::new();
    let changes = json!({"auth": {"mode": "PodSecret"}, "revisionPolicy": "Required"});
    cluster.source(&changes);
    let words = ["pinned volumes only", "StorageClass"];
    cluster
        .refuses(request("team"), Code::PermissionDenied, &words)
        .await;
}

#[tokio::test]
async fn without_the_claim_s_name_the_class_alone_says_what_is_shown() {
    let cluster = Cluster::new();
    let volume = cluster.create(bare("base/llama")).await.unwrap();
    assert_eq!(volume.volume_context["path"], "base/llama");
    assert!(volume.volume_context.contains_key("revision"));
    assert_eq!(cluster.create(bare("base/llama")).await.unwrap(), volume);
    let asked = cluster.server.asked();
    assert!(
        !asked.iter().any(|line| line.contains("claims")),
        "{asked:?}"
    );
    let error = cluster.create(bare("base")).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_takes_long_is_told_and_goes_on_until_the_next_call() {
    let cluster = Cluster::new();
    *cluster.shelf.delay.lock().unwrap() = Duration::from_secs(30);
    let words = ["still being listed", "the provisioner asks again by itself"];
    cluster
        .refuses(request("team"), Code::Unavailable, &words)
        .await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    cluster.create(request("team")).await.unwrap();
    assert_eq!(cluster.shelf.listed(), ["base/llama"]);
}

#[tokio::test]
async fn what_no_policy_lets_a_claim_s_namespace_load_is_refused_before_anything_is_listed() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let rulebook = Rulebook::new(DefaultEgress::Allow, Arc::clone(&clock));
    let cluster = Cluster::with(Sources::default(), |it| {
        let audit = Audit::to(std::io::sink());
        it.governed_by(rulebook.clone(), audit, Arc::clone(&clock))
    });
    cluster.source(&json!({}));
    cluster.server.claim("team", "llama");
    cluster.shelf.put("base/llama/config.json", 2);
    let waits = Code::Unavailable;
    // Where the source is, is not known yet: that is nobody's fault but the moment's.
    cluster
        .refuses(request("team"), waits, &["is being read"])
        .await;
    cluster
        .sources
        .locations()
        .put("models", Location::default());
    cluster
        .refuses(request("team"), waits, &["EgressPolicies"])
        .await;
    let allowing = |allow: Value| {
        Compiled::from_json(&json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": "p", "uid": "u", "generation": 1},
            "spec": {"namespaces": {"names": ["team"]}, "allow": allow},
        }))
    };
    rulebook.replace(vec![allowing(json!([]))], clock.monotonic());
    let denied = Code::PermissionDenied;
    cluster
        .refuses(request("team"), denied, &["EgressPolicy p"])
        .await;
    assert_eq!(cluster.shelf.listed(), Vec::<String>::new());
    rulebook.replace(vec![allowing(json!([{}]))], clock.monotonic());
    cluster.create(request("team")).await.unwrap();
}

#[tokio::test]
async fn until_the_sources_are_read_a_claim_waits() {
    let cluster = Cluster::of(Sources::awaited());
    cluster
        .refuses(request("team"), Code::Unavailable, &["are being read"])
        .await;
}

//! The plugin against a kubelet that calls back while it is registered, as the real one does.

use tokio::sync::mpsc;
use tonic::{Request, Response};
use tonnage_proto::deviceplugin::device_plugin_client::DevicePluginClient;
use tonnage_proto::deviceplugin::registration_server::{Registration, RegistrationServer};
use tonnage_proto::deviceplugin::{AllocateRequest, ContainerAllocateRequest, Empty};

use super::*;

/// What kubelet was told, was shown, and was given for the first and the last device.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    resource: String,
    devices: Vec<String>,
    variable: Option<String>,
}

#[derive(Debug)]
struct Kubelet {
    dir: PathBuf,
    seen: mpsc::Sender<Seen>,
}

#[tonic::async_trait]
impl Registration for Kubelet {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        if request.version != VERSION {
            return Err(Status::invalid_argument("no such version"));
        }
        let channel = connect(&self.dir.join(&request.endpoint)).await?;
        let mut client = DevicePluginClient::new(channel);
        client.get_device_plugin_options(Empty {}).await?;
        let mut lists = client.list_and_watch(Empty {}).await?.into_inner();
        let list = lists.message().await?.unwrap_or_default();
        let devices: Vec<String> = list.devices.into_iter().map(|it| it.id).collect();
        let ends = [devices.first(), devices.last()];
        let wanted = ContainerAllocateRequest {
            devices_ids: ends.into_iter().flatten().cloned().collect(),
        };
        let given = client
            .allocate(AllocateRequest {
                container_requests: vec![wanted],
            })
            .await?
            .into_inner();
        let container = given.container_responses.into_iter().next();
        let seen = Seen {
            resource: request.resource_name,
            devices,
            variable: container.and_then(|mut it| it.envs.remove(plugin::VARIABLE)),
        };
        self.seen.send(seen).await.unwrap();
        Ok(Response::new(Empty {}))
    }
}

#[tokio::test]
async fn devices_are_registered_given_away_and_registered_again_when_kubelet_has_started_anew() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let args = Args {
        resource: "nvidia.com/gpu".to_owned(),
        devices: 3,
        dir: dir.to_path_buf(),
    };
    let (seen, mut sightings) = mpsc::channel(1);
    let kubelet = Kubelet {
        dir: dir.to_path_buf(),
        seen,
    };
    let socket = Socket::bind(&dir.join(KUBELET)).await.unwrap();
    let routes = Routes::new().with(RegistrationServer::new(kubelet));
    let story = async {
        let first = sightings.recv().await.unwrap();
        std::fs::remove_file(dir.join("nvidia.com-gpu.sock")).unwrap();
        (first, sightings.recv().await.unwrap())
    };
    let (first, second) = tokio::select! {
        () = socket.serve(routes, CancellationToken::new()) => panic!("kubelet has ended"),
        ended = keep(&args) => panic!("the plugin has ended: {ended:?}"),
        both = story => both,
    };
    let wanted = Seen {
        resource: "nvidia.com/gpu".to_owned(),
        devices: ["gpu-0", "gpu-1", "gpu-2"].map(str::to_owned).to_vec(),
        variable: Some("gpu-0,gpu-2".to_owned()),
    };
    assert_eq!(first, wanted);
    assert_eq!(second, wanted);
}

#[tokio::test]
async fn what_kubelet_refuses_ends_the_plugin() {
    #[derive(Debug)]
    struct Refuses;

    #[tonic::async_trait]
    impl Registration for Refuses {
        async fn register(
            &self,
            request: Request<RegisterRequest>,
        ) -> Result<Response<Empty>, Status> {
            let name = request.into_inner().resource_name;
            Err(Status::unknown(format!("{name} is no resource")))
        }
    }

    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let args = Args {
        resource: "gpu".to_owned(),
        devices: 1,
        dir: dir.to_path_buf(),
    };
    let socket = Socket::bind(&dir.join(KUBELET)).await.unwrap();
    let routes = Routes::new().with(RegistrationServer::new(Refuses));
    let error = tokio::select! {
        () = socket.serve(routes, CancellationToken::new()) => panic!("kubelet has ended"),
        ended = keep(&args) => ended.unwrap_err(),
    };
    assert!(error.to_string().contains("gpu is no resource"), "{error}");
    assert!(!dir.join("gpu.sock").exists());
}

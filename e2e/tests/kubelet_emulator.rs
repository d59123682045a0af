//! The emulator itself, against a scripted driver and in virtual time: it must do what a real kubelet was seen to do,
//! or what it proves about the driver is worth nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets what it does not expect fails"
)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};
use tonnage_e2e::kubelet::{Kubelet, Phase, Pod, Settings, Timing};
use tonnage_proto::csi;
use tonnage_proto::csi::node_server::{Node, NodeServer};

const LONG: Duration = Duration::from_hours(2);

/// What the next publish does.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Code(Code),
    Hang,
}

/// A call that arrived.
#[derive(Debug)]
struct Asked {
    rpc: &'static str,
    at: Instant,
}

/// A driver that answers as told and notes when it was asked.
#[derive(Debug, Clone, Default)]
struct Driver {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    busy: Arc<Mutex<u32>>,
    most_at_once: Arc<Mutex<u32>>,
}

impl Driver {
    fn answers(answers: &[Answer]) -> Self {
        let driver = Self::default();
        driver.answers.lock().unwrap().extend(answers);
        driver
    }

    fn note(&self, rpc: &'static str) {
        let at = Instant::now();
        self.asked.lock().unwrap().push(Asked { rpc, at });
    }

    /// Whole half seconds between the calls of `rpc`.
    fn half_seconds(&self, rpc: &str) -> Vec<u128> {
        let asked = self.asked.lock().unwrap();
        let times: Vec<Instant> = asked
            .iter()
            .filter(|it| it.rpc == rpc)
            .map(|it| it.at)
            .collect();
        times
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_millis() / 500)
            .collect()
    }

    fn count(&self, rpc: &str) -> usize {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|it| it.rpc == rpc)
            .count()
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        self.note("capabilities");
        Ok(Response::new(csi::NodeGetCapabilitiesResponse::default()))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let answer = self
            .answers
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Answer::Code(Code::Ok));
        self.note("publish");
        let target = Path::new(&request.target_path);
        assert!(
            target.parent().unwrap().is_dir() && !target.exists(),
            "kubelet makes the parent only"
        );
        let busy = {
            let mut busy = self.busy.lock().unwrap();
            *busy += 1;
            *busy
        };
        let most = self.most_at_once.lock().unwrap().max(busy);
        *self.most_at_once.lock().unwrap() = most;
        tokio::time::sleep(Duration::from_millis(10)).await;
        *self.busy.lock().unwrap() -= 1;
        match answer {
            Answer::Hang => std::future::pending().await,
            Answer::Code(Code::Ok) => Ok(Response::new(csi::NodePublishVolumeResponse {})),
            Answer::Code(code) => Err(Status::new(code, "as the script says")),
        }
    }

    async fn node_unpublish_volume(
        &self,
        _: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        self.note("unpublish");
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }
}

struct Scripted {
    kubelet: Kubelet,
    driver: Driver,
    _server: JoinSet<()>,
    _dir: tempfile::TempDir,
}

fn scripted(answers: &[Answer]) -> Scripted {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("node.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let driver = Driver::answers(answers);
    let service = NodeServer::new(driver.clone());
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            connections.spawn(async move {
                let io = TokioIo::new(stream);
                // A caller that hangs up ends its connection, not the driver.
                drop(
                    http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await,
                );
            });
        }
    });
    let kubelet = Kubelet::new(Settings {
        socket,
        dir: dir.path().join("kubelet"),
        root: "/".into(),
        timing: Timing::default(),
    });
    Scripted {
        kubelet,
        driver,
        _server: server,
        _dir: dir,
    }
}

fn pod(name: &str) -> Pod {
    Pod::inline(name, &[("source", "models")])
}

#[tokio::test(start_paused = true)]
async fn two_capability_calls_precede_a_publish_and_failures_are_retried_with_doubling_pauses() {
    let it = scripted(&[Answer::Code(Code::Aborted); 10]);
    let pod = it.kubelet.add(pod("a"));
    pod.running(LONG).await.unwrap();
    assert_eq!(it.driver.count("publish"), 11);
    assert_eq!(it.driver.count("capabilities"), 22);
    let gaps = it.driver.half_seconds("publish");
    assert_eq!(
        gaps,
        [1, 2, 4, 8, 16, 32, 64, 128, 244, 244],
        "half seconds"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_after_two_minutes_and_is_made_again() {
    let it = scripted(&[Answer::Hang]);
    let started = Instant::now();
    let pod = it.kubelet.add(pod("a"));
    let status = pod.attempts(1, LONG).await.unwrap();
    let code = status.error.unwrap().0;
    assert!(
        matches!(code, Code::DeadlineExceeded | Code::Cancelled),
        "{code:?}"
    );
    assert_eq!(started.elapsed().as_secs(), 120);
    pod.running(LONG).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_final_error_no_unpublish_is_sent() {
    let it = scripted(&[Answer::Code(Code::InvalidArgument)]);
    let pod = it.kubelet.add(pod("a"));
    assert_eq!(pod.event(LONG).await.unwrap().0, Code::InvalidArgument);
    pod.deleted(LONG).await.unwrap();
    assert_eq!(it.driver.count("unpublish"), 0);
    assert!(it.kubelet.leftovers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_each_uncertain_error_one_unpublish_is_sent() {
    for code in [
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::Unavailable,
        Code::ResourceExhausted,
        Code::Aborted,
    ] {
        let it = scripted(&[Answer::Code(code)]);
        let pod = it.kubelet.add(pod("a"));
        pod.attempts(1, LONG).await.unwrap();
        pod.deleted(LONG).await.unwrap();
        assert_eq!(it.driver.count("unpublish"), 1, "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_waits_for_the_publish_in_flight() {
    let it = scripted(&[Answer::Hang]);
    let pod = it.kubelet.add(pod("a"));
    while it.driver.count("publish") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let started = Instant::now();
    pod.deleted(LONG).await.unwrap();
    assert!(
        started.elapsed() > Duration::from_secs(119),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(it.driver.count("publish"), 1);
    assert_eq!(it.driver.count("unpublish"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_pods_of_one_claim_are_published_one_after_the_other_and_inline_pods_are_not() {
    let it = scripted(&[]);
    let volume = csi::Volume {
        volume_id: "v1".to_owned(),
        ..Default::default()
    };
    let pods = ["a", "b", "c"].map(|name| it.kubelet.add(Pod::of_claim(name, &volume)));
    for pod in &pods {
        pod.running(LONG).await.unwrap();
    }
    assert_eq!(*it.driver.most_at_once.lock().unwrap(), 1);
    let it = scripted(&[]);
    let pods = ["a", "b", "c"].map(|name| it.kubelet.add(pod(name)));
    for pod in &pods {
        pod.running(LONG).await.unwrap();
    }
    assert_eq!(*it.driver.most_at_once.lock().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_restart_publishes_running_pods_again_and_drops_calls_in_flight() {
    let it = scripted(&[Answer::Code(Code::Ok), Answer::Hang]);
    let first = it.kubelet.add(pod("a"));
    first.running(LONG).await.unwrap();
    let second = it.kubelet.add(pod("b"));
    while it.driver.count("publish") < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let started = Instant::now();
    it.kubelet.restart();
    first.attempts(2, LONG).await.unwrap();
    second.running(LONG).await.unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(it.driver.count("publish"), 4);
    assert_eq!(first.status().phase, Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn an_error_after_a_restart_leaves_the_pod_running_and_it_is_unpublished_at_its_end() {
    let it = scripted(&[Answer::Code(Code::Ok), Answer::Code(Code::Internal)]);
    let pod = it.kubelet.add(pod("a"));
    pod.running(LONG).await.unwrap();
    it.kubelet.restart();
    let status = pod.attempts(2, LONG).await.unwrap();
    assert_eq!(status.phase, Phase::Running);
    pod.deleted(LONG).await.unwrap();
    assert_eq!(it.driver.count("unpublish"), 1);
}

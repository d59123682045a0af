//! Drivers and kubelets that die and come back while pods run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect fails"
)]

use std::time::Duration;

use tokio::time::Instant;

use tonnage_e2e::generate::{Model, ModelSpec, Tree};
use tonnage_e2e::kubelet::{PodHandle, Timing};
use tonnage_e2e::s3::{Effect, Fault, Op};
use tonnage_e2e::world::{BOUND, Expect, Setup, World};

fn model(mib: u64) -> Tree {
    Model::generate(&ModelSpec {
        seed: 11,
        size: mib << 20,
        shards: 2,
        small_files: 3,
    })
}

async fn quick() -> Option<World> {
    Setup {
        timing: Timing::scaled(10),
        ..Setup::default()
    }
    .start()
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_100_live_mounts_survive_a_killed_driver_which_is_ready_again_within_2_seconds()
{
    let Some(world) = World::start().await else {
        return;
    };
    let tree = model(3);
    let files = world.upload("llama", &tree);
    let first = world.run_pod("p0", "llama").await;
    let started = Instant::now();
    let mut pods: Vec<PodHandle> = (1..100)
        .map(|n| world.kubelet.add(world.pod(&format!("p{n}"), "llama")))
        .collect();
    for pod in &pods {
        pod.running(BOUND).await.unwrap();
    }
    let all = started.elapsed();
    assert!(all < Duration::from_secs(10), "99 warm pods took {all:?}");
    pods.push(first);
    let expect = || Expect {
        running: pods.iter().map(|pod| (pod, &files)).collect(),
        wire: Some(tree.size()),
        kept: Some(tree.size()),
        ..Expect::default()
    };
    world.check(&expect()).await;
    world.kill_node().unwrap();
    for pod in &pods {
        assert!(
            pod.seen().join("config.json").exists(),
            "mounts live on without the driver"
        );
    }
    world.server.go_down().await.unwrap();
    let started = Instant::now();
    world.start_node().await.unwrap();
    let ready = started.elapsed();
    assert!(ready < Duration::from_secs(2), "ready after {ready:?}");
    world.check(&expect()).await;
    for pod in &pods {
        pod.delete();
    }
    for pod in &pods {
        pod.deleted(BOUND).await.unwrap();
    }
    world
        .check(&Expect {
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_kubelet_restart_with_the_store_down_finds_every_pod_published() {
    let Some(world) = quick().await else {
        return;
    };
    let tree = model(2);
    let files = world.upload("llama", &tree);
    let pods = [
        world.run_pod("a", "llama").await,
        world.run_pod("b", "llama").await,
    ];
    world.server.go_down().await.unwrap();
    // The driver restarts too: nothing may come from its memory.
    world.kill_node().unwrap();
    world.start_node().await.unwrap();
    world.kubelet.restart();
    for pod in &pods {
        let status = pod.attempts(2, BOUND).await.unwrap();
        assert_eq!(status.error, None, "{}", world.log());
    }
    world
        .check(&Expect {
            running: pods.iter().map(|pod| (pod, &files)).collect(),
            wire: Some(tree.size()),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_kubelet_restart_in_the_middle_of_a_stage_does_not_restart_the_stage() {
    let Some(world) = quick().await else { return };
    let tree = model(6);
    let files = world.upload("llama", &tree);
    let stall = world.server.fault(
        Fault::new(Effect::StallAfter(200_000))
            .on(Op::Get)
            .key("*.safetensors")
            .first(1),
    );
    let pod = world.kubelet.add(world.pod("a", "llama"));
    stall.wait_hits(1).await;
    world.kubelet.restart();
    stall.lift();
    pod.running(BOUND).await.unwrap();
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            wire: Some(tree.size()),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_killed_stage_resumes_and_fetches_little_again() {
    let Some(world) = quick().await else {
        return;
    };
    let tree = model(24);
    let files = world.upload("llama", &tree);
    let stall = world.server.fault(
        Fault::new(Effect::StallAfter(1 << 20))
            .on(Op::Get)
            .key("*00002.safetensors")
            .after(1),
    );
    let pod = world.kubelet.add(world.pod("a", "llama"));
    stall.wait_hits(1).await;
    world.kill_node().unwrap();
    stall.lift();
    let sent = world.server.wire().total_bytes();
    assert!(sent > 0);
    world.start_node().await.unwrap();
    pod.running(BOUND).await.unwrap();
    let again = world.server.wire().total_bytes() - tree.size();
    // At most what was in flight: a run per connection.
    assert!(again <= 16 << 20, "{again} bytes were fetched again");
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_second_driver_on_the_same_store_is_not_ready_and_harms_nothing() {
    let Some(world) = World::start().await else {
        return;
    };
    let files = world.upload("llama", &model(1));
    let pod = world.run_pod("a", "llama").await;
    let mut command = world.node_command();
    let other = world.site.path("run/other.sock");
    command
        .arg("--endpoint")
        .arg(format!("unix://{}", other.display()));
    let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    // The endpoint is given once: the first is dropped from a copy of the command.
    let program = command.get_program().to_owned();
    let at = arguments
        .iter()
        .position(|argument| argument == "--endpoint")
        .unwrap();
    let mut second = std::process::Command::new(program);
    second.args(
        arguments
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != at && *n != at + 1)
            .map(|(_, it)| it),
    );
    let mut second = world.site.spawn(second).unwrap();
    let ready = tokio::time::timeout(Duration::from_secs(2), second.ready(&other)).await;
    assert!(
        !matches!(ready, Ok(Ok(()))),
        "two drivers are ready on one store"
    );
    second.kill().unwrap();
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_sigterm_ends_the_driver_cleanly_and_mounts_stay() {
    let Some(world) = World::start().await else {
        return;
    };
    let files = world.upload("llama", &model(1));
    let pod = world.run_pod("a", "llama").await;
    let status = world.stop_node().await.unwrap();
    assert!(status.success(), "{status}\n{}", world.log());
    for (path, digest) in &files {
        assert_eq!(
            tonnage_e2e::oracle::hash_file(&pod.seen().join(path)).unwrap(),
            *digest
        );
    }
    world.start_node().await.unwrap();
    pod.deleted(BOUND).await.unwrap();
    world.check(&Expect::default()).await;
}

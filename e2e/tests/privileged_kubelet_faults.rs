//! Class B of the fault matrix: kubelet's deadlines, back-off and restarts against stages that take long. Kubelet's
//! clock is scaled; the driver's is real.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect fails"
)]

use std::time::Duration;

use tonic::Code;
use tonnage_e2e::generate::{File, Tree};
use tonnage_e2e::kubelet::Timing;
use tonnage_e2e::world::{BOUND, BUCKET, Expect, Setup};

/// A stage that outlives five deadlines: ten minutes against two, divided by `scale`.
async fn ten_minutes_against_two(scale: u32) {
    let Some(world) = (Setup {
        timing: Timing::scaled(scale),
        ..Setup::default()
    })
    .start()
    .await
    else {
        return;
    };
    let size: u64 = 24 << 20;
    let tree = Tree::new([
        File::random("model.safetensors", size, 1),
        File::random("config.json", 700, 1),
    ]);
    let files = world.upload("llama", &tree);
    let stage = Duration::from_mins(10) / scale;
    world.server.set_total_rate(Some(
        size * 1000 / u64::try_from(stage.as_millis()).unwrap(),
    ));
    let pods = ["a", "b", "c"].map(|name| world.kubelet.add(world.pod(name, "llama")));
    for pod in &pods {
        pod.running(stage * 3)
            .await
            .unwrap_or_else(|stuck| panic!("{stuck}\n{}", world.log()));
    }
    world
        .check(&Expect {
            running: pods.iter().map(|pod| (pod, &files)).collect(),
            wire: Some(tree.size()),
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
    assert!(
        world
            .server
            .wire()
            .sent_once(BUCKET, "llama/model.safetensors", size)
    );
    let calls = world.kubelet.calls();
    let aborted = calls
        .iter()
        .filter(|call| call.code == Code::Aborted)
        .count();
    assert!(aborted >= 2, "{calls:?}");
    assert!(
        calls.iter().all(|call| call.code != Code::DeadlineExceeded),
        "{calls:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_stage_of_ten_minutes_against_deadlines_of_two_fetches_each_byte_once() {
    ten_minutes_against_two(30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_calls_that_kubelet_gives_up_leave_the_stage_alone() {
    // Deadlines so short that the driver cannot answer in time.
    let timing = Timing {
        deadline: Duration::from_millis(300),
        ..Timing::scaled(20)
    };
    let Some(world) = (Setup {
        timing,
        ..Setup::default()
    })
    .start()
    .await
    else {
        return;
    };
    let tree = Tree::new([File::random("model.safetensors", 8 << 20, 1)]);
    let files = world.upload("llama", &tree);
    world.server.set_total_rate(Some(4 << 20));
    let pod = world.kubelet.add(world.pod("a", "llama"));
    pod.running(BOUND)
        .await
        .unwrap_or_else(|stuck| panic!("{stuck}\n{}", world.log()));
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            wire: Some(tree.size()),
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_pod_deleted_in_the_middle_of_its_stage_is_gone_and_the_next_one_resumes() {
    let Some(world) = (Setup {
        timing: Timing::scaled(30),
        ..Setup::default()
    })
    .start()
    .await
    else {
        return;
    };
    let tree = Tree::new([File::random("model.safetensors", 24 << 20, 1)]);
    let files = world.upload("llama", &tree);
    world.server.set_total_rate(Some(8 << 20));
    let first = world.kubelet.add(world.pod("a", "llama"));
    let wire = world.server.wire();
    while wire.total_bytes() < 6 << 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    first.deleted(BOUND).await.unwrap();
    world
        .check(&Expect {
            partials: true,
            ..Expect::default()
        })
        .await;
    world.server.set_total_rate(None);
    let second = world.run_pod("b", "llama").await;
    world
        .check(&Expect {
            running: vec![(&second, &files)],
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
    let again = wire.total_bytes().saturating_sub(tree.size());
    assert!(again < 20 << 20, "{again} bytes were fetched again");
}

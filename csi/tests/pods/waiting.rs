//! Calls that do not outlive their load, and loads that outlive their calls.

use std::time::Duration;

use tonic::Code;
use tonnage_proto::csi::volume_capability::access_mode::Mode;

use crate::world::{Pod, World, content, with, with_mode};

const MODEL_BYTES: u64 = (2 << 20) + 17 + 900;

/// Publishes as kubelet does, again and again, without its pauses.
async fn publish_until_mounted(world: &World, pod: &Pod) {
    loop {
        match world.publish(pod).await {
            Ok(()) => return,
            Err(error) => assert_eq!(error.code(), Code::Aborted, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_stage_is_aborted_with_progress_and_goes_on() {
    let world = World::start().await;
    world.source.hold();
    let pod = world.pod("a", "llama");
    for _ in 0..3 {
        let error = world.publish_hastily(&pod).await.unwrap_err();
        assert_eq!(error.code(), Code::Aborted, "{error}");
    }
    world.source.is_waiting().await;
    let error = world.publish_hastily(&pod).await.unwrap_err();
    assert!(
        error
            .message()
            .starts_with("staging 0 % (0.0 of 2.0 MiB), "),
        "{error}"
    );
    assert!(!pod.target.exists());
    world.source.release();
    publish_until_mounted(&world, &pod).await;
    assert_eq!(world.source.served(), MODEL_BYTES);
    assert_eq!(world.source.listings(), 1);
    assert_eq!(world.publisher().counts(), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_call_leaves_its_load_running() {
    let world = World::start().await;
    world.source.hold();
    let pod = world.pod("a", "llama");
    {
        let call = world.publish(&pod);
        tokio::pin!(call);
        tokio::select! {
            _ = &mut call => panic!("a held load is mounted"),
            () = world.source.is_waiting() => {}
        }
    }
    world.source.release();
    publish_until_mounted(&world, &pod).await;
    assert_eq!(
        (world.source.served(), world.source.listings()),
        (MODEL_BYTES, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_waiter_s_unpublish_stops_the_load_and_no_mount_appears() {
    let world = World::start().await;
    world.source.hold();
    let pod = world.pod("a", "llama");
    assert_eq!(
        world.publish_hastily(&pod).await.unwrap_err().code(),
        Code::Aborted
    );
    world.source.is_waiting().await;
    world.unpublish(&pod).await.unwrap();
    assert_eq!(
        world.source.held_back(),
        0,
        "the load's bodies are gone when unpublish returns"
    );
    world.assert_nothing_is_left(&[&pod]);
    assert_eq!(world.holders(), 0);
    world.source.release();
    world.publish(&pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unpublish_ends_a_call_that_waits() {
    let world = World::start().await;
    world.source.hold();
    let pod = world.pod("a", "llama");
    let ended = async {
        world.source.is_waiting().await;
        world.unpublish(&pod).await.unwrap();
    };
    let (published, ()) = tokio::join!(world.publish(&pod), ended);
    let error = published.unwrap_err();
    assert_eq!(error.code(), Code::Aborted);
    assert!(error.message().contains("unpublished"), "{error}");
    world.assert_nothing_is_left(&[&pod]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_waiters_leaves_and_disturbs_none() {
    let world = World::start().await;
    world.source.hold();
    let pods: Vec<Pod> = (0..8)
        .map(|n| world.pod(&format!("p{n}"), "llama"))
        .collect();
    let work = async {
        world.source.is_waiting().await;
        // All have joined when the first hasty call of each was answered.
        for pod in &pods {
            assert_eq!(
                world.publish_hastily(pod).await.unwrap_err().code(),
                Code::Aborted
            );
        }
        world.unpublish(&pods[0]).await.unwrap();
        assert!(
            world.source.held_back() > 0,
            "another pod's deletion stopped the load"
        );
        world.source.release();
    };
    let calls = futures::future::join_all(pods.iter().skip(1).map(|pod| world.publish(pod)));
    let (results, ()) = tokio::join!(calls, work);
    for result in results {
        result.unwrap();
    }
    assert_eq!(world.source.served(), MODEL_BYTES);
    assert_eq!(world.publisher().counts(), (7, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_pod_does_not_join_a_running_load_of_others() {
    use tonnage_csi::policy::Refusal;
    let world = World::start().await;
    world.source.hold();
    let first = world.pod("a", "llama");
    assert_eq!(
        world.publish_hastily(&first).await.unwrap_err().code(),
        Code::Aborted
    );
    world.doorman.refuse(Refusal::Denied("no".to_owned()));
    let second = world.pod("b", "llama");
    assert_eq!(
        world.publish(&second).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(world.publisher().counts(), (0, 1, 1));
    // A waiter that loses its right while it waits gives up its place, too.
    assert_eq!(
        world.publish(&first).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(world.publisher().counts(), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_pod_counts_under_read_write_once_pod() {
    let world = World::start().await;
    world.source.hold();
    let single = |name: &str| {
        with_mode(
            world.claim_pod("claim", name, "llama"),
            Mode::SingleNodeSingleWriter,
        )
    };
    let (first, second) = (single("a"), single("b"));
    assert_eq!(
        world.publish_hastily(&first).await.unwrap_err().code(),
        Code::Aborted
    );
    assert_eq!(
        world.publish_hastily(&second).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    world.source.release();
    publish_until_mounted(&world, &first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_identity_while_one_waits_is_told_to_come_back() {
    let world = World::start().await;
    world.source.hold();
    world.source.put("other/x", content(3, 10));
    let pod = world.pod("a", "llama");
    let other = with(pod.clone(), &[("path", "other")]);
    let work = async {
        world.source.is_waiting().await;
        assert_eq!(
            world.publish(&other).await.unwrap_err().code(),
            Code::Aborted
        );
        world.source.release();
    };
    let (published, ()) = tokio::join!(world.publish(&pod), work);
    published.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_unavailable_and_leaves_no_waiter() {
    let world = World::start().await;
    world.source.go_down();
    let pod = world.pod("a", "llama");
    let error = world.publish(&pod).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("connection refused"), "{error}");
    world.assert_nothing_is_left(&[&pod]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_loads_and_the_next_start_resumes_them() {
    let mut world = World::start().await;
    world.source.hold();
    let pod = world.pod("a", "llama");
    assert_eq!(
        world.publish_hastily(&pod).await.unwrap_err().code(),
        Code::Aborted
    );
    world.source.is_waiting().await;
    let stopped = tokio::time::timeout(Duration::from_mins(1), world.restart()).await;
    assert!(stopped.is_ok(), "the driver did not stop");
    assert_eq!(world.source.held_back(), 0);
    world.source.release();
    publish_until_mounted(&world, &pod).await;
}

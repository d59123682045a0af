//! Publish and unpublish, without waiting.

use std::path::Path;
use std::sync::Arc;

use tonic::Code;
use tonnage_csi::loads;
use tonnage_csi::mount::{Call, Mounter as _};
use tonnage_csi::policy::Refusal;
use tonnage_proto::csi::volume_capability::access_mode::Mode;
use tonnage_proto::csi::volume_capability::{AccessType, BlockVolume, MountVolume};

use crate::world::{World, content, with, with_mode};

const MODEL_BYTES: u64 = (2 << 20) + 17 + 900;

/// Attributes, the code they are answered with, and a word of the answer.
type Case<'a> = (&'a [(&'a str, &'a str)], Code, &'a str);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_sees_its_files_and_leaves_nothing() {
    let world = World::start().await;
    let pod = world.pod("a", "llama");
    world.publish(&pod).await.unwrap();
    let view = world.view(&pod);
    assert_eq!(
        std::fs::read(view.join("model.safetensors")).unwrap(),
        content(1, (2 << 20) + 17)
    );
    assert_eq!(
        std::fs::read(view.join("tokenizer/vocab.json")).unwrap(),
        content(2, 900)
    );
    let usage = world
        .stats(&pod.volume_id, &pod.request.target_path)
        .await
        .unwrap();
    let bytes = i64::try_from(MODEL_BYTES).unwrap();
    assert_eq!(
        (usage[0].total, usage[0].used, usage[0].available),
        (bytes, bytes, 0)
    );
    assert_eq!(
        (usage[1].total, usage[1].used, usage[1].available),
        (2, 2, 0)
    );
    assert_eq!(world.holders(), 1);
    world.unpublish(&pod).await.unwrap();
    world.assert_nothing_is_left(&[&pod]);
    assert_eq!(world.holders(), 0);
    assert_eq!(world.source.served(), MODEL_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_twice_mounts_once_and_unpublish_twice_is_ok() {
    let world = World::start().await;
    let pod = world.pod("a", "llama");
    for _ in 0..3 {
        world.publish(&pod).await.unwrap();
    }
    let attach = Call::Attach(world.view(&pod), pod.target.clone());
    assert_eq!(world.mounter.calls(), std::slice::from_ref(&attach));
    for _ in 0..3 {
        world.unpublish(&pod).await.unwrap();
    }
    assert_eq!(
        world.mounter.calls(),
        [attach, Call::Detach(pod.target.clone())]
    );
    world.assert_nothing_is_left(&[&pod]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_pods_and_ten_equal_calls_fetch_each_byte_once() {
    let world = World::start().await;
    let mut pods: Vec<_> = (0..64)
        .map(|n| world.pod(&format!("p{n}"), "llama"))
        .collect();
    let again = vec![pods[0].clone(); 9];
    pods.extend(again);
    let results = futures::future::join_all(pods.iter().map(|pod| world.publish(pod))).await;
    for result in results {
        result.unwrap();
    }
    assert_eq!(world.source.served(), MODEL_BYTES);
    assert_eq!(world.mounter.attached().len(), 64);
    futures::future::join_all(pods.iter().map(|pod| world.unpublish(pod)))
        .await
        .into_iter()
        .for_each(|result| result.unwrap());
    world.assert_nothing_is_left(&pods.iter().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_pod_and_a_later_one_fetch_nothing_but_are_asked_who_they_are() {
    let world = World::start().await;
    let (first, second) = (world.pod("a", "llama"), world.pod("b", "llama"));
    world.publish(&first).await.unwrap();
    world.publish(&second).await.unwrap();
    assert_eq!(world.doorman.asked(), 2);
    assert_eq!(world.source.served(), MODEL_BYTES);
    world.doorman.refuse(Refusal::Denied(
        "policy \"team-a\" does not list this source".to_owned(),
    ));
    let third = world.pod("c", "llama");
    let error = world.publish(&third).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (
            Code::PermissionDenied,
            "policy \"team-a\" does not list this source"
        )
    );
    // What is mounted already needs nobody's permission any more.
    world.publish(&first).await.unwrap();
    assert!(!third.target.exists());
    assert_eq!(world.publisher().counts(), (2, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_identity_at_a_target_is_refused_and_the_mount_stays() {
    let world = World::start().await;
    world.source.put("other/x", content(3, 10));
    let pod = world.pod("a", "llama");
    world.publish(&pod).await.unwrap();
    for other in [
        with(pod.clone(), &[("path", "other")]),
        with(pod.clone(), &[("include", "*.json")]),
        with_mode(pod.clone(), Mode::SingleNodeSingleWriter),
        {
            let mut other = pod.clone();
            other.request.volume_id = "another".to_owned();
            other
        },
    ] {
        let error = world.publish(&other).await.unwrap_err();
        assert_eq!(error.code(), Code::AlreadyExists, "{error}");
    }
    // Tokens and pod information are not part of it; neither is how pages are treated.
    let same = with(
        pod.clone(),
        &[
            ("csi.storage.k8s.io/pod.name", "renamed"),
            ("pageCache", "direct"),
        ],
    );
    world.publish(&same).await.unwrap();
    assert_eq!(world.mounter.attached().len(), 1);
    let mut stranger = pod.clone();
    "another".clone_into(&mut stranger.volume_id);
    world.unpublish(&stranger).await.unwrap();
    assert_eq!(world.mounter.attached().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_mount_is_left_alone_by_publish_and_unpublish() {
    let world = World::start().await;
    let pod = world.pod("a", "llama");
    std::fs::create_dir(&pod.target).unwrap();
    world.mounter.mount_foreign(&pod.target);
    let error = world.publish(&pod).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(
        error.message().contains("something else is mounted"),
        "{error}"
    );
    assert_eq!(
        world.unpublish(&pod).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    assert_eq!(world.mounter.calls(), []);
    assert_eq!(world.publisher().counts(), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stacked_mounts_of_ours_are_all_removed_and_one_on_top_of_ours_is_not() {
    use tonnage_csi::mount::Mounter;
    use tonnage_csi::target::Spot;
    let world = World::start().await;
    let pod = world.pod("a", "llama");
    world.publish(&pod).await.unwrap();
    world.mounter.allow_stacking();
    let spot = Spot::at(&pod.target).unwrap();
    world
        .mounter
        .attach(
            &world.view(&pod),
            &spot,
            tonnage_csi::volume::MountFlags::default(),
        )
        .unwrap();
    world.mounter.mount_foreign(&pod.target);
    assert_eq!(
        world.unpublish(&pod).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    assert_eq!(world.mounter.attached().len(), 3);
    world.mounter.detach(&spot).unwrap();
    world.unpublish(&pod).await.unwrap();
    world.assert_nothing_is_left(&[&pod]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_pod_at_a_time_under_read_write_once_pod() {
    let world = World::start().await;
    let single = |name: &str| {
        with_mode(
            world.claim_pod("claim", name, "llama"),
            Mode::SingleNodeSingleWriter,
        )
    };
    let (first, second) = (single("a"), single("b"));
    world.publish(&first).await.unwrap();
    let error = world.publish(&second).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(!second.target.exists());
    assert_eq!(world.publisher().counts(), (1, 0, 0));
    world.unpublish(&first).await.unwrap();
    world.publish(&second).await.unwrap();
    // Many pods of one node are fine in every other mode.
    let many: Vec<_> = ["c", "d"]
        .iter()
        .map(|name| {
            with_mode(
                world.claim_pod("other", name, "llama"),
                Mode::SingleNodeMultiWriter,
            )
        })
        .collect();
    for pod in &many {
        world.publish(pod).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn final_errors_name_the_cause_and_leave_nothing() {
    let world = World::start().await;
    let pin = "ab".repeat(32);
    let cases: [Case<'_>; 9] = [
        (&[("source", "nowhere")], Code::NotFound, "\"nowhere\""),
        (&[("path", "gone")], Code::NotFound, "gone"),
        (&[("colour", "red")], Code::InvalidArgument, "\"colour\""),
        (&[("path", "../etc")], Code::InvalidArgument, "\"../etc\""),
        (&[("include", "[")], Code::InvalidArgument, "["),
        (&[("include", "*.none")], Code::NotFound, "include"),
        (&[("revision", &pin)], Code::FailedPrecondition, &pin),
        (&[("digest", &pin)], Code::DataLoss, &pin),
        (&[("limitBytes", "1000")], Code::FailedPrecondition, "1000"),
    ];
    for (index, (attributes, code, word)) in cases.iter().enumerate() {
        let pod = with(world.pod(&format!("p{index}"), "llama"), attributes);
        let error = world.publish(&pod).await.unwrap_err();
        assert_eq!(error.code(), *code, "{attributes:?}: {error}");
        assert!(error.message().contains(word), "{attributes:?}: {error}");
        world.assert_nothing_is_left(&[&pod]);
    }
    assert_eq!(world.holders(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_before_anything_is_done() {
    let world = World::start().await;
    let pod = world.pod("a", "llama");
    let mut bad = Vec::new();
    let mut push = |change: fn(&mut tonnage_proto::csi::NodePublishVolumeRequest)| {
        let mut pod = pod.clone();
        change(&mut pod.request);
        bad.push(pod);
    };
    push(|request| request.volume_id.clear());
    push(|request| request.volume_id = "x".repeat(129));
    push(|request| request.target_path.clear());
    push(|request| request.target_path = "/etc/passwd".to_owned());
    push(|request| request.target_path.push_str("/../../mount"));
    push(|request| request.volume_capability = None);
    push(|request| {
        request.volume_capability.as_mut().unwrap().access_type =
            Some(AccessType::Block(BlockVolume {}));
    });
    push(|request| {
        let flags = MountVolume {
            mount_flags: vec!["suid".to_owned()],
            ..MountVolume::default()
        };
        request.volume_capability.as_mut().unwrap().access_type = Some(AccessType::Mount(flags));
    });
    push(|request| request.volume_context.clear());
    for pod in &bad {
        let error = world.publish(pod).await.unwrap_err();
        assert_eq!(
            error.code(),
            Code::InvalidArgument,
            "{:?}: {error}",
            pod.request
        );
    }
    assert_eq!(world.source.listings(), 0);
    for (volume_id, path) in [("", "some/path"), ("unknown", "")] {
        assert_eq!(
            world.stats(volume_id, path).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    assert_eq!(
        world
            .stats("unknown", "some/path")
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_type_and_a_writer_without_read_only_are_accepted() {
    let world = World::start().await;
    let mut pod = world.pod("a", "llama");
    pod.request.readonly = false;
    let mount = MountVolume {
        fs_type: "ext4".to_owned(),
        mount_flags: vec!["noexec".to_owned()],
        volume_mount_group: "1000".to_owned(),
    };
    pod.request.volume_capability.as_mut().unwrap().access_type = Some(AccessType::Mount(mount));
    world.publish(&pod).await.unwrap();
    let table = world.mounter.mounts().unwrap();
    let mount = table
        .at(Path::new(&pod.request.target_path))
        .next()
        .unwrap();
    assert_eq!(mount.options, "ro,nosuid,nodev,noexec,idmapped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_cannot_be_held_off_is_refused_before_anything_is_fetched() {
    let world = World::start().await;
    world.mounter.refuse_guards();
    let mut pod = world.pod("a", "llama");
    pod.request.readonly = false;
    let error = world.publish(&pod).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(
        error
            .message()
            .starts_with("set readOnly: true on the volume"),
        "{error}"
    );
    assert_eq!(world.source.listings(), 0);
    world.assert_nothing_is_left(&[&pod]);
    pod.request.readonly = true;
    world.publish(&pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_mount_is_taken_back_and_the_next_call_succeeds() {
    let world = World::start().await;
    let pod = world.pod("a", "llama");
    world.mounter.fail_next(rustix::io::Errno::IO);
    let error = world.publish(&pod).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal, "{error}");
    world.assert_nothing_is_left(&[&pod]);
    world.publish(&pod).await.unwrap();
    world.mounter.fail_next(rustix::io::Errno::IO);
    assert_eq!(
        world.unpublish(&pod).await.unwrap_err().code(),
        Code::Internal
    );
    assert_eq!(
        world.publisher().counts().0,
        1,
        "a failed unmount keeps its record"
    );
    world.unpublish(&pod).await.unwrap();
    world.assert_nothing_is_left(&[&pod]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn symlinks_in_a_target_s_parents_are_refused() {
    let world = World::start().await;
    let pod = world.pod("a", "llama");
    let volume = pod.target.parent().unwrap();
    std::fs::remove_dir(volume).unwrap();
    std::fs::create_dir(world.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(world.path("elsewhere"), volume).unwrap();
    assert_eq!(
        world.publish(&pod).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(world.mounter.attached(), []);
    assert_eq!(
        std::fs::read_dir(world.path("elsewhere")).unwrap().count(),
        0
    );
    assert_eq!(world.publisher().counts(), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_bound_to_the_first_revision_that_was_published_here() {
    let mut world = World::start().await;
    let first = world.claim_pod("claim", "a", "llama");
    world.publish(&first).await.unwrap();
    let view = world.view(&first);
    world
        .source
        .put("llama/tokenizer/vocab.json", content(9, 950));
    // The bound revision is complete here: no listing is needed, and none can change what is shown.
    let second = world.claim_pod("claim", "b", "llama");
    world.publish(&second).await.unwrap();
    assert_eq!(world.view(&second), view);
    for pod in [&first, &second] {
        world.unpublish(pod).await.unwrap();
    }
    world.restart().await;
    world.publish(&second).await.unwrap();
    assert_eq!(world.view(&second), view);
    // Another claim and an inline volume see what is there now.
    for pod in [
        world.claim_pod("other", "c", "llama"),
        world.pod("d", "llama"),
    ] {
        world.publish(&pod).await.unwrap();
        assert_eq!(
            std::fs::read(world.view(&pod).join("tokenizer/vocab.json")).unwrap(),
            content(9, 950)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_pod_has_an_account_whose_bytes_say_where_they_came_from() {
    let world = World::start().await;
    let (first, second) = (world.pod("a", "llama"), world.pod("b", "llama"));
    world.publish(&first).await.unwrap();
    world.publish(&second).await.unwrap();
    world.publish(&second).await.unwrap();
    world.publisher().close().await;
    let loads = loads::recent(world.cache().store().records(), 10).unwrap();
    let seen: Vec<_> = loads
        .iter()
        .map(|load| {
            (
                load.volume.as_str(),
                load.report.origins.source,
                load.report.origins.cached,
            )
        })
        .collect();
    assert_eq!(seen, [("csi-b", 0, MODEL_BYTES), ("csi-a", MODEL_BYTES, 0)]);
    assert_eq!(loads[0].pod.as_ref().unwrap().name, "b");
    assert!(
        loads
            .iter()
            .all(|load| load.report.bytes == MODEL_BYTES && load.report.files == 2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pod_waits_until_its_account_is_written_and_none_is_lost() {
    let world = World::start().await;
    let reporting = Arc::clone(&world.reporting);
    let slow = reporting.lock().await;
    for name in ["a", "b"] {
        world.publish(&world.pod(name, "llama")).await.unwrap();
    }
    let records = world.cache().store().records();
    assert_eq!(loads::recent(records, 10).unwrap(), []);
    drop(slow);
    world.publisher().close().await;
    assert_eq!(loads::recent(records, 10).unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_publish_costs_does_not_grow_with_the_mounts_of_the_node() {
    let world = World::start().await;
    let pod = world.pod("a", "llama");
    let before = world.mounter.tables();
    for _ in 0..2 {
        world.publish(&pod).await.unwrap();
        world.publish(&pod).await.unwrap();
        world.unpublish(&pod).await.unwrap();
    }
    assert_eq!(world.mounter.tables(), before);
    world.assert_nothing_is_left(&[&pod]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_reaches_an_error() {
    let world = World::start().await;
    let mut pod = world.pod("a", "llama");
    let token = "canary-token-77e1";
    let tokens = format!("{{\"csi.tonnage.dev\":{{\"token\":\"{token}\"}}}}");
    pod.request.secrets.insert(
        "csi.storage.k8s.io/serviceAccount.tokens".to_owned(),
        tokens,
    );
    world.doorman.refuse(Refusal::Unauthenticated(format!(
        "the token {token} is for someone else"
    )));
    let error = world.publish(&pod).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (
            Code::Unauthenticated,
            "the token [redacted] is for someone else"
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_beyond_the_bound_is_refused() {
    let world = World::start().await;
    let pod = with(
        world.pod("a", "llama"),
        &[("csi.storage.k8s.io/padding", &"x".repeat(2 << 20))],
    );
    let error = world.publish(&pod).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error}");
    world.publish(&world.pod("a", "llama")).await.unwrap();
}

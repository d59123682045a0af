//! Pods on a node, with the real binary and real mounts: what each of them sees, and what is left of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect fails"
)]

use std::io::ErrorKind;
use std::time::Duration;

use tonic::Code;
use tonnage_e2e::generate::{Model, ModelSpec, Tree};
use tonnage_e2e::kubelet::{Pod, PodHandle, publish, stats, unpublish};
use tonnage_e2e::s3::{Effect, Fault, Op};
use tonnage_e2e::world::{BOUND, BUCKET, Expect, World};
use tonnage_proto::csi::volume_capability::access_mode::Mode;

/// A digest that nothing has.
const NO_DIGEST: &str = "00000000000000000000000000000000000000000000000000000000000000ab";

/// Attributes of a pod's volume.
type Attributes = &'static [(&'static str, &'static str)];

fn model(mib: u64) -> Tree {
    Model::generate(&ModelSpec {
        seed: 7,
        size: mib << 20,
        shards: 3,
        small_files: 4,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_pod_sees_the_bytes_of_the_bucket_read_only_and_leaves_nothing() {
    let Some(world) = World::start().await else {
        return;
    };
    let tree = model(5);
    let files = world.upload("llama", &tree);
    let pod = world.run_pod("a", "llama").await;
    let running = || Expect {
        running: vec![(&pod, &files)],
        wire: Some(tree.size()),
        kept: Some(tree.size()),
        ..Expect::default()
    };
    world.check(&running()).await;
    for (path, digest) in &files {
        let from_pod = tonnage_e2e::oracle::hash_file(&pod.seen().join(path)).unwrap();
        assert_eq!(from_pod, *digest, "{path}");
    }
    let refused = std::fs::write(pod.seen().join("new"), "x").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    let refused = std::fs::remove_file(pod.seen().join("config.json")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    let (total, used, available) = stats(
        &world.site.node_socket(),
        &world.pod("a", "").volume_id,
        pod.target(),
    )
    .await
    .unwrap();
    assert_eq!(
        (total, used, available),
        (tree.size().cast_signed(), tree.size().cast_signed(), 0)
    );
    pod.deleted(BOUND).await.unwrap();
    assert!(!pod.seen().exists());
    let gone = Expect {
        closed: true,
        wire: Some(tree.size()),
        kept: Some(tree.size()),
        ..Expect::default()
    };
    world.check(&gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_second_pod_and_a_pod_after_deletion_fetch_nothing() {
    let Some(world) = World::start().await else {
        return;
    };
    let tree = model(4);
    let files = world.upload("llama", &tree);
    let first = world.run_pod("a", "llama").await;
    world.server.reset_wire();
    let second = world.run_pod("b", "llama").await;
    first.deleted(BOUND).await.unwrap();
    second.deleted(BOUND).await.unwrap();
    let third = world.run_pod("c", "llama").await;
    world
        .check(&Expect {
            running: vec![(&third, &files)],
            wire: Some(0),
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_64_pods_on_one_cold_model_fetch_each_byte_once_and_a_deletion_disturbs_none() {
    let Some(world) = World::start().await else {
        return;
    };
    let tree = model(6);
    let files = world.upload("llama", &tree);
    let hold = world.server.fault(
        Fault::new(Effect::StallAfter(300_000))
            .on(Op::Get)
            .key("llama/model-00002*")
            .first(1),
    );
    let pods: Vec<PodHandle> = (0..64)
        .map(|n| world.kubelet.add(world.pod(&format!("p{n}"), "llama")))
        .collect();
    hold.wait_hits(1).await;
    pods[17].delete();
    hold.lift();
    for (n, pod) in pods.iter().enumerate().filter(|(n, _)| *n != 17) {
        pod.running(BOUND)
            .await
            .unwrap_or_else(|stuck| panic!("{n}: {stuck}"));
    }
    pods[17].deleted(BOUND).await.unwrap();
    let running = pods
        .iter()
        .enumerate()
        .filter(|(n, _)| *n != 17)
        .map(|(_, pod)| (pod, &files));
    world
        .check(&Expect {
            running: running.collect(),
            wire: Some(tree.size()),
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
    for file in tree.files() {
        let key = format!("llama/{}", file.path());
        assert!(
            world.server.wire().sent_once(BUCKET, &key, file.size()),
            "{key}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_ten_identical_calls_make_one_download_and_one_mount() {
    let Some(world) = World::start().await else {
        return;
    };
    let tree = model(4);
    let files = world.upload("llama", &tree);
    let pod = world.pod("a", "llama");
    let dir = world.site.path("kubelet");
    std::fs::create_dir_all(pod.volume_dir(&dir)).unwrap();
    let socket = world.site.node_socket();
    let call = || publish(&socket, pod.publish_request(&dir), BOUND);
    for result in futures::future::join_all((0..10).map(|_| call())).await {
        // Kubelet never makes two calls for one volume at once; another caller may be told to come back.
        assert!(
            result
                .as_ref()
                .err()
                .is_none_or(|error| error.code() == Code::Aborted),
            "{result:?}"
        );
    }
    call().await.unwrap();
    let handle = world.kubelet.add(pod.clone());
    handle.running(BOUND).await.unwrap();
    world
        .check(&Expect {
            running: vec![(&handle, &files)],
            wire: Some(tree.size()),
            ..Expect::default()
        })
        .await;
    for _ in 0..2 {
        unpublish(&socket, &pod.volume_id, &pod.target(&dir), BOUND)
            .await
            .unwrap();
    }
    world.check(&Expect::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_the_last_waiters_deletion_stops_the_stage_and_no_mount_appears_later() {
    let Some(world) = World::start().await else {
        return;
    };
    let tree = model(6);
    world.upload("llama", &tree);
    let stall = world.server.fault(
        Fault::new(Effect::StallAfter(100_000))
            .on(Op::Get)
            .key("*.safetensors"),
    );
    let pod = world.pod("a", "llama");
    let dir = world.site.path("kubelet");
    std::fs::create_dir_all(pod.volume_dir(&dir)).unwrap();
    let socket = world.site.node_socket();
    // A short deadline: the driver says ABORTED while the stage goes on.
    let error = publish(&socket, pod.publish_request(&dir), Duration::from_secs(4))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Aborted, "{error}");
    stall.wait_hits(1).await;
    unpublish(&socket, &pod.volume_id, &pod.target(&dir), BOUND)
        .await
        .unwrap();
    let sent = world.server.wire().total_bytes();
    stall.lift();
    world
        .check(&Expect {
            partials: true,
            ..Expect::default()
        })
        .await;
    assert!(!pod.target(&dir).exists());
    assert!(
        world.server.wire().total_bytes() <= sent + (1 << 20),
        "the stage went on after its last waiter left"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_final_error_leaves_nothing_and_needs_no_unpublish() {
    let Some(world) = World::start().await else {
        return;
    };
    world.upload("llama", &model(1));
    let cases: [(&str, Attributes, Code, &str); 6] = [
        (
            "no-path",
            &[("source", "models"), ("path", "gone")],
            Code::NotFound,
            "gone",
        ),
        (
            "no-source",
            &[("source", "other"), ("path", "llama")],
            Code::NotFound,
            "other",
        ),
        (
            "attribute",
            &[("source", "models"), ("path", "llama"), ("colour", "red")],
            Code::InvalidArgument,
            "colour",
        ),
        (
            "escape",
            &[("source", "models"), ("path", "../etc")],
            Code::InvalidArgument,
            "..",
        ),
        (
            "pin",
            &[
                ("source", "models"),
                ("path", "llama"),
                ("revision", NO_DIGEST),
            ],
            Code::FailedPrecondition,
            "revision",
        ),
        (
            "digest",
            &[
                ("source", "models"),
                ("path", "llama"),
                ("digest", NO_DIGEST),
            ],
            Code::DataLoss,
            "digest",
        ),
    ];
    let mut pods = Vec::new();
    for (name, attributes, code, word) in cases {
        let pod = Pod::inline(name, attributes);
        let uid = pod.uid.clone();
        let handle = world.kubelet.add(pod);
        let (found, text) = handle.event(BOUND).await.unwrap();
        assert_eq!(found, code, "{name}: {text}");
        assert!(text.contains(word), "{name}: {text}");
        handle.deleted(BOUND).await.unwrap();
        assert_eq!(world.kubelet.count("unpublish", &uid), 0, "{name}");
        pods.push(handle);
    }
    world
        .check(&Expect {
            partials: true,
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_foreign_mount_at_the_target_is_not_touched() {
    let Some(world) = World::start().await else {
        return;
    };
    world.upload("llama", &model(1));
    let pod = world.pod("a", "llama");
    let target = pod.target(&world.site.path("kubelet"));
    let shown = target.display();
    let namespace = world.site.namespace();
    namespace
        .shell(&format!(
            "mkdir -p '{shown}'; mount -t tmpfs foreign '{shown}'; echo mine >'{shown}/f'"
        ))
        .unwrap();
    let handle = world.kubelet.add(pod);
    let (code, text) = handle.event(BOUND).await.unwrap();
    assert!(!text.is_empty(), "{code:?}");
    handle.delete();
    assert_eq!(
        std::fs::read_to_string(namespace.path(&target).join("f")).unwrap(),
        "mine\n"
    );
    assert_eq!(
        namespace
            .mounts()
            .unwrap()
            .iter()
            .filter(|it| it.point == target)
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_single_writer_refuses_a_second_target_and_leaves_nothing_there() {
    let Some(world) = World::start().await else {
        return;
    };
    let files = world.upload("llama", &model(2));
    let mut first = world.pod("a", "llama");
    first.mode = Mode::SingleNodeSingleWriter;
    let mut second = world.pod("b", "llama");
    second.mode = Mode::SingleNodeSingleWriter;
    second.volume_id.clone_from(&first.volume_id);
    let first = world.kubelet.add(first);
    first.running(BOUND).await.unwrap();
    let second = world.kubelet.add(second);
    let (code, text) = second.event(BOUND).await.unwrap();
    assert_eq!(code, Code::FailedPrecondition, "{text}");
    second.deleted(BOUND).await.unwrap();
    world
        .check(&Expect {
            running: vec![(&first, &files)],
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_new_revision_fetches_only_what_changed_and_old_pods_keep_their_bytes() {
    let Some(world) = (tonnage_e2e::world::Setup {
        arguments: vec!["--revision-ttl".to_owned(), "0s".to_owned()],
        ..Default::default()
    })
    .start()
    .await
    else {
        return;
    };
    let tree = model(6);
    let old = world.upload("llama", &tree);
    let first = world.run_pod("a", "llama").await;
    world.server.reset_wire();
    let changed = tree
        .files()
        .iter()
        .find(|file| file.path().ends_with("00002-of-00003.safetensors"))
        .unwrap();
    let tree = tree.with_changed_file(changed.path(), 99).unwrap();
    world.server.put_file(
        BUCKET,
        format!("llama/{}", changed.path()),
        tree.file(changed.path()).unwrap().clone(),
    );
    let new = tree.digests().unwrap();
    let second = world.run_pod("b", "llama").await;
    assert_eq!(world.server.wire().total_bytes(), changed.size());
    world
        .check(&Expect {
            running: vec![(&first, &old), (&second, &new)],
            kept: Some(tree.size() + changed.size()),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_copy_under_another_name_is_stored_once() {
    let Some(world) = World::start().await else {
        return;
    };
    let tree = model(6);
    let files = world.upload("llama", &tree);
    world.upload("copy", &tree);
    let first = world.run_pod("a", "llama").await;
    let second = world.run_pod("b", "copy").await;
    world
        .check(&Expect {
            running: vec![(&first, &files), (&second, &files)],
            wire: Some(2 * tree.size()),
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_claims_volume_is_made_published_and_deleted() {
    let Some(world) = World::start().await else {
        return;
    };
    let tree = model(2);
    let files = world.upload("llama", &tree);
    let binary =
        tokio::task::spawn_blocking(|| tonnage_e2e::node::binary(tonnage_e2e::node::Build::Plain));
    let mut controller = world
        .site
        .start_controller(&binary.await.unwrap().unwrap())
        .await
        .unwrap();
    let provisioner = world.site.provisioner();
    let parameters = [("source", "models"), ("path", "llama")];
    let volume = provisioner
        .create("pvc-1", &parameters, 1 << 30)
        .await
        .unwrap();
    assert_eq!(volume.capacity_bytes, 1 << 30);
    assert_eq!(
        provisioner
            .create("pvc-1", &parameters, 1 << 30)
            .await
            .unwrap(),
        volume
    );
    let other = [("source", "models"), ("path", "other")];
    assert_eq!(
        provisioner
            .create("pvc-1", &other, 1 << 30)
            .await
            .unwrap_err()
            .code(),
        Code::AlreadyExists
    );
    let first = world.kubelet.add(Pod::of_claim("a", &volume));
    let second = world.kubelet.add(Pod::of_claim("b", &volume));
    first.running(BOUND).await.unwrap();
    second.running(BOUND).await.unwrap();
    world
        .check(&Expect {
            running: vec![(&first, &files), (&second, &files)],
            wire: Some(tree.size()),
            ..Expect::default()
        })
        .await;
    first.deleted(BOUND).await.unwrap();
    second.deleted(BOUND).await.unwrap();
    provisioner.delete(&volume.volume_id).await.unwrap();
    provisioner.delete(&volume.volume_id).await.unwrap();
    assert!(
        tonnage_e2e::oracle::list_files(&world.site.path("volumes"))
            .unwrap()
            .is_empty()
    );
    assert!(controller.stop().await.unwrap().success());
    world.check(&Expect::default()).await;
}

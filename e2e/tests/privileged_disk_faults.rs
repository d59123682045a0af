//! Class D of the fault matrix: a store on a filesystem that is small, read-only, or rots.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect fails"
)]

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use tonic::Code;
use tonnage_e2e::generate::{File, Tree};
use tonnage_e2e::kubelet::Timing;
use tonnage_e2e::oracle::list_files;
use tonnage_e2e::world::{BOUND, Expect, Setup, World};

fn tree(seed: u64, mib: u64) -> Tree {
    Tree::new([
        File::random("model.safetensors", mib << 20, seed),
        File::random("config.json", 900, seed),
    ])
}

async fn on(script: &'static str) -> Option<World> {
    Setup {
        timing: Timing::scaled(20),
        store: Some(script),
        arguments: ["--cache-floor", "0"].map(str::to_owned).to_vec(),
        ..Setup::default()
    }
    .start()
    .await
}

/// Paths of all objects of at least `size` bytes.
fn objects(world: &World, size: u64) -> Vec<PathBuf> {
    let dir = world.site.seen_store().join("objects");
    let paths = list_files(&dir)
        .unwrap()
        .into_iter()
        .map(|path| dir.join(path));
    paths
        .filter(|path| path.metadata().unwrap().len() >= size)
        .collect()
}

fn flip_a_bit(path: &PathBuf) {
    let mode = path.metadata().unwrap().permissions();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1 << 20).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 1 << 20).unwrap();
    file.sync_all().unwrap();
    std::fs::set_permissions(path, mode).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_model_larger_than_the_disk_is_refused_with_both_figures_and_a_smaller_one_runs()
 {
    let Some(world) = on("mount -t tmpfs -o size=24m small $STORE").await else {
        return;
    };
    world.upload("large", &tree(1, 40));
    let files = world.upload("small", &tree(2, 10));
    let large = world.kubelet.add(world.pod("large", "large"));
    let (code, text) = large.event(BOUND).await.unwrap();
    assert_eq!(code, Code::ResourceExhausted, "{text}");
    assert!(text.contains("MiB") || text.contains("bytes"), "{text}");
    let small = world.run_pod("small", "small").await;
    large.deleted(BOUND).await.unwrap();
    world
        .check(&Expect {
            running: vec![(&small, &files)],
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_full_disk_evicts_what_was_released_and_never_what_runs() {
    let Some(world) = on("mount -t tmpfs -o size=40m small $STORE").await else {
        return;
    };
    let one = world.upload("one", &tree(1, 12));
    world.upload("two", &tree(2, 12));
    let three = world.upload("three", &tree(3, 12));
    let first = world.run_pod("a", "one").await;
    world
        .run_pod("b", "two")
        .await
        .deleted(BOUND)
        .await
        .unwrap();
    let third = world.run_pod("c", "three").await;
    world
        .check(&Expect {
            running: vec![(&first, &one), (&third, &three)],
            ..Expect::default()
        })
        .await;
    world.server.reset_wire();
    third.deleted(BOUND).await.unwrap();
    let again = world.run_pod("d", "one").await;
    world
        .check(&Expect {
            running: vec![(&first, &one), (&again, &one)],
            wire: Some(0),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_disk_that_others_filled_is_said_so_and_recovers() {
    let Some(world) = on("mount -t tmpfs -o size=32m small $STORE").await else {
        return;
    };
    let files = world.upload("one", &tree(1, 12));
    let filler = world.site.seen_store().join("not-ours");
    std::fs::write(&filler, vec![7; 26 << 20]).unwrap();
    let pod = world.kubelet.add(world.pod("a", "one"));
    let (code, text) = pod.event(BOUND).await.unwrap();
    assert_eq!(code, Code::ResourceExhausted, "{text}");
    std::fs::remove_file(&filler).unwrap();
    pod.running(BOUND).await.unwrap();
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_disk_without_inodes_is_said_so_and_recovers() {
    let Some(world) = on("mount -t tmpfs -o size=64m,nr_inodes=900 small $STORE").await else {
        return;
    };
    world.upload("many", &Tree::small_files(1, 2000, 100));
    let files = world.upload("one", &tree(1, 2));
    let many = world.kubelet.add(world.pod("many", "many"));
    let (code, text) = many.event(BOUND).await.unwrap();
    assert_eq!(code, Code::ResourceExhausted, "{text}");
    many.deleted(BOUND).await.unwrap();
    let pod = world.run_pod("a", "one").await;
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            partials: true,
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_flipped_bit_in_a_cold_object_is_found_and_fetched_again() {
    let Some(world) = World::start().await else {
        return;
    };
    let reference = tree(1, 6);
    let files = world.upload("one", &reference);
    world
        .run_pod("a", "one")
        .await
        .deleted(BOUND)
        .await
        .unwrap();
    world.check(&Expect::default()).await;
    flip_a_bit(&objects(&world, 1 << 20)[0]);
    // The verdict is in what follows; a scrub that finds damage may say so by its exit code.
    drop(world.tool(&["cache", "verify"]));
    let pod = world.run_pod("b", "one").await;
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            ..Expect::default()
        })
        .await;
    assert!(
        world.server.wire().total_bytes() < 2 * reference.size(),
        "only what was bad is fetched again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_flipped_bit_in_a_mounted_object_is_reported_and_new_pods_get_a_new_inode() {
    let Some(world) = World::start().await else {
        return;
    };
    let files = world.upload("one", &tree(1, 6));
    let first = world.run_pod("a", "one").await;
    world
        .check(&Expect {
            running: vec![(&first, &files)],
            ..Expect::default()
        })
        .await;
    let object = objects(&world, 1 << 20).remove(0);
    let damaged = object.metadata().unwrap().ino();
    flip_a_bit(&object);
    drop(world.tool(&["cache", "verify"]));
    let second = world.run_pod("b", "one").await;
    let inode = |pod: &tonnage_e2e::kubelet::PodHandle| {
        pod.seen()
            .join("model.safetensors")
            .metadata()
            .unwrap()
            .ino()
    };
    assert_eq!(inode(&first), damaged);
    assert_ne!(inode(&second), damaged);
    let fresh = tonnage_e2e::oracle::hash_file(&second.seen().join("model.safetensors")).unwrap();
    assert_eq!(fresh, files["model.safetensors"]);
    first.deleted(BOUND).await.unwrap();
    world
        .check(&Expect {
            running: vec![(&second, &files)],
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_corrupt_and_lost_records_cost_at_most_a_fetch() {
    for lost in [false, true] {
        let Some(world) = World::start().await else {
            return;
        };
        let files = world.upload("one", &tree(1, 4));
        let first = world.run_pod("a", "one").await;
        world
            .check(&Expect {
                running: vec![(&first, &files)],
                ..Expect::default()
            })
            .await;
        world.kill_node().unwrap();
        let records = world.site.seen_store().join("records");
        for path in list_files(&records).unwrap() {
            if lost {
                std::fs::remove_file(records.join(path)).unwrap();
            } else {
                std::fs::write(records.join(path), b"\0rot").unwrap();
            }
        }
        world.start_node().await.unwrap();
        // The running pod keeps its bytes; kubelet may ask again, and may take it away.
        let hash = tonnage_e2e::oracle::hash_file(&first.seen().join("model.safetensors")).unwrap();
        assert_eq!(hash, files["model.safetensors"]);
        let second = world.run_pod("b", "one").await;
        assert!(second.seen().join("config.json").exists());
        second.deleted(BOUND).await.unwrap();
        assert!(world.is_running(), "{}", world.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_newer_format_is_refused_and_not_touched() {
    let Some(world) = World::start().await else {
        return;
    };
    world.stop_node().await.unwrap();
    let meta = world.site.seen_store().join("meta.json");
    let text = std::fs::read_to_string(&meta).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["incompat"] = serde_json::json!(["holograms"]);
    std::fs::write(&meta, value.to_string()).unwrap();
    world.spawn_node().unwrap();
    assert!(
        world.ready().await.is_err(),
        "a store of the future was opened"
    );
    assert!(world.log().contains("holograms"), "{}", world.log());
    assert_eq!(std::fs::read_to_string(&meta).unwrap(), value.to_string());
}

//! Bounded memory: a large stage and a volume of very many files stay under 128 MiB of anonymous memory above idle.
//!
//! `TONNAGE_MEMORY_GIB` sets the size of the large stage (20 on demand; 2 by default, for machines with small disks).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect fails"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonnage_e2e::generate::{File, Tree};
use tonnage_e2e::node::anonymous_bytes;
use tonnage_e2e::world::{Setup, World};

const ALLOWED: u64 = 128 << 20;
const PATIENCE: Duration = Duration::from_mins(30);

/// Publishes `path` and returns the peak of anonymous memory above idle.
async fn peak(world: &World, path: &str) -> u64 {
    let pid = world.pid();
    let idle = anonymous_bytes(pid).unwrap();
    let peak = AtomicU64::new(0);
    let sample = async {
        loop {
            peak.fetch_max(anonymous_bytes(pid).unwrap(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let pod = world.kubelet.add(world.pod(path, path));
    tokio::select! {
        () = sample => {}
        result = pod.running(PATIENCE) => result.unwrap_or_else(|stuck| panic!("{stuck}\n{}", world.log())),
    }
    pod.deleted(PATIENCE).await.unwrap();
    let above = peak.into_inner().saturating_sub(idle);
    eprintln!(
        "{path}: idle {} MiB, peak {} MiB above it",
        idle >> 20,
        above >> 20
    );
    above
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_large_stage_stays_under_128_mib_above_idle() {
    let gib: u64 = std::env::var("TONNAGE_MEMORY_GIB")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or(2);
    let Some(world) = Setup::default().start().await else {
        return;
    };
    let shards =
        (0..4 * gib).map(|n| File::random(format!("model-{n:05}.safetensors"), 256 << 20, n));
    world
        .server
        .put_tree(tonnage_e2e::world::BUCKET, "large/", &Tree::new(shards));
    let above = peak(&world, "large").await;
    assert!(above < ALLOWED, "{} MiB above idle", above >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_volume_of_100_000_small_files_stays_under_128_mib_above_idle() {
    let Some(world) = Setup::default().start().await else {
        return;
    };
    let tree = Tree::small_files(3, 100_000, 600);
    world
        .server
        .put_tree(tonnage_e2e::world::BUCKET, "many/", &tree);
    let above = peak(&world, "many").await;
    assert!(above < ALLOWED, "{} MiB above idle", above >> 20);
}

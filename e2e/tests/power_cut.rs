//! Disks that fail under the driver. Power cuts: the driver dies at a crash point, its filesystem loses everything that was not made durable, and the
//! node comes back with no mounts. Nothing short, empty or zeroed is ever served, and kubelet's retries succeed.
//!
//! Each row has a fresh loop-mounted filesystem (a `sync` in between would hide bugs), cut by the filesystem's own
//! shutdown call without a flush. Needs root, a loop device, mkfs and `xfs_io`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect fails"
)]

use std::time::Duration;

use tonnage_e2e::generate::{File, Tree};
use tonnage_e2e::kubelet::Timing;
use tonnage_e2e::node::crash_points;
use tonnage_e2e::world::{BOUND, Expect, Setup, World};

const XFS: &str = "truncate -s 400m '$SITE/image'; mkfs.xfs -q '$SITE/image'; mount -o loop '$SITE/image' '$STORE'";
const EXT4: &str = "truncate -s 400m '$SITE/image'; mkfs.ext4 -q '$SITE/image'; mount -o loop '$SITE/image' '$STORE'";

/// The images are smaller than what is kept free by default.
fn no_floor() -> Vec<String> {
    ["--cache-floor", "0"].map(str::to_owned).to_vec()
}

fn model() -> Tree {
    let small = (0..6).map(|n| File::random(format!("small/{n}.json"), 2000 + n, 1));
    let large = [
        File::random("model.safetensors", 6 << 20, 1),
        File::random("odd.bin", (1 << 20) + 1, 1),
        File::memory("empty", ""),
    ];
    Tree::new(large.into_iter().chain(small))
}

/// Cuts the power and brings the node back: filesystem shut down without a flush, every mount gone, mounted again.
fn cut(world: &World) {
    let store = world.site.store().display().to_string();
    let kubelet = world.site.path("kubelet").display().to_string();
    let image = world.site.path("image").display().to_string();
    drop(world.kill_node());
    world
        .site
        .namespace()
        .shell(&format!(
            "xfs_io -x -c shutdown '{store}'
             awk -v below='{kubelet}/' 'index($5, below) == 1 {{print $5}}' /proc/self/mountinfo | while read -r point; do umount \"$point\"; done
             umount '{store}'
             mount -o loop '{image}' '{store}'
             find '{kubelet}/pods' -name mount -type d -empty -delete"
        ))
        .unwrap();
}

/// One row: the driver dies at `point` (or after everything is published), and the power with it.
async fn row(filesystem: &'static str, point: Option<&str>) -> Option<()> {
    let world = Setup {
        timing: Timing::scaled(20),
        store: Some(filesystem),
        arguments: no_floor(),
        failpoints: true,
        kill_at: point.map(str::to_owned),
        ..Setup::default()
    }
    .start()
    .await?;
    let tree = model();
    let files = world.upload("llama", &tree);
    let mut pod = world.pod("a", "llama");
    if point.is_some_and(|point| point.starts_with("store::commit")) {
        // Past the page cache: the way of writing that syncs before it names.
        pod.attributes
            .insert("pageCache".to_owned(), "direct".to_owned());
    }
    let pod = world.kubelet.add(pod);
    // Either the point is passed and the driver dies, or the pod runs first.
    let died = async {
        while world.is_running() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = died => {}
        result = pod.running(BOUND) => result.unwrap_or_else(|stuck| panic!("{point:?}: {stuck}\n{}", world.log())),
    }
    cut(&world);
    world
        .start_node()
        .await
        .unwrap_or_else(|error| panic!("{point:?}: {error}"));
    world.kubelet.restart();
    let attempts = pod.status().attempts;
    let status = pod.attempts(attempts + 1, BOUND).await.unwrap();
    if status.error.is_some() {
        pod.running(BOUND)
            .await
            .unwrap_or_else(|stuck| panic!("{point:?}: {stuck}\n{}", world.log()));
    }
    let again = world.run_pod("b", "llama").await;
    world
        .check(&Expect {
            running: vec![(&pod, &files), (&again, &files)],
            partials: true,
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
    Some(())
}

/// The negative control: what was not synced does not survive a cut. If it does, the sweep proves nothing.
async fn loses_what_was_not_synced(filesystem: &'static str) -> Option<()> {
    let setup = Setup {
        store: Some(filesystem),
        arguments: no_floor(),
        failpoints: true,
        ..Setup::default()
    };
    let world = setup.start().await?;
    let file = world.site.seen_store().join("control");
    std::fs::write(&file, vec![7; 1 << 20]).unwrap();
    cut(&world);
    let kept = std::fs::read(&file).unwrap_or_default();
    assert_ne!(kept, vec![7; 1 << 20], "the cut lost nothing");
    Some(())
}

async fn sweep(filesystem: &'static str) {
    assert!(
        rustix::process::geteuid().is_root(),
        "power cuts need root: they mount loop devices"
    );
    if loses_what_was_not_synced(filesystem).await.is_none() {
        return;
    }
    row(filesystem, None).await;
    for point in crash_points().unwrap() {
        eprintln!("{point}");
        row(filesystem, Some(&point)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_power_cut_at_any_point_on_xfs_serves_nothing_short() {
    sweep(XFS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_power_cut_at_any_point_on_ext4_serves_nothing_short() {
    sweep(EXT4).await;
}

/// Turns the filesystem read-only under the driver's open files, as the kernel does after an I/O error.
const FAILING: &str = "truncate -s 200m '$SITE/image'; mkfs.ext4 -q '$SITE/image'; \
    mount -o loop,errors=remount-ro '$SITE/image' '$STORE'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_disk_that_turns_read_only_still_serves_what_is_mounted_and_refuses_the_rest()
{
    let setup = Setup {
        timing: Timing::scaled(20),
        store: Some(FAILING),
        arguments: no_floor(),
        failpoints: true,
        ..Setup::default()
    };
    let Some(world) = setup.start().await else {
        return;
    };
    let tree = model();
    let files = world.upload("one", &tree);
    world.upload(
        "two",
        &tree.with_changed_file("model.safetensors", 2).unwrap(),
    );
    let first = world.run_pod("a", "one").await;
    world
        .check(&Expect {
            running: vec![(&first, &files)],
            ..Expect::default()
        })
        .await;
    let store = world.site.store().display().to_string();
    world
        .site
        .namespace()
        .shell(&format!("mount -o remount,abort '{store}'"))
        .unwrap();
    let second = world.kubelet.add(world.pod("b", "two"));
    let (code, text) = second.event(BOUND).await.unwrap();
    assert!(
        matches!(code, tonic::Code::Internal | tonic::Code::Unavailable),
        "{code:?}: {text}"
    );
    assert!(world.is_running(), "{}", world.log());
    for (path, digest) in &files {
        assert_eq!(
            tonnage_e2e::oracle::hash_file(&first.seen().join(path)).unwrap(),
            *digest
        );
    }
    let expect = Expect {
        running: vec![(&first, &files)],
        pending: vec![&second],
        partials: true,
        busy: true,
        ..Expect::default()
    };
    world.check(&expect).await;
}

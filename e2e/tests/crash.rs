//! SIGKILL at every crash point of stage, publish, unpublish and evict, and the driver started again on the same
//! directory: kubelet's retries succeed and every invariant holds.
//!
//! The points are found in the sources, so that none is left out; one that no story passes fails the sweep.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect fails"
)]

use std::time::Duration;

use futures::StreamExt;
use tonnage_e2e::generate::{File, Tree};
use tonnage_e2e::kubelet::Timing;
use tonnage_e2e::node::crash_points;
use tonnage_e2e::oracle::Digests;
use tonnage_e2e::world::{BOUND, Expect, Setup, World};

/// Stories at one time: each has a driver of its own.
const AT_ONCE: usize = 3;

/// One large file (parts, journal, table), one that is longer than a part by a byte, some small ones.
fn model(seed: u64) -> Tree {
    let small = (0..6).map(|n| File::random(format!("small/{n}.json"), 2000 + n, seed));
    Tree::new(
        [
            File::random("model.safetensors", 6 << 20, seed),
            File::random("odd.bin", (1 << 20) + 1, seed),
            File::memory("empty", ""),
        ]
        .into_iter()
        .chain(small),
    )
}

struct Story {
    world: World,
    one: Tree,
    two: Tree,
    one_files: Digests,
    two_files: Digests,
}

impl Story {
    async fn begin(point: &str) -> Option<Self> {
        let world = Setup {
            timing: Timing::scaled(20),
            failpoints: true,
            kill_at: Some(point.to_owned()),
            ..Setup::default()
        }
        .start()
        .await?;
        let (one, two) = (model(1), model(2));
        let one_files = world.upload("one", &one);
        let two_files = world.upload("two", &two);
        Some(Self {
            world,
            one,
            two,
            one_files,
            two_files,
        })
    }

    /// Stage, publish, publish again, unpublish, evict, stage another, restart.
    async fn tell(&self) {
        let world = &self.world;
        let first = world.run_pod("first", "one").await;
        let second = world.run_pod("second", "one").await;
        self.check(
            "two pods",
            &[(&first, &self.one_files), (&second, &self.one_files)],
        )
        .await;
        first.deleted(BOUND).await.unwrap();
        second.deleted(BOUND).await.unwrap();
        self.evict().await;
        self.check("evicted", &[]).await;
        // The other way of writing: past the page cache, durable before it is named.
        let mut direct = world.pod("third", "two");
        direct
            .attributes
            .insert("pageCache".to_owned(), "direct".to_owned());
        let third = world.kubelet.add(direct);
        third
            .running(BOUND)
            .await
            .unwrap_or_else(|stuck| panic!("{stuck}\n{}", world.log()));
        // The next life begins with what this one could not finish.
        world.kill_node().unwrap();
        world.kubelet.restart();
        third.attempts(2, BOUND).await.unwrap();
        self.check("after a restart", &[(&third, &self.two_files)])
            .await;
        let fourth = world.run_pod("fourth", "one").await;
        self.check(
            "staged again",
            &[(&third, &self.two_files), (&fourth, &self.one_files)],
        )
        .await;
        third.deleted(BOUND).await.unwrap();
        fourth.deleted(BOUND).await.unwrap();
        self.check("all gone", &[]).await;
    }

    /// Asks for everything unused to go, until a driver lived long enough to do it.
    async fn evict(&self) {
        for _ in 0..500 {
            let is_ready = self.world.ready().await.is_ok();
            if is_ready && self.world.tool(&["cache", "gc", "--all"]).is_ok() {
                return;
            }
            // The supervisor shares this task: let it start the next driver.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("eviction never succeeded\n{}", self.world.log());
    }

    async fn check(&self, when: &str, running: &[(&tonnage_e2e::kubelet::PodHandle, &Digests)]) {
        let expect = Expect {
            running: running.to_vec(),
            partials: true,
            kept: Some(self.one.size() + self.two.size()),
            ..Expect::default()
        };
        eprintln!("  {when}");
        self.world.check(&expect).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_driver_killed_at_any_point_recovers_with_every_invariant() {
    let points = crash_points().unwrap();
    assert!(points.len() >= 10, "{points:?}");
    let stories = points.into_iter().map(|point| async move {
        eprintln!("{point}");
        let story = Story::begin(&point).await?;
        tokio::select! {
            () = story.world.supervise() => {}
            () = story.tell() => {}
        }
        // One start follows the story's own SIGKILL; one more the crash point.
        Some((point, story.world.kills()))
    });
    let told: Vec<_> = futures::stream::iter(stories)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let missed: Vec<_> = told
        .into_iter()
        .flatten()
        .filter(|(_, kills)| *kills < 2)
        .collect();
    assert!(
        missed.is_empty(),
        "crash points that no story passes: {missed:?}"
    );
}

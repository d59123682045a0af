//! Class C of the fault matrix: what an object store can do to a stage, seen from the pod.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect fails"
)]

use std::time::Duration;

use futures::StreamExt;
use tonic::Code;
use tonnage_e2e::generate::{File, Model, ModelSpec, Tree};
use tonnage_e2e::kubelet::Timing;
use tonnage_e2e::s3::{Effect, Fault, ListLie, Op};
use tonnage_e2e::world::{BOUND, BUCKET, Expect, Setup, World};

fn model(mib: u64) -> Tree {
    Model::generate(&ModelSpec {
        seed: 13,
        size: mib << 20,
        shards: 2,
        small_files: 3,
    })
}

/// A world whose requests are given up after this many seconds of silence.
async fn patient(seconds: u32) -> Option<World> {
    Setup {
        timing: Timing::scaled(10),
        source: format!("read_timeout_seconds = {seconds}\nconnect_timeout_seconds = {seconds}"),
        ..Setup::default()
    }
    .start()
    .await
}

async fn quick() -> Option<World> {
    patient(4).await
}

/// A pod under a fault that ends by itself gets exactly the reference's bytes.
async fn survives(name: &str, fault: Fault) {
    let Some(world) = quick().await else { return };
    let tree = model(5);
    let files = world.upload("llama", &tree);
    let fault = world.server.fault(fault);
    let pod = world.kubelet.add(world.pod("a", "llama"));
    pod.running(BOUND)
        .await
        .unwrap_or_else(|stuck| panic!("{name}: {stuck}\n{}", world.log()));
    assert!(fault.hits() > 0, "{name} never struck");
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
}

/// While the fault lasts nothing is published and the pod says why; afterwards it runs. Patient, because a busy
/// machine must not look like a silent server.
async fn never_published(name: &str, fault: Fault, words: &[&str]) {
    let Some(world) = patient(20).await else {
        return;
    };
    // Longer than a run, so that ranges are asked for.
    let tree = model(18);
    let files = world.upload("llama", &tree);
    let fault = world.server.fault(fault);
    let pod = world.kubelet.add(world.pod("a", "llama"));
    let (code, text) = pod
        .event(2 * BOUND)
        .await
        .unwrap_or_else(|stuck| panic!("{name}: {stuck}\n{}", world.log()));
    assert!(
        words.iter().any(|word| text.contains(word)),
        "{name}: {code:?}: {text}"
    );
    assert!(fault.hits() > 0, "{name} never struck");
    world
        .check(&Expect {
            pending: vec![&pod],
            partials: true,
            busy: true,
            ..Expect::default()
        })
        .await;
    fault.lift();
    pod.running(BOUND)
        .await
        .unwrap_or_else(|stuck| panic!("{name}: {stuck}\n{}", world.log()));
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
}

/// Worlds at one time: each has a driver of its own.
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_faults_that_pass_are_survived() {
    let rows: Vec<(&str, Fault)> = vec![
        (
            "one in three requests answered 500",
            Fault::status(500, "InternalError").on(Op::Get).every(3),
        ),
        (
            "one in two requests throttled",
            Fault::status(503, "SlowDown").on(Op::Get).every(2),
        ),
        (
            "the first listing throttled",
            Fault::status(503, "SlowDown").on(Op::List).first(1),
        ),
        (
            "bodies reset in the middle",
            Fault::new(Effect::ResetAfter(700_000))
                .on(Op::Get)
                .key("*.safetensors")
                .first(3),
        ),
        (
            "bodies closed short",
            Fault::new(Effect::TruncateAfter(1_300_000))
                .on(Op::Get)
                .key("*.safetensors")
                .first(3),
        ),
        (
            "bodies that stall",
            Fault::new(Effect::StallAfter(400_000))
                .on(Op::Get)
                .key("*.safetensors")
                .first(2),
        ),
        (
            "connections reset before the head",
            Fault::new(Effect::ResetBeforeHead).on(Op::Get).every(3),
        ),
        (
            "connections closed before the head",
            Fault::new(Effect::HangUp).on(Op::Get).every(3),
        ),
        (
            "a head that never comes once",
            Fault::new(Effect::NoHead).on(Op::Get).nth(2),
        ),
        (
            "ranges ignored once",
            Fault::new(Effect::IgnoreRange)
                .on(Op::Get)
                .key("*.safetensors")
                .first(1),
        ),
        (
            "extra bytes once",
            Fault::new(Effect::Extra(9))
                .on(Op::Get)
                .key("*.safetensors")
                .first(1),
        ),
        (
            "a wrong content range once",
            Fault::new(Effect::ContentRange("bytes 1-2/3".to_owned()))
                .on(Op::Get)
                .key("*.safetensors")
                .first(1),
        ),
    ];
    let rows = rows.into_iter().map(|(name, fault)| survives(name, fault));
    futures::stream::iter(rows)
        .buffer_unordered(AT_ONCE)
        .collect::<()>()
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_faults_that_stay_publish_nothing_and_say_why() {
    let rows: Vec<(&str, Fault, &[&str])> = vec![
        (
            "ranges ignored always",
            Fault::new(Effect::IgnoreRange)
                .on(Op::Get)
                .key("*.safetensors"),
            &["answer", "server", "range"],
        ),
        (
            "bodies with extra bytes",
            Fault::new(Effect::Extra(9)).on(Op::Get),
            &["answer", "server", "bytes", "changed"],
        ),
        (
            "encoded bodies",
            Fault::new(Effect::Gzip).on(Op::Get),
            &["answer", "server", "encod", "changed"],
        ),
        (
            "another etag than listed",
            Fault::new(Effect::Etag("\"other\"".to_owned())).on(Op::Get),
            &["changed"],
        ),
        (
            "another size than listed",
            Fault::new(Effect::ClaimSize(77))
                .on(Op::Get)
                .key("*.safetensors"),
            &["changed", "answer", "size"],
        ),
        (
            "one of many forbidden",
            Fault::status(403, "AccessDenied")
                .on(Op::Get)
                .key("*00002-of-00002*"),
            &["refuses access", "AccessDenied"],
        ),
        (
            "listing forbidden",
            Fault::status(403, "AccessDenied").on(Op::List),
            &["refuses access", "AccessDenied"],
        ),
        (
            "the signature not accepted",
            Fault::status(403, "SignatureDoesNotMatch").on(Op::List),
            &["credentials", "Signature"],
        ),
        (
            "total outage by 500",
            Fault::status(500, "InternalError"),
            &["500", "Internal", "unavailable", "failed"],
        ),
        (
            "redirects to another host",
            Fault::new(Effect::Redirect(
                307,
                "http://169.254.169.254/latest".to_owned(),
            )),
            &["redirect"],
        ),
        (
            "an error body without end",
            Fault::new(Effect::HugeError(64 << 20)),
            &["500", "error", "failed"],
        ),
        (
            "a listing that loops",
            Fault::new(Effect::List(ListLie::SamePage)).on(Op::List),
            &["list", "page", "token"],
        ),
        (
            "a listing with duplicates",
            Fault::new(Effect::List(ListLie::Duplicates)).on(Op::List),
            &["twice"],
        ),
    ];
    let rows = rows
        .into_iter()
        .map(|(name, fault, words)| never_published(name, fault, words));
    futures::stream::iter(rows)
        .buffer_unordered(2 * AT_ONCE)
        .collect::<()>()
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_an_outage_in_mid_stage_resumes_where_it_was() {
    let Some(world) = quick().await else { return };
    let tree = model(12);
    let files = world.upload("llama", &tree);
    // Every request for this file stalls, and within its first part: the model must not be
    // there before the server goes down.
    let stall = world.server.fault(
        Fault::new(Effect::StallAfter(1 << 20))
            .on(Op::Get)
            .key("*00002-of-00002*"),
    );
    let pod = world.kubelet.add(world.pod("a", "llama"));
    stall.wait_hits(1).await;
    world.server.go_down().await.unwrap();
    // The driver goes on trying for a minute; meanwhile the pod reads how far it is.
    let status = pod.attempts(1, BOUND).await.unwrap();
    let (code, text) = status.error.expect("the pod waits for the server");
    assert_eq!(code, Code::Aborted, "{text}");
    assert!(text.contains("staging") && text.contains('%'), "{text}");
    stall.lift();
    world.server.come_up().await.unwrap();
    pod.running(BOUND).await.unwrap();
    let again = world
        .server
        .wire()
        .total_bytes()
        .saturating_sub(tree.size());
    assert!(again <= 8 << 20, "{again} bytes were fetched again");
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            kept: Some(tree.size()),
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_an_object_replaced_in_mid_stage_is_never_mixed() {
    let Some(world) = quick().await else { return };
    let tree = model(8);
    world.upload("llama", &tree);
    let changed = tree
        .files()
        .iter()
        .find(|file| file.path().contains("00002-of"))
        .unwrap()
        .path()
        .to_owned();
    let new = tree.with_changed_file(&changed, 5).unwrap();
    let replacement: File = new.file(&changed).unwrap().clone();
    world.server.fault(
        Fault::new(Effect::Replace(replacement))
            .on(Op::Get)
            .key("*00002-of*")
            .nth(2),
    );
    let files = new.digests().unwrap();
    let pod = world.kubelet.add(world.pod("a", "llama"));
    pod.running(BOUND)
        .await
        .unwrap_or_else(|stuck| panic!("{stuck}\n{}", world.log()));
    world
        .check(&Expect {
            running: vec![(&pod, &files)],
            partials: true,
            ..Expect::default()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_an_object_deleted_in_mid_stage_is_not_published_half() {
    let Some(world) = quick().await else { return };
    let tree = model(4);
    world.upload("llama", &tree);
    world.server.fault(
        Fault::new(Effect::Delete)
            .on(Op::Get)
            .key("*00002-of*")
            .first(1),
    );
    let pod = world.kubelet.add(world.pod("a", "llama"));
    // The new listing has one file fewer: that is the revision that is published, or the pod says why not.
    match pod.running(BOUND).await {
        Ok(()) => {
            let mut files = tree.digests().unwrap();
            files.retain(|path, _| !path.contains("00002-of"));
            world
                .check(&Expect {
                    running: vec![(&pod, &files)],
                    partials: true,
                    ..Expect::default()
                })
                .await;
        }
        Err(stuck) => panic!("{stuck}\n{}", world.log()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_wrong_bytes_under_a_pinned_digest_are_never_published() {
    let Some(world) = quick().await else { return };
    let tree = Tree::new([File::random("a.bin", 3 << 20, 1)]);
    world.upload("llama", &tree);
    world
        .server
        .fault(Fault::new(Effect::FlipBit(1 << 20)).on(Op::Get));
    let mut pod = world.pod("a", "llama");
    let manifest = manifest_digest(&tree);
    pod.attributes.insert("digest".to_owned(), manifest);
    let pod = world.kubelet.add(pod);
    let (code, text) = pod.event(BOUND).await.unwrap();
    assert_eq!(code, Code::DataLoss, "{text}");
    world
        .check(&Expect {
            pending: vec![&pod],
            partials: true,
            busy: true,
            ..Expect::default()
        })
        .await;
}

/// The manifest digest of a tree, from the format's own module: it names the reference, it does not judge bytes.
fn manifest_digest(tree: &Tree) -> String {
    use tonnage_cache::digest::Digest;
    use tonnage_cache::manifest::Manifest;
    use tonnage_cache::path::RelPath;
    let files = tree
        .files()
        .iter()
        .map(|file| tonnage_cache::manifest::File {
            path: RelPath::parse(file.path()).unwrap(),
            size: file.size(),
            digest: Digest::from_bytes(*file.digest().unwrap().as_bytes()),
        });
    Manifest::new(files.collect()).unwrap().digest().to_hex()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn privileged_a_small_volume_is_not_starved_by_a_huge_one() {
    let Some(world) = quick().await else { return };
    world.server.set_total_rate(Some(8 << 20));
    world.upload("huge", &Tree::new([File::random("a.bin", 512 << 20, 1)]));
    let files = world.upload("small", &model(1));
    let huge = world.kubelet.add(world.pod("huge", "huge"));
    let wire = world.server.wire();
    while wire.total_bytes() < 4 << 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let small = world.kubelet.add(world.pod("small", "small"));
    small.running(Duration::from_secs(20)).await.unwrap();
    world
        .check(&Expect {
            running: vec![(&small, &files)],
            pending: vec![],
            busy: true,
            ..Expect::default()
        })
        .await;
    huge.deleted(BOUND).await.unwrap();
    assert!(world.server.wire().bytes(BUCKET, "huge/a.bin") < 512 << 20);
}

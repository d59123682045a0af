//! Real power cuts: a filesystem in a file, mounted in a private mount namespace, is shut down without flushing its
//! log before the n-th verb that changes anything, for every n; then it is mounted again and a new boot opens the
//! store. Also real full, inode-poor and read-only filesystems.
//!
//! These tests need root, loop devices, `mkfs.xfs`, `mkfs.ext4`, `xfs_io` and `unshare`; without them they fail. Each
//! runs itself again below `unshare --mount`, so that a test that dies leaves no mount behind.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what a test needs and does not get fails it"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tonnage_cache::buffer::Buffer;
use tonnage_cache::clock::SystemClock;
use tonnage_cache::digest::{Digest, hash_part};
use tonnage_cache::disk::{Fault, FaultyDisk, OsDisk, Verb};
use tonnage_cache::error::{Kind, chain};
use tonnage_cache::manifest::{File, Manifest};
use tonnage_cache::path::RelPath;
use tonnage_cache::store::{Config, Env, Error, Goal, Holder, PartialKey, Store, Writing};

const LARGE: usize = (2 << 20) + 4097;
const INSIDE: &str = "TONNAGE_TEST_INSIDE_NAMESPACE";

/// Runs `test` in a mount namespace of its own, by running this program again for the test `name` alone.
fn in_namespace(name: &str, body: impl FnOnce(&Path)) {
    if std::env::var_os(INSIDE).is_some() {
        let place = tempfile::tempdir().unwrap();
        body(place.path());
        return;
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "{name} needs root: run it as root, or leave it out with --skip privileged_"
    );
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{complaints}");
    assert!(text.contains("1 passed"), "{text}");
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

/// A filesystem in a file.
struct Image {
    kind: &'static str,
    template: PathBuf,
    copy: PathBuf,
    mount: PathBuf,
}

impl Image {
    fn new(place: &Path, kind: &'static str) -> Self {
        let template = place.join("template");
        let file = std::fs::File::create(&template).unwrap();
        file.set_len(if kind == "xfs" { 300 << 20 } else { 96 << 20 })
            .unwrap();
        let path = template.to_str().unwrap();
        match kind {
            "xfs" => run("mkfs.xfs", &["-q", path]),
            _ => run("mkfs.ext4", &["-q", "-F", path]),
        }
        let mount = place.join("mount");
        std::fs::create_dir(&mount).unwrap();
        Self {
            kind,
            template,
            copy: place.join("image"),
            mount,
        }
    }

    /// Makes the filesystem new and mounts it.
    fn fresh(&self) {
        let [from, to] = [&self.template, &self.copy].map(|path| path.to_str().unwrap());
        run("cp", &["--sparse=always", from, to]);
        self.mount();
    }

    fn mount(&self) {
        let [image, mount] = [&self.copy, &self.mount].map(|path| path.to_str().unwrap());
        run("mount", &["-t", self.kind, "-o", "loop", image, mount]);
    }

    fn unmount(&self) {
        run("umount", &[self.mount.to_str().unwrap()]);
    }

    fn root(&self) -> PathBuf {
        self.mount.join("cache")
    }
}

/// Cuts the power of a mounted filesystem.
fn cut(mount: &Path) {
    let mount = mount.to_str().unwrap();
    run("xfs_io", &["-x", "-c", "shutdown", mount]);
}

fn config(root: &Path) -> Config {
    Config {
        floor_bytes: 0,
        high_watermark: 1.0,
        io_threads: 2,
        sync_threads: 2,
        ..Config::new(root)
    }
}

fn open(root: &Path, disk: &FaultyDisk, boot_id: &str) -> Result<Arc<Store>, Error> {
    open_as(config(root), disk, boot_id)
}

fn open_as(config: Config, disk: &FaultyDisk, boot_id: &str) -> Result<Arc<Store>, Error> {
    let env = Env {
        disk: Arc::new(disk.clone()),
        clock: Arc::new(SystemClock::new()),
        boot_id: boot_id.to_owned(),
    };
    Store::open(config, env)
}

fn content(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn key(seed: u8) -> PartialKey {
    PartialKey::new(
        "file:///models",
        &seed.to_string(),
        "\"etag\"",
        "",
        0,
        LARGE as u64,
    )
}

async fn put_large(store: &Arc<Store>, seed: u8, writing: Writing) -> Result<Digest, Error> {
    let data = content(LARGE, seed);
    let partial = store.begin(key(seed), LARGE as u64, writing).await?;
    for (index, bytes) in (0u64..).zip(data.chunks(1 << 20)) {
        let hash = hash_part(LARGE as u64, index, bytes);
        let believed = partial.verified().get(usize::try_from(index).unwrap());
        if let Some(Some(known)) = believed {
            assert_eq!(*known, hash, "a part that was believed is the right one");
            continue;
        }
        let mut buffer = Buffer::unpooled();
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        partial.write(index, buffer, bytes.len(), hash).await?;
    }
    Ok(partial.commit(Some(Digest::of(&data))).await?.digest)
}

async fn put_small(store: &Store, data: &[u8]) -> Result<Digest, Error> {
    let mut buffer = Buffer::unpooled();
    buffer.bytes_mut()[..data.len()].copy_from_slice(data);
    store
        .put_small(buffer, data.len(), Digest::of(data))
        .await?;
    Ok(Digest::of(data))
}

/// All that a load and the eviction after it do to a store.
async fn work(store: &Arc<Store>) -> Result<(), Error> {
    let guard = store.leases().guard_stage();
    let mut files = Vec::new();
    for seed in 0..2u8 {
        files.push((put_small(store, &[seed; 5000]).await?, 5000));
    }
    for (seed, writing) in [(1, Writing::Direct), (2, Writing::Warm)] {
        let digest = put_large(store, seed, writing).await?;
        store.note_object("file:///models", &key(seed), digest, LARGE as u64)?;
        files.push((digest, LARGE as u64));
    }
    let files = (0..).zip(&files).map(|(n, (digest, size))| File {
        path: RelPath::parse(&format!("f{n}")).unwrap(),
        size: *size,
        digest: *digest,
    });
    let manifest = Manifest::new(files.collect()).unwrap();
    let lease = store
        .leases()
        .hold(Holder::new("stage:1"), manifest.digest());
    let name = store.put_manifest(&manifest).await?;
    let view = store.root().join("views").join(format!("{name}.0"));
    // The view's own directory is made past the seam: what counts here is what the store does.
    if std::fs::create_dir(&view).is_ok() {
        for file in manifest.files() {
            store.link(&file.digest, file.size, &file.path.below(&view))?;
        }
    }
    drop(guard);
    store.records().write("volumes", "v", "x")?;
    store.sync_now().await;
    drop(lease);
    store.evict(Goal::ALL).await?;
    Ok(())
}

/// I2 and I3: every name in `objects/` hashes to itself, and nothing temporary is left.
fn flaws(root: &Path) -> Vec<String> {
    let mut flaws = Vec::new();
    for fan in std::fs::read_dir(root.join("objects")).unwrap() {
        for object in std::fs::read_dir(fan.unwrap().path()).unwrap() {
            let path = object.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let bytes = std::fs::read(&path).unwrap();
            if Digest::of(&bytes).to_hex() != name {
                flaws.push(format!(
                    "{name} holds {} bytes of something else",
                    bytes.len()
                ));
            }
        }
    }
    for directory in ["tmp", "trash"] {
        for left in std::fs::read_dir(root.join(directory)).unwrap() {
            flaws.push(format!("{} is left", left.unwrap().path().display()));
        }
    }
    flaws
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// The numbers, from the start of the work, of the verbs that change anything.
fn steps(image: &Image) -> Vec<u64> {
    image.fresh();
    let disk = FaultyDisk::new(OsDisk::new());
    let store = open(&image.root(), &disk, "boot-1").unwrap();
    let before = usize::try_from(disk.count()).unwrap();
    runtime().block_on(work(&store)).unwrap();
    let verbs = disk.verbs();
    drop(store);
    image.unmount();
    let changes = |verb: Verb| {
        !matches!(
            verb,
            Verb::Stat
                | Verb::List
                | Verb::Space
                | Verb::ReadAt
                | Verb::Read
                | Verb::Forget
                | Verb::DirectAlignment
        )
    };
    (0..)
        .zip(&verbs[before..])
        .filter(|(_, (verb, _))| changes(*verb))
        .map(|(n, _)| n)
        .collect()
}

/// Cuts the power before verb `n` of the work and answers what is wrong after the next boot.
fn flaws_after_cut(image: &Image, n: u64, lying: bool) -> Vec<String> {
    image.fresh();
    let disk = FaultyDisk::new(OsDisk::new());
    let store = open(&image.root(), &disk, "boot-1").unwrap();
    if lying {
        disk.strike_every(Verb::SyncData, Fault::Skip);
    }
    let mount = image.mount.clone();
    disk.strike(n, Fault::Call(Box::new(move || cut(&mount))));
    let outcome = runtime().block_on(work(&store));
    drop(store);
    image.unmount();
    image.mount();
    let disk = FaultyDisk::new(OsDisk::new());
    let store = match open(&image.root(), &disk, "boot-2") {
        Ok(store) => store,
        Err(error) => panic!("cut at {n}: {}", chain(&error)),
    };
    let mut found = flaws(&image.root());
    if !lying {
        // The same work succeeds, resuming what can be believed.
        if let Err(error) = runtime().block_on(work(&store)) {
            found.push(format!("the work cannot be repeated: {}", chain(&error)));
        }
        found.extend(flaws(&image.root()));
    }
    drop((store, outcome));
    image.unmount();
    found
}

/// Puts small files, written in both ways, that become durable together: the one syncing thread is busy with a first
/// one until all of them wait.
async fn put_together(store: &Arc<Store>, disk: &FaultyDisk) -> Result<(), Error> {
    let (release, wait) = std::sync::mpsc::channel();
    let hold = move || wait.recv().unwrap();
    disk.strike_verb(Verb::SyncData, 0, Fault::Call(Box::new(hold)));
    let outcome = async {
        put_small(store, b"first").await?;
        for seed in 0..12u8 {
            let data = content(70_000, seed);
            let mut buffer = Buffer::unpooled();
            buffer.bytes_mut()[..data.len()].copy_from_slice(&data);
            let writing = if seed % 2 == 0 {
                Writing::Direct
            } else {
                Writing::Warm
            };
            store
                .put_small_as(writing, buffer, data.len(), Digest::of(&data))
                .await?;
        }
        Ok(())
    };
    let outcome = outcome.await;
    release.send(()).unwrap();
    store.sync_now().await;
    outcome
}

/// Cuts the power before the `n`-th verb from the filesystem's sync on, or not at all; answers the verbs from there on
/// and what is wrong after the next boot.
fn flaws_after_cut_together(image: &Image, n: Option<u64>) -> (usize, Vec<String>) {
    image.fresh();
    let disk = FaultyDisk::new(OsDisk::new());
    let config = Config {
        sync_threads: 1,
        ..config(&image.root())
    };
    let store = open_as(config, &disk, "boot-1").unwrap();
    if let Some(n) = n {
        // Counted from the sync itself: what comes before it falls in any order.
        let (mount, later) = (image.mount.clone(), disk.clone());
        let arm = move || match n.checked_sub(1) {
            None => cut(&mount),
            Some(n) => later.strike(n, Fault::Call(Box::new(move || cut(&mount)))),
        };
        disk.strike_verb(Verb::SyncFilesystem, 0, Fault::Call(Box::new(arm)));
    }
    let outcome = runtime().block_on(put_together(&store, &disk));
    drop(store);
    let verbs = disk.verbs();
    let together = verbs
        .iter()
        .position(|(verb, _)| *verb == Verb::SyncFilesystem);
    let left = verbs.len().saturating_sub(together.unwrap());
    image.unmount();
    image.mount();
    let disk = FaultyDisk::new(OsDisk::new());
    let store = open(&image.root(), &disk, "boot-2").unwrap();
    let found = flaws(&image.root());
    drop((store, outcome));
    image.unmount();
    (left, found)
}

fn cut_together(place: &Path, kind: &'static str) {
    let image = Image::new(place, kind);
    let (verbs, found) = flaws_after_cut_together(&image, None);
    assert_eq!(found, Vec::<String>::new());
    assert!(verbs > 24, "{verbs} verbs");
    for n in 0..u64::try_from(verbs).unwrap() {
        let (_, found) = flaws_after_cut_together(&image, Some(n));
        assert!(found.is_empty(), "{kind}, cut before verb {n}: {found:#?}");
    }
}

#[test]
fn privileged_power_cut_while_many_files_become_durable_on_xfs() {
    in_namespace(
        "privileged_power_cut_while_many_files_become_durable_on_xfs",
        |place| cut_together(place, "xfs"),
    );
}

#[test]
fn privileged_power_cut_while_many_files_become_durable_on_ext4() {
    in_namespace(
        "privileged_power_cut_while_many_files_become_durable_on_ext4",
        |place| cut_together(place, "ext4"),
    );
}

fn cut_at_every_step(place: &Path, kind: &'static str) {
    let image = Image::new(place, kind);
    let steps = steps(&image);
    assert!(steps.len() > 60, "{} steps", steps.len());
    for n in &steps {
        let flaws = flaws_after_cut(&image, *n, false);
        assert!(
            flaws.is_empty(),
            "{kind}, power cut before verb {n}: {flaws:#?}"
        );
    }
    // The oracle sees what it must see: without the syncs, objects are bad after some of the cuts.
    let bad = steps
        .iter()
        .rev()
        .any(|n| !flaws_after_cut(&image, *n, true).is_empty());
    assert!(bad, "{kind}: a store that never syncs passed as well");
}

#[test]
fn privileged_power_cut_at_every_step_on_xfs() {
    in_namespace("privileged_power_cut_at_every_step_on_xfs", |place| {
        cut_at_every_step(place, "xfs");
    });
}

#[test]
fn privileged_power_cut_at_every_step_on_ext4() {
    in_namespace("privileged_power_cut_at_every_step_on_ext4", |place| {
        cut_at_every_step(place, "ext4");
    });
}

fn mount_tmpfs(place: &Path, options: &str) -> PathBuf {
    let mount = place.join("tmpfs");
    std::fs::create_dir(&mount).unwrap();
    run(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            options,
            "tmpfs",
            mount.to_str().unwrap(),
        ],
    );
    mount
}

#[test]
fn privileged_a_disk_that_others_filled_is_refused_and_recovers() {
    in_namespace(
        "privileged_a_disk_that_others_filled_is_refused_and_recovers",
        |place| {
            let mount = mount_tmpfs(place, "size=16m");
            let disk = FaultyDisk::new(OsDisk::new());
            let store = open(&mount.join("cache"), &disk, "boot-1").unwrap();
            runtime().block_on(async {
                let kept = put_large(&store, 1, Writing::Direct).await.unwrap();
                let view = store.root().join("views").join("kept");
                store.link(&kept, LARGE as u64, &view).unwrap();
                std::fs::write(mount.join("others"), vec![1; 13 << 20]).unwrap();
                let error = store.reserve(LARGE as u64, 1).await.unwrap_err();
                assert!(matches!(error, Error::NoSpace { .. }), "{}", chain(&error));
                for writing in [Writing::Direct, Writing::Warm] {
                    let error = put_large(&store, 2, writing).await.unwrap_err();
                    assert_eq!(error.kind(), Kind::NoSpace, "{}", chain(&error));
                }
                let mut outcome = Ok(());
                for seed in 0..=u8::MAX {
                    outcome = put_small(&store, &content(20_000, seed)).await.map(drop);
                    store.sync_now().await;
                    if outcome.is_err() {
                        break;
                    }
                }
                assert_eq!(outcome.unwrap_err().kind(), Kind::NoSpace);
                assert_eq!(std::fs::read(&view).unwrap(), content(LARGE, 1));
                std::fs::remove_file(mount.join("others")).unwrap();
                put_large(&store, 2, Writing::Direct).await.unwrap();
                store.sync_now().await;
            });
            assert_eq!(flaws(store.root()), Vec::<String>::new());
        },
    );
}

#[test]
fn privileged_a_disk_without_inodes_is_refused_with_figures() {
    in_namespace(
        "privileged_a_disk_without_inodes_is_refused_with_figures",
        |place| {
            let mount = mount_tmpfs(place, "size=16m,nr_inodes=640");
            let disk = FaultyDisk::new(OsDisk::new());
            let store = open(&mount.join("cache"), &disk, "boot-1").unwrap();
            runtime().block_on(async {
                let error = store.reserve(0, 1000).await.unwrap_err();
                assert!(
                    matches!(error, Error::NoInodes { needed: 1000, .. }),
                    "{}",
                    chain(&error)
                );
                let guard = store.leases().guard_stage();
                let mut outcome = Ok(());
                for number in 0..1000u32 {
                    outcome = put_small(&store, &number.to_le_bytes()).await.map(drop);
                    if outcome.is_err() {
                        break;
                    }
                }
                assert_eq!(outcome.unwrap_err().kind(), Kind::NoSpace);
                drop(guard);
                store.sync_now().await;
                // Unreferenced objects go, and the room can be used.
                drop(store.reserve(0, 90).await.unwrap());
                put_small(&store, b"more").await.unwrap();
                store.sync_now().await;
            });
            assert_eq!(flaws(store.root()), Vec::<String>::new());
        },
    );
}

#[test]
fn privileged_a_disk_that_turns_read_only_gives_clean_errors_and_recovers() {
    in_namespace(
        "privileged_a_disk_that_turns_read_only_gives_clean_errors_and_recovers",
        |place| {
            let mount = mount_tmpfs(place, "size=64m");
            let path = mount.to_str().unwrap();
            let disk = FaultyDisk::new(OsDisk::new());
            let store = open(&mount.join("cache"), &disk, "boot-1").unwrap();
            let digest = runtime()
                .block_on(put_large(&store, 1, Writing::Direct))
                .unwrap();
            runtime().block_on(async {
                run("mount", &["-o", "remount,ro", path]);
                assert!(put_large(&store, 2, Writing::Warm).await.is_err());
                assert!(put_small(&store, b"small").await.is_err());
                assert!(store.evict(Goal::ALL).await.is_err());
                assert!(store.find(digest, LARGE as u64).await.unwrap());
            });
            drop(store);
            let error = open(&mount.join("cache"), &disk, "boot-1").unwrap_err();
            assert!(
                error.to_string().contains("cannot be written"),
                "{}",
                chain(&error)
            );
            run("mount", &["-o", "remount,rw", path]);
            let store = open(&mount.join("cache"), &disk, "boot-1").unwrap();
            runtime().block_on(work(&store)).unwrap();
            assert_eq!(flaws(store.root()), Vec::<String>::new());
        },
    );
}

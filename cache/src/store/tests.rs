//! The store as its callers see it, on the real disk in a temporary directory.

use std::time::SystemTime;

use super::*;
use crate::buffer::Buffer;
use crate::clock::ManualClock;
use crate::digest::{PART_SIZE, PartHash, hash_part, part_count, part_length};
use crate::disk::{FaultyDisk, OsDisk};
use crate::error::Kind;

/// A store in a directory of its own, on a disk that can fail.
struct Place {
    root: tempfile::TempDir,
    disk: FaultyDisk,
    clock: Arc<ManualClock>,
}

impl Place {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            disk: FaultyDisk::new(OsDisk::new()),
            clock: Arc::new(ManualClock::at(SystemTime::now_for_tests())),
        }
    }

    /// In memory where that is possible: for tests that open many stores.
    fn in_memory() -> Self {
        let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self {
            root: root.unwrap(),
            ..Self::new()
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("cache").join(name)
    }

    fn config(&self) -> Config {
        Config {
            floor_bytes: 0,
            high_watermark: 1.0,
            io_threads: 2,
            sync_threads: 2,
            ..Config::new(self.path(""))
        }
    }

    fn try_open(&self, config: Config, boot_id: &str) -> Result<Arc<Store>, Error> {
        let env = Env {
            disk: Arc::new(self.disk.clone()),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            boot_id: boot_id.to_owned(),
        };
        Store::open(config, env)
    }

    fn open(&self) -> Arc<Store> {
        self.try_open(self.config(), "boot-1").unwrap()
    }

    fn names(&self, directory: &str) -> Vec<String> {
        files_below(&self.path(directory))
    }
}

mod durable;
mod faults;
mod reclaim;
mod repair;
mod warming;

trait Now {
    fn now_for_tests() -> SystemTime;
}

impl Now for SystemTime {
    #[expect(
        clippy::disallowed_methods,
        reason = "file times are the machine's, so ages must be too"
    )]
    fn now_for_tests() -> SystemTime {
        SystemTime::now()
    }
}

fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found.sort();
    found
}

/// Bytes that differ from part to part.
fn content(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn key(name: &str, size: usize) -> PartialKey {
    PartialKey::new("s3://bucket", name, "\"etag\"", "", 0, size as u64)
}

fn part(data: &[u8], index: usize) -> (Buffer, usize, PartHash) {
    let part_size = usize::try_from(PART_SIZE).unwrap();
    let bytes = data.chunks(part_size).nth(index).unwrap();
    let mut buffer = Buffer::unpooled();
    buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    let hash = hash_part(data.len() as u64, index as u64, bytes);
    (buffer, bytes.len(), hash)
}

async fn write_parts(partial: &Partial, data: &[u8], indexes: &[usize]) -> Result<(), Error> {
    for index in indexes {
        let (buffer, length, hash) = part(data, *index);
        partial.write(*index as u64, buffer, length, hash).await?;
    }
    Ok(())
}

fn all_parts(data: &[u8]) -> Vec<usize> {
    (0..data.len().div_ceil(1 << 20)).collect()
}

/// Stores a file the long way.
async fn put(store: &Arc<Store>, data: &[u8], writing: Writing) -> Result<Committed, Error> {
    let name = Digest::of(data).to_hex();
    let partial = store
        .begin(key(&name, data.len()), data.len() as u64, writing)
        .await?;
    let missing: Vec<usize> = all_parts(data)
        .into_iter()
        .filter(|index| partial.verified()[*index].is_none())
        .collect();
    write_parts(&partial, data, &missing).await?;
    partial.commit(None).await
}

async fn put_small(store: &Store, data: &[u8]) -> Result<Stored, Error> {
    let mut buffer = Buffer::unpooled();
    buffer.bytes_mut()[..data.len()].copy_from_slice(data);
    let put = store
        .put_small(buffer, data.len(), Digest::of(data))
        .await?;
    Ok(put.0)
}

/// Every name in `objects/` hashes to itself; nothing temporary is left.
fn check_invariants(root: &Path) {
    let mut objects = Vec::new();
    for fan in std::fs::read_dir(root.join("objects")).unwrap() {
        for object in std::fs::read_dir(fan.unwrap().path()).unwrap() {
            objects.push(object.unwrap().path());
        }
    }
    for object in objects {
        let name = object.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(Digest::of(&std::fs::read(&object).unwrap()).to_hex(), name);
    }
    for directory in ["tmp", "trash", "fresh"] {
        assert_eq!(
            files_below(&root.join(directory)),
            Vec::<String>::new(),
            "{directory}"
        );
    }
}

const LARGE: usize = (2 << 20) + 4097;

#[tokio::test]
async fn a_large_file_becomes_a_sealed_object_with_a_part_table() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    for writing in [Writing::Direct, Writing::Warm] {
        let place = Place::new();
        let store = place.open();
        let data = content(LARGE, 1);
        let committed = put(&store, &data, writing).await.unwrap();
        assert_eq!(committed.digest, Digest::of(&data));
        assert!(!committed.deduplicated);
        store.sync_now().await;
        let path = store.layout().object(&committed.digest);
        assert_eq!(std::fs::read(&path).unwrap(), data);
        let facts = std::fs::metadata(&path).unwrap();
        assert_eq!(facts.permissions().mode() & 0o7777, 0o444);
        assert_eq!(facts.mtime(), crate::disk::SEALED_SECONDS);
        assert_eq!(place.names("parts").len(), 1);
        assert_eq!(place.names("partial").len(), 0);
        assert!(store.find(committed.digest, LARGE as u64).await.unwrap());
        assert!(!store.find(Digest::of(b"other"), 5).await.unwrap());
        check_invariants(store.root());
        assert!(put(&store, &data, writing).await.unwrap().deduplicated);
    }
}

#[tokio::test]
async fn small_files_can_be_linked_at_once_and_become_objects() {
    let place = Place::new();
    let store = place.open();
    for n in 0..600u32 {
        let data = n.to_le_bytes();
        assert!(!put_small(&store, &data).await.unwrap().deduplicated);
        store
            .link(&Digest::of(&data), 4, &place.path(&format!("tmp/{n}")))
            .unwrap();
    }
    assert!(
        put_small(&store, &7u32.to_le_bytes())
            .await
            .unwrap()
            .deduplicated
    );
    assert!(!put_small(&store, b"").await.unwrap().deduplicated);
    store.sync_now().await;
    assert_eq!(place.names("objects").len(), 601);
    assert_eq!(
        std::fs::read(place.path("tmp/9")).unwrap(),
        9u32.to_le_bytes()
    );
    assert_eq!(
        store
            .object_stat(&Digest::of(&9u32.to_le_bytes()))
            .unwrap()
            .unwrap()
            .links,
        2
    );
    drop(store);
    let _store = place.open();
    check_invariants(&place.path(""));
}

#[tokio::test]
async fn an_interrupted_file_is_resumed_from_the_parts_that_are_really_there() {
    let place = Place::new();
    let data = content(5 << 20, 3);
    let store = place.open();
    let name = key("k", data.len());
    for writing in [Writing::Direct, Writing::Warm] {
        let partial = store.begin(name, 5 << 20, writing).await.unwrap();
        write_parts(&partial, &data, &[0, 2, 4]).await.unwrap();
        assert!(matches!(
            store.begin(name, 5 << 20, writing).await,
            Err(Error::Busy)
        ));
    }
    drop(store);
    // One part was journalled but lost its bytes.
    let path = place.path("partial").join(name.to_hex()).join("data");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 9], 2 << 20).unwrap();
    let store = place.open();
    let partial = store.begin(name, 5 << 20, Writing::Direct).await.unwrap();
    let verified: Vec<bool> = partial.verified().iter().map(Option::is_some).collect();
    assert_eq!(verified, [true, false, false, false, true]);
    assert!(matches!(
        partial.commit(None).await,
        Err(Error::Incomplete { missing: 3 })
    ));
    let partial = store.begin(name, 5 << 20, Writing::Direct).await.unwrap();
    write_parts(&partial, &data, &[1, 3]).await.unwrap();
    partial.set_writing(Writing::Warm);
    write_parts(&partial, &data, &[2]).await.unwrap();
    assert_eq!(
        partial.commit(None).await.unwrap().digest,
        Digest::of(&data)
    );
    store.sync_now().await;
    check_invariants(store.root());
}

#[tokio::test]
async fn a_wrong_digest_is_quarantined_and_never_an_object() {
    let place = Place::new();
    let store = place.open();
    let data = content(LARGE, 4);
    let partial = store
        .begin(key("k", LARGE), LARGE as u64, Writing::Direct)
        .await
        .unwrap();
    write_parts(&partial, &data, &all_parts(&data))
        .await
        .unwrap();
    let error = partial.commit(Some(Digest::of(b"x"))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert_eq!(place.names("objects").len(), 0);
    assert_eq!(place.names("partial").len(), 0);
    assert_eq!(place.names("quarantine").len(), 1);
}

#[tokio::test]
async fn parts_that_do_not_fit_are_refused() {
    let place = Place::new();
    let store = place.open();
    let partial = store
        .begin(key("k", LARGE), LARGE as u64, Writing::Direct)
        .await
        .unwrap();
    let (_, _, hash) = part(&content(LARGE, 1), 0);
    for (index, length) in [(0, 5), (2, 1 << 20), (3, 1), (u64::MAX, 0)] {
        let refused = partial.write(index, Buffer::unpooled(), length, hash).await;
        assert!(
            matches!(refused, Err(Error::Part { .. })),
            "{index} {length}"
        );
    }
    assert_eq!(part_length(LARGE as u64, 2), 4097);
    partial.discard().await.unwrap();
    assert_eq!(place.names("partial").len(), 0);
}

#[tokio::test]
async fn a_second_owner_is_told_who_the_first_is() {
    let place = Place::new();
    let store = place.open();
    let error = place.try_open(place.config(), "boot-1").unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    let root = place.path("");
    assert_eq!(
        error.to_string(),
        format!(
            "the cache at {} is in use by process {}",
            root.display(),
            std::process::id()
        )
    );
    drop(store);
    place.open();
}

#[tokio::test]
async fn a_later_format_or_an_unknown_feature_is_refused_and_nothing_is_touched() {
    let place = Place::new();
    drop(place.open());
    let path = place.path("meta.json");
    let good: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(good["version"], 1);
    std::fs::write(place.path("tmp/left"), b"").unwrap();
    std::fs::remove_file(place.path("lock")).unwrap();
    for (field, value, word) in [
        ("version", serde_json::json!(2), "format version 2"),
        ("incompat", serde_json::json!(["packs"]), "\"packs\""),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        std::fs::write(&path, bad.to_string()).unwrap();
        let error = place.try_open(place.config(), "boot-1").unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(place.path("tmp/left").exists() && !place.path("lock").exists());
    }
    let mut newer = good;
    newer["compat"] = serde_json::json!(["index"]);
    newer["ro_compat"] = serde_json::json!(["other"]);
    std::fs::write(&path, newer.to_string()).unwrap();
    place.open();
    assert!(!place.path("tmp/left").exists());
}

#[tokio::test]
async fn a_directory_that_holds_something_else_is_refused() {
    let place = Place::new();
    std::fs::create_dir(place.path("")).unwrap();
    std::fs::write(place.path("thesis.txt"), b"").unwrap();
    let error = place.try_open(place.config(), "boot-1").unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("it holds \"thesis.txt\" and no cache; choose an empty directory")
    );
    assert_eq!(std::fs::read_dir(place.path("")).unwrap().count(), 1);
    let mut config = place.config();
    config.root = place.path("thesis.txt/cache");
    let error = place.try_open(config, "boot-1").unwrap_err();
    assert!(error.to_string().contains("cannot be created"), "{error}");
}

#[tokio::test]
async fn fresh_objects_of_an_earlier_run_are_hashed_before_use() {
    let place = Place::new();
    drop(place.open());
    let good = b"good".as_slice();
    let fresh = place.path("fresh/boot-0");
    std::fs::create_dir(&fresh).unwrap();
    std::fs::write(fresh.join(Digest::of(good).to_hex()), good).unwrap();
    std::fs::write(fresh.join(Digest::of(b"lost").to_hex()), [0; 4]).unwrap();
    std::fs::write(fresh.join("foreign"), b"").unwrap();
    let store = place.open();
    assert!(store.find(Digest::of(good), 4).await.unwrap());
    assert!(!store.find(Digest::of(b"lost"), 4).await.unwrap());
    assert_eq!(place.names("objects").len(), 1);
    check_invariants(store.root());
}

#[tokio::test]
async fn manifests_are_kept_and_a_damaged_one_is_absent() {
    let place = Place::new();
    let store = place.open();
    let manifest = Manifest::new(vec![crate::manifest::File {
        path: crate::path::RelPath::parse("a").unwrap(),
        size: 1,
        digest: Digest::of(b"a"),
    }])
    .unwrap();
    let digest = store.put_manifest(&manifest).await.unwrap();
    assert_eq!(digest, manifest.digest());
    assert_eq!(store.put_manifest(&manifest).await.unwrap(), digest);
    assert_eq!(store.get_manifest(digest).await.unwrap(), Some(manifest));
    std::fs::write(store.layout().manifest(&digest), b"rot").unwrap();
    assert_eq!(store.get_manifest(digest).await.unwrap(), None);
    assert!(!store.layout().manifest(&digest).exists());
    check_invariants(store.root());
}

#[tokio::test]
async fn opening_looks_at_no_object_however_many_there_are() {
    let place = Place::new();
    let store = place.open();
    for n in 0..20u8 {
        put_small(&store, &[n; 100]).await.unwrap();
    }
    store.sync_now().await;
    drop(store);
    let before = place.disk.verbs().len();
    let store = place.open();
    let below = |(_, path): &(_, PathBuf)| {
        let inside = |top| path.starts_with(place.path(top)) && *path != place.path(top);
        inside("objects") || inside("parts")
    };
    let looks: Vec<_> = place
        .disk
        .verbs()
        .split_off(before)
        .into_iter()
        .filter(below)
        .collect();
    assert_eq!(looks, []);
    assert_eq!(store.usage().unwrap().objects.files, 20);
}

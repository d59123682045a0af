//! Loads through the front door: what is fetched, what is shared, what a view holds.

#![expect(
    clippy::unwrap_used,
    reason = "a test's set-up: a failure must stop the test"
)]

mod memory_source;

use std::path::Path;
use std::sync::Arc;

use memory_source::MemorySource;
use tonnage_cache::cache::{Cache, Config, Error, LoadOptions, Loaded, Reference, SizeCheck};
use tonnage_cache::digest::Digest;
use tonnage_cache::error::Kind;
use tonnage_cache::gate::{OpenGate, Refusal};
use tonnage_cache::source::Source;
use tonnage_cache::source::select::Selection;
use tonnage_cache::store::{Env, Holder};

fn bytes(seed: u8, length: usize) -> Vec<u8> {
    let mut out = vec![0u8; length];
    let mut reader = blake3::Hasher::new().update(&[seed]).finalize_xof();
    reader.fill(&mut out);
    out
}

fn globs(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}

async fn open(root: &Path) -> Arc<Cache> {
    let mut config = Config::new(root);
    config.revision_ttl = std::time::Duration::ZERO;
    Cache::open(config, Env::real(), OpenGate::shared())
        .await
        .unwrap()
}

fn reference(source: &Arc<MemorySource>, path: &str) -> Reference {
    let source: Arc<MemorySource> = Arc::clone(source);
    Reference::new(source as Arc<dyn Source>, path)
}

fn options(name: &str) -> LoadOptions {
    LoadOptions::new(Holder::new(name))
}

async fn load(cache: &Cache, reference: &Reference) -> Result<Loaded, Error> {
    cache.load(reference, &options("test")).await
}

fn read(view: &Loaded, path: &str) -> Vec<u8> {
    std::fs::read(view.view.join(path)).unwrap()
}

fn model(source: &MemorySource, prefix: &str, seed: u8) {
    source.put(
        &format!("{prefix}/model.safetensors"),
        bytes(seed, (5 << 20) + 77),
    );
    source.put(
        &format!("{prefix}/sub/weights.bin"),
        bytes(seed ^ 1, 3 << 20),
    );
    source.put(&format!("{prefix}/config.json"), bytes(seed ^ 2, 900));
    source.put(&format!("{prefix}/empty"), Vec::new());
}

const MODEL_BYTES: u64 = (5 << 20) + 77 + (3 << 20) + 900;

#[tokio::test]
async fn a_load_shows_every_byte_and_a_second_one_fetches_nothing() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let first = load(&cache, &reference(&source, "m")).await.unwrap();
    assert_eq!(read(&first, "model.safetensors"), bytes(1, (5 << 20) + 77));
    assert_eq!(read(&first, "sub/weights.bin"), bytes(0, 3 << 20));
    assert_eq!(read(&first, "config.json"), bytes(3, 900));
    assert_eq!(read(&first, "empty"), b"");
    assert_eq!(source.served_total(), MODEL_BYTES);
    assert_eq!(first.report.origins.source, MODEL_BYTES);
    assert_eq!(first.report.bytes, MODEL_BYTES);
    let second = load(&cache, &reference(&source, "m")).await.unwrap();
    assert_eq!(second.view, first.view);
    assert_eq!(second.report.origins.cached, MODEL_BYTES);
    assert_eq!(source.served_total(), MODEL_BYTES);
}

#[tokio::test]
async fn sources_of_one_bucket_with_different_bases_share_no_path() {
    let root = tempfile::tempdir().unwrap();
    let public = Arc::new(MemorySource::based("mem://a", "public"));
    let secret = Arc::new(MemorySource::based("mem://a", "secret"));
    public.put("public/m/x", bytes(1, 900));
    secret.put("secret/m/x", bytes(2, 900));
    let mut config = Config::new(root.path());
    // Listings are shared as long as possible.
    config.revision_ttl = std::time::Duration::from_hours(1);
    let cache = Cache::open(config, Env::real(), OpenGate::shared())
        .await
        .unwrap();
    let own = load(&cache, &reference(&secret, "m")).await.unwrap();
    assert_eq!(read(&own, "x"), bytes(2, 900));
    let other = load(&cache, &reference(&public, "m")).await.unwrap();
    assert_eq!(read(&other, "x"), bytes(1, 900));
    // Who knows the revision of the one has nothing of it through the other.
    let mut pinned = reference(&public, "m");
    pinned.revision = Some(own.fingerprint);
    let error = load(&cache, &pinned).await.unwrap_err();
    assert!(matches!(error, Error::OtherRevision { .. }), "{error}");
}

#[tokio::test]
async fn a_view_is_read_only_down_to_its_directories() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let loaded = load(&cache, &reference(&source, "m")).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&loaded.view), 0o555);
    assert_eq!(mode(&loaded.view.join("sub")), 0o555);
    assert_eq!(mode(&loaded.view.join("config.json")), 0o444);
    assert_eq!(mode(&loaded.view.join("model.safetensors")), 0o444);
}

#[tokio::test]
async fn a_new_revision_with_one_changed_file_fetches_that_file_only() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let old = load(&cache, &reference(&source, "m")).await.unwrap();
    source.put("m/config.json", bytes(99, 1200));
    let new = load(&cache, &reference(&source, "m")).await.unwrap();
    assert_eq!(source.served_total(), MODEL_BYTES + 1200);
    assert_eq!(new.report.origins.source, 1200);
    assert_eq!(new.report.origins.unchanged, MODEL_BYTES - 900);
    assert_eq!(read(&new, "config.json"), bytes(99, 1200));
    assert_eq!(read(&old, "config.json"), bytes(3, 900));
    assert_ne!(old.fingerprint, new.fingerprint);
}

#[tokio::test]
async fn equal_content_under_another_key_is_fetched_again_and_stored_once() {
    use std::os::unix::fs::MetadataExt;
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    model(&source, "copy", 1);
    let cache = open(root.path()).await;
    let first = load(&cache, &reference(&source, "m")).await.unwrap();
    let copy = load(&cache, &reference(&source, "copy")).await.unwrap();
    assert_eq!(source.served_total(), 2 * MODEL_BYTES);
    assert_eq!(copy.report.origins.dedup, MODEL_BYTES);
    assert_eq!(copy.view, first.view, "equal manifests are one view");
    let inode = |loaded: &Loaded| {
        std::fs::metadata(loaded.view.join("model.safetensors"))
            .unwrap()
            .ino()
    };
    assert_eq!(inode(&first), inode(&copy));
}

#[tokio::test]
async fn concurrent_loads_that_share_files_fetch_each_byte_once() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::guarded("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let mut part = reference(&source, "m");
    part.selection = Selection::new(&globs(&["*.safetensors"]), &globs(&[])).unwrap();
    let whole = reference(&source, "m");
    let loads = async {
        tokio::join!(
            load(&cache, &whole),
            load(&cache, &part),
            load(&cache, &whole),
            load(&cache, &whole)
        )
    };
    let (outcomes, ()) = tokio::join!(loads, async { source.let_through(1000) });
    for outcome in [&outcomes.0, &outcomes.2, &outcomes.3] {
        assert_eq!(
            read(outcome.as_ref().unwrap(), "model.safetensors"),
            bytes(1, (5 << 20) + 77)
        );
    }
    assert_eq!(outcomes.1.unwrap().manifest.files().len(), 1);
    assert_eq!(source.served_total(), MODEL_BYTES);
}

#[tokio::test]
async fn a_source_that_changes_during_a_load_is_loaded_anew_and_never_mixed() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    source.replace_at_next_open("m/model.safetensors", bytes(50, 4 << 20));
    let loaded = load(&cache, &reference(&source, "m")).await.unwrap();
    assert_eq!(read(&loaded, "model.safetensors"), bytes(50, 4 << 20));
    assert_eq!(source.listings(), 2);
}

#[tokio::test]
async fn a_pinned_revision_refuses_another_and_needs_no_listing_when_complete() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let first = load(&cache, &reference(&source, "m")).await.unwrap();
    let mut pinned = reference(&source, "m");
    pinned.revision = Some(first.fingerprint);
    source.put("m/config.json", bytes(99, 1200));
    let listings = source.listings();
    assert_eq!(load(&cache, &pinned).await.unwrap().view, first.view);
    assert_eq!(source.listings(), listings);
    pinned.revision = Some(Digest::of(b"another"));
    let error = load(&cache, &pinned).await.unwrap_err();
    assert!(matches!(error, Error::OtherRevision { .. }), "{error}");
    assert_eq!(error.kind(), Kind::Conflict);
}

#[tokio::test]
async fn content_that_differs_from_a_pinned_digest_is_not_served() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let mut pinned = reference(&source, "m");
    pinned.digest = Some(Digest::of(b"what I wanted"));
    let error = load(&cache, &pinned).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert_eq!(
        std::fs::read_dir(root.path().join("views"))
            .unwrap()
            .count(),
        0
    );
    pinned.digest = None;
    let good = load(&cache, &pinned).await.unwrap();
    pinned.digest = Some(good.manifest_digest);
    assert_eq!(load(&cache, &pinned).await.unwrap().view, good.view);
}

#[tokio::test]
async fn a_revision_above_the_limit_is_refused_before_any_byte() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let mut options = options("test");
    options.limit_bytes = Some(MODEL_BYTES - 1);
    let error = cache
        .load(&reference(&source, "m"), &options)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                bytes: MODEL_BYTES,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(source.served_total(), 0);
}

#[tokio::test]
async fn a_size_is_asked_about_before_any_byte_and_again_when_all_is_here() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let reference = reference(&source, "m");
    let at_most = |most: u64| {
        let check = move |bytes: u64| async move {
            if bytes > most {
                return Err(Refusal::Exhausted(format!("{bytes} are too many")));
            }
            Ok(())
        };
        LoadOptions {
            size_check: Some(SizeCheck::new(check)),
            ..options("test")
        }
    };
    let little = at_most(MODEL_BYTES - 1);
    let error = cache.load(&reference, &little).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted);
    assert_eq!(error.to_string(), format!("{MODEL_BYTES} are too many"));
    assert_eq!(source.served_total(), 0);
    let loaded = cache.load(&reference, &at_most(MODEL_BYTES)).await.unwrap();
    assert_eq!(loaded.report.origins.source, MODEL_BYTES);
    // A pinned revision that is here is found without a listing, and is not exempt.
    let mut pinned = reference;
    pinned.revision = Some(loaded.fingerprint);
    let error = cache.load(&pinned, &little).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted);
}

#[tokio::test]
async fn a_restart_keeps_content_and_fetches_nothing() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    load(&cache, &reference(&source, "m")).await.unwrap();
    drop(cache);
    let cache = open(root.path()).await;
    let again = load(&cache, &reference(&source, "m")).await.unwrap();
    assert_eq!(source.served_total(), MODEL_BYTES);
    assert_eq!(read(&again, "model.safetensors"), bytes(1, (5 << 20) + 77));
}

/// Takes a file out of a view, as a disk that lost a write does.
fn damage(view: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(view, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::remove_file(view.join("config.json")).unwrap();
}

#[tokio::test]
async fn a_damaged_view_that_a_pod_may_read_is_left_and_the_next_generation_is_built() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let first = load(&cache, &reference(&source, "m")).await.unwrap();
    let (view, manifest) = (first.view.clone(), first.manifest_digest);
    drop(first);
    cache.store().sync_now().await;
    drop(cache);
    damage(&view);
    let cache = open(root.path()).await;
    let _pod = cache
        .store()
        .leases()
        .hold(Holder::new("volume:1"), manifest);
    let second = load(&cache, &reference(&source, "m")).await.unwrap();
    assert!(view.is_dir());
    assert!(second.view.to_string_lossy().ends_with(".1"));
    assert_eq!(read(&second, "config.json"), bytes(3, 900));
    assert_eq!(source.served_total(), MODEL_BYTES);
}

#[tokio::test]
async fn a_damaged_view_that_cannot_be_removed_is_left_and_the_next_generation_is_built() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let first = load(&cache, &reference(&source, "m")).await.unwrap();
    let view = first.view.clone();
    drop(first);
    cache.store().sync_now().await;
    drop(cache);
    damage(&view);
    let cache = open(root.path()).await;
    std::fs::remove_dir(root.path().join("trash")).unwrap();
    let second = load(&cache, &reference(&source, "m")).await.unwrap();
    assert!(view.is_dir());
    assert!(second.view.to_string_lossy().ends_with(".1"));
    assert_eq!(read(&second, "config.json"), bytes(3, 900));
}

#[tokio::test]
async fn a_damaged_view_that_nobody_holds_is_removed_with_what_only_it_links() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let first = load(&cache, &reference(&source, "m")).await.unwrap();
    let view = first.view.clone();
    drop(first);
    cache.store().sync_now().await;
    drop(cache);
    damage(&view);
    std::fs::write(view.join("orphan"), vec![1; 4096]).unwrap();
    let cache = open(root.path()).await;
    let second = load(&cache, &reference(&source, "m")).await.unwrap();
    assert_eq!(read(&second, "config.json"), bytes(3, 900));
    assert!(!second.view.join("orphan").exists());
    assert_eq!(
        std::fs::read_dir(root.path().join("views"))
            .unwrap()
            .count(),
        1
    );
    assert_eq!(source.served_total(), MODEL_BYTES);
}

#[tokio::test]
async fn include_and_exclude_choose_files_and_nothing_left_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let mut some = reference(&source, "m");
    some.selection = Selection::new(&globs(&["**"]), &globs(&["*.safetensors", "sub/**"])).unwrap();
    let loaded = load(&cache, &some).await.unwrap();
    let names: Vec<&str> = loaded
        .manifest
        .files()
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(names, ["config.json", "empty"]);
    some.selection = Selection::new(&globs(&["*.gguf"]), &globs(&[])).unwrap();
    assert_eq!(
        load(&cache, &some).await.unwrap_err().kind(),
        Kind::NotFound
    );
}

#[tokio::test]
async fn a_cancelled_load_keeps_what_is_verified() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::guarded("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let options = options("test");
    let whole = reference(&source, "m");
    // Let some opens through, then cancel while the others wait at the turnstile.
    source.let_through(2);
    let cancelled = async {
        while source.served_total() == 0 {
            tokio::task::yield_now().await;
        }
        options.cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(cache.load(&whole, &options), cancelled);
    assert!(outcome.is_err());
    source.let_through(1000);
    let loaded = load(&cache, &whole).await.unwrap();
    assert_eq!(read(&loaded, "model.safetensors"), bytes(1, (5 << 20) + 77));
    assert_eq!(read(&loaded, "sub/weights.bin"), bytes(0, 3 << 20));
}

#[tokio::test]
async fn one_bad_part_is_found_and_only_that_part_is_fetched_again() {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    let first = load(&cache, &reference(&source, "m")).await.unwrap();
    cache.store().sync_now().await;
    let path = first.view.join("model.safetensors");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"rot", (2 << 20) + 5).unwrap();
    file.sync_all().unwrap();
    let served = source.served_total();

    let report = cache.store().scrub(None, None).await.unwrap();
    let digest = Digest::of(&bytes(1, (5 << 20) + 77));
    assert_eq!(report.bad, [(digest, vec![2])]);
    let second = load(&cache, &reference(&source, "m")).await.unwrap();
    assert_eq!(source.served_total() - served, 1 << 20);
    assert_ne!(second.view, first.view);
    assert_eq!(read(&second, "model.safetensors"), bytes(1, (5 << 20) + 77));
    assert_eq!(read(&second, "config.json"), bytes(3, 900));
}

#[tokio::test]
async fn an_upload_of_the_same_bytes_is_not_fetched_again() {
    let root = tempfile::tempdir().unwrap();
    let source = Arc::new(MemorySource::new("mem://a"));
    model(&source, "m", 1);
    let cache = open(root.path()).await;
    load(&cache, &reference(&source, "m")).await.unwrap();
    source.touch();
    source.put("m/config.json", bytes(99, 1200));
    load(&cache, &reference(&source, "m")).await.unwrap();
    assert_eq!(source.served_total(), MODEL_BYTES + 1200);
}

#[tokio::test]
async fn an_object_that_a_stage_has_looked_at_is_not_taken_away_to_make_room() {
    use tonnage_cache::buffer::Buffer;
    use tonnage_cache::store::Goal;
    let root = tempfile::tempdir().unwrap();
    let cache = open(root.path()).await;
    let store = cache.store();
    let digest = Digest::of(b"kept");
    let mut buffer = Buffer::unpooled();
    buffer.bytes_mut()[..4].copy_from_slice(b"kept");
    store.put_small(buffer, 4, digest).await.unwrap();
    store.sync_now().await;
    let stage = store.leases().guard_stage();
    assert!(store.object_stat(&digest).unwrap().is_some());
    store.evict(Goal::ALL).await.unwrap();
    assert!(store.object_stat(&digest).unwrap().is_some());
    drop(stage);
    store.evict(Goal::ALL).await.unwrap();
    assert!(store.object_stat(&digest).unwrap().is_none());
}

//! Bit rot, copies of the store, seeds, and the filesystem's link limit.

use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::*;
use crate::disk::{Fault, Verb};

const SIZE: usize = 5 << 20;

/// Changes one byte of an object in place, as a failing disk would.
fn rot(store: &Store, digest: &Digest, at: u64) {
    let path = store.layout().object(digest);
    store.disk().set_mode(&path, 0o644).unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .read(true)
        .open(&path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    file.sync_all().unwrap();
    drop(file);
    store.disk().set_mode(&path, 0o444).unwrap();
}

async fn stored(store: &Arc<Store>, data: &[u8]) -> (PartialKey, Digest) {
    let digest = put(store, data, Writing::Direct).await.unwrap().digest;
    let name = key(&digest.to_hex(), data.len());
    store
        .note_object("s3://bucket", &name, digest, data.len() as u64)
        .unwrap();
    (name, digest)
}

#[tokio::test]
async fn scrub_finds_the_bad_part_and_the_next_fetch_brings_only_that() {
    for linked in [false, true] {
        let place = Place::new();
        let store = place.open();
        let data = content(SIZE, 1);
        let (name, digest) = stored(&store, &data).await;
        stored(&store, &content(SIZE, 2)).await;
        let clean = store.scrub(None, None).await.unwrap();
        assert_eq!(
            (clean.objects, clean.bytes, clean.bad.len()),
            (2, 2 * SIZE as u64, 0)
        );
        let view = place.path("views/shown");
        if linked {
            store.link(&digest, SIZE as u64, &view).unwrap();
        }
        rot(&store, &digest, (3 << 20) + 17);
        let report = store.scrub(None, Some(digest)).await.unwrap();
        assert_eq!(report.bad, [(digest, vec![3])]);
        assert!(!store.find(digest, SIZE as u64).await.unwrap());
        let [damage] = &store.damaged()[..] else {
            panic!("one report")
        };
        assert_eq!(
            (damage.digest, damage.cause, damage.repaired),
            (digest, Cause::Content, false)
        );
        assert_eq!(
            (&damage.bad_parts[..], &damage.keys[..]),
            (&[3][..], &[name][..])
        );
        assert_eq!(place.names("quarantine").len(), 1);
        drop(store);
        // The report survives a restart, and so does the repair that it allows.
        let store = place.open();
        assert_eq!(store.damaged().len(), 1);
        let partial = store
            .begin(name, SIZE as u64, Writing::Direct)
            .await
            .unwrap();
        let good: Vec<bool> = partial.verified().iter().map(Option::is_some).collect();
        assert_eq!(good, [true, true, true, false, true]);
        write_parts(&partial, &data, &[3]).await.unwrap();
        let committed = partial.commit(Some(digest)).await.unwrap();
        assert!(!committed.deduplicated);
        assert_eq!(std::fs::read(store.layout().object(&digest)).unwrap(), data);
        assert!(store.damaged()[0].repaired);
        if linked {
            // The view's readers keep their inode; new links get the good one.
            let inode = store.disk().stat(&view).unwrap().inode;
            assert_eq!(inode, store.damaged()[0].inode);
            assert_ne!(inode, store.object_stat(&digest).unwrap().unwrap().inode);
            store.scrub(None, Some(digest)).await.unwrap();
            assert_eq!(store.damaged().len(), 1);
            std::fs::remove_file(&view).unwrap();
        }
        assert_eq!(store.scrub(None, Some(digest)).await.unwrap().bad, []);
        assert_eq!(store.damaged(), []);
        check_invariants(store.root());
    }
}

#[tokio::test]
async fn a_lost_part_table_is_rebuilt_and_a_bad_object_without_one_is_fetched_whole() {
    let place = Place::new();
    let store = place.open();
    let (name, digest) = stored(&store, &content(SIZE, 1)).await;
    std::fs::remove_file(store.layout().parts(&digest)).unwrap();
    assert_eq!(store.scrub(None, None).await.unwrap().tables_rebuilt, 1);
    assert_eq!(store.scrub(None, None).await.unwrap().tables_rebuilt, 0);
    std::fs::write(store.layout().parts(&digest), b"rot").unwrap();
    rot(&store, &digest, 0);
    assert_eq!(
        store.scrub(None, None).await.unwrap().bad,
        [(digest, vec![])]
    );
    let partial = store
        .begin(name, SIZE as u64, Writing::Direct)
        .await
        .unwrap();
    assert!(partial.verified().iter().all(Option::is_none));
}

#[tokio::test]
async fn an_object_of_another_length_is_never_served() {
    let place = Place::new();
    let store = place.open();
    for length in [0, SIZE - 1, SIZE + 1] {
        let (_, digest) = stored(&store, &content(SIZE, 1)).await;
        let path = store.layout().object(&digest);
        let file = std::fs::OpenOptions::new().write(true).open(&path);
        let file = file.or_else(|_| {
            store.disk().set_mode(&path, 0o644)?;
            std::fs::OpenOptions::new().write(true).open(&path)
        });
        file.unwrap().set_len(length as u64).unwrap();
        let error = store
            .link(&digest, SIZE as u64, &place.path("tmp/x"))
            .unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(!store.find(digest, SIZE as u64).await.unwrap());
        assert_eq!(store.damaged()[0].cause, Cause::Length);
    }
    assert_eq!(place.names("quarantine").len(), 3);
}

#[tokio::test]
async fn quarantine_is_capped_by_bytes_and_age() {
    let place = Place::new();
    let mut config = place.config();
    config.quarantine_bytes = 2 * SIZE as u64 + 100_000;
    let store = place.try_open(config, "boot-1").unwrap();
    for seed in 0..4 {
        let (_, digest) = stored(&store, &content(SIZE, seed)).await;
        rot(&store, &digest, 5);
        assert_eq!(store.scrub(None, Some(digest)).await.unwrap().bad.len(), 1);
    }
    assert_eq!(place.names("quarantine").len(), 2);
    place.clock.advance(std::time::Duration::from_hours(8 * 24));
    store.evict(Goal::EXPIRED).await.unwrap();
    assert_eq!(place.names("quarantine").len(), 0);
}

#[tokio::test]
async fn a_seeds_object_is_verified_and_copied_in() {
    let (seed, place) = (Place::new(), Place::new());
    let other = seed.open();
    let (data, bad) = (content(SIZE, 1), content(SIZE, 2));
    let (_, good_digest) = stored(&other, &data).await;
    let (_, bad_digest) = stored(&other, &bad).await;
    rot(&other, &bad_digest, 99);
    let mut config = place.config();
    config.seeds = vec![place.path("absent"), seed.path("")];
    let store = place.try_open(config, "boot-1").unwrap();
    assert!(store.find(good_digest, SIZE as u64).await.unwrap());
    assert!(!store.find(bad_digest, SIZE as u64).await.unwrap());
    assert!(!store.find(good_digest, 5).await.unwrap());
    assert_eq!(store.object_stat(&good_digest).unwrap().unwrap().links, 1);
    assert_eq!(place.names("parts").len(), 1);
    assert_eq!(seed.names("objects").len(), 2);
    check_invariants(store.root());
}

#[tokio::test]
async fn a_copied_store_drops_its_records_and_verifies_its_objects_before_use() {
    let place = Place::new();
    let store = place.open();
    let id = store.id().to_owned();
    let (data, rotten) = (content(SIZE, 1), content(SIZE, 2));
    let (_, good) = stored(&store, &data).await;
    let (_, bad) = stored(&store, &rotten).await;
    rot(&store, &bad, 7);
    store.records().write("pins", "p", "x").unwrap();
    drop(store);
    let mut config = place.config();
    config.machine_id = Some("another machine".to_owned());
    let store = place.try_open(config.clone(), "boot-1").unwrap();
    assert_ne!(store.id(), id);
    assert_eq!(store.records().read::<String>("pins", "p").unwrap(), None);
    assert_eq!(place.names("objects").len(), 0);
    assert_eq!(store.usage().unwrap().unverified.files, 2);
    assert!(store.find(good, SIZE as u64).await.unwrap());
    assert!(!store.find(bad, SIZE as u64).await.unwrap());
    assert_eq!(place.names("unverified").len(), 0);
    check_invariants(store.root());
    drop(store);
    let id = place.try_open(config, "boot-1").unwrap().id().to_owned();
    assert_eq!(place.names("objects").len(), 1);
    assert_ne!(id, "");
}

#[tokio::test]
async fn unverified_objects_are_evicted_like_others() {
    let place = Place::new();
    let store = place.open();
    stored(&store, &content(SIZE, 1)).await;
    drop(store);
    let mut config = place.config();
    config.machine_id = Some("another machine".to_owned());
    let store = place.try_open(config, "boot-1").unwrap();
    assert_eq!(store.evict(Goal::ALL).await.unwrap().objects, 1);
    assert_eq!(place.names("unverified").len(), 0);
}

#[tokio::test]
async fn at_the_link_limit_the_object_is_replaced_by_a_copy() {
    let place = Place::new();
    let store = place.open();
    let data = content(SIZE, 1);
    let (_, digest) = stored(&store, &data).await;
    let first = place.path("tmp/first");
    store.link(&digest, SIZE as u64, &first).unwrap();
    // One refusal before the store takes its turn, one within it.
    for _ in 0..2 {
        place
            .disk
            .strike_verb(Verb::Link, 0, Fault::Errno(Errno::MLINK.raw_os_error()));
    }
    let second = place.path("tmp/second");
    store.link(&digest, SIZE as u64, &second).unwrap();
    let inode = |path: &Path| store.disk().stat(path).unwrap().inode;
    assert_ne!(inode(&first), inode(&second));
    assert_eq!(
        inode(&second),
        store.object_stat(&digest).unwrap().unwrap().inode
    );
    assert_eq!(std::fs::read(&second).unwrap(), data);
    assert_eq!(store.disk().stat(&second).unwrap().mode, 0o444);
}

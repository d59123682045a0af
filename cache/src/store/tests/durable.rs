//! Many small files become durable together, and what fails then costs only the files that it concerns.

use std::sync::mpsc::{Sender, channel};

use rustix::io::Errno;

use super::*;
use crate::disk::{Fault, Verb};

const FILES: u8 = 20;

fn small(seed: u8) -> Vec<u8> {
    content(1000, seed)
}

/// A store with one syncing thread, which is busy with a file of its own until it is told to go on.
fn held(place: &Place) -> (Arc<Store>, Sender<()>) {
    let mut config = place.config();
    config.sync_threads = 1;
    let store = place.try_open(config, "boot-1").unwrap();
    let (release, wait) = channel();
    let hold = move || wait.recv().unwrap();
    place
        .disk
        .strike_verb(Verb::SyncData, 0, Fault::Call(Box::new(hold)));
    (store, release)
}

/// Puts [`FILES`] files so that they wait for their sync together, and then lets them be synced.
async fn put_together(place: &Place, fault: Option<(Verb, u64, Fault)>) -> Arc<Store> {
    let (store, release) = held(place);
    put_small(&store, b"first").await.unwrap();
    let first = store.layout().fresh_object("boot-1", &Digest::of(b"first"));
    assert!(first.exists());
    while count(place, Verb::SyncData) < 2 {
        tokio::task::yield_now().await;
    }
    for seed in 0..FILES {
        put_small(&store, &small(seed)).await.unwrap();
    }
    if let Some((verb, n, fault)) = fault {
        place.disk.strike_verb(verb, n, fault);
    }
    release.send(()).unwrap();
    store.sync_now().await;
    store
}

fn count(place: &Place, verb: Verb) -> usize {
    let verbs = place.disk.verbs();
    verbs.iter().filter(|(found, _)| *found == verb).count()
}

fn lost(store: &Store) -> Vec<Digest> {
    let damaged = store.damaged();
    assert!(damaged.iter().all(|damage| damage.cause == Cause::Sync));
    damaged.iter().map(|damage| damage.digest).collect()
}

async fn check_all_but(store: &Store, lost: &[Digest]) {
    for seed in 0..FILES {
        let digest = Digest::of(&small(seed));
        let found = store.find(digest, 1000).await.unwrap();
        assert_eq!(found, !lost.contains(&digest), "{seed}");
    }
    check_invariants(store.root());
}

fn errno(errno: Errno) -> Fault {
    Fault::Errno(errno.raw_os_error())
}

#[tokio::test]
async fn many_small_files_take_one_sync_of_the_filesystem() {
    let place = Place::new();
    let store = put_together(&place, None).await;
    // meta.json and the first file were synced by themselves.
    assert_eq!(count(&place, Verb::SyncData), 2);
    // One for the files, one for the directories that they got names in.
    assert_eq!(count(&place, Verb::SyncFilesystem), 2);
    assert_eq!(count(&place, Verb::CheckWritten), usize::from(FILES));
    assert_eq!(place.names("objects").len(), usize::from(FILES) + 1);
    check_all_but(&store, &[]).await;
}

#[tokio::test]
async fn no_name_is_given_before_the_filesystem_is_synced() {
    let place = Place::new();
    let objects = place.path("objects");
    let (seen, told) = channel();
    let look = move || seen.send(files_below(&objects).len()).unwrap();
    let fault = (Verb::SyncFilesystem, 0, Fault::Call(Box::new(look)));
    drop(put_together(&place, Some(fault)).await);
    assert_eq!(told.recv(), Ok(1));
}

#[tokio::test]
async fn after_a_failed_sync_of_the_filesystem_each_file_is_asked_for_itself() {
    let place = Place::new();
    let fault = (Verb::SyncFilesystem, 0, errno(Errno::IO));
    let store = put_together(&place, Some(fault)).await;
    assert_eq!(count(&place, Verb::SyncData), usize::from(FILES) + 2);
    assert_eq!(lost(&store), []);
    check_all_but(&store, &[]).await;
}

#[tokio::test]
async fn after_a_failed_sync_of_the_filesystem_only_files_with_an_error_are_lost() {
    let place = Place::new();
    // After those of meta.json and of the file that goes first, the third fails as well.
    place.disk.strike_verb(Verb::SyncData, 4, errno(Errno::IO));
    let fault = (Verb::SyncFilesystem, 0, errno(Errno::IO));
    let store = put_together(&place, Some(fault)).await;
    let digest = Digest::of(&small(2));
    assert_eq!(lost(&store), [digest]);
    check_all_but(&store, &[digest]).await;
}

#[tokio::test]
async fn a_file_whose_write_back_failed_is_lost_though_the_filesystem_was_synced() {
    let place = Place::new();
    let fault = (Verb::CheckWritten, 4, errno(Errno::IO));
    let store = put_together(&place, Some(fault)).await;
    let digest = Digest::of(&small(4));
    assert_eq!(lost(&store), [digest]);
    check_all_but(&store, &[digest]).await;
    put_small(&store, &small(4)).await.unwrap();
    store.sync_now().await;
    check_all_but(&store, &[]).await;
}

#[tokio::test]
async fn where_the_filesystem_cannot_be_synced_whole_each_file_is() {
    let place = Place::new();
    let fault = (Verb::SyncFilesystem, 0, errno(Errno::OPNOTSUPP));
    let store = put_together(&place, Some(fault)).await;
    assert_eq!(count(&place, Verb::SyncData), usize::from(FILES) + 2);
    check_all_but(&store, &[]).await;
}

#[tokio::test]
async fn after_a_long_sync_of_the_filesystem_files_are_synced_one_by_one() {
    let place = Place::new();
    let clock = Arc::clone(&place.clock);
    let slow = move || clock.advance(std::time::Duration::from_secs(2));
    let fault = (Verb::SyncFilesystem, 0, Fault::Call(Box::new(slow)));
    let store = put_together(&place, Some(fault)).await;
    assert_eq!(count(&place, Verb::SyncFilesystem), 1);
    assert!(count(&place, Verb::SyncDir) > usize::from(FILES) / 2);
    check_all_but(&store, &[]).await;
}

#[tokio::test]
async fn a_dropped_store_has_settled_what_waited() {
    let place = Place::new();
    let (store, release) = held(&place);
    for seed in 0..FILES {
        put_small(&store, &small(seed)).await.unwrap();
    }
    release.send(()).unwrap();
    drop(store);
    assert_eq!(place.names("objects").len(), usize::from(FILES));
    check_invariants(&place.path(""));
}

#[tokio::test]
async fn a_small_file_can_be_written_past_the_page_cache() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let place = Place::new();
    let store = place.open();
    for (length, direct) in [(65_535, false), (65_536, true), (100_001, true)] {
        let data = content(length, 1);
        let mut buffer = Buffer::unpooled();
        buffer.bytes_mut().fill(0xff);
        buffer.bytes_mut()[..length].copy_from_slice(&data);
        let digest = Digest::of(&data);
        let before = count(&place, Verb::Truncate);
        let put = store.put_small_as(Writing::Direct, buffer, length, digest);
        let (stored, _buffer) = put.await.unwrap();
        assert!(!stored.deduplicated);
        assert_eq!(stored.memory_time, None);
        // Only what ends inside a block is cut.
        let cut = direct && store.probe().direct && length % 4096 != 0;
        assert_eq!(count(&place, Verb::Truncate) - before, usize::from(cut));
        store.sync_now().await;
        let path = store.layout().object(&digest);
        assert_eq!(std::fs::read(&path).unwrap(), data);
        let facts = std::fs::metadata(&path).unwrap();
        assert_eq!(facts.permissions().mode() & 0o7777, 0o444);
        assert_eq!(facts.mtime(), crate::disk::SEALED_SECONDS);
    }
    check_invariants(store.root());
}

#[tokio::test]
async fn the_time_that_memory_took_is_told_as_that_of_a_whole_part() {
    let place = Place::new();
    let store = place.open();
    let clock = Arc::clone(&place.clock);
    let slow = move || clock.advance(std::time::Duration::from_millis(3));
    place
        .disk
        .strike_verb(Verb::WriteAt, 0, Fault::Call(Box::new(slow)));
    let stored = put_small(&store, &content(256 << 10, 1)).await.unwrap();
    assert_eq!(
        stored.memory_time,
        Some(std::time::Duration::from_millis(12))
    );
    let tiny = put_small(&store, b"tiny").await.unwrap();
    assert_eq!(tiny.memory_time, None);
    store.sync_now().await;
}

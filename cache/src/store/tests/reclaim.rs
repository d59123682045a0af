//! What goes, in which order, and what stays.

use std::time::Duration;

use rustix::io::Errno;

use super::*;
use crate::disk::{Fault, Space, Verb};
use crate::manifest::File;
use crate::path::RelPath;

/// Stores a file and a view that links it under `name`; returns the manifest's digest.
async fn stage(place: &Place, store: &Arc<Store>, data: &[u8]) -> Digest {
    let digest = put(store, data, Writing::Direct).await.unwrap().digest;
    let manifest = Manifest::new(vec![File {
        path: RelPath::parse("dir/file").unwrap(),
        size: data.len() as u64,
        digest,
    }])
    .unwrap();
    let name = store.put_manifest(&manifest).await.unwrap();
    let view = place.path("views").join(format!("{name}.0"));
    std::fs::create_dir_all(view.join("dir")).unwrap();
    store
        .link(&digest, data.len() as u64, &view.join("dir/file"))
        .unwrap();
    for directory in [view.join("dir"), view] {
        store.disk().set_mode(&directory, 0o555).unwrap();
    }
    name
}

fn hold(store: &Store, manifest: Digest) -> Lease {
    store.leases().hold(Holder::new("volume:1"), manifest)
}

fn views(place: &Place) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(place.path("views"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn sorted(names: &[Digest]) -> Vec<String> {
    let mut names: Vec<String> = names.iter().map(|name| format!("{name}.0")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn the_view_released_longest_ago_goes_first_also_after_a_restart() {
    let place = Place::new();
    let store = place.open();
    let mut manifests = Vec::new();
    for seed in 0..3 {
        manifests.push(stage(&place, &store, &content(LARGE, seed)).await);
    }
    for index in [1, 2, 0] {
        place.clock.advance(Duration::from_mins(1));
        drop(hold(&store, manifests[index]));
    }
    drop(store);
    let store = place.open();
    let freed = store.evict(Goal::bytes(1)).await.unwrap();
    assert_eq!((freed.views, freed.objects), (1, 1));
    assert!(freed.bytes >= LARGE as u64);
    assert_eq!(views(&place), sorted(&[manifests[0], manifests[2]]));
    store.evict(Goal::bytes(1)).await.unwrap();
    assert_eq!(views(&place), sorted(&[manifests[0]]));
    assert_eq!(place.names("parts").len(), 1);
    assert_eq!(place.names("manifests").len(), 1);
    check_invariants(store.root());
}

#[tokio::test]
async fn what_is_held_stays_until_it_is_released() {
    let place = Place::new();
    let store = place.open();
    let held = stage(&place, &store, &content(LARGE, 1)).await;
    let lease = hold(&store, held);
    stage(&place, &store, &content(LARGE, 2)).await;
    let freed = store.evict(Goal::ALL).await.unwrap();
    assert_eq!((freed.views, freed.objects), (1, 1));
    assert_eq!(views(&place), sorted(&[held]));
    drop(lease);
    let freed = store.evict(Goal::ALL).await.unwrap();
    assert_eq!((freed.views, freed.objects), (1, 1));
    assert_eq!(place.names("objects").len(), 0);
    assert_eq!(store.usage().unwrap().objects.files, 0);
}

#[tokio::test]
async fn a_shared_object_goes_with_its_last_view() {
    let place = Place::new();
    let store = place.open();
    let data = content(LARGE, 1);
    let first = stage(&place, &store, &data).await;
    let object = store.layout().object(&Digest::of(&data));
    std::fs::hard_link(&object, place.path("tmp/other")).unwrap();
    let freed = store.evict(Goal::ALL).await.unwrap();
    assert_eq!((freed.views, freed.objects), (1, 0));
    assert!(!views(&place).contains(&format!("{first}.0")));
    std::fs::remove_file(place.path("tmp/other")).unwrap();
    assert_eq!(store.evict(Goal::ALL).await.unwrap().objects, 1);
}

#[tokio::test]
async fn a_manifest_goes_with_its_last_view() {
    let place = Place::new();
    let store = place.open();
    let manifest = stage(&place, &store, &content(LARGE, 1)).await;
    let newer = format!("{manifest}.1");
    std::fs::create_dir(place.path("views").join(&newer)).unwrap();
    let freed = store.evict(Goal::bytes(1)).await.unwrap();
    assert_eq!((freed.views, freed.objects), (1, 1));
    assert_eq!(views(&place), [newer]);
    assert_eq!(place.names("manifests").len(), 1);
    assert_eq!(store.evict(Goal::ALL).await.unwrap().views, 1);
    assert_eq!(place.names("manifests").len(), 0);
}

#[tokio::test]
async fn however_many_views_go_all_views_and_held_manifests_are_read_once() {
    let place = Place::new();
    let store = place.open();
    let held = stage(&place, &store, &content(LARGE, 0)).await;
    let lease = hold(&store, held);
    for seed in 1..5 {
        stage(&place, &store, &content(LARGE, seed)).await;
    }
    let before = place.disk.verbs().len();
    assert_eq!(store.evict(Goal::ALL).await.unwrap().views, 4);
    let verbs = place.disk.verbs().split_off(before);
    let looks = [
        (Verb::List, place.path("views")),
        (Verb::Read, store.layout().manifest(&held)),
    ];
    assert_eq!(
        looks.map(|look| verbs.iter().filter(|it| **it == look).count()),
        [1, 1]
    );
    drop(lease);
}

#[tokio::test]
async fn objects_of_a_held_manifest_stay_before_any_view_links_them() {
    let place = Place::new();
    let store = place.open();
    let manifest = stage(&place, &store, &content(LARGE, 1)).await;
    store
        .disk()
        .remove_tree(&place.path("views").join(format!("{manifest}.0")))
        .unwrap();
    let lease = hold(&store, manifest);
    assert_eq!(store.evict(Goal::ALL).await.unwrap(), Freed::default());
    drop(lease);
    assert_eq!(store.evict(Goal::ALL).await.unwrap().objects, 1);
}

#[tokio::test]
async fn objects_that_a_running_stage_found_or_stored_stay() {
    let place = Place::new();
    let store = place.open();
    put(&store, &content(LARGE, 1), Writing::Direct)
        .await
        .unwrap();
    let before = put(&store, &content(LARGE, 2), Writing::Direct)
        .await
        .unwrap();
    let guard = store.leases().guard_stage();
    assert!(store.find(before.digest, LARGE as u64).await.unwrap());
    put(&store, &content(LARGE, 3), Writing::Warm)
        .await
        .unwrap();
    put_small(&store, b"small").await.unwrap();
    store.sync_now().await;
    assert_eq!(store.evict(Goal::ALL).await.unwrap().objects, 1);
    drop(guard);
    assert_eq!(store.evict(Goal::ALL).await.unwrap().objects, 3);
}

#[tokio::test]
async fn an_abandoned_download_expires_and_an_active_one_does_not() {
    let place = Place::new();
    let store = place.open();
    let begin = |name: &'static str| store.begin(key(name, LARGE), LARGE as u64, Writing::Direct);
    drop(begin("old").await.unwrap());
    let active = begin("active").await.unwrap();
    assert_eq!(store.evict(Goal::EXPIRED).await.unwrap(), Freed::default());
    place.clock.advance(Duration::from_hours(8 * 24));
    let freed = store.evict(Goal::EXPIRED).await.unwrap();
    assert_eq!((freed.partials, freed.views, freed.objects), (1, 0, 0));
    assert!(freed.bytes >= LARGE as u64);
    let (buffer, length, hash) = part(&content(LARGE, 1), 0);
    active.write(0, buffer, length, hash).await.unwrap();
    assert_eq!(store.evict(Goal::ALL).await.unwrap(), Freed::default());
    drop(active);
    assert_eq!(store.evict(Goal::ALL).await.unwrap().partials, 1);
}

#[tokio::test]
async fn the_stores_own_limit_evicts_and_then_refuses_with_figures() {
    let place = Place::new();
    let mut config = place.config();
    config.max_bytes = Some(8 << 20);
    let store = place.try_open(config, "boot-1").unwrap();
    let old = stage(&place, &store, &content(LARGE, 1)).await;
    let new = stage(&place, &store, &content(LARGE, 2)).await;
    let lease = hold(&store, new);
    let reservation = store.reserve(5 << 20, 2).await.unwrap();
    assert_eq!(views(&place), sorted(&[new]));
    assert!(!views(&place).contains(&format!("{old}.0")));
    let error = store.reserve(5 << 20, 2).await.unwrap_err();
    assert!(
        matches!(error, Error::NoSpace { needed: 5_242_880, free, .. } if free < 5 << 20),
        "{error}"
    );
    assert_eq!(error.kind(), Kind::NoSpace);
    drop(reservation);
    drop(store.reserve(5 << 20, 2).await.unwrap());
    drop(lease);
    store.reserve(7 << 20, 2).await.unwrap();
    assert_eq!(views(&place), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_written_is_not_counted_against_its_reservation_again() {
    let place = Place::new();
    let mut config = place.config();
    config.max_bytes = Some(7 << 20);
    let store = place.try_open(config, "boot-1").unwrap();
    let reservation = store.reserve(LARGE as u64, 1).await.unwrap();
    let partial = store
        .begin(key("k", LARGE), LARGE as u64, Writing::Direct)
        .await
        .unwrap();
    drop(store.reserve(4 << 20, 1).await.unwrap());
    drop((partial, reservation));
}

#[tokio::test]
async fn the_floor_is_kept_and_eviction_stops_without_progress() {
    let place = Place::new();
    let mut config = place.config();
    config.floor_bytes = 1 << 20;
    let store = place.try_open(config, "boot-1").unwrap();
    for seed in 0..4 {
        stage(&place, &store, &content(LARGE, seed)).await;
    }
    // Space that does not come back, whatever is removed: someone else holds the blocks.
    let space = Space {
        total: 100 << 20,
        free: 3 << 20,
        free_files: 1000,
    };
    place.disk.strike_every(Verb::Space, Fault::Space(space));
    store.reserve(2 << 20, 1).await.unwrap();
    assert_eq!(views(&place).len(), 4);
    let error = store.reserve(3 << 20, 1).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "3.0 MiB are needed, but 2.0 MiB can be used after eviction (1.0 MiB are kept free); \
         remove pins or unused volumes, or enlarge the cache"
    );
    assert_eq!(views(&place).len(), 3, "one round of eviction, and no more");
    let error = store.reserve(0, 2000).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::NoInodes {
                needed: 2000,
                free: 1000
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn above_the_high_watermark_a_reservation_evicts_down_to_the_low_one() {
    let place = Place::new();
    let mut config = place.config();
    (config.high_watermark, config.low_watermark) = (0.9, 0.86);
    let store = place.try_open(config, "boot-1").unwrap();
    for seed in 0..4 {
        stage(&place, &store, &content(LARGE, seed)).await;
    }
    let space = Space {
        total: 100 << 20,
        free: 11 << 20,
        free_files: 1000,
    };
    place.disk.strike_every(Verb::Space, Fault::Space(space));
    drop(store.reserve(1 << 20, 1).await.unwrap());
    assert_eq!(views(&place).len(), 4);
    drop(store.reserve(2 << 20, 1).await.unwrap());
    assert_eq!(
        views(&place).len(),
        1,
        "5 MiB over the low watermark are three objects"
    );
}

#[tokio::test]
async fn a_link_planted_in_a_view_leads_nowhere() {
    let place = Place::new();
    let store = place.open();
    let manifest = stage(&place, &store, &content(LARGE, 1)).await;
    let view = place.path("views").join(format!("{manifest}.0"));
    let outside = place.root.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), b"kept").unwrap();
    store.disk().set_mode(&view, 0o755).unwrap();
    std::os::unix::fs::symlink(&outside, view.join("planted")).unwrap();
    assert_eq!(store.evict(Goal::ALL).await.unwrap().views, 1);
    assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"kept");
    // A view that is a link itself is moved and removed as a link.
    std::os::unix::fs::symlink(&outside, &view).unwrap();
    store.evict(Goal::ALL).await.unwrap();
    assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"kept");
}

#[tokio::test]
async fn a_full_disk_at_the_start_of_a_file_evicts_and_tries_again() {
    let place = Place::new();
    let store = place.open();
    stage(&place, &store, &content(LARGE, 1)).await;
    place
        .disk
        .strike_verb(Verb::Allocate, 0, Fault::Errno(Errno::NOSPC.raw_os_error()));
    let partial = store
        .begin(key("k", LARGE), LARGE as u64, Writing::Direct)
        .await
        .unwrap();
    assert_eq!(views(&place), Vec::<String>::new());
    drop(partial);
    place
        .disk
        .strike_every(Verb::Allocate, Fault::Errno(Errno::NOSPC.raw_os_error()));
    let error = store
        .begin(key("l", LARGE), LARGE as u64, Writing::Direct)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    assert_eq!(place.names("partial").len(), 0);
}

#[tokio::test]
async fn usage_counts_an_object_once_however_many_views_link_it() {
    let place = Place::new();
    let store = place.open();
    let data = content(LARGE, 1);
    stage(&place, &store, &data).await;
    put(&store, &content(LARGE, 2), Writing::Direct)
        .await
        .unwrap();
    std::fs::hard_link(
        store.layout().object(&Digest::of(&data)),
        place.path("tmp/other"),
    )
    .unwrap();
    let usage = store.usage().unwrap();
    let blocks = (LARGE as u64).next_multiple_of(4096);
    assert_eq!((usage.objects.files, usage.objects.bytes), (2, 2 * blocks));
    assert_eq!((usage.unlinked.files, usage.unlinked.bytes), (1, blocks));
    assert_eq!(usage.views.len(), 1);
    assert_eq!(
        (usage.views[0].files, usage.views[0].bytes),
        (1, LARGE as u64)
    );
    assert!(usage.total_bytes >= 2 * blocks && usage.free_bytes > 0);
}

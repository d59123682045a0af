//! Every verb fails once, with each error that a disk gives, and the power is cut at every verb: what is left is
//! sound, and the same work then succeeds.

use std::sync::mpsc::channel;

use rustix::io::Errno;

use super::*;
use crate::disk::{Fault, Verb};
use crate::manifest::File;
use crate::path::RelPath;

/// All that a load does to the store: small and large files, both ways of writing, a view, and its eviction.
async fn work(store: &Arc<Store>) -> Result<(), Error> {
    let guard = store.leases().guard_stage();
    let mut files = Vec::new();
    let reservation = store.reserve(3 * LARGE as u64, 6).await?;
    for seed in 0..3u8 {
        put_small(store, &[seed; 100]).await?;
        files.push((Digest::of(&[seed; 100]), 100));
    }
    for (seed, writing) in [(1, Writing::Direct), (2, Writing::Warm)] {
        let data = content(LARGE, seed);
        let committed = put(store, &data, writing).await?;
        assert_eq!(committed.digest, Digest::of(&data));
        files.push((committed.digest, LARGE as u64));
        store.note_object(
            "s3://bucket",
            &key("k", LARGE),
            committed.digest,
            LARGE as u64,
        )?;
    }
    drop(reservation);
    let manifest = Manifest::new(
        (0..)
            .zip(&files)
            .map(|(n, (digest, size))| File {
                path: RelPath::parse(&format!("f{n}")).unwrap(),
                size: *size,
                digest: *digest,
            })
            .collect(),
    )
    .unwrap();
    let lease = store
        .leases()
        .hold(Holder::new("stage:1"), manifest.digest());
    let name = store.put_manifest(&manifest).await?;
    let staging = store.layout().top("tmp").join("view");
    let disk = store.disk();
    let view = store.layout().top("views").join(format!("{name}.0"));
    disk.remove_tree(&staging).at("remove", &staging)?;
    disk.remove_tree(&view).at("remove", &view)?;
    disk.create_dir(&staging, 0o755).at("create", &staging)?;
    for file in manifest.files() {
        if !store.find(file.digest, file.size).await? {
            return Err(Error::Missing {
                digest: file.digest,
            });
        }
        store.link(&file.digest, file.size, &file.path.below(&staging))?;
    }
    disk.rename_noreplace(&staging, &view).at("rename", &view)?;
    disk.set_mode(&view, 0o555)
        .at("change the mode of", &view)?;
    drop(guard);
    store.records().write("volumes", "v", "x")?;
    store.records().read::<String>("volumes", "v")?;
    store.sync_now().await;
    drop(lease);
    store.evict(Goal::ALL).await?;
    Ok(())
}

/// The numbers of the verbs to strike: all but most of the looks into the 256 object directories.
async fn verbs_of_the_work() -> Vec<u64> {
    let place = Place::in_memory();
    let store = place.open();
    let before = usize::try_from(place.disk.count()).unwrap();
    work(&store).await.unwrap();
    assert_eq!(place.names("objects"), Vec::<String>::new());
    let verbs = place.disk.verbs();
    let numbers: Vec<u64> = (0..)
        .zip(&verbs[before..])
        .filter(|(n, (verb, _))| *verb != Verb::List || n % 40 == 0)
        .map(|(n, _)| n)
        .collect();
    assert!(numbers.len() > 100, "{}", numbers.len());
    numbers
}

/// What must hold after anything: a new owner in a new boot finds only whole objects, and can do the work.
async fn check_after(place: &Place, what: &str) {
    place.disk.heal();
    let store = place
        .try_open(place.config(), "boot-2")
        .unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
    check_invariants(store.root());
    if let Err(error) = work(&store).await {
        panic!("{what}: {}", chain(&error));
    }
    check_invariants(store.root());
    assert_eq!(store.leases().count(), 0);
    drop(store);
}

#[tokio::test]
async fn after_a_power_cut_at_any_verb_only_whole_objects_are_left() {
    for n in verbs_of_the_work().await {
        let place = Place::in_memory();
        let store = place.open();
        place.disk.strike(n, Fault::Cut);
        // The verbs of background syncs fall in any order, so the last ones may not be reached.
        let cut = work(&store).await;
        assert!(cut.is_err() || n > 50, "verb {n}");
        drop(store);
        check_after(&place, &format!("power cut at verb {n}")).await;
    }
}

#[tokio::test]
async fn after_any_failing_verb_nothing_wrong_is_kept_and_the_work_can_be_repeated() {
    let verbs = verbs_of_the_work().await;
    for errno in [Errno::NOSPC, Errno::IO, Errno::MFILE] {
        for n in verbs.iter().copied() {
            let place = Place::in_memory();
            let store = place.open();
            place.disk.strike(n, Fault::Errno(errno.raw_os_error()));
            let outcome = work(&store).await;
            if let Err(error) = &outcome {
                let expected = if errno == Errno::NOSPC {
                    Kind::NoSpace
                } else {
                    Kind::Internal
                };
                // A file that vanished under a failed sync is missing, which a fetch mends.
                let fine = [expected, Kind::NotFound];
                assert!(
                    fine.contains(&error.kind()),
                    "{errno:?} at {n}: {}",
                    chain(error)
                );
            }
            place.disk.heal();
            // The same owner goes on.
            store.sync_now().await;
            if let Err(error) = work(&store).await {
                panic!("{errno:?} at {n}, repeated: {}", chain(&error));
            }
            drop(store);
            check_after(&place, &format!("{errno:?} at verb {n}")).await;
        }
    }
}

#[tokio::test]
async fn a_cut_while_opening_leaves_a_store_that_opens() {
    let place = Place::in_memory();
    drop(place.open());
    let verbs = place.disk.count();
    for n in 0..verbs {
        let place = Place::in_memory();
        place.disk.strike(n, Fault::Cut);
        let opened = place.try_open(place.config(), "boot-1");
        assert!(opened.is_err() || n > verbs - 10, "verb {n}");
        drop(opened);
        check_after(&place, &format!("cut at verb {n} of opening")).await;
    }
}

#[tokio::test]
async fn data_that_could_not_be_synced_is_dropped_and_never_synced_again() {
    for writing in [Writing::Direct, Writing::Warm] {
        let place = Place::in_memory();
        let store = place.open();
        let data = content(LARGE, 1);
        let digest = Digest::of(&data);
        place
            .disk
            .strike_verb(Verb::SyncData, 0, Fault::Errno(Errno::IO.raw_os_error()));
        let committed = put(&store, &data, writing).await;
        store.sync_now().await;
        match writing {
            Writing::Direct => assert!(matches!(committed, Err(Error::Sync(_)))),
            Writing::Warm => {
                // It was named before it was durable: its volumes must hear of it.
                assert!(committed.is_ok());
                let [damage] = &store.damaged()[..] else {
                    panic!("one report")
                };
                assert_eq!((damage.digest, damage.cause), (digest, Cause::Sync));
            }
        }
        assert!(!store.find(digest, LARGE as u64).await.unwrap());
        assert_eq!(place.names("partial").len(), 0);
        check_invariants(store.root());
        let syncs = place
            .disk
            .verbs()
            .iter()
            .filter(|(verb, _)| *verb == Verb::SyncData)
            .count();
        assert_eq!(syncs, 2, "one for meta.json, one that failed");
        put(&store, &data, writing).await.unwrap();
        store.sync_now().await;
        assert!(store.damaged().iter().all(|damage| damage.repaired));
    }
}

#[tokio::test]
async fn without_special_features_of_the_filesystem_the_store_still_works() {
    for verb in [
        Verb::Allocate,
        Verb::RenameNoreplace,
        Verb::Reflink,
        Verb::DirectAlignment,
    ] {
        let place = Place::in_memory();
        let errno = if verb == Verb::DirectAlignment {
            Errno::IO
        } else {
            Errno::INVAL
        };
        place
            .disk
            .strike_every(verb, Fault::Errno(errno.raw_os_error()));
        let opened = place.try_open(place.config(), "boot-1");
        if verb == Verb::DirectAlignment {
            assert!(opened.is_err());
            continue;
        }
        let store = opened.unwrap();
        let probe = store.probe();
        assert_eq!(probe.allocate, verb != Verb::Allocate);
        assert_eq!(probe.noreplace, verb != Verb::RenameNoreplace);
        for writing in [Writing::Direct, Writing::Warm] {
            put(&store, &content(LARGE, 1), writing).await.unwrap();
            put_small(&store, b"small").await.unwrap();
        }
        store.sync_now().await;
        assert_eq!(place.names("objects").len(), 2);
        check_invariants(store.root());
    }
    let place = Place::in_memory();
    place
        .disk
        .strike_every(Verb::Link, Fault::Errno(Errno::PERM.raw_os_error()));
    let error = place.try_open(place.config(), "boot-1").unwrap_err();
    assert!(error.to_string().contains("makes no hard links"), "{error}");
}

/// Early write-back waits until the file's sync begins; only then may it go on, which the sync waits for in turn.
fn hold_write_back(place: &Place) {
    let (sync_began, may_pass) = channel();
    let (tell, has_passed) = channel();
    let hold = move || {
        may_pass.recv().unwrap();
        tell.send(()).unwrap();
    };
    let sync = move || {
        sync_began.send(()).unwrap();
        has_passed.recv().unwrap();
    };
    let disk = &place.disk;
    disk.strike_verb(Verb::WriteBack, 0, Fault::Call(Box::new(hold)));
    disk.strike_verb(Verb::SyncData, 0, Fault::Call(Box::new(sync)));
}

#[tokio::test]
async fn early_write_back_that_waits_for_the_disk_holds_up_no_write() {
    let place = Place::in_memory();
    let store = place.open();
    hold_write_back(&place);
    put(&store, &content(LARGE, 1), Writing::Warm)
        .await
        .unwrap();
    store.sync_now().await;
    check_invariants(store.root());
}

#[tokio::test]
async fn without_direct_io_parts_are_written_through_the_page_cache_and_synced() {
    let place = Place::in_memory();
    let mut config = place.config();
    config.direct = false;
    let store = place.try_open(config, "boot-1").unwrap();
    hold_write_back(&place);
    put(&store, &content(LARGE, 1), Writing::Direct)
        .await
        .unwrap();
    store.sync_now().await;
    check_invariants(store.root());
}

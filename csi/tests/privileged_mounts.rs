//! The real mounter, each test in a mount namespace of its own: nothing is seen outside, nothing is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets what it does not expect fails"
)]

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags as RemountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount,
};
use rustix::thread::UnshareFlags;
use tonnage_csi::mount::{Error, KernelMounter, Mount, Mounter, Sight};
use tonnage_csi::target::Spot;
use tonnage_csi::volume::MountFlags;

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Self { directory };
        std::fs::create_dir_all(place.at("views/ab.0/sub dir")).unwrap();
        std::fs::create_dir(place.at("kubelet")).unwrap();
        std::fs::write(place.at("views/ab.0/config.json"), "{}").unwrap();
        // As the store makes them writable or not: the mount alone must refuse to write.
        std::fs::set_permissions(place.at("views/ab.0"), PermissionsExt::from_mode(0o755)).unwrap();
        place
    }

    fn at(&self, below: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(below)
    }

    fn spot(&self) -> Spot {
        let spot = Spot::at(&self.at("kubelet/mount")).unwrap();
        spot.ensure_dir().unwrap();
        spot
    }

    fn view(&self) -> PathBuf {
        self.at("views/ab.0")
    }
}

/// Runs `test` on a thread with a private mount namespace.
fn in_namespace(test: impl FnOnce(&Place) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        #[expect(
            deprecated,
            reason = "its successor is unsafe for the sake of file tables, which are not unshared here"
        )]
        rustix::thread::unshare(UnshareFlags::NEWNS).expect("privileged tests need CAP_SYS_ADMIN");
        mount_change(
            "/",
            MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
        )
        .unwrap();
        test(&Place::new());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn on(point: &Path) -> Vec<Mount> {
    KernelMounter::new()
        .mounts()
        .unwrap()
        .at(point)
        .cloned()
        .collect()
}

#[test]
fn privileged_a_view_is_shown_read_only_and_taken_off() {
    in_namespace(|place| {
        let spot = place.spot();
        KernelMounter::new()
            .attach(&place.view(), &spot, MountFlags::default())
            .unwrap();
        let mounts = on(spot.path());
        assert_eq!(mounts.len(), 1);
        assert!(
            mounts[0].has_options(&["ro", "nosuid", "nodev"]),
            "{}",
            mounts[0].options
        );
        assert!(!mounts[0].has_options(&["noexec"]) && !mounts[0].shared);
        assert_eq!(
            std::fs::read(spot.path().join("config.json")).unwrap(),
            b"{}"
        );
        let refused = std::fs::write(spot.path().join("new"), "x").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
        KernelMounter::new().detach(&spot).unwrap();
        assert_eq!(on(spot.path()), []);
        assert!(matches!(
            KernelMounter::new().detach(&spot),
            Err(Error::NotMounted { .. })
        ));
        spot.remove_dir().unwrap();
        assert!(place.view().join("config.json").exists());
    });
}

#[test]
fn privileged_flags_are_added_and_the_view_itself_stays_writable() {
    in_namespace(|place| {
        let spot = place.spot();
        let flags = MountFlags {
            noexec: true,
            noatime: true,
            guarded: false,
        };
        KernelMounter::new()
            .attach(&place.view(), &spot, flags)
            .unwrap();
        assert!(on(spot.path())[0].has_options(&["ro", "nosuid", "nodev", "noexec", "noatime"]));
        std::fs::write(place.view().join("later"), "x").unwrap();
        assert!(spot.path().join("later").exists());
        KernelMounter::new().detach(&spot).unwrap();
    });
}

/// What a container runtime does with a volume that a pod wants to write: runc 1.2 and later take `ro` away from their copy.
fn copied_by_a_runtime(place: &Place, spot: &Spot) -> PathBuf {
    let copy = place.at("container");
    std::fs::create_dir(&copy).unwrap();
    mount_bind(spot.path(), &copy).unwrap();
    mount_remount(&copy, RemountFlags::BIND, "").unwrap();
    assert!(on(&copy)[0].has_options(&["rw"]));
    copy
}

#[test]
fn privileged_a_guarded_mount_cannot_be_written_where_a_runtime_takes_read_only_away() {
    use std::os::unix::fs::{MetadataExt as _, chown, symlink};
    in_namespace(|place| {
        let spot = place.spot();
        let flags = MountFlags {
            guarded: true,
            ..MountFlags::default()
        };
        KernelMounter::new().check_guard(&place.view()).unwrap();
        KernelMounter::new()
            .attach(&place.view(), &spot, flags)
            .unwrap();
        assert!(on(spot.path())[0].has_options(&["ro", "nosuid", "nodev", "idmapped"]));
        let copy = copied_by_a_runtime(place, &spot);
        let file = copy.join("config.json");
        assert_eq!(std::fs::read(&file).unwrap(), b"{}");
        assert_eq!(std::fs::metadata(&file).unwrap().uid(), 65534);
        let all = PermissionsExt::from_mode(0o666);
        for (what, refused) in [
            ("write", std::fs::write(&file, "x")),
            ("append", File::options().append(true).open(&file).map(drop)),
            ("create", std::fs::write(copy.join("new"), "x")),
            ("directory", std::fs::create_dir(copy.join("new"))),
            ("remove", std::fs::remove_file(&file)),
            ("rename", std::fs::rename(&file, copy.join("new"))),
            ("link", std::fs::hard_link(&file, copy.join("new"))),
            ("symlink", symlink("x", copy.join("new"))),
            ("chmod", std::fs::set_permissions(&file, all)),
            ("chown", chown(&file, Some(7), None)),
        ] {
            assert!(refused.is_err(), "{what} was not refused");
        }
        let whole = place.view().join("config.json");
        assert_eq!(std::fs::read(&whole).unwrap(), b"{}");
        let kept = std::fs::metadata(whole).unwrap();
        assert_eq!((kept.uid(), kept.mode() & 0o777), (0, 0o644));
        assert_eq!(std::fs::read_dir(place.view()).unwrap().count(), 2);
    });
}

/// Why there is a guard: if this fails, the kernel does the guard's work.
#[test]
fn privileged_read_only_alone_does_not_outlive_a_runtime_that_takes_it_away() {
    in_namespace(|place| {
        let spot = place.spot();
        KernelMounter::new()
            .attach(&place.view(), &spot, MountFlags::default())
            .unwrap();
        let copy = copied_by_a_runtime(place, &spot);
        std::fs::write(copy.join("config.json"), "x").unwrap();
    });
}

#[test]
fn privileged_mounts_stack_and_come_off_one_by_one() {
    in_namespace(|place| {
        let spot = place.spot();
        for count in 1..4 {
            KernelMounter::new()
                .attach(&place.view(), &spot, MountFlags::default())
                .unwrap();
            assert_eq!(on(spot.path()).len(), count);
        }
        for count in (0..3).rev() {
            KernelMounter::new().detach(&spot).unwrap();
            assert_eq!(on(spot.path()).len(), count);
        }
    });
}

#[test]
fn privileged_a_look_tells_the_view_from_everything_else() {
    in_namespace(|place| {
        let look = |spot: &Spot, view: &str| {
            let view = place.at(view);
            KernelMounter::new().look(spot, Some(&view)).unwrap()
        };
        let spot = Spot::at(&place.at("kubelet/mount")).unwrap();
        assert_eq!(look(&spot, "views/ab.0"), Sight::Nothing);
        spot.ensure_dir().unwrap();
        assert_eq!(look(&spot, "views/ab.0"), Sight::Nothing);
        KernelMounter::new()
            .attach(&place.view(), &spot, MountFlags::default())
            .unwrap();
        assert_eq!(look(&spot, "views/ab.0"), Sight::View { sound: true });
        for other in ["views/ab.0/sub dir", "views", "views/ab.1"] {
            assert_eq!(look(&spot, other), Sight::Other, "{other}");
        }
        assert_eq!(
            KernelMounter::new().look(&spot, None).unwrap(),
            Sight::Other
        );
        // A part of the view on top, as kubelet's subPath binds are, and then the view itself, but writable.
        mount_bind(place.at("views/ab.0/sub dir"), spot.path()).unwrap();
        assert_eq!(look(&spot, "views/ab.0"), Sight::Other);
        mount_bind(place.view(), spot.path()).unwrap();
        assert_eq!(look(&spot, "views/ab.0"), Sight::View { sound: false });
        for _ in 0..3 {
            KernelMounter::new().detach(&spot).unwrap();
        }
        assert_eq!(look(&spot, "views/ab.0"), Sight::Nothing);
    });
}

#[test]
fn privileged_a_look_leaves_files_and_links_to_the_table() {
    in_namespace(|place| {
        let spot = Spot::at(&place.at("kubelet/mount")).unwrap();
        std::fs::write(spot.path(), "").unwrap();
        let look = || {
            KernelMounter::new()
                .look(&spot, Some(&place.view()))
                .unwrap()
        };
        assert_eq!(look(), Sight::Other);
        std::fs::remove_file(spot.path()).unwrap();
        std::os::unix::fs::symlink(place.view(), spot.path()).unwrap();
        assert_eq!(look(), Sight::Other);
    });
}

#[test]
fn privileged_an_open_file_does_not_keep_a_mount() {
    in_namespace(|place| {
        let spot = place.spot();
        KernelMounter::new()
            .attach(&place.view(), &spot, MountFlags::default())
            .unwrap();
        let open = File::open(spot.path().join("config.json")).unwrap();
        KernelMounter::new().detach(&spot).unwrap();
        assert_eq!(on(spot.path()), []);
        assert_eq!(std::io::read_to_string(open).unwrap(), "{}");
        spot.remove_dir().unwrap();
    });
}

#[test]
fn privileged_mounts_below_a_view_do_not_come_along() {
    in_namespace(|place| {
        let hidden = place.at("hidden");
        std::fs::create_dir(&hidden).unwrap();
        std::fs::write(hidden.join("secret"), "x").unwrap();
        mount_bind(&hidden, place.view().join("sub dir")).unwrap();
        let spot = place.spot();
        KernelMounter::new()
            .attach(&place.view(), &spot, MountFlags::default())
            .unwrap();
        assert_eq!(
            std::fs::read_dir(spot.path().join("sub dir"))
                .unwrap()
                .count(),
            0
        );
    });
}

#[test]
fn privileged_a_mount_in_a_shared_directory_reaches_its_peers() {
    in_namespace(|place| {
        let kubelet = place.at("kubelet");
        mount_bind(&kubelet, &kubelet).unwrap();
        mount_change(&kubelet, MountPropagationFlags::SHARED).unwrap();
        let peer = place.at("peer");
        std::fs::create_dir(&peer).unwrap();
        mount_bind(&kubelet, &peer).unwrap();
        let spot = place.spot();
        KernelMounter::new()
            .attach(&place.view(), &spot, MountFlags::default())
            .unwrap();
        for point in [spot.path().to_path_buf(), peer.join("mount")] {
            let mounts = on(&point);
            assert_eq!(mounts.len(), 1, "{}", point.display());
            assert!(mounts[0].has_options(&["ro", "nosuid", "nodev"]));
        }
        KernelMounter::new().detach(&spot).unwrap();
        assert_eq!(on(&peer.join("mount")), []);
    });
}

#[test]
fn privileged_the_table_says_which_directory_a_mount_shows() {
    in_namespace(|place| {
        let spot = place.spot();
        KernelMounter::new()
            .attach(&place.view(), &spot, MountFlags::default())
            .unwrap();
        let table = KernelMounter::new().mounts().unwrap();
        let (home, within) = table.locate(&place.at("views")).unwrap();
        let mount = table.at(spot.path()).next().unwrap();
        assert_eq!(
            (mount.device, mount.root.as_path()),
            (home.device, within.join("ab.0").as_path())
        );
        // Also when the view was renamed away (eviction) while it is mounted.
        std::fs::rename(place.view(), place.at("trash")).unwrap();
        assert!(spot.path().join("config.json").exists());
        KernelMounter::new().detach(&spot).unwrap();
    });
}

#[test]
fn privileged_a_view_that_is_not_there_is_an_error_and_mounts_nothing() {
    in_namespace(|place| {
        let spot = place.spot();
        assert!(
            KernelMounter::new()
                .attach(&place.at("views/none.0"), &spot, MountFlags::default())
                .is_err()
        );
        std::os::unix::fs::symlink(place.view(), place.at("views/link.0")).unwrap();
        assert!(
            KernelMounter::new()
                .attach(&place.at("views/link.0"), &spot, MountFlags::default())
                .is_err()
        );
        assert_eq!(on(spot.path()), []);
    });
}

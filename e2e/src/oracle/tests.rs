//! Each invariant, broken on purpose: an oracle that never complains proves nothing.

use super::*;

struct Place {
    dir: tempfile::TempDir,
    files: Digests,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bytes = b"weights";
        let hash = blake3::hash(bytes);
        let target = dir.path().join("kubelet/t/mount");
        std::fs::create_dir_all(&target).unwrap();
        std::fs::write(target.join("a"), bytes).unwrap();
        let object = dir.path().join("store/objects").join(&hash.to_hex()[..2]);
        std::fs::create_dir_all(&object).unwrap();
        let object = object.join(hash.to_hex().as_str());
        std::fs::write(&object, bytes).unwrap();
        std::fs::set_permissions(&object, std::fs::Permissions::from_mode(0o444)).unwrap();
        let files = Digests::from([("a".to_owned(), hash)]);
        Self { dir, files }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn scene(&self) -> Scene<'_> {
        let target = self.at("kubelet/t/mount");
        let mount = Mount {
            root: "/store/views/ab.0".into(),
            point: target.clone(),
            options: "ro,nosuid,nodev,relatime".to_owned(),
            filesystem: "ext4".to_owned(),
        };
        let kubelet = self.at("kubelet");
        let mut scene = Scene::new(Path::new("/"), &self.at("store"), &kubelet, vec![mount]);
        scene.published.push(Published {
            target,
            files: &self.files,
        });
        scene
    }
}

fn broken(scene: &Scene<'_>) -> Vec<u8> {
    let violations = check(scene).unwrap_err().0;
    violations.iter().map(|it| it.invariant).collect()
}

#[test]
fn a_sound_scene_passes() {
    check(&Place::new().scene()).unwrap();
}

#[test]
fn a_missing_a_second_and_a_foreign_mount_are_seen() {
    let place = Place::new();
    let mut scene = place.scene();
    let mount = scene.mounts.remove(0);
    assert_eq!(broken(&scene), [1]);
    scene.mounts = vec![mount.clone(), mount.clone()];
    assert_eq!(broken(&scene), [1]);
    let stray = place.at("kubelet/u/mount");
    let stray = Mount {
        point: stray,
        ..mount.clone()
    };
    scene.mounts = vec![mount, stray];
    assert_eq!(broken(&scene), [1]);
}

#[test]
fn a_writable_mount_is_seen() {
    let place = Place::new();
    let mut scene = place.scene();
    scene.mounts[0].options = "rw,nosuid,nodev".to_owned();
    assert_eq!(broken(&scene), [5]);
}

#[test]
fn a_wrong_object_and_a_partial_one_are_seen() {
    let place = Place::new();
    std::fs::write(place.at("store/objects").join("ff"), b"x").unwrap();
    assert_eq!(broken(&place.scene()), [2, 2]);
}

#[test]
fn what_is_temporary_is_seen_only_when_idle() {
    let place = Place::new();
    std::fs::create_dir_all(place.at("store/partial/k")).unwrap();
    std::fs::write(place.at("store/partial/k/data"), b"x").unwrap();
    let mut scene = place.scene();
    assert_eq!(broken(&scene), [3]);
    scene.partials = true;
    check(&scene).unwrap();
    std::fs::create_dir_all(place.at("store/tmp")).unwrap();
    std::fs::write(place.at("store/tmp/x"), b"x").unwrap();
    assert_eq!(broken(&scene), [3]);
    scene.idle = false;
    check(&scene).unwrap();
}

#[test]
fn other_bytes_extra_and_missing_files_are_seen() {
    let place = Place::new();
    let target = place.at("kubelet/t/mount");
    std::fs::write(target.join("b"), b"x").unwrap();
    assert_eq!(broken(&place.scene()), [4]);
    std::fs::remove_file(target.join("b")).unwrap();
    std::fs::write(target.join("a"), b"x").unwrap();
    assert_eq!(broken(&place.scene()), [4]);
    std::fs::remove_file(target.join("a")).unwrap();
    assert_eq!(broken(&place.scene()), [4]);
}

#[test]
fn more_bytes_than_granted_a_secret_and_a_silent_pod_are_seen() {
    let place = Place::new();
    let mut scene = place.scene();
    scene.wire = Some((11, 10));
    scene.secrets = vec!["canary".to_owned()];
    scene.texts = vec![("log".to_owned(), "a canary sings".to_owned())];
    scene.pods = vec![PodStatus {
        phase: Phase::Pending,
        attempts: 3,
        error: None,
    }];
    scene.leftovers = vec![place.at("kubelet/t")];
    assert_eq!(broken(&scene), [6, 7, 9, 9]);
}

#[test]
fn space_that_nothing_accounts_for_and_open_descriptors_are_seen() {
    let place = Place::new();
    std::fs::create_dir_all(place.at("store/lost")).unwrap();
    std::fs::write(place.at("store/lost/x"), vec![7; 3 << 20]).unwrap();
    let mut scene = place.scene();
    scene.kept_bytes = Some(7);
    scene.descriptors = Some((std::process::id(), 1));
    assert_eq!(broken(&scene), [8, 10]);
}

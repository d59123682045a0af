//! One suite for every disk: the same sequence of verbs must have the same effects.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::io::Errno;

use super::*;

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

fn filled(byte: u8) -> Buffer {
    let mut buffer = Buffer::unpooled();
    buffer.bytes_mut().fill(byte);
    buffer
}

fn conforms(disk: &dyn Disk) {
    let root = tempfile::tempdir().unwrap();
    writes_and_reads(disk, &root.path().join("data"));
    names(disk, &root.path().join("names"));
    trees(disk, &root.path().join("trees"));
}

fn writes_and_reads(disk: &dyn Disk, root: &Path) {
    disk.create_dir(root, 0o755).unwrap();
    let path = root.join("a");
    let file = disk.open(&path, Open::Create).unwrap();
    assert_eq!(
        errno(&disk.open(&path, Open::Create).unwrap_err()),
        Some(Errno::EXIST)
    );
    disk.allocate(&file, 8192).unwrap();
    let stat = disk.stat(&path).unwrap();
    assert_eq!((stat.size, stat.mode, stat.links), (8192, 0o600, 1));
    disk.write_at(&file, filled(7), 4096, 0).unwrap();
    let buffer = disk.write_at(&file, filled(8), 100, 4096).unwrap();
    disk.write_back(&file, 0, 4096).unwrap();
    disk.truncate(&file, 4196).unwrap();
    disk.seal(&file).unwrap();
    disk.sync_data(&file).unwrap();
    match disk.sync_filesystem(&file) {
        Err(error) => assert_eq!(errno(&error), Some(Errno::OPNOTSUPP)),
        Ok(()) => disk.check_written(&file).unwrap(),
    }
    disk.forget(&file).unwrap();
    disk.sync_dir(root).unwrap();
    let (buffer, read) = disk.read_at(&file, buffer, 8192, 4000).unwrap();
    assert_eq!(read, 196);
    assert_eq!(buffer.bytes()[..96], [7; 96]);
    assert_eq!(buffer.bytes()[96..196], [8; 100]);
    let facts = std::fs::metadata(&path).unwrap();
    assert_eq!(facts.permissions().mode() & 0o7777, 0o444);
    assert_eq!(facts.mtime(), SEALED_SECONDS);
    assert_eq!(disk.read(&path).unwrap().len(), 4196);
    let log = root.join("log");
    for text in [b"one", b"two"] {
        let file = disk.open(&log, Open::Append).unwrap();
        disk.append(&file, text).unwrap();
    }
    assert_eq!(disk.read(&log).unwrap(), b"onetwo");
    if disk.direct_alignment(&path).unwrap().is_some() {
        let direct = disk.open(&path, Open::ReadDirect).unwrap();
        let (buffer, read) = disk.read_at(&direct, buffer, 8192, 0).unwrap();
        assert_eq!((read, buffer.bytes()[4195]), (4196, 8));
    }
    assert!(disk.space(root).unwrap().total > 0);
}

fn names(disk: &dyn Disk, root: &Path) {
    disk.create_dir(root, 0o755).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| root.join(name));
    drop(disk.open(&a, Open::Create).unwrap());
    disk.link(&a, &b).unwrap();
    assert_eq!(disk.stat(&a).unwrap().links, 2);
    assert_eq!(
        errno(&disk.rename_noreplace(&a, &b).unwrap_err()),
        Some(Errno::EXIST)
    );
    disk.rename_noreplace(&a, &c).unwrap();
    assert_eq!(find(disk, &a).unwrap(), None);
    assert_eq!(errno(&disk.link(&a, &c).unwrap_err()), Some(Errno::NOENT));
    disk.unlink(&b).unwrap();
    assert_eq!(disk.stat(&c).unwrap().links, 1);
    assert_eq!(
        disk.list(root).unwrap(),
        [Name {
            name: "c".into(),
            kind: FileKind::File
        }]
    );
    std::os::unix::fs::symlink("c", &a).unwrap();
    assert_eq!(disk.stat(&a).unwrap().kind, FileKind::Other);
    assert_eq!(
        errno(&disk.open(&a, Open::Read).unwrap_err()),
        Some(Errno::LOOP)
    );
    assert_eq!(
        errno(&disk.remove_dir(root).unwrap_err()),
        Some(Errno::NOTEMPTY)
    );
}

fn trees(disk: &dyn Disk, root: &Path) {
    let outside = root.with_extension("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), b"kept").unwrap();
    for directory in ["", "d", "d/e"] {
        disk.create_dir(&root.join(directory), 0o755).unwrap();
    }
    for number in 0..1500 {
        std::fs::write(root.join(format!("d/e/{number}")), b"").unwrap();
    }
    std::os::unix::fs::symlink(&outside, root.join("d/out")).unwrap();
    for directory in ["d/e", "d", ""] {
        disk.set_mode(&root.join(directory), 0o555).unwrap();
    }
    disk.remove_tree(root).unwrap();
    assert_eq!(find(disk, root).unwrap(), None);
    assert_eq!(std::fs::read(outside.join("kept")).unwrap(), b"kept");
    disk.remove_tree(root).unwrap();
    disk.remove_tree(&outside.join("kept")).unwrap();
    disk.remove_dir(&outside).unwrap();
}

#[test]
fn the_machines_disk_conforms() {
    conforms(&OsDisk::new());
}

#[test]
fn a_faulty_disk_without_faults_conforms() {
    let disk = FaultyDisk::new(OsDisk::new());
    conforms(&disk);
    assert!(disk.count() >= 40);
}

#[test]
fn a_cut_fails_everything_after_it_until_healed() {
    let root = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(OsDisk::new());
    disk.strike(1, Fault::Cut);
    disk.create_dir(&root.path().join("a"), 0o755).unwrap();
    let error = disk.create_dir(&root.path().join("b"), 0o755).unwrap_err();
    assert_eq!(errno(&error), Some(Errno::IO));
    assert!(disk.stat(root.path()).is_err());
    disk.heal();
    assert_eq!(disk.list(root.path()).unwrap().len(), 1);
}

#[test]
fn the_nth_verb_of_a_kind_fails_once() {
    let root = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(OsDisk::new());
    disk.strike_verb(
        Verb::CreateDir,
        1,
        Fault::Errno(Errno::NOSPC.raw_os_error()),
    );
    disk.create_dir(&root.path().join("a"), 0o755).unwrap();
    assert!(disk.stat(root.path()).is_ok());
    let error = disk.create_dir(&root.path().join("b"), 0o755).unwrap_err();
    assert_eq!(errno(&error), Some(Errno::NOSPC));
    disk.create_dir(&root.path().join("b"), 0o755).unwrap();
}

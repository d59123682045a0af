//! Local directories and files.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use tonnage_cache::error::Kind;
use tonnage_cache::source::config::parse_url;
use tonnage_cache::source::{Error, Limits, Source, read, read_to_end};

use super::conformance::{NAMES, check, content};

fn source(root: &Path) -> Arc<dyn Source> {
    let (config, path) = parse_url(&format!("file://{}", root.display())).unwrap();
    assert_eq!(path, "");
    super::built(&config).unwrap()
}

fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_directory_conforms() {
    let root = tempfile::tempdir().unwrap();
    for name in NAMES {
        write(&root.path().join("tree"), name, &content(name));
    }
    check(source(root.path())).await;
}

#[tokio::test]
async fn a_file_is_a_source_of_itself() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "model.bin", b"weights");
    let source = source(&root.path().join("model.bin"));
    let listing = source.list("", &Limits::default()).await.unwrap();
    assert_eq!(listing.entries.len(), 1);
    assert_eq!(listing.entries[0].path.as_str(), "model.bin");
    let body = source.open(&listing.entries[0], 0..7).await.unwrap();
    assert_eq!(read_to_end(body).await.unwrap(), b"weights");
}

#[tokio::test]
async fn links_and_special_files_are_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "a/secret", b"x");
    std::fs::create_dir(root.path().join("b")).unwrap();
    symlink("/etc/passwd", root.path().join("b/link")).unwrap();
    symlink("a", root.path().join("dirlink")).unwrap();
    let source = source(root.path());
    for prefix in ["b", "b/link", "dirlink", "dirlink/secret"] {
        let error = source.list(prefix, &Limits::default()).await.unwrap_err();
        assert!(error.to_string().contains("link"), "{prefix}: {error}");
        assert_eq!(error.kind(), Kind::Invalid);
    }
    std::fs::remove_file(root.path().join("b/link")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(root.path().join("b/socket")).unwrap();
    let error = source.list("b", &Limits::default()).await.unwrap_err();
    assert!(
        error.to_string().contains("neither a file nor a directory"),
        "{error}"
    );
    drop(socket);
}

#[tokio::test]
async fn a_link_put_in_place_of_a_listed_file_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "a", b"public");
    write(root.path(), "b", b"secret");
    let source = source(root.path());
    let listing = source.list("", &Limits::default()).await.unwrap();
    std::fs::remove_file(root.path().join("a")).unwrap();
    symlink("b", root.path().join("a")).unwrap();
    assert!(source.open(&listing.entries[0], 0..6).await.is_err());
}

#[tokio::test]
async fn names_that_are_not_utf8_are_refused_escaped() {
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"a\xff")), b"").unwrap();
    let error = source(root.path())
        .list("", &Limits::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Key(_)), "{error}");
}

#[tokio::test]
async fn a_file_that_is_written_to_meanwhile_has_changed() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "a", &vec![1; 600_000]);
    let source = source(root.path());
    let entry = source
        .list("", &Limits::default())
        .await
        .unwrap()
        .entries
        .remove(0);
    let mut body = source.open(&entry, 0..entry.size).await.unwrap();
    let first = read(&mut body, &mut [0; 1000]).await;
    assert_eq!(first.unwrap(), 1000);
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(root.path().join("a"))
        .unwrap();
    file.set_len(700_000).unwrap();
    let rest = read_to_end(body).await;
    assert!(matches!(rest, Err(Error::Changed { .. })), "{rest:?}");
}

#[tokio::test]
async fn a_missing_root_does_not_exist() {
    let root = tempfile::tempdir().unwrap();
    let error = source(&root.path().join("none"))
        .list("", &Limits::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

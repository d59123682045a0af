//! Keys: wrong, expired, rotated in mid-stage, and never shown.

use std::path::Path;

use tonnage_cache::error::Kind;
use tonnage_cache::source::config::{Auth, SourceConfig};
use tonnage_cache::source::{Limits, Source};
use tonnage_e2e::s3::{Credentials, S3Server};

use super::{BUCKET, built, config, first, read, signed};

const SECRET: &str = "canary-0123456789abcdefghijklmnopqrstuvw";

async fn server() -> S3Server {
    let server = S3Server::builder()
        .credentials(Credentials::new("KEY1", SECRET).with_token("canary-token-1"))
        .start()
        .await
        .unwrap();
    server.put(BUCKET, "dir/a", "0123456789");
    server
}

async fn refused(source: &dyn Source) -> (Kind, String) {
    let error = source.list("dir", &Limits::default()).await.unwrap_err();
    let text = format!("{error} {error:?} {source:?} {}", source.uid());
    assert!(!text.contains("canary"), "{text}");
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn wrong_keys_are_told_apart_from_missing_rights() {
    let server = server().await;
    let (kind, text) = refused(&*built(&signed(
        &server,
        "KEY1",
        "canary-wrong",
        Some("canary-token-1"),
    )))
    .await;
    assert_eq!(kind, Kind::Unauthenticated, "{text}");
    assert!(text.contains("SignatureDoesNotMatch"), "{text}");
    let (kind, text) = refused(&*built(&signed(&server, "NOBODY", SECRET, None))).await;
    assert_eq!(kind, Kind::Unauthenticated, "{text}");
    let (kind, text) = refused(&*built(&config(&server))).await;
    assert_eq!(kind, Kind::Denied, "{text}");
    server.deny(BUCKET, "dir/");
    let (kind, text) = refused(&*built(&signed(
        &server,
        "KEY1",
        SECRET,
        Some("canary-token-1"),
    )))
    .await;
    assert_eq!(kind, Kind::Denied, "{text}");
    let (kind, text) = refused(&*built(&signed(&server, "KEY1", "", None))).await;
    assert_eq!(kind, Kind::Unauthenticated, "{text}");
}

fn write(directory: &Path, id: &str, secret: &str, token: &str) {
    let text = format!(
        "[default]\naws_access_key_id={id}\naws_secret_access_key={secret}\naws_session_token={token}\n"
    );
    let new = directory.join("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, directory.join("keys")).unwrap();
}

#[tokio::test]
async fn keys_that_expire_in_mid_stage_are_read_again_and_the_stage_goes_on() {
    let server = server().await;
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "KEY1", SECRET, "canary-token-1");
    let source = built(&SourceConfig {
        auth: Auth::Files,
        credentials_file: Some(directory.path().join("keys")),
        ..config(&server)
    });
    let entry = first(&*source, "dir").await.unwrap();
    assert_eq!(read(&*source, &entry, 0..5).await.unwrap(), b"01234");

    server.expire("KEY1");
    let error = read(&*source, &entry, 5..10).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(error.to_string().contains("ExpiredToken"), "{error}");

    server.add_credentials(Credentials::new("KEY2", "canary-2").with_token("canary-token-2"));
    write(directory.path(), "KEY2", "canary-2", "canary-token-2");
    assert_eq!(read(&*source, &entry, 5..10).await.unwrap(), b"56789");
    assert_eq!(
        server.wire().log().pop().unwrap().access_key.as_deref(),
        Some("KEY2")
    );
}

#[tokio::test]
async fn canaries_are_shown_nowhere() {
    let server = server().await;
    let config = signed(&server, "KEY1", SECRET, Some("canary-token-1"));
    let source = built(&config);
    let entry = first(&*source, "dir").await.unwrap();
    let shown = format!(
        "{config:?} {source:?} {} {} {entry:?} {}",
        source.name(),
        source.uid(),
        serde_json::to_string(&config).unwrap()
    );
    assert!(!shown.contains("canary"), "{shown}");
}

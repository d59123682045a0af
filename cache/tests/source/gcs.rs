//! Google's tokens: sent as a bearer, read again when their file changes, never shown.

use std::sync::Arc;

use tonnage_cache::error::Kind;
use tonnage_cache::source::config::{Auth, SourceConfig};
use tonnage_cache::source::{Limits, Source};

use super::responder::{Responder, raw};

const LISTING: &str = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>1</Size>\
                       <Generation>7</Generation><ETag>\"e\"</ETag></Contents></ListBucketResult>";

fn source(server: &Responder, config: SourceConfig) -> Arc<dyn Source> {
    let config = SourceConfig {
        url: "gs://b".to_owned(),
        auth: Auth::Files,
        ..config
    };
    super::built(&config.with_endpoint(&format!("http://{}", server.address))).unwrap()
}

#[tokio::test]
async fn a_token_is_read_again_when_the_store_refuses_it_or_its_file_changes() {
    let server = Responder::start(|head| match head.fields["authorization"].as_str() {
        "Bearer canary-22" => {
            let length = LISTING.len().to_string();
            raw("200 OK", &[("Content-Length", &length)], LISTING.as_bytes())
        }
        _ => raw("401 Unauthorized", &[("Content-Length", "0")], b""),
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "canary-1\n").unwrap();
    let source = source(
        &server,
        SourceConfig {
            session_token_file: Some(file.clone()),
            ..SourceConfig::default()
        },
    );
    let error = source.list("", &Limits::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(!format!("{error} {error:?} {source:?}").contains("canary"));
    std::fs::write(&file, "canary-22\n").unwrap();
    let listing = source.list("", &Limits::default()).await.unwrap();
    assert_eq!(listing.entries[0].version.version.as_deref(), Some("7"));
}

#[tokio::test]
async fn a_file_that_is_no_service_account_key_is_named_and_not_shown() {
    let server = Responder::start(|_| raw("200 OK", &[("Content-Length", "0")], b"")).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key.json");
    for text in ["{\"private_key\": \"canary\"}", "canary"] {
        std::fs::write(&file, text).unwrap();
        let source = source(
            &server,
            SourceConfig {
                credentials_file: Some(file.clone()),
                ..SourceConfig::default()
            },
        );
        let error = source.list("", &Limits::default()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated);
        assert!(error.to_string().contains("key.json"), "{error}");
        assert!(!format!("{error} {error:?} {source:?}").contains("canary"));
    }
    assert_eq!(server.accepted(), 0);
}

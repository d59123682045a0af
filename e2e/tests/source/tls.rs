//! TLS: a good certificate of the given authority passes, every other is refused in one sentence.

use std::path::PathBuf;

use tonnage_cache::error::Kind;
use tonnage_cache::source::config::SourceConfig;
use tonnage_cache::source::{Error, Limits};
use tonnage_e2e::s3::{Certificate, S3Server};

use super::{BUCKET, built, config, first, read};

async fn serving(certificate: Certificate) -> (S3Server, tempfile::TempDir, SourceConfig) {
    let server = S3Server::builder().tls(certificate).start().await.unwrap();
    server.put(BUCKET, "a", vec![7; 3 << 20]);
    let directory = tempfile::tempdir().unwrap();
    let bundle: PathBuf = directory.path().join("ca.pem");
    std::fs::write(&bundle, server.ca_pem().unwrap()).unwrap();
    let config = SourceConfig {
        ca_bundle: Some(bundle),
        ..config(&server)
    };
    (server, directory, config)
}

#[tokio::test]
async fn a_certificate_of_the_bundle_is_trusted() {
    let (server, _directory, config) = serving(Certificate::Valid).await;
    let source = built(&config);
    let entry = first(&*source, "").await.unwrap();
    assert!(read(&*source, &entry, 0..entry.size).await.unwrap() == vec![7; 3 << 20]);
    assert_eq!(server.wire().accepted(), 1);
}

#[tokio::test]
async fn certificates_that_are_not_valid_are_refused_with_the_reason() {
    for (certificate, words) in [
        (
            Certificate::Expired,
            "the server's certificate is not valid: expired",
        ),
        (
            Certificate::WrongHost,
            "the server's certificate is not valid: for another host",
        ),
        (
            Certificate::SelfSigned,
            "the server's certificate is not valid: signed by an authority that is not trusted",
        ),
    ] {
        let (server, _directory, config) = serving(certificate).await;
        let error = built(&config)
            .list("", &Limits::default())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Untrusted { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!((error.kind(), error.is_retryable()), (Kind::Denied, false));
        assert_eq!(server.wire().all_bytes(), 0);
    }
}

#[tokio::test]
async fn without_the_bundle_the_systems_authorities_decide() {
    let (_server, _directory, mut config) = serving(Certificate::Valid).await;
    config.ca_bundle = None;
    let error = built(&config)
        .list("", &Limits::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn a_bundle_without_certificates_is_named() {
    let (_server, directory, mut config) = serving(Certificate::Valid).await;
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    config.ca_bundle = Some(empty);
    let error = built(&config)
        .list("", &Limits::default())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("holds no valid certificate"),
        "{error}"
    );
}

#[tokio::test]
async fn plain_text_on_a_tls_port_is_no_tls() {
    let server = S3Server::builder().start().await.unwrap();
    let endpoint = server.endpoint().replace("http://", "https://");
    let error = built(&config(&server).with_endpoint(&endpoint))
        .list("", &Limits::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("TLS handshake"), "{error}");
}

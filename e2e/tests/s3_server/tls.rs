//! Certificates, good and wrong in one way each.

use super::*;
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

async fn shake(kind: Certificate) -> Result<String, String> {
    let server = S3Server::builder().tls(kind).start().await.unwrap();
    server.put("b", "k", "content");
    assert!(server.endpoint().starts_with("https://127.0.0.1:"));
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(server.ca_pem().unwrap().as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(server.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connected = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await;
    let mut tls = connected.map_err(|e| e.to_string())?;
    tls.write_all(b"GET /b/k HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    tls.read_to_string(&mut text).await.unwrap();
    Ok(text)
}

#[tokio::test]
async fn a_valid_certificate_is_trusted_through_the_given_ca() {
    assert!(
        shake(Certificate::Valid)
            .await
            .unwrap()
            .ends_with("content")
    );
}

#[tokio::test]
async fn wrong_certificates_are_wrong_in_their_one_way() {
    for (kind, why) in [
        (Certificate::Expired, "expired"),
        (Certificate::WrongHost, "not valid for name"),
        (Certificate::SelfSigned, "UnknownIssuer"),
    ] {
        let error = shake(kind).await.unwrap_err();
        assert!(error.contains(why), "{kind:?}: {error}");
    }
}

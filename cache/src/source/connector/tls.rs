//! TLS by rustls with ring: the system's authorities, or those of a file in their place. Every refusal is one
//! sentence about the server's certificate; there is no way to switch the checks off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Target, failure};
use crate::error::IoContext;
use crate::source::Error;

/// Loads the authorities and makes the connector.
pub(super) async fn connector(ca_bundle: Option<PathBuf>) -> Result<TlsConnector, Error> {
    let roots = tokio::task::spawn_blocking(move || match ca_bundle {
        Some(path) => bundle(&path),
        None => Ok(system()),
    })
    .await
    .map_err(|_| Error::Reference("loading certificates was stopped".to_owned()))??;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::Reference("TLS is not available".to_owned()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        tracing::warn!(
            errors = found.errors.len(),
            "the system has no certificate authorities"
        );
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

fn bundle(path: &Path) -> Result<RootCertStore, Error> {
    let pem = std::fs::read(path).at("open ca_bundle", path)?;
    let bad = || {
        Error::Reference(format!(
            "ca_bundle {} holds no valid certificate",
            path.display()
        ))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots
            .add(certificate.map_err(|_| bad())?)
            .map_err(|_| bad())?;
    }
    if roots.is_empty() {
        Err(bad())
    } else {
        Ok(roots)
    }
}

/// Speaks TLS on a stream and checks the server's certificate.
pub(super) async fn handshake(
    connector: &TlsConnector,
    stream: TcpStream,
    target: &Target,
) -> Result<TlsStream<TcpStream>, Error> {
    let name = match target.literal() {
        Some(address) => ServerName::from(address),
        None => ServerName::try_from(target.host.clone())
            .map_err(|_| failure::unavailable(target, "no certificate can be for this name"))?,
    };
    connector.connect(name, stream).await.map_err(|error| {
        match failure::find::<rustls::Error>(&error) {
            Some(error) => refusal(target, error),
            None => failure::unavailable(target, "the connection ended in the TLS handshake"),
        }
    })
}

/// Why TLS was refused.
pub(super) fn refusal(target: &Target, error: &rustls::Error) -> Error {
    let what = if let rustls::Error::InvalidCertificate(why) = error {
        format!("the server's certificate is not valid: {}", flaw(why))
    } else if matches!(error, rustls::Error::NoCertificatesPresented) {
        "the server shows no certificate".to_owned()
    } else {
        return failure::unavailable(target, "the TLS handshake failed");
    };
    Error::Untrusted {
        host: target.to_string(),
        what,
    }
}

fn flaw(error: &CertificateError) -> &'static str {
    if matches!(
        error,
        CertificateError::Expired | CertificateError::ExpiredContext { .. }
    ) {
        "expired"
    } else if matches!(
        error,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
    ) {
        "not valid yet"
    } else if matches!(
        error,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    ) {
        "for another host"
    } else if matches!(error, CertificateError::UnknownIssuer) {
        "signed by an authority that is not trusted (see ca_bundle)"
    } else if matches!(error, CertificateError::Revoked) {
        "revoked"
    } else {
        "malformed or wrongly signed"
    }
}

//! TLS by rustls with ring: the system's authorities, or those of a file or a text in their place. Every refusal is one
//! sentence about the server's certificate; there is no way to switch the checks off.

use std::path::PathBuf;
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
use crate::source::config::SourceConfig;

/// Who may vouch for a server.
#[derive(Debug, Clone)]
pub(super) enum Authorities {
    /// The system's.
    System,
    /// Those of a PEM file.
    File(PathBuf),
    /// Those of a PEM text.
    Text(String),
}

impl Authorities {
    /// The choice of a configuration.
    pub(super) fn of(config: &SourceConfig) -> Self {
        match (&config.ca_pem, &config.ca_bundle) {
            (Some(text), _) => Self::Text(text.clone()),
            (None, Some(path)) => Self::File(path.clone()),
            (None, None) => Self::System,
        }
    }
}

/// Loads the authorities and makes the connector.
pub(super) async fn connector(authorities: Authorities) -> Result<TlsConnector, Error> {
    let roots = tokio::task::spawn_blocking(move || match authorities {
        Authorities::System => Ok(system()),
        Authorities::File(path) => {
            let pem = std::fs::read(&path).at("open ca_bundle", &path)?;
            bundle(&pem, &format!("ca_bundle {}", path.display()))
        }
        Authorities::Text(text) => bundle(text.as_bytes(), "the source's CA bundle"),
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

fn bundle(pem: &[u8], what: &str) -> Result<RootCertStore, Error> {
    let bad = || Error::Reference(format!("{what} holds no valid certificate"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
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

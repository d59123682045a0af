//! Certificates for a TLS server on loopback: good, or wrong in one way.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use std::io;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What certificate a TLS server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// For `localhost`, its subdomains and 127.0.0.1, signed by the server's CA.
    Valid,
    /// For the right names, signed by itself.
    SelfSigned,
    /// For the right names, signed by the CA, out of date since 2001.
    Expired,
    /// Signed by the CA for `elsewhere.test`.
    WrongHost,
}

/// An acceptor, and the CA that clients are to trust, as PEM.
pub(super) fn acceptor(kind: Certificate) -> io::Result<(TlsAcceptor, String)> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let ca = authority()?;
    let params = params(kind)?;
    let leaf = match kind {
        Certificate::SelfSigned => params.self_signed(&key),
        Certificate::Valid | Certificate::Expired | Certificate::WrongHost => {
            params.signed_by(&key, &ca)
        }
    };
    let leaf = leaf.map_err(io::Error::other)?;
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .map_err(io::Error::other)?;
    Ok((TlsAcceptor::from(Arc::new(config)), ca.pem()))
}

fn authority() -> io::Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "Tonnage test authority");
    let key = KeyPair::generate().map_err(io::Error::other)?;
    CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)
}

fn params(kind: Certificate) -> io::Result<CertificateParams> {
    let names: &[&str] = match kind {
        Certificate::WrongHost => &["elsewhere.test"],
        Certificate::Valid | Certificate::SelfSigned | Certificate::Expired => {
            &["localhost", "*.localhost", "127.0.0.1"]
        }
    };
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if kind == Certificate::Expired {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    }
    Ok(params)
}

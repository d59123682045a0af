//! Where connections lead. A source asks one server again and again, so what a URL says about it is worked out once.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use http::uri::{Authority, Scheme, Uri};
use url::Url;

use crate::path::Escaped;
use crate::source::Error;

/// Where a connection leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// The `Host` field: the port is named unless it is the scheme's own.
    pub(super) header: HeaderValue,
}

/// Remembers the target of the last request.
#[derive(Default)]
pub(super) struct Targets(Mutex<Option<Known>>);

struct Known {
    scheme: Scheme,
    authority: Authority,
    target: Arc<Target>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Targets {
    /// The target of an absolute URL.
    pub(super) fn get(&self, uri: &Uri) -> Result<Arc<Target>, Error> {
        let bad = || is_no_url(uri);
        let scheme = uri.scheme().ok_or_else(bad)?;
        let authority = uri.authority().ok_or_else(bad)?;
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*last
            && known.scheme == *scheme
            && known.authority.as_str() == authority.as_str()
        {
            return Ok(Arc::clone(&known.target));
        }
        let target = Arc::new(Target::of(uri, scheme, authority)?);
        *last = Some(Known {
            scheme: scheme.clone(),
            authority: authority.clone(),
            target: Arc::clone(&target),
        });
        Ok(target)
    }
}

fn is_no_url(uri: &Uri) -> Error {
    is_no_url_of(uri.host().unwrap_or_default())
}

fn is_no_url_of(host: &str) -> Error {
    Error::Reference(format!("{} is not a URL", Escaped(host)))
}

impl Target {
    fn of(uri: &Uri, scheme: &Scheme, authority: &Authority) -> Result<Self, Error> {
        let url = Url::parse(&format!("{scheme}://{authority}/")).map_err(|_| is_no_url(uri))?;
        Self::of_url(&url)
    }

    /// Host and port of a URL; other notations of an address become the plain one.
    pub(super) fn of_url(url: &Url) -> Result<Self, Error> {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(is_no_url_of(url.host_str().unwrap_or_default()));
        };
        let tls = url.scheme() == "https";
        let header = if port == if tls { 443 } else { 80 } {
            HeaderValue::from_str(host)
        } else {
            HeaderValue::try_from(format!("{host}:{port}"))
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            header: header
                .map_err(|_| Error::Reference(format!("{} is not a host", Escaped(host))))?,
        })
    }

    /// The address, if the host is one.
    pub(super) fn literal(&self) -> Option<IpAddr> {
        self.host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_url_leads_to_its_own_server_whatever_came_before() {
        let targets = Targets::default();
        for (url, tls, header) in [
            ("http://a/x", false, "a"),
            ("http://a/y?z", false, "a"),
            ("https://a/x", true, "a"),
            ("https://a:444/x", true, "a:444"),
            ("http://a:443/x", false, "a:443"),
            ("http://0x7f.1:80/x", false, "127.0.0.1"),
            ("http://[0:0::1]:9/", false, "[::1]:9"),
        ] {
            let target = targets.get(&url.parse().unwrap()).unwrap();
            assert_eq!(
                (target.tls, target.header.as_bytes()),
                (tls, header.as_bytes())
            );
        }
        assert!(targets.get(&"/x".parse().unwrap()).is_err());
    }

    #[test]
    fn a_target_is_worked_out_once() {
        let targets = Targets::default();
        let get = |url: &str| targets.get(&url.parse().unwrap()).unwrap();
        assert!(Arc::ptr_eq(&get("http://a:1/x"), &get("http://a:1/y")));
    }
}

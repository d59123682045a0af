//! How sources are written down: [`SourceConfig`] (TOML, JSON, the command line's URLs) and the one place that
//! turns it into a [`Source`]. Credentials appear here only as names of files; the exception, [`Keys`] that a caller
//! has in memory, is never serialized and shows nothing in `Debug`. This module reads neither the
//! process environment nor shared credential files of other tools.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::credentials::Keys;
use super::exchange::Exchange;
use super::place::{Scheme, bad_url, checked_url, proxy_url, scheme};
use super::{Error, Limits, Source, azure, gcs, http, local, s3};
use crate::gate::Gate;
use crate::gate::address::{AddressRules, Cidr};

pub use super::place::parse_url;

/// One place to read from, as an admin writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceConfig {
    /// Name by which references, messages and metrics call it.
    pub name: String,
    /// `s3://bucket/base`, `gs://bucket/base`, `az://account/container/base`, `https://host/base` or
    /// `file:///directory`. No credentials, query or fragment.
    pub url: String,
    /// Files below an `https` URL, which cannot be listed; default: the path of the reference is the one file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// URL of the store's API where it is not the cloud's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// URL of the HTTP proxy that connections are tunnelled through, `http://host:port`; default none. The
    /// environment's proxies are ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// S3 region; default `us-east-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where the bucket is named; default: in the path if `endpoint` is set or the bucket's name has a dot,
    /// otherwise in the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addressing: Option<Addressing>,
    /// How requests are signed; default `anonymous`.
    pub auth: Auth,
    /// File with the access key id (S3, GCS HMAC); Azure takes the account from the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_file: Option<PathBuf>,
    /// File with the secret key (S3, GCS HMAC) or the account key (Azure).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_file: Option<PathBuf>,
    /// File with the session token (S3), an OAuth access token (GCS) or a SAS token (Azure).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token_file: Option<PathBuf>,
    /// File with all of it: the AWS credentials format, section `default` (S3), or a service account key (GCS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<PathBuf>,
    /// Keys that the caller holds, such as those of the command line's environment; needed by `auth = "env"`.
    #[serde(skip)]
    pub inline: Option<Keys>,
    /// How temporary keys are had for an identity; needed by `auth = "exchange"`.
    #[serde(skip)]
    pub exchange: Option<Exchange>,
    /// PEM file of the authorities to trust in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<PathBuf>,
    /// The authorities' PEM text itself, for callers that have no file of it; wins over `ca_bundle`.
    #[serde(skip)]
    pub ca_pem: Option<String>,
    /// Allows plain `http`; default false.
    pub allow_http: bool,
    /// Allows loopback addresses; default false.
    pub allow_loopback: bool,
    /// Loopback and cluster ranges that are allowed; default none.
    pub allowed_cidrs: Vec<Cidr>,
    /// The cluster's service and pod ranges, refused unless in `allowed_cidrs`; default none.
    pub cluster_cidrs: Vec<Cidr>,
    /// Other hosts that an anonymous request may be redirected to; default none.
    pub redirect_hosts: Vec<String>,
    /// Fixed addresses for host names, checked like resolved ones; default none. With `proxy`, only the proxy's own name is
    /// looked for.
    pub hosts: BTreeMap<String, IpAddr>,
    /// Longest time to connect, TLS included, in seconds; default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_seconds: Option<u64>,
    /// Longest silence of a server in seconds; default 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_timeout_seconds: Option<u64>,
    /// Limits of a listing.
    pub limits: LimitsConfig,
}

/// Where the bucket is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Addressing {
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    Virtual,
}

/// How requests are signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Not at all.
    #[default]
    Anonymous,
    /// With keys from the named files, which are read again when they change.
    #[serde(alias = "static")]
    Files,
    /// With [`SourceConfig::inline`], which the caller fills: the command line from its environment.
    Env,
    /// With temporary keys for an identity, by [`SourceConfig::exchange`].
    Exchange,
}

/// Limits of a listing; what is not set has the default of [`Limits`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Most objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// Most bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Most pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<u64>,
    /// Longest time in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listing_seconds: Option<u64>,
}

impl LimitsConfig {
    /// The limits with defaults filled in.
    pub fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            objects: self.objects.unwrap_or(default.objects),
            bytes: self.bytes.unwrap_or(default.bytes),
            pages: self.pages.unwrap_or(default.pages),
            listing_time: self
                .listing_seconds
                .map_or(default.listing_time, Duration::from_secs),
        }
    }
}

impl SourceConfig {
    /// Sets the endpoint as someone at the keyboard gave it: its scheme and a loopback address are allowed.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: &str) -> Self {
        self.endpoint = Some(endpoint.to_owned());
        self.allow_http = true;
        self.allow_loopback = true;
        self
    }

    /// Fills credentials, region and endpoint from the variables that the clouds' own tools read, where the
    /// configuration leaves them open. For the command line only: `get` looks a variable up.
    pub fn fill_from_env(&mut self, get: impl Fn(&str) -> Option<String>) {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        match self.url.split_once("://").map(|(scheme, _)| scheme) {
            Some("s3") => {
                if self.region.is_none() {
                    self.region = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION"));
                }
                let endpoint = get("AWS_ENDPOINT_URL_S3").or_else(|| get("AWS_ENDPOINT_URL"));
                if let (None, Some(endpoint)) = (&self.endpoint, endpoint) {
                    *self = std::mem::take(self).with_endpoint(&endpoint);
                }
                if let (Some(id), Some(secret)) =
                    (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY"))
                {
                    self.use_keys(Keys {
                        id,
                        secret,
                        token: get("AWS_SESSION_TOKEN"),
                    });
                }
            }
            Some("gs") => {
                if let Some(endpoint) =
                    get("STORAGE_EMULATOR_HOST").filter(|_| self.endpoint.is_none())
                {
                    let full = if endpoint.contains("://") {
                        endpoint
                    } else {
                        format!("http://{endpoint}")
                    };
                    *self = std::mem::take(self).with_endpoint(&full);
                }
                if let Some(token) = get("GOOGLE_OAUTH_ACCESS_TOKEN") {
                    self.use_keys(Keys::bearer(token));
                } else if let Some(file) = get("GOOGLE_APPLICATION_CREDENTIALS")
                    && self.auth == Auth::Anonymous
                {
                    self.auth = Auth::Files;
                    self.credentials_file = Some(PathBuf::from(file));
                }
            }
            Some("az") => {
                let secret = get("AZURE_STORAGE_KEY").or_else(|| get("AZURE_STORAGE_ACCOUNT_KEY"));
                let token = get("AZURE_STORAGE_SAS_TOKEN");
                if secret.is_some() || token.is_some() {
                    self.use_keys(Keys {
                        id: String::new(),
                        secret: secret.unwrap_or_default(),
                        token,
                    });
                }
            }
            _ => {}
        }
    }

    fn use_keys(&mut self, keys: Keys) {
        if self.auth != Auth::Files {
            self.auth = Auth::Env;
            self.inline = Some(keys);
        }
    }

    /// What the source may connect to.
    pub fn address_rules(&self) -> AddressRules {
        AddressRules {
            allow_loopback: self.allow_loopback,
            allowed: self.allowed_cidrs.clone(),
            cluster: self.cluster_cidrs.clone(),
        }
    }

    pub(super) fn label(&self) -> String {
        if self.name.is_empty() {
            let authority = self.url.splitn(4, '/').take(3).collect::<Vec<_>>();
            authority.join("/")
        } else {
            self.name.clone()
        }
    }

    /// An `http(s)` URL of this configuration, checked: no credentials, query or fragment, and no plain `http`
    /// unless it is allowed.
    pub(super) fn checked_endpoint(&self, text: &str) -> Result<Url, Error> {
        let url = checked_url(text)?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.allow_http => Ok(url),
            "http" => Err(bad_url(
                text,
                "is plain http, which this source does not allow (allow_http)",
            )),
            _ => Err(bad_url(text, "is not an https URL")),
        }
    }

    /// The proxy's URL, checked; nothing if there is none.
    pub(super) fn checked_proxy(&self) -> Result<Option<Url>, Error> {
        self.proxy.as_deref().map(proxy_url).transpose()
    }

    /// What makes a store known by its URL another one: behind a proxy, a name is what that resolves it to.
    pub(super) fn way(&self) -> String {
        let proxy = self.proxy.as_deref();
        proxy.map_or_else(String::new, |proxy| format!(" via {proxy}"))
    }
}

/// Makes the source that a configuration describes. Reads certificate files; opens no connection.
pub fn build(config: &SourceConfig, gate: Arc<dyn Gate>) -> Result<Arc<dyn Source>, Error> {
    match scheme(&config.url)? {
        Scheme::S3 => s3::build(config, gate),
        Scheme::Gcs => gcs::build(config, gate),
        Scheme::Azure => azure::build(config, gate),
        Scheme::Http => http::build(config, gate),
        Scheme::File => local::build(config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::OpenGate;
    use crate::source::location::Location;

    #[test]
    fn an_unknown_field_is_refused_by_name_and_the_rest_has_defaults() {
        let config: SourceConfig = serde_json::from_str(
            r#"{"name":"m","url":"s3://b","auth":"static","allowed_cidrs":["127.0.0.0/8"],"limits":{"objects":5}}"#,
        )
        .unwrap();
        assert_eq!(config.auth, Auth::Files);
        assert_eq!(config.limits.limits().objects, 5);
        assert_eq!(config.limits.limits().pages, Limits::default().pages);
        let error =
            serde_json::from_str::<SourceConfig>(r#"{"url":"s3://b","secret":"x"}"#).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `secret`"),
            "{error}"
        );
    }

    #[test]
    fn the_environment_fills_what_is_open_and_is_never_shown() {
        let (mut config, _) = parse_url("s3://b").unwrap();
        config.fill_from_env(|name| match name {
            "AWS_ACCESS_KEY_ID" => Some("id".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("canary-secret".to_owned()),
            "AWS_SESSION_TOKEN" => Some("canary-token".to_owned()),
            "AWS_ENDPOINT_URL" => Some("http://127.0.0.1:1".to_owned()),
            _ => None,
        });
        assert_eq!(config.auth, Auth::Env);
        assert!(config.allow_loopback && config.allow_http);
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn plain_http_needs_leave() {
        let mut config = SourceConfig::default();
        assert!(config.checked_endpoint("http://host").is_err());
        config.allow_http = true;
        assert!(config.checked_endpoint("http://host").is_ok());
        assert!(config.checked_endpoint("gopher://host").is_err());
    }

    #[test]
    fn a_store_that_is_reached_through_a_proxy_is_another_one() {
        let uid = |proxy: Option<&str>| {
            let config = SourceConfig {
                url: "s3://weights".to_owned(),
                proxy: proxy.map(str::to_owned),
                ..SourceConfig::default()
            };
            let source = build(&config, OpenGate::shared()).unwrap();
            source.uid().to_owned()
        };
        let (one, other) = ("http://one.example:3128", "http://other.example:3128");
        assert_eq!(uid(Some(one)), uid(Some(one)));
        assert_ne!(uid(Some(one)), uid(Some(other)));
        assert_ne!(uid(Some(one)), uid(None));
    }

    #[test]
    fn a_proxy_that_is_none_is_refused_where_there_are_connections() {
        let through = |url: &str, proxy: &str| SourceConfig {
            url: url.to_owned(),
            proxy: Some(proxy.to_owned()),
            ..SourceConfig::default()
        };
        let (good, bad) = ("http://proxy.example:3128", "https://proxy.example:3128");
        for url in ["s3://b", "gs://b", "az://account/b", "https://host"] {
            let refused = build(&through(url, bad), OpenGate::shared()).unwrap_err();
            let wanted = format!("\"{bad}\" is not the URL of a proxy: write http://host:port");
            assert!(refused.to_string().starts_with(&wanted), "{refused}");
            let nowhere = Location::of(&through(url, bad)).unwrap_err();
            assert_eq!(nowhere.to_string(), refused.to_string());
            // A proxy is a way and no place.
            build(&through(url, good), OpenGate::shared()).unwrap();
            let direct = SourceConfig {
                url: url.to_owned(),
                ..SourceConfig::default()
            };
            assert_eq!(
                Location::of(&through(url, good)).unwrap(),
                Location::of(&direct).unwrap()
            );
        }
        build(&through("file:///srv", bad), OpenGate::shared()).unwrap();
    }

    #[test]
    fn other_notations_of_an_address_become_plain() {
        let config = SourceConfig {
            allow_http: true,
            ..SourceConfig::default()
        };
        for text in [
            "http://0x7f.1",
            "http://2130706433",
            "http://017700000001",
            "http://127.1",
        ] {
            let url = config.checked_endpoint(text).unwrap();
            assert_eq!(url.host_str(), Some("127.0.0.1"), "{text}");
        }
    }
}

//! Where a source's bytes come from, in the words of whoever allows or forbids it: host, bucket and path. Worked out from its
//! configuration; nothing is resolved or connected to.

use super::config::SourceConfig;
use super::place::{Scheme, bad_url, bucket_and_base, checked_url, scheme};
use super::{Error, azure, exchange, gcs, s3};

/// The host of Google's token service, which a service account key in a file is shown to.
const GOOGLE_TOKENS: &str = "oauth2.googleapis.com";

/// Where a source's bytes come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Location {
    /// The host that is connected to, without port, as the URL writes it; empty for a directory.
    pub host: String,
    /// Bucket or container, `account/container` for Azure; empty for a web server or a directory.
    pub bucket: String,
    /// Path from the root of the bucket or server to the source, without slashes at its ends.
    pub base: String,
    /// Hosts that give keys for the source, without ports.
    pub exchange_hosts: Vec<String>,
}

impl Location {
    /// The location that a configuration describes.
    pub fn of(config: &SourceConfig) -> Result<Self, Error> {
        let (url, bucket, base) = match scheme(&config.url)? {
            Scheme::S3 => {
                let (bucket, base) = bucket_and_base(&config.url)?;
                (s3::own_url(config, &bucket)?, bucket, base)
            }
            Scheme::Gcs => {
                let (bucket, base) = bucket_and_base(&config.url)?;
                (gcs::own_url(config, &bucket)?, bucket, base)
            }
            Scheme::Azure => {
                let (account, rest) = bucket_and_base(&config.url)?;
                let (container, base) = rest.split_once('/').unwrap_or((&rest, ""));
                let bucket = format!("{account}/{container}");
                let url = azure::own_url(config, &account)?;
                (url.into(), bucket, base.to_owned())
            }
            Scheme::Http => {
                let path = checked_url(&config.url)?
                    .path()
                    .trim_matches('/')
                    .to_owned();
                let path = percent_encoding::percent_decode_str(&path).decode_utf8();
                let base = path.map_err(|_| bad_url(&config.url, "is not UTF-8"))?;
                (config.url.clone(), String::new(), base.into_owned())
            }
            Scheme::File => return Ok(Self::default()),
        };
        let host = config.checked_endpoint(&url)?;
        config.checked_proxy()?;
        Ok(Self {
            host: host.host_str().unwrap_or_default().to_owned(),
            bucket,
            base,
            exchange_hosts: exchange_hosts(config)?,
        })
    }

    /// The path from the root of the bucket to what lies below the source.
    pub fn path(&self, below: &str) -> String {
        let below = below.trim_matches('/');
        match (self.base.as_str(), below) {
            ("", below) => below.to_owned(),
            (base, "") => base.to_owned(),
            (base, below) => format!("{base}/{below}"),
        }
    }

    /// Whether a connection to the host belongs to the source whatever it loads: it leads to its bucket, or to whoever gives
    /// keys for it. Case does not matter, nor a dot at the end.
    pub fn has_host(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_same = |own: &str| {
            let own = own.strip_suffix('.').unwrap_or(own);
            !own.is_empty() && own.eq_ignore_ascii_case(host)
        };
        is_same(&self.host) || self.exchange_hosts.iter().any(|own| is_same(own))
    }
}

fn exchange_hosts(config: &SourceConfig) -> Result<Vec<String>, Error> {
    let mut hosts = match &config.exchange {
        Some(exchange) => exchange::hosts(config, &exchange.service)?,
        None => Vec::new(),
    };
    if config.credentials_file.is_some() && scheme(&config.url)? == Scheme::Gcs {
        hosts.push(GOOGLE_TOKENS.to_owned());
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::exchange::{Aws, Exchange, Gcp, Instance, Service};
    use super::*;
    use crate::clock::SystemClock;

    fn config(url: &str) -> SourceConfig {
        SourceConfig {
            url: url.to_owned(),
            ..SourceConfig::default()
        }
    }

    #[test]
    fn a_source_is_where_its_connections_lead() {
        for (url, endpoint, host, bucket, base) in [
            (
                "s3://b/x/y",
                None,
                "b.s3.us-east-1.amazonaws.com",
                "b",
                "x/y",
            ),
            ("s3://b.c", None, "s3.us-east-1.amazonaws.com", "b.c", ""),
            (
                "s3://b/x",
                Some("https://minio.local:9000"),
                "minio.local",
                "b",
                "x",
            ),
            ("gs://b/x", None, "storage.googleapis.com", "b", "x"),
            (
                "az://a/c/x/y",
                None,
                "a.blob.core.windows.net",
                "a/c",
                "x/y",
            ),
            (
                "az://a/c",
                Some("https://blob.local"),
                "blob.local",
                "a/c",
                "",
            ),
            (
                "https://web.example/a%20b/c/",
                None,
                "web.example",
                "",
                "a b/c",
            ),
            ("file:///srv", None, "", "", ""),
        ] {
            let mut config = config(url);
            config.endpoint = endpoint.map(str::to_owned);
            let location = Location::of(&config).unwrap();
            let expected = Location {
                host: host.to_owned(),
                bucket: bucket.to_owned(),
                base: base.to_owned(),
                exchange_hosts: Vec::new(),
            };
            assert_eq!(location, expected, "{url}");
        }
    }

    #[test]
    fn whoever_gives_keys_is_a_part_of_it() {
        let with = |url: &str, service: Service| {
            let mut config = config(url);
            config.exchange = Some(Exchange {
                service,
                subject: None,
                clock: Arc::new(SystemClock::new()),
            });
            Location::of(&config).unwrap().exchange_hosts
        };
        let aws = Service::Aws(Aws {
            token_audience: String::new(),
            role_arn: "arn:aws:iam::1:role/a".to_owned(),
            session_name: "s".to_owned(),
            endpoint: None,
            duration: Duration::from_mins(15),
        });
        assert_eq!(with("s3://b", aws), ["sts.us-east-1.amazonaws.com"]);
        let gcp = Service::Gcp(Gcp {
            token_audience: String::new(),
            audience: "//iam.googleapis.com/x".to_owned(),
            service_account: None,
            token_endpoint: Some("https://tokens.local:8443/x".to_owned()),
            impersonation_endpoint: None,
        });
        assert_eq!(
            with("gs://b", gcp),
            ["tokens.local", "iamcredentials.googleapis.com"]
        );
        let instance = Service::Instance(Instance::default());
        assert_eq!(with("s3://b", instance), ["169.254.169.254"]);
    }

    #[test]
    fn its_hosts_are_compared_as_names_and_its_paths_begin_at_the_bucket() {
        let location = Location {
            host: "s3.example.com".to_owned(),
            base: "x".to_owned(),
            exchange_hosts: vec!["sts.example.com".to_owned()],
            ..Location::default()
        };
        assert!(location.has_host("S3.example.com."));
        assert!(location.has_host("sts.example.com"));
        assert!(!location.has_host("evil.example.com"));
        assert!(!Location::default().has_host(""));
        assert_eq!(location.path(""), "x");
        assert_eq!(location.path("llama/8b/"), "x/llama/8b");
        assert_eq!(Location::default().path("llama"), "llama");
    }
}

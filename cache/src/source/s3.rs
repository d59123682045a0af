//! Amazon S3 and what speaks like it: URLs in path and virtual-host style, Signature Version 4 by
//! `object_store`'s `AwsAuthorizer`. Listing and reading are [`super::remote`]'s, its XML is [`list`]'s.

use std::sync::Arc;

use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequest;
use url::Url;

use super::config::{Addressing, SourceConfig};
use super::connector::Transport;
use super::credentials::{Credentials, Keys};
use super::place::{bad, bucket_and_base};
use super::remote::{Dialect, Parts, Remote, parameter};
use super::{Error, Source};
use crate::gate::Gate;
use crate::path::Escaped;

pub(super) mod list;

/// Where a bucket is and how its requests are signed.
#[derive(Debug)]
pub(super) struct S3 {
    /// URL of the bucket without a slash at its end.
    base: String,
    region: String,
}

/// The source of an `s3://` configuration.
pub(super) fn build(config: &SourceConfig, gate: Arc<dyn Gate>) -> Result<Arc<dyn Source>, Error> {
    let (bucket, prefix) = bucket_and_base(&config.url)?;
    let base = own_url(config, &bucket)?;
    let parts = Parts {
        uid: format!("s3:{base}{}", config.way()),
        place: format!("bucket {}", Escaped(&bucket)),
        base: prefix,
        credentials: Credentials::from_config(config, &gate)?,
        transport: Transport::new(config, gate)?,
        dialect: Dialect::S3(S3 {
            base,
            region: region(config).to_owned(),
        }),
    };
    Ok(Arc::new(Remote::new(config, parts)))
}

/// URL of the configuration's bucket, without a slash at its end.
pub(super) fn own_url(config: &SourceConfig, bucket: &str) -> Result<String, Error> {
    let region = region(config);
    check_region(region)?;
    let endpoint = match &config.endpoint {
        Some(endpoint) => config.checked_endpoint(endpoint)?,
        None => config.checked_endpoint(&format!("https://s3.{region}.amazonaws.com"))?,
    };
    bucket_url(&endpoint, bucket, addressing(config, bucket))
}

fn region(config: &SourceConfig) -> &str {
    config.region.as_deref().unwrap_or("us-east-1")
}

fn addressing(config: &SourceConfig, bucket: &str) -> Addressing {
    config.addressing.unwrap_or(
        // A dot in the bucket's name puts it outside of the endpoint's certificate.
        if config.endpoint.is_some() || bucket.contains('.') {
            Addressing::Path
        } else {
            Addressing::Virtual
        },
    )
}

/// The bucket's URL without a slash at its end.
pub(super) fn bucket_url(
    endpoint: &Url,
    bucket: &str,
    addressing: Addressing,
) -> Result<String, Error> {
    let mut url = endpoint.clone();
    match addressing {
        Addressing::Path => {
            let path = format!("{}/{bucket}", endpoint.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        Addressing::Virtual => {
            let host = format!("{bucket}.{}", endpoint.host_str().unwrap_or_default());
            url.set_host(Some(&host))
                .map_err(|_| bad(&host, "is not a host name (addressing = \"virtual\")"))?;
        }
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn check_region(region: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !region.is_empty() && region.len() <= 64 && region.bytes().all(plain) {
        Ok(())
    } else {
        Err(bad(region, "is not a region"))
    }
}

impl S3 {
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn page_url(&self, prefix: &str, token: Option<&str>, most: u32) -> String {
        let common = format!("list-type=2&encoding-type=url&max-keys={most}");
        list_url(&self.base, &common, prefix, token)
    }

    /// Signs with Signature Version 4; nothing if the keys are not enough for that.
    pub(super) fn sign(&self, request: &mut HttpRequest, keys: Option<&Keys>) -> Option<()> {
        match keys {
            Some(keys) => sign_v4(request, keys, &self.region),
            None => Some(()),
        }
    }
}

/// URL of a page of `ListObjectsV2`.
pub(super) fn list_url(base: &str, common: &str, prefix: &str, token: Option<&str>) -> String {
    let prefix = parameter("prefix", Some(prefix));
    let token = parameter("continuation-token", token);
    format!("{base}/?{common}{prefix}{token}")
}

pub(super) fn sign_v4(request: &mut HttpRequest, keys: &Keys, region: &str) -> Option<()> {
    if keys.id.is_empty() || keys.secret.is_empty() {
        return None;
    }
    let credential = AwsCredential {
        key_id: keys.id.clone(),
        secret_key: keys.secret.clone(),
        token: keys.token.clone(),
    };
    AwsAuthorizer::new(&credential, "s3", region)
        .try_authorize(request, None)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(endpoint: &str, addressing: Addressing) -> String {
        bucket_url(&Url::parse(endpoint).unwrap(), "b", addressing).unwrap()
    }

    #[test]
    fn the_bucket_is_named_in_path_or_host() {
        use Addressing::{Path, Virtual};
        assert_eq!(
            base("https://s3.eu-west-1.amazonaws.com", Virtual),
            "https://b.s3.eu-west-1.amazonaws.com"
        );
        assert_eq!(
            base("http://127.0.0.1:9000", Path),
            "http://127.0.0.1:9000/b"
        );
        assert_eq!(base("https://host/s3/", Path), "https://host/s3/b");
        assert!(bucket_url(&Url::parse("http://127.0.0.1:1").unwrap(), "b", Virtual).is_err());
    }

    #[test]
    fn bad_configurations_are_refused_with_a_sentence() {
        let built = |config: &SourceConfig| {
            build(config, crate::gate::OpenGate::shared())
                .unwrap_err()
                .to_string()
        };
        let mut config = SourceConfig {
            url: "s3://b".to_owned(),
            endpoint: Some("http://host".to_owned()),
            ..SourceConfig::default()
        };
        assert!(
            built(&config).contains("is plain http"),
            "{}",
            built(&config)
        );
        config.endpoint = None;
        config.region = Some("eu\nwest".to_owned());
        assert_eq!(built(&config), r#""eu\nwest" is not a region"#);
        config.url = "s3://b c/x".to_owned();
        assert!(built(&config).contains("does not name a valid bucket"));
        config.url = "s3://b/../x".to_owned();
        assert!(built(&config).contains("\"..\""));
    }
}

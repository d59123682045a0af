//! From a `Source` object to the cache's configuration, and from a Secret to keys. Pure: what cannot be used is told in a
//! sentence to its administrator, because the API server's own checks may be older than this program, or switched off.
//!
//! Keys in a Secret: `accessKeyId`, `secretAccessKey` and `sessionToken` (S3 and HMAC keys of GCS), `accountKey` or `sasToken`
//! (Azure).

use tonnage_cache::gate::address::Cidr;
use tonnage_cache::source::config::{Addressing, Auth, LimitsConfig, SourceConfig};
use tonnage_cache::source::credentials::Keys;

use super::exchange;
use crate::crd::{AddressingStyle, AuthMode, ListingLimits, SourceSpec};
use crate::identity::Secrets;

/// The configuration that an object's specification describes, without keys, without the exchange for them, and without the cluster's
/// ranges, which no object says.
pub(super) fn config(name: &str, spec: &SourceSpec) -> Result<SourceConfig, String> {
    let SourceSpec {
        url,
        endpoint,
        region,
        addressing,
        auth,
        // Who may use it and how is asked elsewhere.
        consumers: _,
        revision_policy: _,
        files,
        ca_bundle,
        proxy,
        allowed_cidrs,
        redirect_hosts,
        limits,
    } = spec;
    let kind = Kind::of(url)?;
    if kind == Kind::Web && auth.mode != AuthMode::Anonymous {
        return Err(
            "requests to a web server are not signed: set auth.mode to Anonymous".to_owned(),
        );
    }
    let is_plain = |text: &str| text.starts_with("http://");
    let service = exchange::service(auth)?;
    let mut written = service.as_ref().map_or(Vec::new(), exchange::endpoints);
    written.extend(endpoint.as_deref());
    written.push(url);
    let mut cidrs = Vec::with_capacity(allowed_cidrs.len());
    for text in allowed_cidrs {
        let cidr = text.parse::<Cidr>();
        cidrs.push(cidr.map_err(|error| format!("allowedCIDRs: {error}"))?);
    }
    Ok(SourceConfig {
        name: name.to_owned(),
        url: url.clone(),
        files: files.clone(),
        endpoint: endpoint.clone(),
        region: region.clone(),
        addressing: addressing.map(|style| match style {
            AddressingStyle::Path => Addressing::Path,
            AddressingStyle::Virtual => Addressing::Virtual,
        }),
        auth: match auth.mode {
            AuthMode::Anonymous => Auth::Anonymous,
            AuthMode::SharedSecret | AuthMode::PodSecret => Auth::Env,
            AuthMode::WorkloadIdentity | AuthMode::Node => Auth::Exchange,
        },
        ca_pem: ca_bundle.clone(),
        proxy: proxy.clone(),
        allow_http: written.into_iter().any(is_plain),
        allowed_cidrs: cidrs,
        redirect_hosts: redirect_hosts.clone(),
        limits: limits.as_ref().map_or(Ok(LimitsConfig::default()), limit)?,
        ..SourceConfig::default()
    })
}

/// The keys among these secrets that fit a store, or which there must be.
pub(super) fn keys(url: &str, secrets: &Secrets) -> Result<Keys, String> {
    let get = |name: &str| {
        let value = secrets.get(name).map(str::trim);
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let missing = || format!("it has no {}", wanted_keys(url));
    match Kind::of(url)? {
        Kind::S3 | Kind::Gcs => match (get("accessKeyId"), get("secretAccessKey")) {
            (Some(id), Some(secret)) => Ok(Keys {
                id,
                secret,
                token: get("sessionToken"),
            }),
            (None, None) if get("serviceAccountKey").is_some() => Err(
                "serviceAccountKey is not supported: make an HMAC key for the service account and store it as accessKeyId and secretAccessKey"
                    .to_owned(),
            ),
            _ => Err(missing()),
        },
        Kind::Azure => match (get("accountKey"), get("sasToken")) {
            (None, None) => Err(missing()),
            (secret, token) => Ok(Keys {
                id: String::new(),
                secret: secret.unwrap_or_default(),
                token,
            }),
        },
        Kind::Web => Err("requests to a web server are not signed".to_owned()),
    }
}

/// Names of the keys that a Secret must have for a store.
pub(super) fn wanted_keys(url: &str) -> &'static str {
    match Kind::of(url) {
        Ok(Kind::Azure) => "accountKey or sasToken",
        Ok(Kind::S3 | Kind::Gcs | Kind::Web) | Err(_) => "accessKeyId and secretAccessKey",
    }
}

/// The stores that an object may name. Directories of the node are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    S3,
    Gcs,
    Azure,
    Web,
}

impl Kind {
    fn of(url: &str) -> Result<Self, String> {
        match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("s3") => Ok(Self::S3),
            Some("gs") => Ok(Self::Gcs),
            Some("az") => Ok(Self::Azure),
            Some("http" | "https") => Ok(Self::Web),
            _ => Err(
                "its url begins with none of s3://, gs://, az://, https:// and http://".to_owned(),
            ),
        }
    }
}

fn limit(limits: &ListingLimits) -> Result<LimitsConfig, String> {
    let ListingLimits {
        objects,
        bytes,
        listing_seconds,
    } = *limits;
    let number = |name: &str, value: Option<i64>| match value.map(u64::try_from) {
        None => Ok(None),
        Some(Ok(number)) if number > 0 => Ok(Some(number)),
        Some(Ok(_) | Err(_)) => Err(format!("limits.{name} is less than 1")),
    };
    Ok(LimitsConfig {
        objects: number("objects", objects)?,
        bytes: number("bytes", bytes)?,
        pages: None,
        listing_seconds: number("listingSeconds", listing_seconds)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(spec: serde_json::Value) -> Result<SourceConfig, String> {
        config("models", &serde_json::from_value(spec).unwrap())
    }

    fn secrets(pairs: &[(&str, &str)]) -> Secrets {
        Secrets::new(
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn every_field_of_an_object_reaches_the_configuration() {
        let config = parsed(serde_json::json!({
            "url": "s3://bucket/base",
            "endpoint": "http://minio.storage.svc:9000",
            "region": "eu-central-1",
            "addressing": "Virtual",
            "auth": {"mode": "SharedSecret", "secretName": "keys"},
            "files": ["a.bin"],
            "caBundle": "-----BEGIN CERTIFICATE-----",
            "proxy": "http://proxy.example:3128",
            "allowedCIDRs": ["10.96.0.0/12", "127.0.0.1"],
            "redirectHosts": ["mirror.example"],
            "limits": {"objects": 5, "listingSeconds": 9}
        }))
        .unwrap();
        let expected = SourceConfig {
            name: "models".to_owned(),
            url: "s3://bucket/base".to_owned(),
            endpoint: Some("http://minio.storage.svc:9000".to_owned()),
            region: Some("eu-central-1".to_owned()),
            addressing: Some(Addressing::Virtual),
            auth: Auth::Env,
            files: vec!["a.bin".to_owned()],
            ca_pem: Some("-----BEGIN CERTIFICATE-----".to_owned()),
            proxy: Some("http://proxy.example:3128".to_owned()),
            allow_http: true,
            allowed_cidrs: vec![
                "10.96.0.0/12".parse().unwrap(),
                "127.0.0.1".parse().unwrap(),
            ],
            redirect_hosts: vec!["mirror.example".to_owned()],
            limits: LimitsConfig {
                objects: Some(5),
                listing_seconds: Some(9),
                ..LimitsConfig::default()
            },
            ..SourceConfig::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn plain_http_is_allowed_only_where_a_url_says_it() {
        let allows = |spec| parsed(spec).unwrap().allow_http;
        assert!(!allows(serde_json::json!({"url": "s3://b"})));
        assert!(!allows(serde_json::json!({"url": "https://h/x"})));
        assert!(allows(serde_json::json!({"url": "http://h/x"})));
        assert!(!allows(
            serde_json::json!({"url": "s3://b", "endpoint": "https://h"})
        ));
        // What goes through a tunnel is encrypted as ever.
        assert!(!allows(
            serde_json::json!({"url": "s3://b", "proxy": "http://proxy.example:3128"})
        ));
        let with_sts = |sts: &str| {
            let role = serde_json::json!({"roleArn": "arn:aws:iam::1:role/r", "stsEndpoint": sts});
            let auth =
                serde_json::json!({"mode": "WorkloadIdentity", "workloadIdentity": {"aws": role}});
            allows(serde_json::json!({"url": "s3://b", "auth": auth}))
        };
        assert!(with_sts("http://h"));
        assert!(!with_sts("https://h"));
    }

    #[test]
    fn what_the_api_server_should_have_refused_is_refused_in_a_sentence() {
        for (spec, words) in [
            (
                serde_json::json!({"url": "file:///etc"}),
                "its url begins with none of",
            ),
            (
                serde_json::json!({"url": "https://h", "auth": {"mode": "PodSecret"}}),
                "requests to a web server are not signed",
            ),
            (
                serde_json::json!({"url": "s3://b", "allowedCIDRs": ["10.0.0.0/99"]}),
                "allowedCIDRs: \"10.0.0.0/99\" is not a range",
            ),
            (
                serde_json::json!({"url": "s3://b", "limits": {"bytes": -1}}),
                "limits.bytes is less than 1",
            ),
        ] {
            let why = parsed(spec).unwrap_err();
            assert!(why.starts_with(words), "{why}");
        }
    }

    #[test]
    fn keys_are_read_by_the_store_s_own_names() {
        let s3 = [
            ("accessKeyId", "id\n"),
            ("secretAccessKey", "secret"),
            ("sessionToken", "token"),
        ];
        let keys_of_s3 = keys("s3://b", &secrets(&s3)).unwrap();
        assert_eq!(
            keys_of_s3,
            Keys {
                id: "id".to_owned(),
                secret: "secret".to_owned(),
                token: Some("token".to_owned()),
            }
        );
        let azure = keys("az://account/c", &secrets(&[("sasToken", "sv=1")])).unwrap();
        assert_eq!(azure, Keys::bearer("sv=1".to_owned()));
        for (url, pairs, why) in [
            (
                "s3://b",
                &[("accessKeyId", "id")][..],
                "it has no accessKeyId and secretAccessKey",
            ),
            (
                "s3://b",
                &[("accessKeyId", "id"), ("secretAccessKey", " \n")][..],
                "it has no accessKeyId and secretAccessKey",
            ),
            (
                "az://account/c",
                &s3[..],
                "it has no accountKey or sasToken",
            ),
        ] {
            assert_eq!(keys(url, &secrets(pairs)).unwrap_err(), why);
        }
        let json = keys("gs://b", &secrets(&[("serviceAccountKey", "{}")])).unwrap_err();
        assert!(
            json.starts_with("serviceAccountKey is not supported"),
            "{json}"
        );
    }
}

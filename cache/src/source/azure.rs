//! Azure Blob Storage: its URLs, its listing's XML, and signatures by shared key, SAS token or none, through
//! `object_store`'s `AzureAuthorizer`. Listing and reading are [`super::remote`]'s.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::HttpRequest;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use url::Url;

use super::collect::Item;
use super::config::{Addressing, Auth, SourceConfig};
use super::connector::Transport;
use super::credentials::{Credentials, Keys};
use super::place::{bucket_and_base, check_name};
use super::remote::{Dialect, Page, Parts, Remote, parameter};
use super::{Error, Source, Version, date, gcs};
use crate::gate::Gate;
use crate::path::{Escaped, RelPath};

/// The service version that requests are made for.
const VERSION: HeaderValue = HeaderValue::from_static("2023-11-03");

/// Where a container is and how its requests are signed.
#[derive(Debug)]
pub(super) struct Azure {
    account: String,
    /// URL of the container without a slash at its end.
    base: String,
    /// Whether tokens are access tokens rather than shared access signatures.
    bears: bool,
}

/// The source of an `az://` configuration.
pub(super) fn build(config: &SourceConfig, gate: Arc<dyn Gate>) -> Result<Arc<dyn Source>, Error> {
    let (account, rest) = bucket_and_base(&config.url)?;
    let (container, prefix) = rest.split_once('/').unwrap_or((&rest, ""));
    check_name(&config.url, container)?;
    let host = own_url(config, &account)?;
    let base = format!("{}/{container}", host.as_str().trim_end_matches('/'));
    let parts = Parts {
        uid: format!("az:{base}{}", config.way()),
        place: format!("container {}", Escaped(container)),
        base: prefix.to_owned(),
        credentials: Credentials::from_config(config, &gate)?,
        transport: Transport::new(config, gate)?,
        dialect: Dialect::Azure(Azure {
            account,
            base,
            bears: config.auth == Auth::Exchange,
        }),
    };
    Ok(Arc::new(Remote::new(config, parts)))
}

/// URL of the configuration's account.
pub(super) fn own_url(config: &SourceConfig, account: &str) -> Result<Url, Error> {
    Ok(match &config.endpoint {
        None => config.checked_endpoint(&format!("https://{account}.blob.core.windows.net"))?,
        Some(endpoint) => with_account(config.checked_endpoint(endpoint)?, account, config),
    })
}

/// Names the account in an endpoint's path, as emulators want it, unless its host or path already does or
/// `addressing` says that it must not.
fn with_account(mut endpoint: Url, account: &str, config: &SourceConfig) -> Url {
    let path = endpoint.path().trim_end_matches('/').to_owned();
    let in_host = endpoint.host_str().and_then(|host| host.split('.').next()) == Some(account);
    let in_path = path.rsplit('/').next() == Some(account);
    let is_named = in_host || in_path || config.addressing == Some(Addressing::Virtual);
    if !is_named {
        endpoint.set_path(&format!("{path}/{account}"));
    }
    endpoint
}

impl Azure {
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn page_url(&self, prefix: &str, token: Option<&str>, most: u32) -> String {
        let prefix = parameter("prefix", Some(prefix));
        let marker = parameter("marker", token);
        let base = &self.base;
        format!("{base}?restype=container&comp=list&maxresults={most}{prefix}{marker}")
    }

    /// Signs by account key, SAS token or access token; nothing if the keys are none of them.
    pub(super) fn sign(&self, request: &mut HttpRequest, keys: Option<&Keys>) -> Option<()> {
        request
            .headers_mut()
            .insert(HeaderName::from_static("x-ms-version"), VERSION);
        let Some(keys) = keys else {
            return Some(());
        };
        if self.bears {
            return gcs::bear(request, keys.token.as_deref()?);
        }
        let credential = match &keys.token {
            Some(token) if keys.secret.is_empty() => AzureCredential::SASToken(sas_pairs(token)),
            _ => AzureCredential::AccessKey(AzureAccessKey::try_new(&keys.secret).ok()?),
        };
        AzureAuthorizer::new(&credential, &self.account)
            .try_authorize(request)
            .ok()
    }
}

fn sas_pairs(token: &str) -> Vec<(String, String)> {
    let token = token.strip_prefix('?').unwrap_or(token);
    url::form_urlencoded::parse(token.as_bytes())
        .into_owned()
        .collect()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    #[serde(default)]
    blobs: Blobs,
    next_marker: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Blobs {
    blob: Vec<Blob>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Blob {
    name: Name,
    properties: Properties,
}

#[derive(Debug, Deserialize)]
struct Name {
    #[serde(rename = "@Encoded", default)]
    is_encoded: bool,
    #[serde(rename = "$text", default)]
    text: String,
}

#[derive(Debug, Deserialize)]
struct Properties {
    #[serde(rename = "Content-Length")]
    content_length: u64,
    #[serde(rename = "Last-Modified")]
    last_modified: Option<String>,
    #[serde(rename = "Etag")]
    etag: Option<String>,
    #[serde(rename = "ResourceType")]
    resource_type: Option<String>,
}

/// The page, or nothing if the text is not a listing.
pub(super) fn parse(text: &str) -> Result<Option<Page>, Error> {
    if !text.contains("<EnumerationResults") {
        return Ok(None);
    }
    let Ok(response) = quick_xml::de::from_str::<Response>(text) else {
        return Ok(None);
    };
    let items = response
        .blobs
        .blob
        .into_iter()
        .map(Blob::into_item)
        .collect::<Result<_, _>>()?;
    Ok(Some(Page {
        items,
        next: response.next_marker.filter(|marker| !marker.is_empty()),
    }))
}

impl Blob {
    fn into_item(self) -> Result<Item, Error> {
        let mut key = self.name.text;
        if self.name.is_encoded {
            let bytes: Vec<u8> = percent_decode_str(&key).collect();
            key = match String::from_utf8(bytes) {
                Ok(key) => key,
                Err(error) => RelPath::from_bytes(error.as_bytes())?.as_str().to_owned(),
            };
        }
        // Directories of a hierarchical namespace are listed like empty blobs.
        if self.properties.resource_type.as_deref() == Some("directory") {
            key.push('/');
        }
        Ok(Item {
            key,
            size: self.properties.content_length,
            version: Version {
                etag: self.properties.etag.filter(|etag| !etag.is_empty()),
                version: None,
                modified_millis: self
                    .properties
                    .last_modified
                    .as_deref()
                    .and_then(date::parse_http),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read() {
        let page = parse(
            r#"<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="http://h/" ContainerName="c">
            <Prefix>d/</Prefix><Blobs>
            <Blob><Name>d/a b</Name><Properties><Last-Modified>Sun, 06 Nov 1994 08:49:37 GMT</Last-Modified>
            <Etag>0x8D</Etag><Content-Length>7</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>
            <Blob><Name Encoded="true">d/%01</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>
            <Blob><Name>d/sub</Name><Properties><Content-Length>0</Content-Length><ResourceType>directory</ResourceType></Properties></Blob>
            </Blobs><NextMarker>m</NextMarker></EnumerationResults>"#,
        )
        .unwrap()
        .unwrap();
        let keys: Vec<&str> = page.items.iter().map(|item| item.key.as_str()).collect();
        assert_eq!(keys, ["d/a b", "d/\u{1}", "d/sub/"]);
        assert_eq!(page.items[0].size, 7);
        assert_eq!(page.items[0].version.etag.as_deref(), Some("0x8D"));
        assert_eq!(page.items[0].version.modified_millis, Some(784_111_777_000));
        assert_eq!(page.next.as_deref(), Some("m"));
        let empty = parse("<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>")
            .unwrap()
            .unwrap();
        assert!(empty.items.is_empty() && empty.next.is_none());
        assert!(parse("<html/>").unwrap().is_none());
    }

    #[test]
    fn the_account_is_named_once_in_an_endpoint() {
        let named = |endpoint: &str, addressing| {
            let config = SourceConfig {
                addressing,
                ..SourceConfig::default()
            };
            with_account(Url::parse(endpoint).unwrap(), "acc", &config).to_string()
        };
        assert_eq!(named("http://127.0.0.1:1", None), "http://127.0.0.1:1/acc");
        assert_eq!(
            named("http://127.0.0.1:1/acc/", None),
            "http://127.0.0.1:1/acc/"
        );
        assert_eq!(
            named("https://acc.blob.test", None),
            "https://acc.blob.test/"
        );
        assert_eq!(
            named("https://blobs.test", Some(Addressing::Virtual)),
            "https://blobs.test/"
        );
    }

    #[test]
    fn a_sas_token_goes_into_the_query_and_a_key_into_a_header() {
        let azure = Azure {
            account: "acc".to_owned(),
            base: "https://h/c".to_owned(),
            bears: false,
        };
        let request = || {
            let mut request = HttpRequest::new(Vec::new().into());
            *request.uri_mut() = "https://h/c/a?x=1".parse().unwrap();
            request
        };
        let mut by_sas = request();
        azure
            .sign(
                &mut by_sas,
                Some(&Keys::bearer("?sv=1&sig=a%2Bb".to_owned())),
            )
            .unwrap();
        assert_eq!(by_sas.uri().query(), Some("x=1&sv=1&sig=a%2Bb"));
        let mut by_key = request();
        let keys = Keys {
            secret: "c2VjcmV0".to_owned(),
            ..Keys::default()
        };
        azure.sign(&mut by_key, Some(&keys)).unwrap();
        assert!(
            by_key.headers()["authorization"]
                .to_str()
                .unwrap()
                .starts_with("SharedKey acc:")
        );
        let broken = Keys {
            secret: "%".to_owned(),
            ..Keys::default()
        };
        assert!(azure.sign(&mut request(), Some(&broken)).is_none());
        let by_identity = Azure {
            bears: true,
            ..azure
        };
        let mut by_token = request();
        let keys = Keys::bearer("token".to_owned());
        by_identity.sign(&mut by_token, Some(&keys)).unwrap();
        assert_eq!(by_token.headers()["authorization"], "Bearer token");
        assert_eq!(by_token.uri().query(), Some("x=1"));
    }
}

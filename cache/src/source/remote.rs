//! Object stores over HTTP: the listing loop and the pinned ranged read that S3, GCS and Azure share. What
//! differs between them (URLs, signatures, the listing's XML) is their [`Dialect`].
//!
//! Requests are built here and signed by `object_store`'s authorizers, rather than sent through its
//! `ObjectStore`: that one's paths drop a key's last slash, so that folder markers and files look alike; its
//! listings have no bounds and no check of their tokens; its errors carry URLs and server bodies.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{StatusCode, Uri};
use object_store::client::{HttpRequest, HttpRequestBody};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::collect::{Collector, Item};
use super::config::SourceConfig;
use super::connector::{Reply, Transport};
use super::credentials::{Credentials, Keys};
use super::outcome::{self, Asked};
use super::{Body, Entry, Error, Limits, Listing, Source, answer, azure, gcs, s3};
use crate::path::{Escaped, RelPath};

/// Most bytes of one page of a listing: 1,000 keys of 1,024 bytes, each byte escaped, and what is around them.
const PAGE_MAX: usize = 8 << 20;
/// Longest `ETag` and generation of a listing: a response says them in a header.
const VERSION_MAX: usize = 1 << 10;
/// Longest token of a next page. Servers make it of the last key, whose 1,024 characters have up to 4 bytes each, in base64.
const TOKEN_MAX: usize = 1 << 13;
/// Objects asked for per page.
const PAGE_OBJECTS: u32 = 1000;

/// Bytes of a usual key and version in a URL, so that it is put together in one piece.
const URL_ROOM: usize = 256;

/// RFC 3986 unreserved characters stay; the slash of a key does too.
const QUERY: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
pub(super) const KEY: AsciiSet = QUERY.remove(b'/');

/// What differs between object stores.
#[derive(Debug)]
pub(super) enum Dialect {
    /// Amazon's and everyone's.
    S3(s3::S3),
    /// Google's XML API.
    Gcs(gcs::Gcs),
    /// Azure Blob.
    Azure(azure::Azure),
}

/// One page of a listing.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// Token of the next page.
    pub(super) next: Option<String>,
}

impl Page {
    /// What is longer than anybody's: it would be kept, and sent back with every request.
    fn overlong(&self) -> Option<&'static str> {
        let is_over = |text: &Option<String>, most: usize| {
            text.as_ref().is_some_and(|text| text.len() > most)
        };
        let versions = || self.items.iter().map(|item| &item.version);
        if is_over(&self.next, TOKEN_MAX) {
            Some("a listing with a continuation token of more than 8 KiB")
        } else if versions().any(|it| is_over(&it.etag, VERSION_MAX)) {
            Some("a listing with an ETag of more than 1 KiB")
        } else if versions().any(|it| is_over(&it.version, VERSION_MAX)) {
            Some("a listing with a generation of more than 1 KiB")
        } else {
            None
        }
    }
}

/// A bucket or container and a base prefix in it.
pub(super) struct Remote {
    name: String,
    uid: String,
    /// `bucket "b"`, for messages.
    place: String,
    base: String,
    transport: Transport,
    credentials: Credentials,
    dialect: Dialect,
}

/// What makes a [`Remote`].
pub(super) struct Parts {
    /// Scheme and URL of the bucket.
    pub(super) uid: String,
    /// Kind and name of the bucket, for messages.
    pub(super) place: String,
    /// Prefix without slashes around it.
    pub(super) base: String,
    pub(super) transport: Transport,
    pub(super) credentials: Credentials,
    pub(super) dialect: Dialect,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("name", &self.name)
            .field("uid", &self.uid)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Remote {
    pub(super) fn new(config: &SourceConfig, parts: Parts) -> Self {
        Self {
            name: config.label(),
            uid: parts.uid,
            place: parts.place,
            base: parts.base,
            transport: parts.transport,
            credentials: parts.credentials,
            dialect: parts.dialect,
        }
    }

    async fn list_all(&self, prefix: &str, limits: &Limits) -> Result<Listing, Error> {
        let root = join(&self.base, prefix)?;
        let mut collector = Collector::new(&root, limits);
        let mut token = None;
        loop {
            let under = collector.under().to_owned();
            let page = self.page(&under, token.as_deref(), PAGE_OBJECTS).await?;
            collector.page(page.next.as_deref())?;
            for item in page.items {
                collector.push(item)?;
            }
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        if collector.is_empty() && !root.is_empty() {
            // The key itself, if it exists, is the first that begins with it.
            let page = self.page(&root, None, 1).await?;
            if let Some(item) = page.items.into_iter().find(|item| item.key == root) {
                collector.push_exact(item)?;
            }
        }
        collector.finish(&self.describe(&root))
    }

    async fn page(&self, prefix: &str, token: Option<&str>, most: u32) -> Result<Page, Error> {
        let url = self.dialect.page_url(prefix, token, most);
        let reply = self.send(url, |_| {}).await?;
        if reply.status != StatusCode::OK {
            return Err(outcome::refuse(reply, Asked::Listing(&self.place)).await);
        }
        let body = reply.collect(PAGE_MAX).await?;
        self.parse(&body)
    }

    fn parse(&self, body: &Bytes) -> Result<Page, Error> {
        let wrong = |what: &str| Error::Protocol {
            key: self.place.clone(),
            what: what.to_owned(),
        };
        let text = std::str::from_utf8(body).map_err(|_| wrong("a listing that is not UTF-8"))?;
        let page = self
            .dialect
            .parse_page(text)?
            .ok_or_else(|| wrong("a listing that cannot be read"))?;
        match page.overlong() {
            Some(what) => Err(wrong(what)),
            None => Ok(page),
        }
    }

    async fn get(&self, entry: &Entry, range: Range<u64>) -> Result<Body, Error> {
        let url = self
            .dialect
            .object_url(&entry.key, entry.version.version.as_deref());
        let reply = self
            .send(url, |request| answer::pin(request, entry, &range))
            .await?;
        if reply.status.is_success() {
            answer::body(reply, entry, &range)
        } else {
            Err(outcome::refuse(reply, Asked::Object(entry)).await)
        }
    }

    /// Sends a signed GET. If the store refuses the keys and there are others by now (their files have changed, or an exchange
    /// gives new ones), sends it once more with those.
    async fn send(&self, url: String, prepare: impl Fn(&mut HttpRequest)) -> Result<Reply, Error> {
        let uri = Uri::try_from(url).map_err(|_| {
            Error::Reference(format!("{}: the key is too long for a URL", self.place))
        })?;
        let keys = self.credentials.current().await?;
        let reply = self.send_with(&uri, &prepare, keys.as_ref()).await?;
        if matches!(reply.status.as_u16(), 400 | 401 | 403) {
            let fresh = self.credentials.instead_of(keys.as_ref()).await?;
            if fresh != keys {
                reply.drain().await;
                return self.send_with(&uri, &prepare, fresh.as_ref()).await;
            }
        }
        Ok(reply)
    }

    async fn send_with(
        &self,
        uri: &Uri,
        prepare: impl Fn(&mut HttpRequest),
        keys: Option<&Keys>,
    ) -> Result<Reply, Error> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        request.uri_mut().clone_from(uri);
        prepare(&mut request);
        self.dialect.sign(&mut request, keys, &self.place).await?;
        self.transport.send(request).await
    }

    fn describe(&self, root: &str) -> String {
        if root.is_empty() {
            format!("any object in {}", self.place)
        } else {
            format!("{} in {}", Escaped(root), self.place)
        }
    }
}

impl Source for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn base(&self) -> &str {
        &self.base
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Listing, Error>> {
        Box::pin(async move {
            let listing = tokio::time::timeout(limits.listing_time, self.list_all(prefix, limits));
            listing
                .await
                .map_err(|_| super::took_too_long(&self.place, limits))?
        })
    }

    fn open<'a>(
        &'a self,
        entry: &'a Entry,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Body, Error>> {
        Box::pin(self.get(entry, range))
    }
}

impl Dialect {
    fn page_url(&self, prefix: &str, token: Option<&str>, most: u32) -> String {
        match self {
            Self::S3(s3) => s3.page_url(prefix, token, most),
            Self::Gcs(gcs) => gcs.page_url(prefix, token, most),
            Self::Azure(azure) => azure.page_url(prefix, token, most),
        }
    }

    fn object_url(&self, key: &str, version: Option<&str>) -> String {
        let (base, name) = match self {
            Self::S3(s3) => (s3.base(), "versionId"),
            Self::Gcs(gcs) => (gcs.base(), "generation"),
            Self::Azure(azure) => (azure.base(), "versionid"),
        };
        let mut url = String::with_capacity(base.len().saturating_add(URL_ROOM));
        url.push_str(base);
        url.push('/');
        url.extend(utf8_percent_encode(key, &KEY));
        if let Some(version) = version {
            url.extend(["?", name, "="]);
            url.extend(utf8_percent_encode(version, &QUERY));
        }
        url
    }

    /// The page, or nothing if the text is not a listing.
    fn parse_page(&self, text: &str) -> Result<Option<Page>, Error> {
        match self {
            Self::S3(_) | Self::Gcs(_) => s3::list::parse(text),
            Self::Azure(_) => azure::parse(text),
        }
    }

    async fn sign(
        &self,
        request: &mut HttpRequest,
        keys: Option<&Keys>,
        place: &str,
    ) -> Result<(), Error> {
        let signed = match self {
            Self::S3(s3) => s3.sign(request, keys),
            Self::Gcs(gcs) => gcs.sign(request, keys, place).await?,
            Self::Azure(azure) => azure.sign(request, keys),
        };
        signed.ok_or_else(|| Error::Unauthenticated {
            subject: place.to_owned(),
            code: "the keys do not fit this store".to_owned(),
        })
    }
}

/// `&name=value` for a query, escaped; nothing for no value.
pub(super) fn parameter(name: &str, value: Option<&str>) -> String {
    match value.filter(|value| !value.is_empty()) {
        Some(value) => format!("&{name}={}", utf8_percent_encode(value, &QUERY)),
        None => String::new(),
    }
}

/// Base prefix and relative path as one key prefix, checked.
pub(super) fn join(base: &str, path: &str) -> Result<String, Error> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(base.to_owned());
    }
    RelPath::parse(path)?;
    Ok(if base.is_empty() {
        path.to_owned()
    } else {
        format!("{base}/{path}")
    })
}

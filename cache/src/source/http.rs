//! Files on a web server: HTTP cannot be listed, so a source names its files, or the reference names one. Size
//! and version come from HEAD, or from a read of one byte where HEAD is not answered. Requests are anonymous;
//! redirects are followed at most three times, never from https to http, and only within the host or to the
//! source's `redirect_hosts`, each asked of the gate.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderValue, Method, StatusCode, Uri, header};
use object_store::client::{HttpRequest, HttpRequestBody};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use url::Url;

use super::collect::{Collector, Item};
use super::config::{Auth, SourceConfig};
use super::connector::{Reply, Transport};
use super::outcome::{self, Asked};
use super::place::bad_url;
use super::remote::{KEY, join};
use super::{Body, Entry, Error, Limits, Listing, Source, Version, answer, date};
use crate::gate::{Gate, Redirection, Refusal};
use crate::path::{Escaped, RelPath};

/// Most redirects of one request.
const REDIRECTS_MAX: usize = 3;
/// Files asked about at a time.
const PROBES: usize = 8;

/// A web server and the files it is known to have. Keys are paths from the root of the host.
#[derive(Clone)]
struct Web {
    name: String,
    uid: String,
    origin: Url,
    base: String,
    /// Below `base`; empty: the reference's path is the file.
    files: Vec<String>,
    redirect_hosts: Vec<String>,
    allow_http: bool,
    transport: Transport,
    /// On whose behalf redirects are followed.
    load: String,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web")
            .field("name", &self.name)
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

/// The source of an `http(s)://` configuration.
pub(super) fn build(config: &SourceConfig, gate: Arc<dyn Gate>) -> Result<Arc<dyn Source>, Error> {
    if config.auth != Auth::Anonymous {
        return Err(bad_url(
            &config.url,
            "is a web server: only auth = \"anonymous\" is possible",
        ));
    }
    let mut origin = config.checked_endpoint(&config.url)?;
    let base = percent_decode_str(origin.path().trim_matches('/'))
        .decode_utf8()
        .map_err(|_| bad_url(&config.url, "is not UTF-8"))?
        .into_owned();
    if !base.is_empty() {
        RelPath::parse(&base)?;
    }
    for file in &config.files {
        RelPath::parse(file)?;
    }
    origin.set_path("/");
    Ok(Arc::new(Web {
        name: config.label(),
        uid: format!("http:{origin}{}", config.way()),
        origin,
        base,
        files: config.files.clone(),
        redirect_hosts: config.redirect_hosts.clone(),
        allow_http: config.allow_http,
        transport: Transport::new(config, gate)?,
        load: String::new(),
    }))
}

impl Web {
    /// Keys that the reference stands for, and whether it is itself a file.
    fn keys(&self, prefix: &str) -> Result<(Vec<String>, bool), Error> {
        let root = join(&self.base, prefix)?;
        if self.files.is_empty() {
            return Ok((vec![root], true));
        }
        let all = self.files.iter().map(|file| join(&self.base, file));
        let all = all.collect::<Result<Vec<_>, _>>()?;
        if all.contains(&root) {
            return Ok((vec![root], true));
        }
        let below = |key: &String| {
            root.is_empty()
                || key
                    .strip_prefix(&root)
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        Ok((all.into_iter().filter(below).collect(), false))
    }

    async fn list_all(&self, prefix: &str, limits: &Limits) -> Result<Listing, Error> {
        let (keys, is_exact) = self.keys(prefix)?;
        let root = join(&self.base, prefix)?;
        let mut collector = Collector::new(&root, limits);
        let mut probes = stream::iter(keys)
            .map(|key| self.probe(key))
            .buffered(PROBES);
        while let Some(item) = probes.try_next().await? {
            if is_exact {
                collector.push_exact(item)?;
            } else {
                collector.push(item)?;
            }
        }
        collector.finish(&format!("{} at {}", Escaped(&root), self.host()))
    }

    async fn probe(&self, key: String) -> Result<Item, Error> {
        if key.is_empty() {
            return Err(bad_url(self.origin.as_str(), "names no file"));
        }
        let subject = format!("{} at {}", Escaped(&key), self.host());
        let reply = self.send(&Method::HEAD, &key, |_| {}).await?;
        let size = reply
            .header("content-length")
            .and_then(|text| text.parse().ok());
        if let (StatusCode::OK, Some(size)) = (reply.status, size) {
            let item = item(key, size, &reply);
            reply.drain().await;
            return Ok(item);
        }
        if matches!(reply.status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            return Err(Error::NotFound(subject));
        }
        reply.drain().await;
        let one = HeaderValue::from_static("bytes=0-0");
        let reply = self
            .send(&Method::GET, &key, |request| {
                request.headers_mut().insert(header::RANGE, one.clone());
            })
            .await?;
        let total = reply
            .header("content-range")
            .and_then(answer::parse_content_range);
        match (reply.status, total) {
            (StatusCode::PARTIAL_CONTENT, Some((_, size))) => {
                let item = item(key, size, &reply);
                reply.drain().await;
                Ok(item)
            }
            (status, _) if status.is_success() => Err(Error::Protocol {
                key: subject,
                what: "it does not tell the file's size".to_owned(),
            }),
            _ => Err(outcome::refuse(reply, Asked::Listing(&subject)).await),
        }
    }

    async fn get(&self, entry: &Entry, range: Range<u64>) -> Result<Body, Error> {
        let reply = self
            .send(&Method::GET, &entry.key, |request| {
                answer::pin(request, entry, &range);
            })
            .await?;
        if reply.status.is_success() {
            answer::body(reply, entry, &range)
        } else {
            Err(outcome::refuse(reply, Asked::Object(entry)).await)
        }
    }

    /// Sends an anonymous request and follows redirects as far as they are allowed.
    async fn send(
        &self,
        method: &Method,
        key: &str,
        prepare: impl Fn(&mut HttpRequest) + Send,
    ) -> Result<Reply, Error> {
        let mut url = self.origin.clone();
        url.set_path(&utf8_percent_encode(key, &KEY).to_string());
        for _ in 0..=REDIRECTS_MAX {
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            request.method_mut().clone_from(method);
            *request.uri_mut() = Uri::try_from(url.as_str())
                .map_err(|_| Error::Reference(format!("{} is too long for a URL", Escaped(key))))?;
            prepare(&mut request);
            let reply = self.transport.send(request).await?;
            match reply
                .header("location")
                .filter(|_| reply.status.is_redirection())
            {
                Some(location) => {
                    url = self.redirected(&url, location)?;
                    reply.drain().await;
                }
                None => return Ok(reply),
            }
        }
        Err(Error::Protocol {
            key: Escaped(key).to_string(),
            what: format!("more than {REDIRECTS_MAX} redirects"),
        })
    }

    fn redirected(&self, from: &Url, location: &str) -> Result<Url, Error> {
        let denied =
            |why: String| Error::Gate(Refusal::Denied(format!("{} redirects {why}", self.host())));
        let to = from
            .join(location)
            .map_err(|_| denied("to what is not a URL".to_owned()))?;
        let host = to.host_str().unwrap_or_default();
        match to.scheme() {
            "https" => {}
            "http" if from.scheme() == "http" && self.allow_http => {}
            "http" => return Err(denied(format!("to plain http at {}", Escaped(host)))),
            _ => return Err(denied("to something that is not https".to_owned())),
        }
        let ports = (
            self.origin.port_or_known_default(),
            to.port_or_known_default(),
        );
        // From http to https of the same host both ports change from their default to their default.
        let is_same = to.host() == self.origin.host()
            && (ports.0 == ports.1 || ports == (Some(80), Some(443)));
        let is_listed = self
            .redirect_hosts
            .iter()
            .any(|listed| listed.eq_ignore_ascii_case(host));
        if !is_same && !is_listed {
            return Err(denied(format!(
                "to {}, which is not in redirect_hosts",
                Escaped(host)
            )));
        }
        self.transport.gate().redirect(&Redirection {
            source: &self.name,
            host,
            load: &self.load,
        })?;
        Ok(to)
    }

    fn host(&self) -> String {
        format!(
            "host {}",
            Escaped(self.origin.host_str().unwrap_or_default())
        )
    }
}

fn item(key: String, size: u64, reply: &Reply) -> Item {
    Item {
        key,
        size,
        version: Version {
            etag: reply.header("etag").map(str::to_owned),
            version: None,
            modified_millis: reply.header("last-modified").and_then(date::parse_http),
        },
    }
}

impl Source for Web {
    fn name(&self) -> &str {
        &self.name
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn base(&self) -> &str {
        &self.base
    }

    fn on_behalf_of(&self, load: &str) -> Option<Arc<dyn Source>> {
        Some(Arc::new(Self {
            load: load.to_owned(),
            ..self.clone()
        }))
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
                .map_err(|_| super::took_too_long(&self.host(), limits))?
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

//! The transport under every remote source: HTTP/1.1 over TCP or rustls, made for long ranged reads. It replaces
//! `object_store`'s default, which follows redirects, honours proxies of the environment, retries in silence
//! and limits whole requests to 30 s.
//!
//! Invariants: every new connection is checked, after name resolution, by the address rules and the [`Gate`],
//! and the checked address is the connected one: the server's, or that of the source's proxy where it has one; no redirect
//! is followed here; nothing that may have reached the server is sent twice; every wait for the server is bounded; a
//! connection serves one response at a time and goes back to the pool only when its body has ended. A connection is driven
//! by whoever reads its body, so bytes cross no task and dropping a body closes its connection. The HTTP library reads heads;
//! the bytes of a body of known length go from the socket straight into the reader's memory.
//!
//! It deliberately reads no proxies from the environment, speaks no HTTP/2 (one TCP connection per stream is what scales here)
//! and has no compression and no cookies.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{self, PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::Error;
use super::config::SourceConfig;
use crate::gate::Gate;
use crate::gate::address::AddressRules;
use crate::path::Escaped;

mod body;
mod failure;
mod link;
mod mark;
mod pool;
mod resolver;
mod target;
mod tls;
mod tunnel;
mod wire;

pub(super) use body::ReplyBody;
use link::{Link, Sent};
use pool::Pool;
use resolver::{Resolver, SystemResolver};
use target::{Target, Targets};
use wire::Wire;

/// Most bytes of a response's head, and what is read at once until it is complete.
const HEAD_MAX: usize = 16 << 10;
/// Bytes that one read of a listing or an error may bring.
const CHUNK: usize = 16 << 10;
/// Most bytes that are read and dropped to keep a connection.
const DRAIN_MAX: usize = 64 << 10;
/// Longest wait for a TCP connection, for a proxy's tunnel and for TLS, each, unless set otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a server, unless set otherwise.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends requests for one source. Clones share connections.
#[derive(Clone)]
pub(super) struct Transport(Arc<Inner>);

struct Inner {
    source: String,
    gate: Arc<dyn Gate>,
    rules: AddressRules,
    /// The one address that this transport may reach, whatever the rules say; `None`: the rules decide.
    only: Option<IpAddr>,
    /// The proxy that connections are tunnelled through; `None`: they lead to the servers themselves.
    proxy: Option<Target>,
    /// Addresses of hosts that are not looked up.
    hosts: BTreeMap<String, IpAddr>,
    resolver: Box<dyn Resolver>,
    authorities: tls::Authorities,
    tls: OnceCell<tokio_rustls::TlsConnector>,
    connect_timeout: Duration,
    read_timeout: Duration,
    targets: Targets,
    pool: Arc<Pool>,
}

/// A response whose head has come.
pub(super) struct Reply {
    /// Status.
    pub(super) status: StatusCode,
    /// Header fields.
    pub(super) headers: HeaderMap,
    /// What follows.
    pub(super) body: ReplyBody,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// A transport with no connection yet. An error if the source's proxy is not written as it must be.
    pub(super) fn new(config: &SourceConfig, gate: Arc<dyn Gate>) -> Result<Self, Error> {
        let proxy = config.checked_proxy()?;
        Ok(Self(Arc::new(Inner {
            proxy: proxy.as_ref().map(Target::of_url).transpose()?,
            ..Inner::new(config, gate)
        })))
    }

    /// A transport that leads to the servers themselves, whatever proxy the source has.
    pub(super) fn direct(config: &SourceConfig, gate: Arc<dyn Gate>) -> Self {
        Self(Arc::new(Inner::new(config, gate)))
    }

    /// A transport to the metadata service of this instance: to `host`, which is at `address`, and to nothing else. The gate
    /// is asked as ever.
    pub(super) fn to_instance(
        config: &SourceConfig,
        gate: Arc<dyn Gate>,
        address: IpAddr,
        host: &str,
    ) -> Self {
        Self(Arc::new(Inner {
            only: Some(address),
            hosts: BTreeMap::from([(host.to_owned(), address)]),
            ..Inner::new(config, gate)
        }))
    }

    /// The gate that connections and redirects are asked of.
    pub(super) fn gate(&self) -> &dyn Gate {
        &*self.0.gate
    }

    /// Sends a request with an absolute URL and waits for the response's head.
    pub(super) async fn send(&self, request: HttpRequest) -> Result<Reply, Error> {
        let target = self.0.targets.get(request.uri())?;
        let mut request = origin_form(request, &target)?;
        let method = request.method().clone();
        let wait = self.0.read_timeout;
        loop {
            let idle = self.0.pool.take(&target).await;
            let reused = idle.is_some();
            let wire = match idle {
                Some(wire) => wire,
                None => self.0.dial(&target).await?,
            };
            let mut link = Link::open(wire, &target).await?;
            let sent = timeout(wait, link.send(request))
                .await
                .map_err(|_| failure::silent(&target, wait))?;
            match sent {
                Sent::Answered(response) => {
                    let (parts, incoming) = response.into_parts();
                    let bytes: usize = (parts.headers.iter())
                        .map(|(name, value)| name.as_str().len() + value.len() + 4)
                        .sum();
                    if bytes > HEAD_MAX {
                        return Err(Error::Protocol {
                            key: target.to_string(),
                            what: format!("header fields of {bytes} bytes"),
                        });
                    }
                    let pool = Arc::clone(&self.0.pool);
                    let body = ReplyBody::new((&method, &parts), incoming, link, (pool, wait));
                    return Ok(Reply {
                        status: parts.status,
                        headers: parts.headers,
                        body,
                    });
                }
                // An idle connection that died before the request was written: nothing has been sent.
                Sent::Unsent(unsent) if reused => request = *unsent,
                Sent::Unsent(_) => {
                    return Err(failure::unavailable(
                        &target,
                        "the connection closed at once",
                    ));
                }
                Sent::Failed(error) => return Err(failure::of_hyper(&target, &error)),
            }
        }
    }
}

impl Inner {
    fn new(config: &SourceConfig, gate: Arc<dyn Gate>) -> Self {
        let seconds = |set: Option<u64>, default| set.map_or(default, Duration::from_secs);
        Self {
            source: config.label(),
            gate,
            rules: config.address_rules(),
            only: None,
            proxy: None,
            hosts: config.hosts.clone(),
            resolver: Box::new(SystemResolver),
            authorities: tls::Authorities::of(config),
            tls: OnceCell::new(),
            connect_timeout: seconds(config.connect_timeout_seconds, CONNECT_TIMEOUT),
            read_timeout: seconds(config.read_timeout_seconds, READ_TIMEOUT),
            targets: Targets::default(),
            pool: Arc::new(Pool::default()),
        }
    }

    async fn dial(&self, target: &Target) -> Result<Wire, Error> {
        let stream = link::connect(self, target).await?;
        if !target.tls {
            return Ok(Box::new(stream));
        }
        let connector = self
            .tls
            .get_or_try_init(|| tls::connector(self.authorities.clone()))
            .await?;
        let stream = timeout(
            self.connect_timeout,
            tls::handshake(connector, stream, target),
        )
        .await
        .map_err(|_| failure::unavailable(target, "the TLS handshake timed out"))??;
        Ok(Box::new(stream))
    }
}

impl Reply {
    /// Reads the whole body, which must not be longer than `limit`.
    pub(super) async fn collect(mut self, limit: usize) -> Result<Bytes, Error> {
        let mut all = Vec::new();
        let mut chunk = vec![0u8; CHUNK];
        loop {
            let read = poll_fn(|cx| self.body.poll_read(cx, &mut chunk)).await?;
            if read == 0 {
                return Ok(all.into());
            }
            if all.len() + read > limit {
                return Err(Error::Protocol {
                    key: self.body.host(),
                    what: format!("an answer longer than {limit} bytes"),
                });
            }
            all.extend_from_slice(chunk.get(..read).unwrap_or_default());
        }
    }

    /// Reads a short body to its end, so that the connection can be used again.
    pub(super) async fn drain(self) {
        // A body that is long or broken costs the connection, nothing else.
        drop(self.collect(DRAIN_MAX).await);
    }

    /// A header field as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// What is sent to a server: no scheme, no host, and what every request says.
fn origin_form(mut request: HttpRequest, target: &Target) -> Result<HttpRequest, Error> {
    let headers = request.headers_mut();
    headers.insert(header::HOST, target.header.clone());
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("tonnage/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    let mut origin = uri::Parts::default();
    let path = request.uri().path_and_query();
    // An empty path shows as a slash and has to become one.
    let path = path.filter(|path| path.as_str() != "/").cloned();
    origin.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(origin).map_err(|_| {
        Error::Reference(format!("{} is not a path", Escaped(request.uri().path())))
    })?;
    Ok(request)
}

/// Lets `object_store` exchange tokens over this transport.
impl object_store::client::HttpService for Transport {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            self.exchange(request)
                .await
                .map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))
        })
    }
}

impl Transport {
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, Error> {
        let reply = self.send(request).await?;
        let mut response = http::Response::new(());
        *response.status_mut() = reply.status;
        response.headers_mut().clone_from(&reply.headers);
        let body = reply.collect(1 << 20).await?;
        Ok(response.map(|()| HttpResponseBody::from(body)))
    }
}

impl object_store::client::HttpConnector for Transport {
    fn connect(
        &self,
        _options: &object_store::ClientOptions,
    ) -> object_store::Result<object_store::client::HttpClient> {
        Ok(object_store::client::HttpClient::new(self.clone()))
    }
}

#[cfg(test)]
mod tests;

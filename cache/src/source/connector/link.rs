//! One connection: name resolution, the checks before connect, and the HTTP/1.1 state machine, driven by
//! whoever holds the [`Link`]. It lives for one exchange and sends one request, never twice; the stream under it is
//! taken out again for the body and for the next exchange.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use object_store::client::{HttpRequest, HttpRequestBody};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::Wire;
use super::{HEAD_MAX, Inner, Target, failure, tunnel};
use crate::gate::{Connection, Refusal, address};
use crate::path::Escaped;
use crate::source::Error;

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// A connection with one request on it, and the way to send it.
pub(super) struct Link {
    pub(super) target: Arc<Target>,
    sender: SendRequest<HttpRequestBody>,
    /// `None` once the connection has ended.
    connection: Option<Http>,
}

type Http = http1::Connection<TokioIo<Wire>, HttpRequestBody>;

/// What became of a request.
pub(super) enum Sent {
    /// The head of the response.
    Answered(Response<Incoming>),
    /// The connection had ended before a byte was written.
    Unsent(Box<HttpRequest>),
    /// It may have reached the server.
    Failed(hyper::Error),
}

impl Link {
    /// Speaks HTTP/1.1 on a stream.
    pub(super) async fn open(wire: Wire, target: &Arc<Target>) -> Result<Self, Error> {
        let (sender, connection) = http1::Builder::new()
            .read_buf_exact_size(Some(HEAD_MAX))
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|error| failure::of_hyper(target, &error))?;
        Ok(Self {
            target: Arc::clone(target),
            sender,
            connection: Some(connection),
        })
    }

    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(&mut self, request: HttpRequest) -> Sent {
        let mut response = std::pin::pin!(self.sender.try_send_request(request));
        let connection = &mut self.connection;
        let answer = poll_fn(|cx| {
            if let Poll::Ready(answer) = response.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            drive(connection, cx);
            response.as_mut().poll(cx)
        })
        .await;
        match answer {
            Ok(response) => Sent::Answered(response),
            Err(mut failure) => match failure.take_message() {
                Some(unsent) => Sent::Unsent(Box::new(unsent)),
                None => Sent::Failed(failure.into_error()),
            },
        }
    }

    /// Lets the connection read and write; its end shows in the response or body.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.connection, cx);
    }

    /// The stream under the connection, and what was read from it and not looked at; nothing if it has ended.
    pub(super) fn into_wire(self) -> Option<(Wire, Bytes)> {
        let parts = self.connection?.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

fn drive(connection: &mut Option<Http>, cx: &mut Context<'_>) {
    if let Some(running) = connection
        && running.poll_without_shutdown(cx).is_ready()
    {
        *connection = None;
    }
}

/// Connects to the target, through the source's proxy if it has one.
pub(super) async fn connect(inner: &Inner, target: &Target) -> Result<TcpStream, Error> {
    let Some(proxy) = &inner.proxy else {
        return reach(inner, target, &target.host).await;
    };
    // A name is the proxy's to resolve; an address is known, and the rules hold for it.
    if let Some(address) = target.literal() {
        address::check(&target.host, address, &inner.rules)?;
    }
    let mut stream = reach(inner, proxy, &target.host)
        .await
        .map_err(|error| failure::at_proxy(target, proxy, error))?;
    tunnel::open(&mut stream, target, proxy, inner.connect_timeout).await?;
    Ok(stream)
}

/// Resolves the host of `next`, which is the target or the proxy, and connects to the first of its addresses that is allowed and
/// answers. `host` is where the bytes come from: the gate is asked for it.
async fn reach(inner: &Inner, next: &Target, host: &str) -> Result<TcpStream, Error> {
    let mut last = None;
    for address in resolve(inner, next).await?.into_iter().take(ADDRESSES_MAX) {
        match connect_to(inner, next, host, address).await {
            Ok(stream) => return Ok(stream),
            // A refusal is kept over a failure: it names what to change.
            Err(error) if matches!(last, Some(Error::Gate(_))) => drop(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| failure::unavailable(next, "the name has no address")))
}

async fn connect_to(
    inner: &Inner,
    next: &Target,
    host: &str,
    address: IpAddr,
) -> Result<TcpStream, Error> {
    match inner.only {
        None => address::check(&next.host, address, &inner.rules)?,
        Some(only) if only == address => {}
        Some(only) => {
            let host = Escaped(&next.host);
            return Err(Error::Gate(Refusal::Denied(format!(
                "host {host} is at {address}, and this connection may only lead to {only}"
            ))));
        }
    }
    inner.gate.connect(&Connection {
        source: inner.source.clone(),
        host: host.to_owned(),
        address,
        port: next.port,
    })?;
    let connecting = TcpStream::connect(SocketAddr::new(address, next.port));
    let stream = timeout(inner.connect_timeout, connecting)
        .await
        .map_err(|_| failure::unavailable(next, "no answer to connecting"))?
        .map_err(|error| failure::of_io(next, &error))?;
    stream
        .set_nodelay(true)
        .map_err(|error| failure::of_io(next, &error))?;
    Ok(stream)
}

async fn resolve(inner: &Inner, next: &Target) -> Result<Vec<IpAddr>, Error> {
    if let Some(address) = next
        .literal()
        .or_else(|| inner.hosts.get(&next.host).copied())
    {
        return Ok(vec![address]);
    }
    timeout(inner.connect_timeout, inner.resolver.resolve(&next.host))
        .await
        .map_err(|_| failure::unavailable(next, "name resolution timed out"))?
        .map_err(|_| failure::unavailable(next, "the host's name does not resolve"))
}

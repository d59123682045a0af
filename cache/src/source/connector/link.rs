//! One connection: name resolution, the checks before connect, and the HTTP/1.1 state machine, driven by
//! whoever holds the [`Link`]. It sends one request at a time and never twice.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use object_store::client::{HttpRequest, HttpRequestBody};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Inner, Target, failure};
use crate::gate::{Connection, address};
use crate::source::Error;

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// A connection and the requests' way into it.
pub(super) struct Link {
    pub(super) target: Target,
    sender: SendRequest<HttpRequestBody>,
    /// `None` once the connection has ended.
    driver: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
}

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
    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(&mut self, request: HttpRequest) -> Sent {
        let mut response = std::pin::pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let answer = poll_fn(|cx| {
            if let Poll::Ready(answer) = response.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            drive(driver, cx);
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
        drive(&mut self.driver, cx);
    }

    /// Whether an idle connection can take a request: notices that the server has closed it.
    pub(super) async fn is_usable(&mut self) -> bool {
        poll_fn(|cx| {
            self.drive(cx);
            Poll::Ready(self.driver.is_some() && self.sender.is_ready())
        })
        .await
    }
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(running) = driver
        && running.as_mut().poll(cx).is_ready()
    {
        *driver = None;
    }
}

/// Starts HTTP/1.1 on a stream.
pub(super) async fn handshake<S>(stream: S, target: &Target, buffer: usize) -> Result<Link, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .read_buf_exact_size(Some(buffer))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failure::of_hyper(target, &error))?;
    Ok(Link {
        target: target.clone(),
        sender,
        driver: Some(Box::pin(connection)),
    })
}

/// Resolves the target's host and connects to the first of its addresses that is allowed and answers.
pub(super) async fn connect(inner: &Inner, target: &Target) -> Result<TcpStream, Error> {
    let mut last = None;
    for address in resolve(inner, target)
        .await?
        .into_iter()
        .take(ADDRESSES_MAX)
    {
        match connect_to(inner, target, address).await {
            Ok(stream) => return Ok(stream),
            // A refusal is kept over a failure: it names what to change.
            Err(error) if matches!(last, Some(Error::Gate(_))) => drop(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| failure::unavailable(target, "the name has no address")))
}

async fn connect_to(inner: &Inner, target: &Target, address: IpAddr) -> Result<TcpStream, Error> {
    address::check(&target.host, address, &inner.rules)?;
    inner.gate.connect(&Connection {
        source: inner.source.clone(),
        host: target.host.clone(),
        address,
        port: target.port,
    })?;
    let connecting = TcpStream::connect(SocketAddr::new(address, target.port));
    let stream = timeout(inner.connect_timeout, connecting)
        .await
        .map_err(|_| failure::unavailable(target, "no answer to connecting"))?
        .map_err(|error| failure::of_io(target, &error))?;
    stream
        .set_nodelay(true)
        .map_err(|error| failure::of_io(target, &error))?;
    Ok(stream)
}

async fn resolve(inner: &Inner, target: &Target) -> Result<Vec<IpAddr>, Error> {
    if let Some(address) = target
        .literal()
        .or_else(|| inner.hosts.get(&target.host).copied())
    {
        return Ok(vec![address]);
    }
    let lookup = tokio::net::lookup_host((target.host.as_str(), target.port));
    let found = timeout(inner.connect_timeout, lookup)
        .await
        .map_err(|_| failure::unavailable(target, "name resolution timed out"))?
        .map_err(|_| failure::unavailable(target, "the host's name does not resolve"))?;
    Ok(found.map(|address| address.ip()).collect())
}

//! The way through a forward proxy: `CONNECT host:port`, after which the connection is as if it led to the server itself
//! (RFC 9110, section 9.3.6). The target's name is the proxy's to resolve. Of its answer only the status counts. A tunnel in
//! which something lies already is refused: no server speaks first in TLS or HTTP. The proxy is given no credentials.

use std::io;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{HEAD_MAX, Target, failure};
use crate::gate::Refusal;
use crate::source::Error;

/// What every answer begins with.
const BEGINS: &[u8] = b"HTTP/1.";
/// What every head ends with.
const END: &[u8] = b"\r\n\r\n";
/// Bytes for which there is room at first.
const USUAL: usize = 1 << 10;

const NOT_HTTP: &str = "its answer is not HTTP/1.1";
const TOO_LONG: &str = "the head of its answer is too long";
const EARLY: &str = "it sent bytes before it was asked";

/// What a proxy answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// The tunnel is open.
    Open,
    /// No.
    No(StatusCode),
    /// Something that no proxy says.
    Nonsense(&'static str),
}

/// Asks the proxy, which `stream` leads to, for a tunnel to the target, and waits so long at most.
pub(super) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    target: &Target,
    proxy: &Target,
    wait: Duration,
) -> Result<(), Error> {
    let fails = |what: &str| failure::of_proxy(target, proxy, what);
    let said = timeout(wait, ask(stream, target))
        .await
        .map_err(|_| fails(&format!("it was silent for {wait:?}")))?
        .map_err(|error| failure::at_proxy(target, proxy, failure::of_io(proxy, &error)))?;
    match said {
        Said::Open => Ok(()),
        Said::No(status) => Err(refusal(target, proxy, status)),
        Said::Nonsense(what) => Err(fails(what)),
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    target: &Target,
) -> io::Result<Said> {
    stream.write_all(request(target).as_bytes()).await?;
    let mut answer: Vec<u8> = Vec::with_capacity(USUAL);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(said) = understand(&answer) {
            return Ok(said);
        }
    }
}

/// The request for a tunnel. It always names the port (RFC 9110, section 9.3.6).
fn request(target: &Target) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

/// What the bytes that have come say; nothing if more are needed.
fn understand(bytes: &[u8]) -> Option<Said> {
    if bytes.iter().zip(BEGINS).any(|(is, must)| is != must) {
        return Some(Said::Nonsense(NOT_HTTP));
    }
    let within = bytes.get(..HEAD_MAX).unwrap_or(bytes);
    let Some(end) = within.windows(END.len()).position(|it| it == END) else {
        return (bytes.len() >= HEAD_MAX).then_some(Said::Nonsense(TOO_LONG));
    };
    let head = within.get(..end).unwrap_or_default();
    Some(match status(head) {
        None => Said::Nonsense(NOT_HTTP),
        Some(status) if !status.is_success() => Said::No(status),
        Some(_) if bytes.len() > end + END.len() => Said::Nonsense(EARLY),
        Some(_) => Said::Open,
    })
}

/// The status of a head that begins with `HTTP/1.1 200 Connection established` (RFC 9112, section 4).
fn status(head: &[u8]) -> Option<StatusCode> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (minor, rest) = line.strip_prefix(BEGINS)?.split_first()?;
    let (code, reason) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
    let is_whole = minor.is_ascii_digit() && (reason.is_empty() || reason.starts_with(b" "));
    StatusCode::from_bytes(code).ok().filter(|_| is_whole)
}

fn refusal(target: &Target, proxy: &Target, status: StatusCode) -> Error {
    let what_to_do = match status.as_u16() {
        403 => "allow that host and port there",
        407 => {
            "it asks for credentials, and none can be given to it; allow that host and port there without"
        }
        code => {
            let what = format!("it answers CONNECT with status {code}");
            return failure::of_proxy(target, proxy, &what);
        }
    };
    Error::Gate(Refusal::Denied(format!(
        "the proxy {proxy} does not let {target} be reached ({}): {what_to_do}",
        status.as_u16()
    )))
}

#[cfg(test)]
mod tests;

//! One HTTP/1.1 request as it came in: the head parsed by `httparse`, the body read in full (`chunked` and
//! `aws-chunked` framing undone), and what S3 makes of it: operation, bucket, key, query.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const HEAD_LIMIT: usize = 128 << 10;
const BODY_LIMIT: usize = 1 << 30;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// `GetObject`.
    Get,
    /// `HeadObject`.
    Head,
    /// `PutObject`.
    Put,
    /// `DeleteObject`.
    Delete,
    /// `ListObjectsV2`.
    List,
    /// Anything on a bucket but listing, and whatever is not known.
    Other,
}

/// A request whose body has been read.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Percent-decoded path, with its leading slash.
    pub(super) path: Vec<u8>,
    /// Percent-decoded query in the order sent.
    pub(super) query: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) op: Op,
    pub(super) bucket: String,
    pub(super) key: Vec<u8>,
    pub(super) keep_alive: bool,
}

impl Request {
    /// A header's value as text; what is not text counts as absent.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The first value of a query parameter.
    pub(super) fn param(&self, name: &str) -> Option<&[u8]> {
        let found = self.query.iter().find(|(n, _)| n == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// Reads the next request from `io`; `None` when the peer closed between requests. `domains` are the
    /// host names below which a label is a bucket.
    pub(super) async fn read<S>(
        io: &mut S,
        buf: &mut BytesMut,
        domains: &[String],
    ) -> io::Result<Option<Request>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut request = loop {
            if let Some((request, len)) = parse(buf)? {
                buf.advance(len);
                break request;
            }
            if buf.len() > HEAD_LIMIT {
                return Err(invalid("request head too long"));
            }
            if io.read_buf(buf).await? == 0 {
                return Ok(None);
            }
        };
        if request.header("expect").is_some() {
            io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            io.flush().await?;
        }
        request.body = read_body(io, buf, &request.headers).await?;
        request.route(domains);
        Ok(Some(request))
    }

    fn route(&mut self, domains: &[String]) {
        let host = self.header("host").unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let virtual_host = domains
            .iter()
            .find_map(|domain| host.strip_suffix(domain.as_str())?.strip_suffix('.'));
        let path = self.path.strip_prefix(b"/").unwrap_or(&self.path);
        let (bucket, key) = if let Some(bucket) = virtual_host {
            (bucket.to_owned(), path.to_vec())
        } else {
            let mut halves = path.splitn(2, |b| *b == b'/');
            let bucket = String::from_utf8_lossy(halves.next().unwrap_or_default()).into_owned();
            (bucket, halves.next().unwrap_or_default().to_vec())
        };
        self.op = match (self.method.as_str(), key.is_empty()) {
            ("GET", false) => Op::Get,
            ("HEAD", false) => Op::Head,
            ("PUT", false) => Op::Put,
            ("DELETE", false) => Op::Delete,
            ("GET", true) if self.param("list-type").is_some() => Op::List,
            _ => Op::Other,
        };
        self.bucket = bucket;
        self.key = key;
    }
}

fn parse(buf: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut slots = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut slots);
    let httparse::Status::Complete(len) = parsed.parse(buf).map_err(invalid)? else {
        return Ok(None);
    };
    let mut headers = HeaderMap::new();
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(invalid)?;
        headers.append(
            name,
            HeaderValue::from_bytes(header.value).map_err(invalid)?,
        );
    }
    let target = parsed.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let close = headers
        .get("connection")
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"close"));
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: percent_decode(path.as_bytes()).collect(),
        query: parse_query(query),
        headers,
        body: Bytes::new(),
        op: Op::Other,
        bucket: String::new(),
        key: Vec::new(),
        keep_alive: !close,
    };
    Ok(Some((request, len)))
}

fn parse_query(query: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let decode = |text: &str| percent_decode(text.replace('+', " ").as_bytes()).collect();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

async fn read_body<S: AsyncRead + Unpin>(
    io: &mut S,
    buf: &mut BytesMut,
    headers: &HeaderMap,
) -> io::Result<Bytes> {
    let header = |name| {
        headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
            .unwrap_or_default()
    };
    let body = if header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        read_chunked(io, buf).await?
    } else {
        let len = header("content-length").parse().unwrap_or(0);
        take(io, buf, len).await?
    };
    if header("x-amz-content-sha256").starts_with("STREAMING-") {
        let mut framed = BytesMut::from(&body[..]);
        return read_chunked(&mut tokio::io::empty(), &mut framed).await;
    }
    Ok(body)
}

/// Undoes chunk framing; `aws-chunked` differs only in the chunk extensions, which both skip.
async fn read_chunked<S: AsyncRead + Unpin>(io: &mut S, buf: &mut BytesMut) -> io::Result<Bytes> {
    let mut body = BytesMut::new();
    loop {
        let line = take_line(io, buf).await?;
        let size = line.split(|b| *b == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size).map_err(invalid)?.trim();
        let size = usize::from_str_radix(size, 16).map_err(invalid)?;
        if size == 0 {
            while !take_line(io, buf).await.unwrap_or_default().is_empty() {}
            return Ok(body.freeze());
        }
        body.extend_from_slice(&take(io, buf, size).await?);
        take_line(io, buf).await?;
    }
}

async fn take<S: AsyncRead + Unpin>(
    io: &mut S,
    buf: &mut BytesMut,
    len: usize,
) -> io::Result<Bytes> {
    if len > BODY_LIMIT {
        return Err(invalid("request body too long"));
    }
    while buf.len() < len {
        buf.reserve(len - buf.len());
        if io.read_buf(buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(buf.split_to(len).freeze())
}

async fn take_line<S: AsyncRead + Unpin>(io: &mut S, buf: &mut BytesMut) -> io::Result<Bytes> {
    loop {
        if let Some(end) = buf.windows(2).position(|pair| pair == b"\r\n") {
            let line = buf.split_to(end).freeze();
            buf.advance(2);
            return Ok(line);
        }
        if buf.len() > HEAD_LIMIT || io.read_buf(buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

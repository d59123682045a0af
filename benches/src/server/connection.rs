//! One connection on its own thread: requests in, heads and file pages out.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::net::SendFlags;

use super::Shared;
use super::answer::{self, Answer, Body};
use super::request::Request;
use super::shape::{Bucket, Trouble};

/// Most bytes given to the kernel at once.
const CHUNK: u64 = 1 << 20;
/// The same where rates are limited.
const PACED_CHUNK: u64 = 64 << 10;
/// Bytes of one TLS write.
const TLS_CHUNK: u64 = 128 << 10;

/// Serves a connection until it ends, by either side or by a trouble.
pub(super) fn serve(shared: &Shared, stream: TcpStream, tls: Option<Arc<rustls::ServerConfig>>) {
    // A connection that breaks is the client's business.
    let _ended = stream.set_nodelay(true).and_then(|()| match tls {
        None => talk(shared, Plain(stream)),
        Some(config) => encrypt(stream, config).and_then(|stream| talk(shared, stream)),
    });
}

type Encrypted = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;

fn encrypt(stream: TcpStream, config: Arc<rustls::ServerConfig>) -> io::Result<Encrypted> {
    let mut connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
    connection.set_buffer_limit(None);
    Ok(rustls::StreamOwned::new(connection, stream))
}

/// A byte stream that can be given a piece of a file.
trait Wire: Read {
    fn send_head(&mut self, head: &[u8], more: bool) -> io::Result<()>;
    /// Sends at least one byte from `offset` and at most `length`; returns how many.
    fn send_file(&mut self, file: &File, offset: u64, length: u64) -> io::Result<u64>;
}

struct Plain(TcpStream);

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Wire for Plain {
    fn send_head(&mut self, mut head: &[u8], more: bool) -> io::Result<()> {
        let flags = if more {
            SendFlags::MORE | SendFlags::NOSIGNAL
        } else {
            SendFlags::NOSIGNAL
        };
        while !head.is_empty() {
            let sent = rustix::net::send(&self.0, head, flags)?;
            head = head.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    fn send_file(&mut self, file: &File, offset: u64, length: u64) -> io::Result<u64> {
        let mut at = offset;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let sent = rustix::fs::sendfile(&self.0, file, Some(&mut at), length)?;
        Ok(sent as u64)
    }
}

impl Wire for Encrypted {
    fn send_head(&mut self, head: &[u8], _more: bool) -> io::Result<()> {
        self.write_all(head)?;
        self.flush()
    }

    fn send_file(&mut self, file: &File, offset: u64, length: u64) -> io::Result<u64> {
        let mut chunk = vec![0u8; usize::try_from(length.min(TLS_CHUNK)).unwrap_or(0)];
        let count = file.read_at(&mut chunk, offset)?;
        self.write_all(chunk.get(..count).unwrap_or_default())?;
        self.flush()?;
        Ok(count as u64)
    }
}

fn talk(shared: &Shared, mut wire: impl Wire) -> io::Result<()> {
    let mut input = Vec::new();
    while let Some(request) = Request::read(&mut wire, &mut input)? {
        let answer = answer::to(shared, &request)?;
        let went_well = send(shared, &mut wire, answer)?;
        if !went_well || !request.keep_alive {
            break;
        }
    }
    Ok(())
}

/// Sends an answer; false where a trouble cut it.
fn send(shared: &Shared, wire: &mut impl Wire, answer: Answer) -> io::Result<bool> {
    let Answer { mut head, body } = answer;
    head.push_str("\r\n");
    match body {
        Body::Text(text) => {
            head.push_str(&text);
            wire.send_head(head.as_bytes(), false)?;
            Ok(true)
        }
        Body::Bytes {
            file,
            range,
            trouble,
        } => {
            shared.counts.gets.fetch_add(1, Ordering::Relaxed);
            if !shared.shape.first_byte.is_zero() {
                std::thread::sleep(shared.shape.first_byte);
            }
            wire.send_head(head.as_bytes(), true)?;
            send_range(shared, wire, &file, (range, trouble))?;
            Ok(trouble != Trouble::Cut)
        }
    }
}

fn send_range(
    shared: &Shared,
    wire: &mut impl Wire,
    file: &File,
    (range, trouble): (RangeInclusive<u64>, Trouble),
) -> io::Result<()> {
    let shape = &shared.shape;
    let mut at = *range.start();
    let mut end = range.end() + 1;
    if trouble == Trouble::Cut {
        end = at + (end - at) / 2;
    }
    let own = shape.rate_of(trouble).map(Bucket::new);
    let chunk = if shape.is_paced(trouble) {
        PACED_CHUNK
    } else {
        CHUNK
    };
    while at < end {
        let length = chunk.min(end - at);
        for bucket in own.iter().chain(&shape.total) {
            bucket.take(length);
        }
        let until = at + length;
        while at < until {
            let sent = wire.send_file(file, at, until - at)?;
            if sent == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            shared
                .counts
                .object_bytes
                .fetch_add(sent, Ordering::Relaxed);
            at += sent;
        }
    }
    Ok(())
}

//! Repairs the name by which kubelet calls a plugin.
//!
//! kubelet connects to a registration socket by its path, and Go's gRPC makes that path the call's `:authority`:
//! `%2Fvar%2Flib%2Fkubelet%2F…`. No host is called so (RFC 3986, section 3.2.2), and the HTTP/2 library ends every such call with
//! `PROTOCOL_ERROR`. Here a name that is none becomes `localhost` on its way in: header blocks are decoded and encoded anew
//! (RFC 7541), each side keeping a table of its own; everything else passes as it is.
//!
//! ```text
//! preface (24 bytes) · frames: length (3) type (1) flags (1) stream (4) payload      RFC 9113, sections 3.4 and 4.1
//! HEADERS [CONTINUATION…]  →  one block  →  HEADERS [CONTINUATION…] without padding and priority
//! ```

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::uri::Authority;
use loona_hpack::{Decoder, Encoder};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: usize = 24;
const HEAD: usize = 9;
/// Longest frame that a client may send us: we announce no other (RFC 9113, section 6.5.2).
const FRAME_MAX: usize = 1 << 14;
/// Longest header block; gRPC's have some hundred bytes.
const BLOCK_MAX: usize = 1 << 16;
/// Most that a block may unpack to, with what each field takes beside its bytes (RFC 9113, section 6.5.2).
const FIELDS_MAX: usize = 1 << 16;
const FIELD: usize = 32;
/// Largest table of a client: we announce no other.
const TABLE_MAX: usize = 1 << 12;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// A stream on which every call has an authority that is one.
pub(super) struct Repaired<S> {
    inner: S,
    calls: Calls,
    /// What is ready to be read.
    ready: Vec<u8>,
    taken: usize,
}

impl<S> Repaired<S> {
    /// The same stream, repaired from its first byte on.
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            calls: Calls::default(),
            ready: Vec::new(),
            taken: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Repaired<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let rest = this.ready.get(this.taken..).unwrap_or_default();
            if !rest.is_empty() {
                let (now, _) = rest.split_at(rest.len().min(into.remaining()));
                into.put_slice(now);
                this.taken = this.taken.saturating_add(now.len());
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.taken = 0;
            let mut bytes = [0u8; 8192];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.calls.pass(read.filled(), &mut this.ready)?;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Repaired<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// What a client sends, frame by frame.
#[derive(Default)]
struct Calls {
    /// Not yet a whole frame.
    partial: Vec<u8>,
    greeted: bool,
    /// A header block whose end has not come: flags and stream of its first frame.
    block: Option<(u8, [u8; 4], Vec<u8>)>,
    decoder: Decoder<'static>,
    encoder: Encoder<'static>,
}

impl Calls {
    /// Takes what has come, and appends what may be read.
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.partial.extend_from_slice(bytes);
        let partial = std::mem::take(&mut self.partial);
        let mut rest = partial.as_slice();
        if !self.greeted {
            let Some((preface, frames)) = rest.split_at_checked(PREFACE) else {
                self.partial = partial;
                return Ok(());
            };
            out.extend_from_slice(preface);
            self.greeted = true;
            rest = frames;
        }
        while let Some((frame, next)) = split_frame(rest)? {
            self.pass_frame(frame, out)?;
            rest = next;
        }
        self.partial = rest.to_vec();
        Ok(())
    }

    fn pass_frame(&mut self, frame: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let Some(([_, _, _, kind, flags, stream @ ..], payload)) =
            frame.split_first_chunk::<HEAD>()
        else {
            return Err(broken());
        };
        match (*kind, self.block.take()) {
            (HEADERS, None) => {
                let fragment = unpadded(payload, *flags).ok_or_else(broken)?;
                self.add((*flags, *stream, Vec::new()), fragment, *flags, out)
            }
            (CONTINUATION, Some(block)) if block.1 == *stream => {
                self.add(block, payload, *flags, out)
            }
            (_, None) => {
                out.extend_from_slice(frame);
                Ok(())
            }
            // Nothing may come between the frames of a block (RFC 9113, section 4.3).
            (_, Some(_)) => Err(broken()),
        }
    }

    /// Adds a fragment to a block, and passes the block on if it is the last.
    fn add(
        &mut self,
        mut block: (u8, [u8; 4], Vec<u8>),
        fragment: &[u8],
        flags: u8,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        block.2.extend_from_slice(fragment);
        if block.2.len() > BLOCK_MAX {
            return Err(broken());
        }
        if flags & END_HEADERS == 0 {
            self.block = Some(block);
            return Ok(());
        }
        let (first, stream, encoded) = block;
        let fields = self.decode(&encoded)?;
        let repaired = fields.iter().map(|(name, value)| match name.as_slice() {
            b":authority" if Authority::try_from(value.as_slice()).is_err() => {
                (name.as_slice(), b"localhost".as_slice())
            }
            name => (name, value.as_slice()),
        });
        let block = self.encoder.encode(repaired);
        write_block(&block, first & END_STREAM, stream, out)
    }

    /// The fields of a block. A byte of it can stand for all that the table has.
    fn decode(&mut self, encoded: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let (mut fields, mut size) = (Vec::new(), 0usize);
        self.decoder.set_max_allowed_table_size(TABLE_MAX);
        let decoded = self.decoder.decode_with_cb(encoded, |name, value| {
            let length = name.len().saturating_add(value.len());
            size = size.saturating_add(length).saturating_add(FIELD);
            if size <= FIELDS_MAX {
                fields.push((name.into_owned(), value.into_owned()));
            }
        });
        if decoded.is_err() || size > FIELDS_MAX {
            return Err(broken());
        }
        Ok(fields)
    }
}

/// The first frame, whole, and what follows it; `None` if it has not come whole.
fn split_frame(bytes: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
    let Some([a, b, c, ..]) = bytes.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, *a, *b, *c]);
    let length = usize::try_from(length).map_err(|_| broken())?;
    if length > FRAME_MAX {
        return Err(broken());
    }
    Ok(bytes.split_at_checked(length.saturating_add(HEAD)))
}

/// The fragment of a HEADERS frame (RFC 9113, section 6.2).
fn unpadded(payload: &[u8], flags: u8) -> Option<&[u8]> {
    let (padding, rest) = if flags & PADDED == 0 {
        (0, payload)
    } else {
        let (padding, rest) = payload.split_first()?;
        (usize::from(*padding), rest)
    };
    let rest = if flags & PRIORITY == 0 {
        rest
    } else {
        rest.get(5..)?
    };
    rest.get(..rest.len().checked_sub(padding)?)
}

/// Writes a block as frames.
fn write_block(block: &[u8], end_stream: u8, stream: [u8; 4], out: &mut Vec<u8>) -> io::Result<()> {
    let mut rest = block;
    let (mut kind, mut flags) = (HEADERS, end_stream);
    loop {
        let (fragment, next) = rest.split_at(rest.len().min(FRAME_MAX));
        if next.is_empty() {
            flags |= END_HEADERS;
        }
        let length = u32::try_from(fragment.len()).map_err(|_| broken())?;
        let [_, a, b, c] = length.to_be_bytes();
        out.extend_from_slice(&[a, b, c, kind, flags]);
        out.extend_from_slice(&stream);
        out.extend_from_slice(fragment);
        if next.is_empty() {
            return Ok(());
        }
        rest = next;
        (kind, flags) = (CONTINUATION, 0);
    }
}

fn broken() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the client's HTTP/2 frames cannot be understood",
    )
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE_TEXT: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const STREAM: [u8; 4] = [0, 0, 0, 1];

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &STREAM, payload].concat()
    }

    fn call(encoder: &mut Encoder, authority: &[u8]) -> Vec<u8> {
        encoder.encode([
            (&b":method"[..], &b"POST"[..]),
            (b":path", b"/pluginregistration.Registration/GetInfo"),
            (b":authority", authority),
            (b"te", b"trailers"),
        ])
    }

    /// Passes bytes in pieces; the frames that come out as (kind, flags, payload).
    fn passed(bytes: &[u8], piece: usize) -> io::Result<Vec<(u8, u8, Vec<u8>)>> {
        let (mut calls, mut out) = (Calls::default(), Vec::new());
        for part in bytes.chunks(piece) {
            calls.pass(part, &mut out)?;
        }
        let mut rest = out.strip_prefix(PREFACE_TEXT).unwrap();
        let mut frames = Vec::new();
        while let Some((frame, next)) = split_frame(rest)? {
            assert_eq!(frame[5..HEAD], STREAM);
            frames.push((frame[3], frame[4], frame[HEAD..].to_vec()));
            rest = next;
        }
        assert!(rest.is_empty());
        Ok(frames)
    }

    fn authority(decoder: &mut Decoder, block: &[u8]) -> String {
        let fields = decoder.decode(block).unwrap();
        assert_eq!(fields.len(), 4);
        assert_eq!(fields[3].1, b"trailers");
        String::from_utf8(fields[2].1.clone()).unwrap()
    }

    #[test]
    fn a_path_in_place_of_an_authority_becomes_localhost_and_a_host_stays() {
        let mut encoder = Encoder::new();
        let mut bytes = PREFACE_TEXT.to_vec();
        bytes.extend(frame(0x4, 0, &[]));
        for name in ["%2Fvar%2Flib%2Fkubelet%2Fx.sock", "localhost", "a:1"] {
            let block = call(&mut encoder, name.as_bytes());
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, &block));
        }
        // `te` is index 62, the first of earlier calls, by now.
        let again = call(&mut encoder, b"%2Fvar%2Flib%2Fkubelet%2Fx.sock");
        assert_eq!(again.last(), Some(&0xbe));
        bytes.extend(frame(HEADERS, END_HEADERS, &again));
        bytes.extend(frame(0x0, END_STREAM, b"message"));
        for piece in [1, 7, 4096] {
            let frames = passed(&bytes, piece).unwrap();
            let kinds: Vec<(u8, u8)> = frames.iter().map(|it| (it.0, it.1)).collect();
            assert_eq!(kinds, [(4, 0), (1, 5), (1, 5), (1, 5), (1, 4), (0, 1)]);
            let mut decoder = Decoder::new();
            let names = [1, 2, 3, 4].map(|at: usize| authority(&mut decoder, &frames[at].2));
            assert_eq!(names, ["localhost", "localhost", "a:1", "localhost"]);
            assert_eq!(frames[5].2, b"message");
        }
    }

    #[test]
    fn a_block_in_several_frames_with_padding_and_priority_is_put_together() {
        let block = call(&mut Encoder::new(), b"%2Fx");
        let (head, tail) = block.split_at(10);
        let first = [&[3, 0, 0, 0, 0, 16], head, &[0, 0, 0]].concat();
        let bytes = [
            PREFACE_TEXT.to_vec(),
            frame(HEADERS, PADDED | PRIORITY | END_STREAM, &first),
            frame(CONTINUATION, END_HEADERS, tail),
        ]
        .concat();
        let frames = passed(&bytes, 5).unwrap();
        assert_eq!(frames.len(), 1);
        assert_eq!(
            (frames[0].0, frames[0].1),
            (HEADERS, END_HEADERS | END_STREAM)
        );
        assert_eq!(authority(&mut Decoder::new(), &frames[0].2), "localhost");
    }

    #[test]
    fn what_is_no_http2_ends_the_connection() {
        let long = frame(0x0, 0, &vec![0; FRAME_MAX + 1]);
        let open = frame(HEADERS, 0, &[]);
        let endless = frame(CONTINUATION, 0, &vec![0; FRAME_MAX]).repeat(5);
        for bytes in [
            long,
            [open.clone(), frame(0x0, 0, &[])].concat(),
            [open, endless].concat(),
            frame(HEADERS, END_HEADERS, &[0x80]),
            frame(HEADERS, PADDED | END_HEADERS, &[9]),
        ] {
            let bytes = [PREFACE_TEXT.to_vec(), bytes].concat();
            assert!(passed(&bytes, 4096).is_err());
        }
    }
}

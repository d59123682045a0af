//! The byte stream under HTTP, encrypted or not.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connected byte stream.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl Stream for TcpStream {}
impl Stream for TlsStream<TcpStream> {}

/// A byte stream of either kind.
pub(super) type Wire = Box<dyn Stream>;

/// Whether an idle stream is still open and has nothing to say: what a server sends unasked, and its end, make it
/// useless.
pub(super) fn is_quiet(wire: &mut Wire, cx: &mut Context<'_>) -> bool {
    let mut byte = [0u8; 1];
    let mut unasked = ReadBuf::new(&mut byte);
    matches!(Pin::new(wire).poll_read(cx, &mut unasked), Poll::Pending)
}

//! The byte stream under HTTP, encrypted or not.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connected byte stream.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Asks to be woken only when so many bytes have come, or none can follow; false if the stream cannot tell.
    fn wake_at(&self, bytes: u32) -> bool;
}

impl Stream for TcpStream {
    fn wake_at(&self, bytes: u32) -> bool {
        set_low_water_mark(self.as_fd(), bytes).is_ok()
    }
}

impl Stream for TlsStream<TcpStream> {
    fn wake_at(&self, _bytes: u32) -> bool {
        // How many bytes of the connection make so many bytes of content is not known.
        false
    }
}

/// A byte stream of either kind.
pub(super) type Wire = Box<dyn Stream>;

/// Whether an idle stream is still open and has nothing to say: what a server sends unasked, and its end, make it
/// useless.
pub(super) fn is_quiet(wire: &mut Wire, cx: &mut Context<'_>) -> bool {
    let mut byte = [0u8; 1];
    let mut unasked = ReadBuf::new(&mut byte);
    matches!(Pin::new(wire).poll_read(cx, &mut unasked), Poll::Pending)
}

/// `SO_RCVLOWAT` (socket(7)); polling heeds it for TCP since Linux 4.18, and tells at once if the bytes are there.
#[expect(unsafe_code, reason = "no safe binding of SO_RCVLOWAT exists")]
fn set_low_water_mark(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel reads one `c_int` at `value`.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default(),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

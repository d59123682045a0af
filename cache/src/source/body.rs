//! A body on its way: bytes in order, read into the reader's own memory, so that between the connection and the part
//! that is hashed and written there is one copy, the kernel's.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures::Stream;

use super::Error;

/// Exactly the bytes asked for, in order, or an error.
pub trait Read: Send {
    /// Puts what has come into the front of `into`, which is not empty, and says how many bytes that is; 0 is the end.
    /// After the end or an error it is not called again.
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<Result<usize, Error>>;
}

/// A body that any source yields.
pub type Body = Pin<Box<dyn Read>>;

/// Waits until something of the body has come, puts it into the front of `into`, which is not empty, and says how many
/// bytes that is; 0 is the end. Cancel safe.
pub async fn read(body: &mut Body, into: &mut [u8]) -> Result<usize, Error> {
    poll_fn(|cx| body.as_mut().poll_read(cx, into)).await
}

/// Reads a body to its end.
pub async fn read_to_end(mut body: Body) -> Result<Vec<u8>, Error> {
    let (mut all, mut chunk) = (Vec::new(), vec![0u8; 64 << 10]);
    loop {
        match read(&mut body, &mut chunk).await? {
            0 => return Ok(all),
            count => all.extend_from_slice(chunk.get(..count).unwrap_or_default()),
        }
    }
}

/// A body of frames that are in memory already.
pub fn frames(stream: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Body {
    Box::pin(Frames {
        stream: Box::pin(stream),
        frame: Bytes::new(),
    })
}

struct Frames<S> {
    stream: Pin<Box<S>>,
    frame: Bytes,
}

impl<S: Stream<Item = Result<Bytes, Error>> + Send> Read for Frames<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<Result<usize, Error>> {
        let this = self.get_mut();
        while this.frame.is_empty() {
            match ready!(this.stream.as_mut().poll_next(cx)) {
                Some(frame) => this.frame = frame?,
                None => return Poll::Ready(Ok(0)),
            }
        }
        Poll::Ready(Ok(take(&mut this.frame, into)))
    }
}

/// Moves the front of `frame` to the front of `into`.
pub(super) fn take(frame: &mut Bytes, into: &mut [u8]) -> usize {
    let length = frame.len().min(into.len());
    let (target, _) = into.split_at_mut(length);
    frame.copy_to_slice(target);
    length
}

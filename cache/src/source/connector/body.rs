//! The body of a response, read by whoever wants it. A body of known length is read from the stream itself, straight
//! into the reader's memory; any other framing is left to the HTTP library. The end of the body gives the stream
//! back, dropping the body earlier closes it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version, header, response};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::link::Link;
use super::mark::{Mark, PATIENCE};
use super::pool::Pool;
use super::wire::Wire;
use super::{Target, failure};
use crate::source::Error;
use crate::source::body::take;

/// What follows one response's head.
pub(in crate::source) struct ReplyBody {
    framing: Framing,
    target: Arc<Target>,
    pool: Arc<Pool>,
    wait: Duration,
    /// Runs only while the reader waits for the server.
    silence: Pin<Box<Sleep>>,
    is_waiting: bool,
}

enum Framing {
    /// Bytes of the stream, as many as the head said.
    Plain {
        /// `None` if the server has closed it: the body may still be there.
        wire: Option<Wire>,
        /// What came along with the head.
        ahead: Bytes,
        left: u64,
        keep: bool,
        mark: Mark,
    },
    /// Whatever the HTTP library makes of it.
    Frames {
        incoming: Incoming,
        frame: Bytes,
        link: Box<Link>,
    },
    /// It has ended or failed.
    Ended,
}

impl Framing {
    fn of(method: &Method, head: &response::Parts, incoming: Incoming, link: Link) -> Self {
        let Some(left) = plain_length(method, head) else {
            return Self::Frames {
                incoming,
                frame: Bytes::new(),
                link: Box::new(link),
            };
        };
        let decoded = decoded(incoming);
        let (wire, unread) = link.into_wire().unzip();
        let unread = unread.unwrap_or_default();
        let ahead = match (decoded.is_empty(), unread.is_empty()) {
            (true, _) => unread,
            (_, true) => decoded,
            (false, false) => [decoded, unread].concat().into(),
        };
        Self::Plain {
            wire,
            keep: keeps_alive(&head.headers) && ahead.len() as u64 <= left,
            ahead,
            left,
            mark: Mark::new(),
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        target: &Target,
        into: &mut [u8],
    ) -> Poll<Result<usize, Error>> {
        match self {
            Self::Plain {
                wire,
                ahead,
                left,
                mark,
                ..
            } => {
                let most = usize::try_from(*left).map_or(into.len(), |left| left.min(into.len()));
                let (into, _) = into.split_at_mut(most);
                let read = match wire {
                    Some(wire) if ahead.is_empty() => {
                        mark.fit(wire, *left);
                        let mut room = ReadBuf::new(into);
                        ready!(Pin::new(wire).poll_read(cx, &mut room))
                            .map_err(|error| failure::of_io(target, &error))?;
                        room.filled().len()
                    }
                    Some(_) | None => take(ahead, into),
                };
                if read == 0 {
                    return Poll::Ready(Err(failure::ended_early(target)));
                }
                *left = left.saturating_sub(read as u64);
                Poll::Ready(Ok(read))
            }
            Self::Frames {
                incoming,
                frame,
                link,
            } => {
                while frame.is_empty() {
                    match ready!(poll_frame(incoming, link, cx)) {
                        Some(next) => {
                            *frame = next.map_err(|error| failure::of_hyper(target, &error))?;
                        }
                        None => return Poll::Ready(Ok(0)),
                    }
                }
                Poll::Ready(Ok(take(frame, into)))
            }
            Self::Ended => Poll::Ready(Err(failure::ended_early(target))),
        }
    }

    /// The mark and its stream, if the reader is not woken for every byte.
    fn mark(&mut self) -> Option<(&mut Mark, &Wire)> {
        match self {
            Self::Plain {
                wire: Some(wire),
                mark,
                ..
            } if mark.is_high() => Some((mark, wire)),
            Self::Plain { .. } | Self::Frames { .. } | Self::Ended => None,
        }
    }
}

/// What the HTTP library has read of a body together with its head: it reads one frame ahead of being asked. An error
/// in it shows again on the stream.
fn decoded(mut incoming: Incoming) -> Bytes {
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(&mut incoming).poll_frame(&mut cx) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        Poll::Ready(Some(Err(_)) | None) | Poll::Pending => Bytes::new(),
    }
}

/// The length of a body that is nothing but its bytes; `None` where there is none or another framing.
fn plain_length(method: &Method, head: &response::Parts) -> Option<u64> {
    let is_plain = *method == Method::GET
        && matches!(head.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
        && head.version == Version::HTTP_11
        && !head.headers.contains_key(header::TRANSFER_ENCODING)
        && !head.headers.contains_key(header::UPGRADE);
    let length = head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    let length = length.parse().ok()?;
    (is_plain && length > 0).then_some(length)
}

fn keeps_alive(headers: &HeaderMap) -> bool {
    !headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("close"))
}

fn poll_frame(
    incoming: &mut Incoming,
    link: &mut Link,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, hyper::Error>>> {
    loop {
        let frame = match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                link.drive(cx);
                ready!(Pin::new(&mut *incoming).poll_frame(cx))
            }
        };
        match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
            Some(Ok(Ok(data))) => return Poll::Ready(Some(Ok(data))),
            Some(Ok(Err(_trailers))) => {}
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        }
    }
}

impl ReplyBody {
    /// The body that belongs to `head`, the answer to a request with `method`.
    pub(super) fn new(
        (method, head): (&Method, &response::Parts),
        incoming: Incoming,
        link: Link,
        (pool, wait): (Arc<Pool>, Duration),
    ) -> Self {
        Self {
            target: Arc::clone(&link.target),
            framing: Framing::of(method, head, incoming, link),
            pool,
            wait,
            silence: Box::pin(sleep(wait)),
            is_waiting: false,
        }
    }

    /// Host and port, for messages.
    pub(in crate::source) fn host(&self) -> String {
        self.target.to_string()
    }

    /// Puts what has come into the front of `into`, which is not empty; 0 is the end.
    pub(in crate::source) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<Result<usize, Error>> {
        if self.is_at_end() {
            self.give_back();
            return Poll::Ready(Ok(0));
        }
        match self.framing.poll_read(cx, &self.target, into) {
            Poll::Ready(Ok(read)) => {
                self.is_waiting = false;
                if read == 0 || self.is_at_end() {
                    self.give_back();
                }
                Poll::Ready(Ok(read))
            }
            Poll::Ready(Err(error)) => {
                self.framing = Framing::Ended;
                Poll::Ready(Err(error))
            }
            Poll::Pending => self.poll_silence(cx).map(|()| {
                self.framing = Framing::Ended;
                Err(failure::silent(&self.target, self.wait))
            }),
        }
    }

    /// Whether nothing can follow.
    fn is_at_end(&self) -> bool {
        match &self.framing {
            Framing::Plain { left, .. } => *left == 0,
            Framing::Frames { .. } => false,
            Framing::Ended => true,
        }
    }

    /// Lets the stream be used again, if it can be.
    fn give_back(&mut self) {
        let wire = match std::mem::replace(&mut self.framing, Framing::Ended) {
            Framing::Plain {
                wire,
                keep,
                mut mark,
                ..
            } => wire.filter(|_| keep).inspect(|wire| mark.lower(wire)),
            Framing::Frames { link, .. } => link
                .into_wire()
                .filter(|(_, unread)| unread.is_empty())
                .map(|(wire, _)| wire),
            Framing::Ended => None,
        };
        if let Some(wire) = wire {
            self.pool.give(Arc::clone(&self.target), wire);
        }
    }

    /// Ready when the server has sent nothing at all for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_waiting {
            self.is_waiting = true;
            let patience = self.framing.mark().map_or(self.wait, |_| PATIENCE);
            self.silence
                .as_mut()
                .reset(Instant::now() + self.wait.min(patience));
        }
        ready!(self.silence.as_mut().poll(cx));
        let Some((mark, wire)) = self.framing.mark() else {
            return Poll::Ready(());
        };
        // What has come may be less than what is worth waking up for.
        mark.lower(wire);
        let rest = self.wait.saturating_sub(PATIENCE).max(PATIENCE);
        self.silence.as_mut().reset(Instant::now() + rest);
        self.silence.as_mut().poll(cx)
    }
}

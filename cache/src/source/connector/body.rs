//! The body of a response: frames as they come off the connection, uncopied. Reading the body drives the
//! connection; the end of the body gives the connection back, dropping it earlier closes the connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::link::Link;
use super::pool::Pool;
use super::{Target, failure};
use crate::source::Error;

/// Frames of one response.
pub(in crate::source) struct ReplyBody {
    incoming: Incoming,
    /// `None` once the body has ended or failed.
    link: Option<Link>,
    target: Target,
    pool: Arc<Pool>,
    wait: Duration,
    /// Runs only while the reader waits for the server.
    silence: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl ReplyBody {
    pub(super) fn new(incoming: Incoming, link: Link, pool: Arc<Pool>, wait: Duration) -> Self {
        Self {
            incoming,
            target: link.target.clone(),
            link: Some(link),
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

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        loop {
            let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    if let Some(link) = &mut self.link {
                        link.drive(cx);
                    }
                    std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx))
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

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_waiting {
            self.is_waiting = true;
            self.silence.as_mut().reset(Instant::now() + self.wait);
        }
        self.silence.as_mut().poll(cx)
    }
}

impl Stream for ReplyBody {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.link.is_none() {
            return Poll::Ready(None);
        }
        match this.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                this.is_waiting = false;
                Poll::Ready(Some(Ok(data)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.link = None;
                Poll::Ready(Some(Err(failure::of_hyper(&this.target, &error))))
            }
            Poll::Ready(None) => {
                if let Some(link) = this.link.take() {
                    this.pool.give(link);
                }
                Poll::Ready(None)
            }
            Poll::Pending => match this.poll_silence(cx) {
                Poll::Ready(()) => {
                    this.link = None;
                    Poll::Ready(Some(Err(failure::silent(&this.target, this.wait))))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

//! Reads a response part by part: frames are copied straight into a buffer and hashed while hot.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::stream::StreamExt as _;

use crate::clock::Clock;
use crate::digest::PartHasher;
use crate::path::Escaped;
use crate::source::{self, Body};

/// Most bytes between copying and hashing.
const SLICE: usize = 256 << 10;

/// A body with what is left of its last frame.
pub(super) struct Reader {
    body: Body,
    frame: Bytes,
    key: String,
    stall_after: Duration,
    clock: Arc<dyn Clock>,
    /// Bytes received so far.
    pub(super) received: u64,
    /// Time spent waiting for frames.
    pub(super) receiving: Duration,
    /// Time spent hashing.
    pub(super) hashing: Duration,
}

impl Reader {
    /// Reads `body`, which belongs to the object `key`.
    pub(super) fn new(body: Body, key: &str, stall_after: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            body,
            frame: Bytes::new(),
            key: Escaped(key).to_string(),
            stall_after,
            clock,
            received: 0,
            receiving: Duration::ZERO,
            hashing: Duration::ZERO,
        }
    }

    /// Fills `part` completely and hashes it; `seen` is told of each frame's length.
    pub(super) async fn fill(
        &mut self,
        part: &mut [u8],
        hasher: &mut PartHasher,
        seen: &(dyn Fn(u64) + Sync),
    ) -> Result<(), source::Error> {
        let mut filled = 0usize;
        let mut done = 0usize;
        while filled < part.len() {
            if self.frame.is_empty() {
                self.next_frame(seen).await?;
            }
            let room = part.get_mut(filled..).unwrap_or_default();
            let length = room.len().min(self.frame.len()).min(SLICE);
            let (target, _) = room.split_at_mut(length);
            self.frame.copy_to_slice(target);
            filled = filled.saturating_add(length);
            if filled.saturating_sub(done) >= SLICE || filled == part.len() {
                self.hash(hasher, part.get(done..filled).unwrap_or_default());
                done = filled;
            }
        }
        Ok(())
    }

    /// Checks that nothing follows.
    pub(super) async fn finish(&mut self) -> Result<(), source::Error> {
        while self.frame.is_empty() {
            match self.poll_frame().await? {
                None => return Ok(()),
                Some(frame) => self.frame = frame,
            }
        }
        Err(source::Error::Protocol {
            key: self.key.clone(),
            what: "more bytes than were asked for".to_owned(),
        })
    }

    fn hash(&mut self, hasher: &mut PartHasher, mut bytes: &[u8]) {
        let start = self.clock.monotonic();
        while !bytes.is_empty() {
            let (slice, rest) = bytes.split_at(bytes.len().min(SLICE));
            hasher.update(slice);
            bytes = rest;
        }
        self.hashing = self
            .hashing
            .saturating_add(self.clock.monotonic().saturating_sub(start));
    }

    async fn next_frame(&mut self, seen: &(dyn Fn(u64) + Sync)) -> Result<(), source::Error> {
        let Some(frame) = self.poll_frame().await? else {
            return Err(source::Error::Unavailable {
                subject: self.key.clone(),
                what: "the answer ended early".to_owned(),
            });
        };
        let length = u64::try_from(frame.len()).unwrap_or(u64::MAX);
        self.received = self.received.saturating_add(length);
        seen(length);
        self.frame = frame;
        Ok(())
    }

    fn stalled(&self) -> source::Error {
        source::Error::Unavailable {
            subject: self.key.clone(),
            what: silence(self.stall_after),
        }
    }

    async fn poll_frame(&mut self) -> Result<Option<Bytes>, source::Error> {
        let start = self.clock.monotonic();
        // A timer is only set up where the frame is not there yet.
        let next = match futures::poll!(self.body.next()) {
            std::task::Poll::Ready(next) => next,
            std::task::Poll::Pending => tokio::time::timeout(self.stall_after, self.body.next())
                .await
                .unwrap_or_else(|_| Some(Err(self.stalled()))),
        };
        self.receiving = self
            .receiving
            .saturating_add(self.clock.monotonic().saturating_sub(start));
        next.transpose()
    }
}

/// The error of a request that brought nothing for too long.
pub(super) fn stalled(key: &str, after: Duration) -> source::Error {
    source::Error::Unavailable {
        subject: Escaped(key).to_string(),
        what: silence(after),
    }
}

fn silence(after: Duration) -> String {
    format!("no byte came for {} s", after.as_secs())
}

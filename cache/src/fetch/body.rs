//! Reads a response part by part, straight into a buffer, and hashes it while it is hot.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::digest::PartHasher;
use crate::path::Escaped;
use crate::source::{self, Body};

use super::context::Context;

/// Most bytes between receiving and hashing; what is hashed at once is a multiple of the smaller unit, so that the hash
/// works on whole subtrees.
const SLICE: usize = 256 << 10;
const UNIT: usize = 64 << 10;

/// A body that is being read.
pub(super) struct Reader {
    body: Body,
    context: Arc<Context>,
    entry: usize,
    /// Bytes received so far.
    pub(super) received: u64,
    /// Time spent waiting for bytes and receiving them.
    pub(super) receiving: Duration,
    /// Time spent hashing.
    pub(super) hashing: Duration,
}

impl Reader {
    /// Reads `body`, which belongs to the object of this entry.
    pub(super) fn new(body: Body, context: Arc<Context>, entry: usize) -> Self {
        Self {
            body,
            context,
            entry,
            received: 0,
            receiving: Duration::ZERO,
            hashing: Duration::ZERO,
        }
    }

    /// Fills `part` completely and hashes it; the context sees the bytes of each read.
    pub(super) async fn fill(
        &mut self,
        part: &mut [u8],
        hasher: &mut PartHasher,
    ) -> Result<(), source::Error> {
        let (mut filled, mut done) = (0usize, 0usize);
        while filled < part.len() {
            let room = part.get_mut(filled..).unwrap_or_default();
            let end = room.len().min(SLICE);
            let read = self.read(room.get_mut(..end).unwrap_or_default()).await?;
            if read == 0 {
                return Err(source::Error::Unavailable {
                    subject: Escaped(self.context.key_of(self.entry)).to_string(),
                    what: "the answer ended early".to_owned(),
                });
            }
            let bytes = u64::try_from(read).unwrap_or(u64::MAX);
            self.received = self.received.saturating_add(bytes);
            self.context.saw(bytes);
            filled = filled.saturating_add(read);
            let whole = if filled == part.len() {
                filled
            } else {
                filled / UNIT * UNIT
            };
            if whole > done {
                self.hash(hasher, part.get(done..whole).unwrap_or_default());
                done = whole;
            }
        }
        Ok(())
    }

    /// Checks that nothing follows.
    pub(super) async fn finish(&mut self) -> Result<(), source::Error> {
        match self.read(&mut [0u8; 1]).await? {
            0 => Ok(()),
            _ => Err(source::Error::Protocol {
                key: Escaped(self.context.key_of(self.entry)).to_string(),
                what: "more bytes than were asked for".to_owned(),
            }),
        }
    }

    fn hash(&mut self, hasher: &mut PartHasher, bytes: &[u8]) {
        let start = self.context.clock.monotonic();
        hasher.update(bytes);
        self.hashing = self
            .hashing
            .saturating_add(self.context.clock.monotonic().saturating_sub(start));
    }

    /// What has come, or waits for it; 0 is the end.
    async fn read(&mut self, into: &mut [u8]) -> Result<usize, source::Error> {
        let start = self.context.clock.monotonic();
        let mut read = pin!(source::read(&mut self.body, into));
        // A timer is only set up where nothing is there yet.
        let read = match futures::poll!(read.as_mut()) {
            Poll::Ready(read) => read,
            Poll::Pending => {
                let stall_after = self.context.settings.stall_after;
                tokio::time::timeout(stall_after, read)
                    .await
                    .unwrap_or_else(|_| Err(stalled(self.context.key_of(self.entry), stall_after)))
            }
        };
        self.receiving = self
            .receiving
            .saturating_add(self.context.clock.monotonic().saturating_sub(start));
        read
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

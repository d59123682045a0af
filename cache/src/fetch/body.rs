//! Reads a response part by part, straight into a buffer, and hashes it while it is hot.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::clock::Clock;
use crate::digest::PartHasher;
use crate::path::Escaped;
use crate::source::{self, Body};

/// Most bytes between receiving and hashing; what is hashed at once is a multiple of the smaller unit, so that the hash
/// works on whole subtrees.
const SLICE: usize = 256 << 10;
const UNIT: usize = 64 << 10;

/// A body that is being read.
pub(super) struct Reader {
    body: Body,
    key: String,
    stall_after: Duration,
    clock: Arc<dyn Clock>,
    /// Bytes received so far.
    pub(super) received: u64,
    /// Time spent waiting for bytes and receiving them.
    pub(super) receiving: Duration,
    /// Time spent hashing.
    pub(super) hashing: Duration,
}

impl Reader {
    /// Reads `body`, which belongs to the object `key`.
    pub(super) fn new(body: Body, key: &str, stall_after: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            body,
            key: Escaped(key).to_string(),
            stall_after,
            clock,
            received: 0,
            receiving: Duration::ZERO,
            hashing: Duration::ZERO,
        }
    }

    /// Fills `part` completely and hashes it; `seen` is told of the bytes of each read.
    pub(super) async fn fill(
        &mut self,
        part: &mut [u8],
        hasher: &mut PartHasher,
        seen: &(dyn Fn(u64) + Sync),
    ) -> Result<(), source::Error> {
        let (mut filled, mut done) = (0usize, 0usize);
        while filled < part.len() {
            let room = part.get_mut(filled..).unwrap_or_default();
            let end = room.len().min(SLICE);
            let read = self.read(room.get_mut(..end).unwrap_or_default()).await?;
            if read == 0 {
                return Err(source::Error::Unavailable {
                    subject: self.key.clone(),
                    what: "the answer ended early".to_owned(),
                });
            }
            let bytes = u64::try_from(read).unwrap_or(u64::MAX);
            self.received = self.received.saturating_add(bytes);
            seen(bytes);
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
                key: self.key.clone(),
                what: "more bytes than were asked for".to_owned(),
            }),
        }
    }

    fn hash(&mut self, hasher: &mut PartHasher, bytes: &[u8]) {
        let start = self.clock.monotonic();
        hasher.update(bytes);
        self.hashing = self
            .hashing
            .saturating_add(self.clock.monotonic().saturating_sub(start));
    }

    /// What has come, or waits for it; 0 is the end.
    async fn read(&mut self, into: &mut [u8]) -> Result<usize, source::Error> {
        let start = self.clock.monotonic();
        let mut read = pin!(source::read(&mut self.body, into));
        // A timer is only set up where nothing is there yet.
        let read = match futures::poll!(read.as_mut()) {
            Poll::Ready(read) => read,
            Poll::Pending => tokio::time::timeout(self.stall_after, read)
                .await
                .unwrap_or_else(|_| Err(stalled(&self.key, self.stall_after))),
        };
        self.receiving = self
            .receiving
            .saturating_add(self.clock.monotonic().saturating_sub(start));
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

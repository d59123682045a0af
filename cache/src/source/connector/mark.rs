//! When the reader of a body is woken: not for every segment, but for as much as is hashed at a time. A link that takes
//! long over so little is watched byte by byte again, so that a slow server is never taken for a silent one.

use std::time::Duration;

use super::wire::Wire;

/// Bytes that are worth waking up for.
const WORTH: u32 = 128 << 10;
/// Longest wait for so many.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

/// The low-water mark of one body's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    set: u32,
    worth: u32,
}

impl Mark {
    /// That of a stream as it is made and as it must be left.
    pub(super) const fn new() -> Self {
        Self {
            set: 1,
            worth: WORTH,
        }
    }

    /// Sets it for a body of which `left` bytes are to come.
    pub(super) fn fit(&mut self, wire: &Wire, left: u64) {
        let bytes = u32::try_from(left).map_or(self.worth, |left| left.clamp(1, self.worth));
        if bytes != self.set {
            if wire.wake_at(bytes) {
                self.set = bytes;
            } else {
                self.worth = 1;
                self.set = 1;
            }
        }
    }

    /// Whether fewer bytes than are worth it may lie unread.
    pub(super) const fn is_high(self) -> bool {
        self.set > 1
    }

    /// Wakes for any byte from now on.
    pub(super) fn lower(&mut self, wire: &Wire) {
        self.worth = 1;
        self.fit(wire, 1);
    }
}

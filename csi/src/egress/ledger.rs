//! The ledger of one account: what was spent of a budget and what nodes may still spend. Pure transitions; whoever acts on them
//! writes the new ledger first, with the version that it read as precondition, and tells nodes only what a ledger says that is
//! in the API server.
//!
//! ```text
//!   limit ├── settled, by the time at which it counts ──┼── rows, one per node ──┼── crowd ──┼── room ──┤
//! ```
//!
//! Invariants, for every sequence of turns (`docs/ledger.md` has the reasons, `csi/tests/egress_model.rs` checks them):
//!
//! * What is settled and what is held never exceed the limit; after the limit was lowered, they do not grow.
//! * A row ends by the node's final word, or by [`Expired`], and then its bytes count as spent in full.
//! * Bytes are booked when they are settled, which is no earlier than they were spent; time in a ledger never goes back.
//! * A turn that is taken twice changes nothing the second time.
//! * A window that is edited gives nothing back that may have been spent in the new one (`carry`).

use std::collections::BTreeMap;

use crate::egress::lease::Incarnation;
use crate::egress::terms::WindowKey;
use crate::egress::window::Window;

mod answer;
mod asks;
mod carry;
mod crowd;
pub mod objects;
mod sightings;
mod turn;

pub use answer::{Answer, Book, grants};
pub use asks::{Ask, Asks};
pub use crowd::Crowd;
pub use sightings::{Expired, Sightings};
pub use turn::{Effect, Ending, Turn, Turned};

/// Most keys under which bytes are settled; older ones are counted with the next.
pub const MOST_SETTLED: usize = 34;

/// What of a budget is gone, and to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// How many bytes the policy allowed when the ledger was last written.
    pub limit: u64,
    /// The latest time at which it was written, in seconds since 1970 (UTC): earlier ones are not believed any more.
    pub as_of: i64,
    /// The window whose keys `settled` has; nothing before anything was written, or where that cannot be read.
    pub window: Option<Window>,
    /// Bytes that count as spent.
    pub settled: BTreeMap<WindowKey, u64>,
    /// Grants, by node.
    pub rows: BTreeMap<String, Row>,
    /// Grants that lost their rows to others; oldest first.
    pub crowd: Vec<Crowd>,
}

/// A node's grant, or the memory of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// Who was granted.
    pub incarnation: Incarnation,
    /// Which demand was answered.
    pub seq: u64,
    /// Bytes that may still be spent: all that was granted until it is settled, then 0.
    pub held: u64,
    /// For how long it was granted.
    pub seconds: u32,
    /// When that ends by the wall clock. For people: nothing is decided by it.
    pub until: i64,
}

/// How much is granted at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rules {
    /// Most bytes of a grant where the budget is small; default 8 GiB.
    pub most: u64,
    /// Otherwise the limit divided by this; default 32.
    pub share: u64,
    /// Least bytes of a grant for which more was asked; default 64 MiB, which is more than one run of parts, so that a grant is
    /// never too small for what is waiting. A rest that is smaller is left to smaller demands.
    pub least: u64,
    /// Term of a grant; default 900.
    pub seconds: u32,
    /// Most rows; default 64. Where names of nodes have more than 28 characters there are fewer, which keeps the object's status
    /// below 16 KiB: see `crowd`.
    pub rows: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            most: 8 << 30,
            share: 32,
            least: 64 << 20,
            seconds: 900,
            rows: 64,
        }
    }
}

impl Rules {
    /// What is granted to who misses `wanted` bytes, while there is `room` below the limit.
    pub fn portion(&self, wanted: u64, limit: u64, room: u64) -> u64 {
        let share = limit.checked_div(self.share).unwrap_or(limit);
        let bytes = wanted.min(self.most.max(share)).min(room);
        if bytes < wanted.min(self.least) {
            0
        } else {
            bytes
        }
    }
}

impl Ledger {
    /// The ledger of an account that nothing was granted of yet.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// The time in this ledger when a clock shows `wall`: a clock that went back does not open an earlier window again.
    pub fn time(&self, wall: i64) -> i64 {
        self.as_of.max(wall)
    }

    /// Bytes that nodes may still spend.
    pub fn held(&self) -> u64 {
        let rows = self.rows.values().map(|row| row.held);
        let crowd = self.crowd.iter().map(|crowd| crowd.bytes);
        rows.chain(crowd).fold(0, u64::saturating_add)
    }

    /// Bytes that count as spent.
    pub fn settled(&self, window: &Window, now: i64) -> u64 {
        window.used(self.booked(window), now)
    }

    /// Both.
    pub fn used(&self, window: &Window, now: i64) -> u64 {
        self.settled(window, now).saturating_add(self.held())
    }

    /// Bytes that can be granted.
    pub fn room(&self, window: &Window, now: i64) -> u64 {
        self.limit.saturating_sub(self.used(window, now))
    }
}

#[cfg(test)]
mod tests;

//! Which grants have run out. **Clocks are not compared**: a grant is over when the one who acts has had it in sight for its
//! whole term by its own monotonic clock. It came into sight after the node had asked for it, and the node counts from before
//! that; so the node has stopped before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Ledger;
use crate::egress::lease::Incarnation;

/// A row, by node, incarnation and number.
type RowName = (String, Incarnation, u64);
/// A crowd, by name and bytes: it is a new one whenever it grows.
type CrowdName = (i64, u64);

/// Since when each grant of one ledger has been in sight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Sightings {
    rows: BTreeMap<RowName, Duration>,
    crowds: BTreeMap<CrowdName, Duration>,
}

/// Grants that are over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Expired {
    /// Rows.
    pub rows: BTreeSet<RowName>,
    /// Crowds.
    pub crowds: BTreeSet<CrowdName>,
}

impl Sightings {
    /// Looks at a ledger as it is in the API server, when this process' monotonic clock shows `now`.
    pub fn observe(&mut self, ledger: &Ledger, now: Duration) -> Expired {
        let rows = ledger.rows.iter().map(|(node, row)| {
            let name = (node.clone(), row.incarnation, row.seq);
            (name, row.seconds)
        });
        let crowds = ledger
            .crowd
            .iter()
            .map(|crowd| ((crowd.id, crowd.bytes), crowd.seconds));
        Expired {
            rows: watch(&mut self.rows, rows, now),
            crowds: watch(&mut self.crowds, crowds, now),
        }
    }
}

/// Forgets what is gone, begins with what is new, and names what is over.
fn watch<N: Ord + Clone>(
    seen: &mut BTreeMap<N, Duration>,
    present: impl Iterator<Item = (N, u32)>,
    now: Duration,
) -> BTreeSet<N> {
    let mut still = BTreeMap::new();
    let mut over = BTreeSet::new();
    for (name, seconds) in present {
        let since = seen.get(&name).copied().unwrap_or(now);
        if now.saturating_sub(since) >= Duration::from_secs(u64::from(seconds)) {
            over.insert(name.clone());
        }
        still.insert(name, since);
    }
    *seen = still;
    over
}

//! The objects in an API server, with resource versions, and who watches them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tonnage_csi::egress::lease::{Demand, Grant, Incarnation, Lease};
use tonnage_csi::egress::ledger::Ledger;
use tonnage_csi::egress::terms::Account;

use super::random::Random;

/// An object at a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Versioned<T> {
    pub(crate) version: u64,
    pub(crate) value: Arc<T>,
}

/// A change as a watcher reads it.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Ledger(Account, Versioned<Ledger>),
    Lease(Versioned<Lease>),
}

/// Events on their way to a watcher: late, and in their order.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    events: VecDeque<(u64, Event)>,
}

impl Watch {
    fn push(&mut self, at: u64, event: Event) {
        let at = self.events.back().map_or(at, |(last, _)| at.max(*last));
        self.events.push_back((at, event));
    }

    pub(crate) fn next(&mut self, now: u64) -> Option<Event> {
        let is_due = self.events.front().is_some_and(|(at, _)| *at <= now);
        is_due
            .then(|| self.events.pop_front())
            .flatten()
            .map(|(_, event)| event)
    }

    pub(crate) fn clear(&mut self) {
        self.events.clear();
    }
}

/// Writes that succeeded, and those that were refused for their version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Writes {
    pub(crate) demands: u64,
    pub(crate) grants: u64,
    pub(crate) ledgers: u64,
    pub(crate) refused: u64,
}

impl Writes {
    pub(crate) fn all(self) -> u64 {
        self.demands + self.grants + self.ledgers
    }
}

/// The API server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) ledgers: BTreeMap<Account, Versioned<Ledger>>,
    pub(crate) leases: Vec<Versioned<Lease>>,
    pub(crate) writes: Writes,
    pub(crate) controllers: Vec<Watch>,
    pub(crate) nodes: Vec<Watch>,
    /// Whether it answers.
    pub(crate) is_up: bool,
    version: u64,
}

impl Server {
    pub(crate) fn new(nodes: usize, controllers: usize) -> Self {
        let lease = |index| Versioned {
            version: 0,
            value: Arc::new(Lease {
                node: format!("ip-10-0-{}-{}.ec2.internal", index / 250, index % 250),
                incarnation: Incarnation(0),
                demands: Vec::new(),
                grants: Vec::new(),
            }),
        };
        Self {
            ledgers: BTreeMap::new(),
            leases: (0..nodes).map(lease).collect(),
            writes: Writes::default(),
            controllers: (0..controllers).map(|_| Watch::default()).collect(),
            nodes: (0..nodes).map(|_| Watch::default()).collect(),
            is_up: true,
            version: 0,
        }
    }

    /// Writes a ledger that was read at `version` (0: that did not exist); `None` if it is another one by now.
    pub(crate) fn write_ledger(
        &mut self,
        account: &Account,
        version: u64,
        ledger: Ledger,
        (now, random): (u64, &mut Random),
    ) -> Option<Versioned<Ledger>> {
        let current = self.ledgers.get(account).map_or(0, |it| it.version);
        if current != version {
            self.writes.refused += 1;
            return None;
        }
        self.version += 1;
        let written = Versioned {
            version: self.version,
            value: Arc::new(ledger),
        };
        self.ledgers.insert(account.clone(), written.clone());
        self.writes.ledgers += 1;
        for watch in &mut self.controllers {
            let event = Event::Ledger(account.clone(), written.clone());
            watch.push(now + random.below(3), event);
        }
        Some(written)
    }

    pub(crate) fn write_demands(
        &mut self,
        (node, version): (usize, u64),
        incarnation: Incarnation,
        demands: Vec<Demand>,
        at: (u64, &mut Random),
    ) -> Option<Versioned<Lease>> {
        let lease = Lease {
            incarnation,
            demands,
            ..Lease::clone(&self.leases[node].value)
        };
        let written = self.write_lease(node, version, lease, at)?;
        self.writes.demands += 1;
        Some(written)
    }

    pub(crate) fn write_grants(
        &mut self,
        (node, version): (usize, u64),
        grants: Vec<Grant>,
        at: (u64, &mut Random),
    ) -> Option<Versioned<Lease>> {
        let lease = Lease {
            grants,
            ..Lease::clone(&self.leases[node].value)
        };
        let written = self.write_lease(node, version, lease, at)?;
        self.writes.grants += 1;
        Some(written)
    }

    fn write_lease(
        &mut self,
        node: usize,
        version: u64,
        lease: Lease,
        (now, random): (u64, &mut Random),
    ) -> Option<Versioned<Lease>> {
        if self.leases[node].version != version {
            self.writes.refused += 1;
            return None;
        }
        self.version += 1;
        let written = Versioned {
            version: self.version,
            value: Arc::new(lease),
        };
        self.leases[node] = written.clone();
        let event = Event::Lease(written.clone());
        for watch in &mut self.controllers {
            watch.push(now + random.below(3), event.clone());
        }
        self.nodes[node].push(now + random.below(3), event);
        Some(written)
    }
}

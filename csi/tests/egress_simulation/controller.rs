//! One replica of the controller: reads late, acts once a second, may be a leader that does not know that it was replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tonnage_csi::egress::lease::Lease;
use tonnage_csi::egress::ledger::{
    Asks, Book, Effect, Ending, Ledger, Rules, Sightings, Turn, grants,
};
use tonnage_csi::egress::terms::Account;
use tonnage_csi::egress::window::Window;

use super::random::Random;
use super::server::{Event, Server, Versioned};

/// What the policy says of each account.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) limits: BTreeMap<Account, u64>,
    pub(crate) window: Window,
    pub(crate) rules: Rules,
}

#[derive(Debug)]
pub(crate) struct Controller {
    index: usize,
    ledgers: BTreeMap<Account, Versioned<Ledger>>,
    leases: Vec<Versioned<Lease>>,
    asks: Asks,
    sightings: BTreeMap<Account, Sightings>,
    /// Accounts and nodes that something is new about.
    accounts: BTreeSet<Account>,
    nodes: BTreeSet<usize>,
    /// Until when it acts.
    pub(crate) acts_until: u64,
    /// How far its wall clock is ahead, in seconds.
    pub(crate) ahead: i64,
    /// How often an answer to a write is lost, in a million.
    pub(crate) loses: u64,
}

/// A ledger that was written.
struct Written {
    before: Ledger,
    after: Ledger,
    effects: Vec<Effect>,
}

/// How often everything is looked at, whether something seems new or not: grants run out, windows pass, limits change.
const ROUND: u64 = 10;

/// What a controller did in a second.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) granted: u64,
    /// Bytes that were settled without a report.
    pub(crate) unreported: u64,
    /// Ledgers as they were before and after.
    pub(crate) turned: Vec<(Account, Ledger, Ledger)>,
}

impl Controller {
    /// A replica that starts and reads everything.
    pub(crate) fn start(index: usize, server: &mut Server) -> Self {
        server.controllers[index].clear();
        let mut asks = Asks::default();
        for lease in &server.leases {
            asks.update(&lease.value);
        }
        Self {
            index,
            ledgers: server.ledgers.clone(),
            leases: server.leases.clone(),
            accounts: asks.accounts().cloned().collect(),
            asks,
            sightings: BTreeMap::new(),
            nodes: (0..server.leases.len()).collect(),
            acts_until: 0,
            ahead: 0,
            loses: 0,
        }
    }

    pub(crate) fn read(&mut self, server: &mut Server, now: u64) {
        while let Some(event) = server.controllers[self.index].next(now) {
            match event {
                Event::Ledger(account, ledger) => {
                    let known = self.ledgers.get(&account).map_or(0, |it| it.version);
                    if ledger.version > known {
                        // Somebody else wrote it, or we have not heard that we did.
                        self.nodes.extend(0..self.leases.len());
                        self.accounts.insert(account.clone());
                        self.ledgers.insert(account, ledger);
                    }
                }
                Event::Lease(node, lease) => {
                    if lease.version > self.leases[node].version {
                        self.take(node, lease);
                    }
                }
            }
        }
    }

    fn take(&mut self, node: usize, lease: Versioned<Lease>) {
        self.accounts.extend(self.asks.update(&lease.value));
        self.leases[node] = lease;
        self.nodes.insert(node);
    }

    /// Ledgers first, then the nodes' objects.
    pub(crate) fn act(
        &mut self,
        server: &mut Server,
        policy: &Policy,
        (now, random): (u64, &mut Random),
    ) -> Done {
        let mut done = Done::default();
        if now >= self.acts_until || !server.is_up {
            return done;
        }
        if now.is_multiple_of(ROUND) {
            self.accounts.extend(self.asks.accounts().cloned());
            self.accounts.extend(self.ledgers.keys().cloned());
        }
        for account in std::mem::take(&mut self.accounts) {
            if let Some(turned) = self.turn(&account, server, policy, (now, &mut *random)) {
                self.note(&turned.effects, &mut done);
                done.turned.push((account, turned.before, turned.after));
            }
        }
        self.publish(server, policy, (now, random));
        done
    }

    fn turn(
        &mut self,
        account: &Account,
        server: &mut Server,
        policy: &Policy,
        (now, random): (u64, &mut Random),
    ) -> Option<Written> {
        let limit = policy.limits[account];
        let known = self.ledgers.get(account).cloned();
        let version = known.as_ref().map_or(0, |it| it.version);
        let before = known.map_or_else(|| Ledger::new(limit), |it| Ledger::clone(&it.value));
        let sightings = self.sightings.entry(account.clone()).or_default();
        let expired = sightings.observe(&before, Duration::from_secs(now));
        let turned = before.turn(&Turn {
            limit,
            window: &policy.window,
            wall: i64::try_from(now).unwrap() + self.ahead,
            asks: self.asks.of(account),
            expired: &expired,
            rules: &policy.rules,
        });
        let after = turned.ledger?;
        let at = (now, &mut *random);
        let written = server.write_ledger(account, version, after.clone(), at)?;
        if !random.hits(self.loses) {
            self.ledgers.insert(account.clone(), written);
        }
        Some(Written {
            before,
            after,
            effects: turned.effects,
        })
    }

    fn note(&mut self, effects: &[Effect], done: &mut Done) {
        for effect in effects {
            match effect {
                Effect::Granted { node, bytes, .. } => {
                    done.granted += bytes;
                    let is_it = |lease: &Versioned<Lease>| lease.value.node == *node;
                    self.nodes.extend(self.leases.iter().position(is_it));
                }
                Effect::Settled {
                    ending: Ending::Reported,
                    ..
                } => {}
                Effect::Settled { spent, .. } => done.unreported += spent,
            }
        }
    }

    fn publish(&mut self, server: &mut Server, policy: &Policy, (now, random): (u64, &mut Random)) {
        for node in std::mem::take(&mut self.nodes) {
            let ledgers = &self.ledgers;
            let find = |account: &Account| {
                ledgers.get(account).map(|ledger| Book {
                    ledger: &ledger.value,
                    window: &policy.window,
                    rules: &policy.rules,
                })
            };
            let Some(grants) = grants(&self.leases[node].value, find) else {
                continue;
            };
            let own = (node, self.leases[node].version);
            let at = (now, &mut *random);
            if let Some(written) = server.write_grants(own, grants, at)
                && !random.hits(self.loses)
            {
                self.take(node, written);
            }
        }
    }
}

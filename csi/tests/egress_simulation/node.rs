//! One node: loads that take bytes, a purse that charges them, requests that take a while and may be lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tonnage_csi::egress::lease::{Charge, Demand, Incarnation, Lease, Purse, Receipt};
use tonnage_csi::egress::terms::Account;

use super::random::Random;
use super::server::{Event, Server, Versioned};

/// What a run of a load takes.
pub(crate) const RUN: u64 = 256 << 20;

#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) id: u64,
    pub(crate) begins: u64,
    pub(crate) left: u64,
    pub(crate) accounts: BTreeSet<Account>,
    /// Whether it was told that bytes are missing.
    pub(crate) waits: bool,
}

#[derive(Debug)]
struct Request {
    arrives: u64,
    version: u64,
    incarnation: Incarnation,
    demands: Vec<Demand>,
    is_answered: bool,
}

#[derive(Debug)]
pub(crate) struct Node {
    index: usize,
    purse: Purse,
    known: Versioned<Lease>,
    request: Option<Request>,
    pub(crate) loads: Vec<Load>,
    refunds: Vec<(u64, Receipt, u64)>,
    /// While it is down: when it comes back.
    down_until: u64,
    /// Whether loads that wait should try again.
    wakes: bool,
}

/// How often things go wrong on a node, in a million per second, and per request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) crashes: u64,
    pub(crate) lost: u64,
    pub(crate) answers_lost: u64,
    /// Of all runs, how many end short.
    pub(crate) short: u64,
}

impl Node {
    pub(crate) fn new(index: usize, server: &Server, random: &mut Random) -> Self {
        Self {
            index,
            purse: Purse::new(Incarnation(random.next()), None, 0),
            known: server.leases[index].clone(),
            request: None,
            loads: Vec::new(),
            refunds: Vec::new(),
            down_until: 0,
            wakes: false,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.loads.is_empty()
    }

    /// Loses its loads and comes back no more.
    pub(crate) fn die(&mut self) {
        self.loads.clear();
        self.down_until = u64::MAX;
    }

    /// One second; the answer is what crossed the wire, by account.
    pub(crate) fn act(
        &mut self,
        server: &mut Server,
        faults: Faults,
        (now, random): (u64, &mut Random),
    ) -> Vec<(Account, u64)> {
        self.deliver(server, (now, &mut *random));
        if now < self.down_until {
            return Vec::new();
        }
        if self.down_until > 0 {
            self.begin_anew(server, (now, &mut *random));
        }
        if random.hits(faults.crashes) {
            self.down_until = now + 5 + random.below(30);
            return Vec::new();
        }
        let time = Duration::from_secs(now);
        while let Some(event) = server.nodes[self.index].next(now) {
            if let Event::Lease(lease) = event
                && lease.version > self.known.version
            {
                self.wakes |= self.purse.accept(&lease.value.grants, time);
                self.known = lease;
            }
        }
        self.give_back(now);
        let wire = self.load(faults, (now, &mut *random));
        if self.request.is_none()
            && let Some(demands) = self.purse.demands(time)
        {
            self.request = Some(Request {
                arrives: if random.hits(faults.lost) {
                    u64::MAX
                } else {
                    now + random.below(3)
                },
                version: self.known.version,
                incarnation: self.purse.incarnation(),
                demands,
                is_answered: !random.hits(faults.answers_lost),
            });
        }
        wire
    }

    /// The request under way arrives, whether the node still lives or not.
    fn deliver(&mut self, server: &mut Server, (now, random): (u64, &mut Random)) {
        let Some(request) = self.request.take_if(|request| request.arrives <= now) else {
            // Nobody waits for an answer for ever.
            self.request.take_if(|request| request.arrives == u64::MAX);
            return;
        };
        if !server.is_up {
            return;
        }
        let own = (self.index, request.version);
        let at = (now, random);
        let written = server.write_demands(own, request.incarnation, request.demands, at);
        let is_alive = self.purse.incarnation() == request.incarnation && now >= self.down_until;
        if let Some(written) = written
            && request.is_answered
            && is_alive
        {
            self.purse.written();
            self.known = written;
        }
    }

    fn begin_anew(&mut self, server: &mut Server, (now, random): (u64, &mut Random)) {
        server.nodes[self.index].clear();
        self.known = server.leases[self.index].clone();
        let lease = Arc::clone(&self.known.value);
        self.purse = Purse::new(Incarnation(random.next()), Some(&lease), now);
        self.refunds.clear();
        self.down_until = 0;
        self.wakes = true;
    }

    fn give_back(&mut self, now: u64) {
        let purse = &mut self.purse;
        self.refunds.retain(|(at, receipt, unused)| {
            let is_due = *at <= now;
            if is_due {
                purse.refund(receipt, *unused);
            }
            !is_due
        });
    }

    fn load(&mut self, faults: Faults, (now, random): (u64, &mut Random)) -> Vec<(Account, u64)> {
        let time = Duration::from_secs(now);
        let mut wire = Vec::new();
        let wakes = std::mem::take(&mut self.wakes);
        for load in &mut self.loads {
            if load.begins > now || (load.waits && !wakes) {
                continue;
            }
            load.waits = false;
            // Some gigabytes per second.
            for _ in 0..4 {
                let bytes = load.left.min(RUN);
                let charge = Charge {
                    accounts: &load.accounts,
                    bytes,
                    load: load.id,
                    foreseen: load.left,
                };
                let Ok(receipt) = self.purse.charge(&charge, time) else {
                    load.waits = true;
                    break;
                };
                let unused = if random.hits(faults.short) {
                    bytes / 2
                } else {
                    0
                };
                if unused > 0 {
                    self.refunds.push((now + random.below(90), receipt, unused));
                }
                load.left -= bytes - unused;
                let came = bytes - unused;
                wire.extend(load.accounts.iter().map(|it| (it.clone(), came)));
                if load.left == 0 {
                    break;
                }
            }
        }
        let purse = &mut self.purse;
        self.loads.retain(|load| {
            let is_over = load.left == 0;
            if is_over {
                purse.forget(load.id);
            }
            !is_over
        });
        wire
    }
}

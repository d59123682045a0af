//! Nodes, controllers, an API server, and what must hold after every second.

use std::collections::{BTreeMap, BTreeSet};

use tonnage_csi::crd::CalendarPeriod;
use tonnage_csi::egress::lease::Lease;
use tonnage_csi::egress::ledger::objects;
use tonnage_csi::egress::terms::{Account, Namespace, PolicyUid, WindowKey};
use tonnage_csi::egress::window::Window;

use super::controller::{Budget, Controller, Policies};
use super::node::{Faults, Load, Node};
use super::random::Random;
use super::server::Server;

pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const HOUR: u64 = 3_600;
pub(crate) const NODES: usize = 200;
pub(crate) const NAMESPACES: usize = 50;
/// How long it takes a replica to find out that the leader is gone: the Lease's duration and one retry.
pub(crate) const ELECTION: u64 = 15 + 2;
pub(crate) const HOURLY: Window = Window::Calendar {
    period: CalendarPeriod::Hourly,
    offset_seconds: 0,
};
/// A key of it is 180 s long, a twentieth of an hour: what is counted by its keys can be counted by the hour as well.
pub(crate) const ROLLING: Window = Window::Rolling { seconds: 96 * 60 };

pub(crate) struct Cluster {
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) server: Server,
    pub(crate) nodes: Vec<Node>,
    pub(crate) controllers: Vec<Controller>,
    pub(crate) faults: Faults,
    /// When something was granted.
    pub(crate) granted_at: Vec<u64>,
    /// Bytes that were settled without a report.
    pub(crate) unreported: u64,
    policies: Policies,
    /// What crossed the wire, by account and by the time of its ledger, which is a key of [`ROLLING`].
    wire: BTreeMap<Account, BTreeMap<WindowKey, u64>>,
    /// The highest limit that each account ever had.
    most: BTreeMap<Account, u64>,
    loads: u64,
    loses: u64,
    rows: usize,
    spec: usize,
    status: usize,
    ledger: usize,
}

pub(crate) fn shared() -> Account {
    Account {
        policy: PolicyUid("3f0c6d5e-7a55-4c11-9a5c-1f7d9b1f2a10".to_owned()),
        budget: "all".to_owned(),
        namespace: None,
    }
}

/// Of a policy for this namespace alone, so that each can have another limit.
pub(crate) fn own(namespace: usize) -> Account {
    Account {
        policy: PolicyUid(format!("3f0c6d5e-7a55-4c11-9a5c-{namespace:012}")),
        budget: "each".to_owned(),
        namespace: Some(Namespace(format!("team-{namespace}"))),
    }
}

impl Cluster {
    /// A cluster whose namespaces may load `limit` an hour each, and `limit_of_all` together; the first replica leads.
    pub(crate) fn new(seed: u64, limit: u64, limit_of_all: u64) -> Self {
        let mut random = Random(seed);
        let mut server = Server::new(NODES, 2);
        let hourly = |limit| Budget {
            limit,
            window: HOURLY,
            is_named: true,
        };
        let mut policies: Policies = (0..NAMESPACES).map(|it| (own(it), hourly(limit))).collect();
        policies.insert(shared(), hourly(limit_of_all));
        let most = policies
            .iter()
            .map(|(account, budget)| (account.clone(), budget.limit))
            .collect();
        let nodes = (0..NODES)
            .map(|index| Node::new(index, &server, &mut random))
            .collect();
        let controllers = (0..2)
            .map(|index| Controller::start(index, &mut server))
            .collect();
        let mut cluster = Self {
            now: 0,
            random,
            server,
            nodes,
            controllers,
            faults: Faults::default(),
            granted_at: Vec::new(),
            unreported: 0,
            most,
            policies,
            wire: BTreeMap::new(),
            loads: 0,
            loses: 0,
            rows: 0,
            spec: 0,
            status: 0,
            ledger: 0,
        };
        cluster.lead(0);
        cluster
    }

    pub(crate) fn load(&mut self, node: usize, namespace: usize, (begins, bytes): (u64, u64)) {
        self.loads += 1;
        self.nodes[node].loads.push(Load {
            id: self.loads,
            begins,
            left: bytes,
            accounts: BTreeSet::from([own(namespace), shared()]),
            waits: false,
        });
    }

    /// A replica starts, reads everything and acts. It does not stop another.
    pub(crate) fn lead(&mut self, index: usize) {
        let mut controller = Controller::start(index, &mut self.server);
        controller.acts_until = u64::MAX;
        controller.loses = self.loses;
        self.controllers[index] = controller;
    }

    pub(crate) fn lose_answers(&mut self, often: u64) {
        self.loses = often;
        for controller in &mut self.controllers {
            controller.loses = often;
        }
    }

    /// A budget, to be edited. Every controller reads it at once.
    pub(crate) fn budget(&mut self, account: &Account) -> &mut Budget {
        self.policies.get_mut(account).unwrap()
    }

    pub(crate) fn limit(&mut self, account: &Account, limit: u64) {
        self.budget(account).limit = limit;
        let most = self.most.entry(account.clone()).or_default();
        *most = limit.max(*most);
    }

    pub(crate) fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.second();
        }
    }

    pub(crate) fn run_until_done(&mut self, most: u64) {
        let end = self.now + most;
        while !self.nodes.iter().all(Node::is_done) {
            assert!(self.now < end, "loads are not done after {most} s");
            self.second();
        }
    }

    fn time(&self, account: &Account) -> i64 {
        let ledger = self.server.ledgers.get(account);
        ledger.map_or(0, |it| it.value.as_of)
    }

    /// What the ledger says is gone.
    pub(crate) fn used(&self, account: &Account) -> u64 {
        let window = self.policies[account].window;
        let ledger = self.server.ledgers.get(account);
        ledger.map_or(0, |it| it.value.used(&window, it.value.as_of))
    }

    fn second(&mut self) {
        self.now += 1;
        let mut touched = BTreeSet::new();
        for index in 0..self.nodes.len() {
            let at = (self.now, &mut self.random);
            let wire = self.nodes[index].act(&mut self.server, self.faults, at);
            for (account, bytes) in wire {
                let key = ROLLING.key(self.time(&account));
                let of_account = self.wire.entry(account.clone()).or_default();
                *of_account.entry(key).or_default() += bytes;
                touched.insert(account);
            }
        }
        for index in 0..self.controllers.len() {
            let at = (self.now, &mut self.random);
            let controller = &mut self.controllers[index];
            controller.read(&mut self.server, self.now);
            let done = controller.act(&mut self.server, &self.policies, at);
            if done.granted > 0 {
                self.granted_at.push(self.now);
            }
            self.unreported += done.unreported;
            for (account, before, after) in done.turned {
                let Budget {
                    window, is_named, ..
                } = self.policies[&account];
                let now = after.as_of;
                let most = after.limit.max(before.used(&window, now));
                assert!(
                    after.used(&window, now) <= most,
                    "{}: a turn gave away what is not there: {account:?}",
                    self.now
                );
                assert!(
                    is_named || after.held() <= before.held(),
                    "{}: a turn gave away of a budget that was taken out: {account:?}",
                    self.now
                );
                self.rows = self.rows.max(after.rows.len());
                touched.insert(account);
            }
        }
        for account in &touched {
            self.check(account);
        }
        if self
            .now
            .is_multiple_of(if self.now < 300 { 10 } else { 600 })
        {
            self.measure();
        }
    }

    /// How large the objects are that the API server keeps.
    fn measure(&mut self) {
        let length = |value: serde_json::Value| value.to_string().len();
        for lease in &self.server.leases {
            let Lease {
                incarnation,
                demands,
                grants,
                ..
            } = &*lease.value;
            let spec = serde_json::to_value(objects::spec(*incarnation, demands)).unwrap();
            let status = serde_json::to_value(objects::status(grants, |_| None)).unwrap();
            self.spec = self.spec.max(length(spec));
            self.status = self.status.max(length(status));
        }
        for (account, ledger) in &self.server.ledgers {
            let window = self.policies[account].window;
            let status = objects::write_ledger(&ledger.value, &window);
            let status = serde_json::to_value(status).unwrap();
            self.ledger = self.ledger.max(length(status));
        }
        for largest in [self.spec, self.status, self.ledger] {
            assert!(largest < 16 << 10, "{}", self.sizes());
        }
    }

    /// What crossed the wire is on the ledger, and within the limit.
    fn check(&self, account: &Account) {
        let now = self.time(account);
        let wire = self.wire.get(account).into_iter().flatten();
        let window = self.policies[account].window;
        let wire = wire.map(|(key, bytes)| (window.key(key.start_unix), *bytes));
        let wire = window.used(wire, now);
        let used = self.used(account);
        let most = self.most[account];
        assert!(
            wire <= used,
            "{}: {wire} bytes crossed the wire, {used} are on the ledger: {account:?}",
            self.now
        );
        assert!(
            wire <= most,
            "{}: {wire} bytes crossed the wire, {most} are allowed: {account:?}",
            self.now
        );
    }

    /// The largest objects so far, in words.
    pub(crate) fn sizes(&self) -> String {
        format!(
            "at most {} rows; largest ledger {} bytes, lease {} + {} bytes",
            self.rows, self.ledger, self.spec, self.status
        )
    }
}

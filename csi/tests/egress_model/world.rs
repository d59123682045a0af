//! The world of the model: objects in an API server, nodes and controllers that read them late, lose messages, crash and have
//! wrong clocks. What they decide is decided by the production code; this file only carries values to and fro.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tonnage_csi::egress::lease::{Charge, Demand, Incarnation, Lease};
use tonnage_csi::egress::ledger::{Asks, Book, Expired, Ledger, Sightings, Turn, Turned, grants};
use tonnage_csi::egress::terms::{Account, PolicyUid};
use tonnage_csi::egress::window::Window;

use super::node::Node;
use super::part::Part;
use super::setting::{Flaw, Setting, TICK};

/// Everything that there is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// Ticks since the beginning, on every clock that is right.
    pub(crate) clock: u8,
    pub(crate) ledgers: Vec<Part<Ledger>>,
    pub(crate) leases: Vec<Part<Lease>>,
    /// Which of the setting's limits holds.
    pub(crate) limit: usize,
    /// Whether the policy names the setting's other window.
    pub(crate) is_edited: bool,
    pub(crate) controllers: Vec<Part<Controller>>,
    pub(crate) nodes: Vec<Part<Node>>,
    /// What was charged, by account and by the time that the world says it was.
    pub(crate) charged: Vec<Part<BTreeMap<i64, u64>>>,
    pub(crate) used: Used,
    /// What should never have happened, and did.
    pub(crate) wrong: Option<&'static str>,
}

/// A replica of the controller; both act, because a leader may not know that it was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Controller {
    pub(crate) ledgers: Vec<Part<Ledger>>,
    pub(crate) leases: Vec<Part<Lease>>,
    pub(crate) limit: usize,
    pub(crate) is_edited: bool,
    pub(crate) sightings: Vec<Sightings>,
    /// How far its wall clock is ahead, in ticks.
    pub(crate) ahead: i64,
}

/// How much of what is bounded was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Used {
    pub(crate) demands: u8,
    pub(crate) timeouts: u8,
    pub(crate) restarts: u8,
    pub(crate) handovers: u8,
    pub(crate) jumps: u8,
}

pub(crate) fn account(index: usize) -> Account {
    Account {
        policy: PolicyUid("p".to_owned()),
        budget: format!("b{index}"),
        namespace: None,
    }
}

/// Whether what happened at `then` is in the window that `now` is in.
fn is_in_window(window: &Window, then: i64, now: i64) -> bool {
    match window {
        Window::Rolling { seconds } => then > now - seconds,
        Window::Calendar { .. } => window.key(then) == window.key(now),
    }
}

impl World {
    pub(crate) fn new(setting: &Setting) -> Self {
        let ledger = Part::new(Ledger::new(setting.limits[0]));
        let ledgers = vec![ledger; setting.accounts];
        let lease = |index| Lease {
            node: format!("n{index}"),
            incarnation: Incarnation(0),
            demands: Vec::new(),
            grants: Vec::new(),
        };
        let leases: Vec<_> = (0..setting.nodes).map(lease).map(Part::new).collect();
        let controller = Part::new(Controller {
            ledgers: ledgers.clone(),
            leases: leases.clone(),
            limit: 0,
            is_edited: false,
            sightings: vec![Sightings::default(); setting.accounts],
            ahead: 0,
        });
        let nodes = (0..setting.nodes).map(|index| Part::new(Node::new(index, setting)));
        Self {
            clock: 0,
            ledgers,
            leases,
            limit: 0,
            is_edited: false,
            controllers: vec![controller; setting.controllers],
            nodes: nodes.collect(),
            charged: vec![Part::new(BTreeMap::new()); setting.accounts],
            used: Used::default(),
            wrong: None,
        }
    }

    pub(crate) fn monotonic(&self) -> Duration {
        Duration::from_secs(u64::from(self.clock) * TICK.unsigned_abs())
    }

    /// What time it is for an account. Where clocks are right, it is the time; where they jump, there is no other time than the
    /// latest that its ledger knows.
    pub(crate) fn time(&self, account: usize, setting: &Setting) -> i64 {
        if setting.jumps > 0 {
            self.ledgers[account].as_of
        } else {
            i64::from(self.clock) * TICK
        }
    }

    /// The window that an account's bytes are counted in: that of the last entry.
    pub(crate) fn window(&self, account: usize, setting: &Setting) -> Window {
        self.ledgers[account].window.unwrap_or(setting.window)
    }

    /// What was charged in the window that is open.
    pub(crate) fn charged_in_window(&self, account: usize, setting: &Setting) -> u64 {
        let now = self.time(account, setting);
        let window = self.window(account, setting);
        self.charged[account]
            .iter()
            .filter(|(then, _)| is_in_window(&window, **then, now))
            .map(|(_, bytes)| bytes)
            .sum()
    }

    /// A load on a node takes a byte, if it may.
    pub(crate) fn charge(&mut self, node: usize, setting: &Setting) {
        let now = self.monotonic();
        let accounts: BTreeSet<Account> = (0..setting.accounts).map(account).collect();
        let charge = Charge {
            accounts: &accounts,
            bytes: 1,
            load: 1,
            foreseen: setting.foreseen,
        };
        let answer = self.nodes[node].change(|own| own.purse.charge(&charge, now));
        if answer.is_err() {
            return;
        }
        for account in 0..setting.accounts {
            let time = self.time(account, setting);
            self.charged[account].change(|charged| *charged.entry(time).or_default() += 1);
            self.forget(account, setting);
        }
    }

    /// What is not in the window that is open is of no interest any more.
    fn forget(&mut self, account: usize, setting: &Setting) {
        let time = self.time(account, setting);
        let window = self.window(account, setting);
        self.charged[account]
            .change(|charged| charged.retain(|then, _| is_in_window(&window, *then, time)));
    }

    /// The write under way arrives, and its sender hears of it.
    pub(crate) fn land(&mut self, node: usize) {
        let (incarnation, demands) = self.nodes[node].change(|own| {
            own.purse.written();
            (own.purse.incarnation(), own.flight.take().unwrap())
        });
        self.write_demands(node, incarnation, demands);
    }

    /// A write of earlier arrives in spite of all.
    pub(crate) fn land_stray(&mut self, node: usize) {
        let (incarnation, demands) = self.nodes[node].change(|own| own.stray.take().unwrap());
        self.write_demands(node, incarnation, demands);
    }

    fn write_demands(&mut self, node: usize, incarnation: Incarnation, demands: Vec<Demand>) {
        self.leases[node].change(|lease| {
            lease.incarnation = incarnation;
            lease.demands = demands;
        });
    }

    pub(crate) fn accept(&mut self, node: usize, is_earlier: bool, setting: &Setting) {
        let grants = if is_earlier {
            self.nodes[node].earlier.clone()
        } else {
            self.leases[node].grants.clone()
        };
        let now = (self.monotonic(), self.clock);
        let is_taken_twice = self.nodes[node].change(|own| own.accept(grants, now, setting));
        if is_taken_twice {
            self.wrong = Some("the same answer was taken twice");
        }
    }

    pub(crate) fn restart(&mut self, node: usize, setting: &Setting) {
        self.used.restarts += 1;
        let lease = self.leases[node].clone();
        self.nodes[node].change(|own| own.begin_anew(node, &lease, setting));
    }

    pub(crate) fn see_ledger(&mut self, controller: usize, account: usize) {
        let now = self.monotonic();
        let (limit, is_edited) = (self.limit, self.is_edited);
        let current = self.ledgers[account].clone();
        self.controllers[controller].change(|own| {
            own.sightings[account].observe(&current, now);
            own.ledgers[account] = current;
            own.limit = limit;
            own.is_edited = is_edited;
        });
    }

    pub(crate) fn see_lease(&mut self, controller: usize, node: usize) {
        let current = self.leases[node].clone();
        self.controllers[controller].change(|own| own.leases[node] = current);
    }

    /// What a controller would make of a ledger, by what it has seen.
    pub(crate) fn turned(&self, controller: usize, index: usize, setting: &Setting) -> Turned {
        let own = &self.controllers[controller];
        let window = setting.window(own.is_edited);
        let mut ledger = own.ledgers[index].clone();
        if setting.flaw == Some(Flaw::KeepsKeysAtAnEdit) {
            ledger.change(|ledger| ledger.window = ledger.window.map(|_| *window));
        }
        let wall = (i64::from(self.clock) + own.ahead) * TICK;
        let expired = if setting.flaw == Some(Flaw::GoesByTheWallClock) {
            by_wall_clock(&ledger, wall)
        } else {
            let mut sightings = own.sightings[index].clone();
            sightings.observe(&ledger, self.monotonic())
        };
        let mut asks = Asks::default();
        for lease in &own.leases {
            asks.update(lease);
        }
        let mut turned = ledger.turn(&Turn {
            limit: setting.limits[own.limit],
            window,
            wall,
            asks: asks.of(&account(index)),
            expired: &expired,
            rules: &setting.ledger,
        });
        if turned.ledger.is_none() && ledger != own.ledgers[index] {
            turned.ledger = Some(Ledger::clone(&ledger));
        }
        turned
    }

    /// Takes a turn and writes it, if there is something to write and the write is not refused.
    pub(crate) fn turn(&mut self, controller: usize, index: usize, setting: &Setting) {
        let before = self.ledgers[index].clone();
        let is_stale = self.controllers[controller].ledgers[index] != before;
        if is_stale && setting.flaw != Some(Flaw::WritesWithoutVersion) {
            return;
        }
        let Some(next) = self.turned(controller, index, setting).ledger else {
            return;
        };
        let now = next.as_of;
        let own = self.controllers[controller].clone();
        let window = setting.window(own.is_edited);
        let most = before.used(window, now).max(next.limit);
        if next.used(window, now) > most {
            self.wrong = Some("a turn gave away what is not there");
        }
        if next.window != before.window {
            // What the window before had let go cannot be in the new one.
            self.forget(index, setting);
        }
        self.ledgers[index] = Part::new(next);
        self.see_ledger(controller, index);
        self.controllers[controller].change(|known| {
            known.limit = own.limit;
            known.is_edited = own.is_edited;
        });
        let again = self.turned(controller, index, setting).ledger;
        if again.is_some() && setting.flaw.is_none() {
            self.wrong = Some("a turn that was taken twice changed something");
        }
    }

    /// Writes what the ledgers say into a node's object.
    pub(crate) fn publish(&mut self, controller: usize, node: usize, setting: &Setting) {
        let own = self.controllers[controller].clone();
        let mut ledgers: BTreeMap<Account, Part<Ledger>> = (0..setting.accounts)
            .map(|index| (account(index), own.ledgers[index].clone()))
            .collect();
        if setting.flaw == Some(Flaw::AnswersBeforeItWrites) {
            for index in 0..setting.accounts {
                if let Some(next) = self.turned(controller, index, setting).ledger {
                    ledgers.insert(account(index), Part::new(next));
                }
            }
        }
        let find = |account: &Account| {
            ledgers.get(account).map(|ledger| Book {
                ledger,
                window: setting.window(own.is_edited),
                rules: &setting.ledger,
            })
        };
        let Some(grants) = grants(&own.leases[node], find) else {
            return;
        };
        let earlier =
            self.leases[node].change(|lease| std::mem::replace(&mut lease.grants, grants));
        if setting.rereads {
            self.nodes[node].change(|own| own.earlier = earlier);
        }
        self.see_lease(controller, node);
    }

    pub(crate) fn hand_over(&mut self, controller: usize) {
        self.used.handovers += 1;
        self.controllers[controller].change(|own| own.sightings.fill(Sightings::default()));
        for account in 0..self.ledgers.len() {
            self.see_ledger(controller, account);
        }
        for node in 0..self.nodes.len() {
            self.see_lease(controller, node);
        }
    }
}

fn by_wall_clock(ledger: &Ledger, wall: i64) -> Expired {
    let rows = ledger.rows.iter().filter(|(_, row)| row.until <= wall);
    Expired {
        rows: rows
            .map(|(node, row)| (node.clone(), row.incarnation, row.seq))
            .collect(),
        ..Expired::default()
    }
}

//! What can happen next, and what must hold whatever happened.

use stateright::{Model, Property};

use super::node::Node;
use super::part::Part;
use super::setting::{Flaw, Setting};
use super::world::{Controller, World};

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A node's load asks the purse for a byte.
    Charge(usize),
    /// A node sends its demands.
    Ask(usize),
    /// They arrive.
    Land(usize),
    /// They are late, or lost.
    TimeOut(usize),
    /// They arrive late.
    LandStray(usize),
    /// A node reads its object.
    Accept(usize),
    /// A node reads its object as it was.
    AcceptEarlier(usize),
    /// A node's service begins anew.
    Restart(usize),
    /// A controller reads a ledger.
    SeeLedger(usize, usize),
    /// A controller reads a node's object.
    SeeLease(usize, usize),
    /// A controller writes a ledger, by what it has read.
    Turn(usize, usize),
    /// A controller writes a node's object, by what it has read.
    Publish(usize, usize),
    /// A controller begins anew.
    HandOver(usize),
    /// A controller's wall clock jumps by a window.
    Jump(usize, i64),
    /// The policy changes.
    Limit,
    /// The policy names another window.
    Edit,
    /// Time passes.
    Tick,
}

impl Model for Setting {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let used = &world.used;
        for (node, own) in world.nodes.iter().enumerate() {
            steps.push(Step::Charge(node));
            if own.flight.is_some() {
                steps.push(Step::Land(node));
            } else if used.demands < self.demands {
                steps.push(Step::Ask(node));
            }
            if own.flight.is_some() && own.stray.is_none() && used.timeouts < self.timeouts {
                steps.push(Step::TimeOut(node));
            }
            if own.stray.is_some() {
                steps.push(Step::LandStray(node));
            }
            steps.push(Step::Accept(node));
            if self.rereads {
                steps.push(Step::AcceptEarlier(node));
            }
            if used.restarts < self.restarts {
                steps.push(Step::Restart(node));
            }
        }
        for controller in 0..self.controllers {
            let own = &world.controllers[controller];
            for account in 0..self.accounts {
                if own.ledgers[account] != world.ledgers[account]
                    || own.limit != world.limit
                    || own.is_edited != world.is_edited
                {
                    steps.push(Step::SeeLedger(controller, account));
                }
                steps.push(Step::Turn(controller, account));
            }
            for node in 0..self.nodes {
                if own.leases[node] != world.leases[node] {
                    steps.push(Step::SeeLease(controller, node));
                }
                steps.push(Step::Publish(controller, node));
            }
            if used.handovers < self.handovers {
                steps.push(Step::HandOver(controller));
            }
            if used.jumps < self.jumps {
                steps.push(Step::Jump(controller, 4));
                steps.push(Step::Jump(controller, -4));
            }
        }
        if world.limit + 1 < self.limits.len() {
            steps.push(Step::Limit);
        }
        if self.edited.is_some() && !world.is_edited {
            steps.push(Step::Edit);
        }
        if world.clock < self.ticks {
            steps.push(Step::Tick);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Charge(node) => next.charge(node, self),
            Step::Ask(node) => {
                let now = (world.monotonic(), world.clock);
                next.nodes[node].change(|own| own.ask(now, self));
                next.used.demands += u8::from(next.nodes[node].flight.is_some());
            }
            Step::Land(node) => next.land(node),
            Step::TimeOut(node) => {
                next.nodes[node].change(Node::time_out);
                next.used.timeouts += 1;
            }
            Step::LandStray(node) => next.land_stray(node),
            Step::Accept(node) => next.accept(node, false, self),
            Step::AcceptEarlier(node) => next.accept(node, true, self),
            Step::Restart(node) => next.restart(node, self),
            Step::SeeLedger(controller, account) => next.see_ledger(controller, account),
            Step::SeeLease(controller, node) => next.see_lease(controller, node),
            Step::Turn(controller, account) => next.turn(controller, account, self),
            Step::Publish(controller, node) => next.publish(controller, node, self),
            Step::HandOver(controller) => next.hand_over(controller),
            Step::Jump(controller, ticks) => {
                next.controllers[controller].change(|own| own.ahead += ticks);
                next.used.jumps += 1;
            }
            Step::Limit => next.limit += 1,
            Step::Edit => next.is_edited = true,
            Step::Tick => next.clock += 1,
        }
        if next == *world {
            return None;
        }
        // Two controllers differ by nothing but what they know.
        next.controllers.sort_by_key(Part::fingerprint);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ABOVE, |setting: &Self, world: &World| {
                let most = setting.limits.iter().copied().max().unwrap();
                accounts(setting).all(|account| world.charged_in_window(account, setting) <= most)
            }),
            Property::always(UNBOOKED, |setting: &Self, world: &World| {
                accounts(setting).all(|account| {
                    let now = world.time(account, setting);
                    let ledger = &world.ledgers[account];
                    let window = world.window(account, setting);
                    world.charged_in_window(account, setting) <= ledger.used(&window, now)
                })
            }),
            Property::always(WRONG, |_, world: &World| world.wrong.is_none()),
            Property::sometimes(
                "a budget is spent to its last byte",
                |setting: &Self, world: &World| {
                    let least = setting.limits.iter().copied().min().unwrap();
                    accounts(setting)
                        .all(|account| world.charged_in_window(account, setting) >= least)
                },
            ),
        ];
        if self.restarts > 0 {
            properties.push(Property::sometimes(
                "a service that began anew spends again",
                |setting: &Self, world: &World| {
                    let now = world.monotonic();
                    let account = super::world::account(setting.accounts - 1);
                    let mut nodes = world.nodes.iter();
                    nodes.any(|node| node.starts > 1 && node.purse.left(&account, now) > 0)
                },
            ));
        }
        if self.ticks > 1 && self.flaw.is_none() {
            properties.push(Property::sometimes(
                "what was never reported is settled in full",
                |setting: &Self, world: &World| {
                    let now = world.time(0, setting);
                    let ledger = &world.ledgers[0];
                    let settled = ledger.settled(&world.window(0, setting), now);
                    settled > 0 && settled > world.charged_in_window(0, setting)
                },
            ));
        }
        if self.edited.is_some() && self.flaw.is_none() {
            properties.push(Property::sometimes(
                "what was spent before an edit counts after it",
                |setting: &Self, world: &World| {
                    let window = world.window(0, setting);
                    let ledger = &world.ledgers[0];
                    let now = world.time(0, setting);
                    Some(window) == setting.edited && ledger.settled(&window, now) > 0
                },
            ));
        }
        if self.controllers > 1 && self.flaw.is_none() {
            properties.push(Property::sometimes(
                "a stale write is refused",
                |setting: &Self, world: &World| {
                    let is_stale =
                        |controller: &Controller| controller.ledgers[0] != world.ledgers[0];
                    world
                        .controllers
                        .iter()
                        .enumerate()
                        .any(|(index, controller)| {
                            is_stale(controller) && world.turned(index, 0, setting).ledger.is_some()
                        })
                },
            ));
        }
        properties
    }
}

/// More was charged than the policy allows.
pub(crate) const ABOVE: &str = "no window ever has more than the limit";
/// Something was charged that the ledger does not know.
pub(crate) const UNBOOKED: &str = "what was charged is settled or held";
/// A single step was wrong.
pub(crate) const WRONG: &str = "no turn gives away what is not there, and twice is once";

fn accounts(setting: &Setting) -> std::ops::Range<usize> {
    0..setting.accounts
}

impl Flaw {
    pub(crate) const ALL: [Self; 7] = [
        Self::CountsFromTheAnswer,
        Self::AnswersBeforeItWrites,
        Self::WritesWithoutVersion,
        Self::RemembersItsLease,
        Self::ReportsAndGoesOn,
        Self::GoesByTheWallClock,
        Self::KeepsKeysAtAnEdit,
    ];
}

//! What governs a node of a cluster: the rules of egress, the budgets, the gate that asks both, and quotas. Nothing of it is waited for:
//! until the rules are read, a new publish is told so.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::Clock;

use super::{NodeSettings, Servers};
use crate::egress::lease::Incarnation;
use crate::govern::audit::Audit;
use crate::govern::cost::Cost;
use crate::govern::denials::Denials;
use crate::govern::gate::{self, EgressGate};
use crate::govern::lease;
use crate::govern::quotas::{self, Quotas};
use crate::govern::rules::{self, Rulebook};
use crate::govern::spend::{Scribe, Spender};
use crate::sources::Locations;

/// The parts that govern.
pub(super) struct Governance {
    pub(super) gate: EgressGate,
    pub(super) rulebook: Rulebook,
    pub(super) node: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) quotas: Arc<Quotas>,
    spender: Arc<Spender>,
    denials: Arc<Denials>,
}

/// What is there already.
pub(super) struct Around<'a> {
    pub(super) settings: &'a NodeSettings,
    pub(super) locations: &'a Locations,
    pub(super) cost: Arc<Cost>,
    pub(super) clock: &'a Arc<dyn Clock>,
}

impl Governance {
    /// The parts of a service that starts: it has no rules yet and nothing to spend.
    pub(super) fn new(around: Around<'_>) -> Self {
        let Around {
            settings,
            locations,
            cost,
            clock,
        } = around;
        let node = settings.node_id.clone();
        let rulebook = Rulebook::new(settings.default_egress, Arc::clone(clock));
        let spender = Spender::new(incarnation(), Arc::clone(clock));
        let audit = Audit::to_log();
        spender.record_by(Scribe {
            audit: audit.clone(),
            rulebook: rulebook.clone(),
            node: node.clone(),
        });
        let denials = Arc::<Denials>::default();
        let gate = EgressGate::new(gate::Parts {
            rulebook: rulebook.clone(),
            spender: Arc::clone(&spender),
            locations: locations.clone(),
            denials: Arc::clone(&denials),
            audit,
            cost,
            clock: Arc::clone(clock),
            node: node.clone(),
        });
        Self {
            gate,
            rulebook,
            node,
            clock: Arc::clone(clock),
            quotas: Quotas::awaited(&settings.node_id),
            spender,
            denials,
        }
    }

    /// Starts to follow the rules and quotas, which ends with the servers, and the node's lease, which ends after the loads.
    pub(super) fn spawn(
        &self,
        client: &kube::Client,
        (servers, serving): (&mut Servers, &CancellationToken),
        (lessees, leasing): (&mut Servers, &CancellationToken),
    ) {
        let clock = Arc::clone(&self.clock);
        let rulebook = self.rulebook.clone();
        servers.spawn(rules::run(client.clone(), rulebook, clock, serving.clone()));
        let parts = quotas::Parts {
            client: client.clone(),
            quotas: Arc::clone(&self.quotas),
        };
        servers.spawn(quotas::run(parts, serving.clone()));
        let parts = lease::Parts {
            client: client.clone(),
            node: self.node.clone(),
            spender: Arc::clone(&self.spender),
            denials: Arc::clone(&self.denials),
            clock: Arc::clone(&self.clock),
        };
        lessees.spawn(lease::run(parts, leasing.clone()));
    }
}

/// A number that no other start of the service has: the standard library's hashers begin with random numbers of the system.
fn incarnation() -> Incarnation {
    Incarnation(RandomState::new().hash_one(std::process::id()).max(1))
}

//! One replica of the controller: reads late, acts once a second, may be a leader that does not know that it was replaced. What it
//! does is the production code's `World`; here is the API server's side of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tonnage_csi::crd::EgressBudgetSpec;
use tonnage_csi::egress::compiled::Compiled;
use tonnage_csi::egress::lease::Lease;
use tonnage_csi::egress::ledger::{Effect, Ending, Ledger, Rules};
use tonnage_csi::egress::terms::Account;
use tonnage_csi::egress::window::Window;
use tonnage_csi::govern::ledgers::{
    BudgetObject, Change, Creation, LeaseObject, LedgerWrite, Moment, PolicyObject, World,
};

use super::random::Random;
use super::server::{Event, Server, Versioned};

/// A budget as its policy says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) limit: u64,
    pub(crate) window: Window,
    /// Whether the policy has it, or it was taken out.
    pub(crate) is_named: bool,
}

/// What the policies say of each account. Each account has a policy of its own.
pub(crate) type Policies = BTreeMap<Account, Budget>;

#[derive(Debug)]
pub(crate) struct Controller {
    index: usize,
    world: World,
    /// What the world knows.
    policies: Policies,
    ledgers: BTreeMap<Account, Versioned<Ledger>>,
    /// Until when it acts.
    pub(crate) acts_until: u64,
    /// How far its wall clock is ahead, in seconds.
    pub(crate) ahead: i64,
    /// How often an answer to a write is lost, in a million.
    pub(crate) loses: u64,
}

/// What a controller did in a second.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) granted: u64,
    /// Bytes that were settled without a report.
    pub(crate) unreported: u64,
    /// Ledgers as they were before and after.
    pub(crate) turned: Vec<(Account, Ledger, Ledger)>,
}

/// Name of the policy that an account belongs to.
fn policy_name(account: &Account) -> String {
    let namespace = account.namespace.as_ref();
    namespace.map_or_else(|| "everyone".to_owned(), |own| format!("for-{own}"))
}

fn spec(account: &Account) -> EgressBudgetSpec {
    EgressBudgetSpec {
        policy: policy_name(account),
        policy_uid: account.policy.0.clone(),
        budget: account.budget.clone(),
        namespace: account.namespace.as_ref().map(|own| own.0.clone()),
    }
}

fn window(window: Window) -> Value {
    match window {
        Window::Rolling { .. } => json!({"rolling": window.to_string()}),
        Window::Calendar { .. } => json!({"calendar": window.to_string()}),
    }
}

fn policy(account: &Account, budget: Budget) -> PolicyObject {
    let scope = if account.namespace.is_some() {
        "PerNamespace"
    } else {
        "Shared"
    };
    let names: Vec<&str> = account.namespace.iter().map(|own| own.0.as_str()).collect();
    let line = json!({
        "name": account.budget,
        "bytes": budget.limit,
        "window": window(budget.window),
        "scope": scope,
    });
    let budgets = if budget.is_named {
        vec![line]
    } else {
        Vec::new()
    };
    let rules = Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": policy_name(account), "uid": account.policy.0},
        "spec": {"namespaces": {"names": names}, "budgets": budgets},
    }));
    assert!(rules.rules().is_ok());
    PolicyObject {
        rules,
        changed_by: None,
        status: None,
    }
}

fn budget(account: &Account, ledger: &Versioned<Ledger>) -> Change {
    let spec = spec(account);
    Change::Budget(Box::new(BudgetObject {
        name: spec.object_name(),
        uid: "u".to_owned(),
        version: ledger.version.to_string(),
        spec,
        ledger: Ledger::clone(&ledger.value),
        users: Vec::new(),
    }))
}

fn lease(lease: &Versioned<Lease>) -> Change {
    Change::Lease(Box::new(LeaseObject {
        version: lease.version.to_string(),
        lease: Lease::clone(&lease.value),
        spent_by: BTreeMap::new(),
        denials: Vec::new(),
    }))
}

impl Controller {
    /// A replica that starts and reads everything.
    pub(crate) fn start(index: usize, server: &mut Server) -> Self {
        server.controllers[index].clear();
        let mut controller = Self {
            index,
            world: World::new(Rules::default()),
            policies: Policies::new(),
            ledgers: BTreeMap::new(),
            acts_until: 0,
            ahead: 0,
            loses: 0,
        };
        for (account, ledger) in &server.ledgers {
            controller.know(account, ledger);
        }
        for known in &server.leases {
            controller.world.change(lease(known));
        }
        controller
    }

    /// Takes in a ledger as it is in the API server.
    fn know(&mut self, account: &Account, ledger: &Versioned<Ledger>) {
        self.world.change(budget(account, ledger));
        let known = self.ledgers.get(account).map_or(0, |it| it.version);
        if ledger.version > known {
            self.ledgers.insert(account.clone(), ledger.clone());
        }
    }

    pub(crate) fn read(&mut self, server: &mut Server, now: u64) {
        while let Some(event) = server.controllers[self.index].next(now) {
            match event {
                Event::Ledger(account, ledger) => self.know(&account, &ledger),
                Event::Lease(known) => self.world.change(lease(&known)),
            }
        }
    }

    fn read_policies(&mut self, policies: &Policies) {
        for (account, budget) in policies {
            if self.policies.insert(account.clone(), *budget) == Some(*budget) {
                continue;
            }
            if let Some(own) = &account.namespace {
                let name = own.0.clone();
                self.world.change(Change::Namespace(name, BTreeMap::new()));
            }
            let policy = policy(account, *budget);
            self.world.change(Change::Policy(Box::new(policy)));
        }
    }

    /// Ledgers first, then the nodes' objects.
    pub(crate) fn act(
        &mut self,
        server: &mut Server,
        policies: &Policies,
        (now, random): (u64, &mut Random),
    ) -> Done {
        let mut done = Done::default();
        if now >= self.acts_until || !server.is_up {
            return done;
        }
        self.read_policies(policies);
        let moment = Moment {
            wall: i64::try_from(now).unwrap() + self.ahead,
            monotonic: Duration::from_secs(now),
        };
        for creation in self.world.creations(moment) {
            self.create(&creation, server, (now, &mut *random));
        }
        let turns = self.world.turns(moment);
        assert!(turns.deletions.is_empty(), "{:?}", turns.deletions);
        for write in turns.ledgers {
            if let Some((before, write)) = self.write(write, server, (now, &mut *random)) {
                note(&write.effects, &mut done);
                done.turned.push((write.account, before, write.ledger));
            }
        }
        self.answer(server, moment, (now, random));
        for write in self.world.statuses(moment) {
            self.world.told(write, moment);
        }
        done
    }

    fn create(
        &mut self,
        creation: &Creation,
        server: &mut Server,
        (now, random): (u64, &mut Random),
    ) {
        let is_it = |account: &&Account| spec(account) == creation.spec;
        let account = self.policies.keys().find(is_it).unwrap().clone();
        let at = (now, random);
        let made = server.write_ledger(&account, 0, Ledger::default(), at);
        // If it is there already, it is read.
        let made = made.or_else(|| server.ledgers.get(&account).cloned());
        self.know(&account, &made.unwrap());
    }

    /// Writes a ledger; what it was before comes back if that succeeded, whether we hear of it or not.
    fn write(
        &mut self,
        write: LedgerWrite,
        server: &mut Server,
        (now, random): (u64, &mut Random),
    ) -> Option<(Ledger, LedgerWrite)> {
        let account = &write.account;
        let version = write.version.parse().unwrap();
        let at = (now, &mut *random);
        let Some(written) = server.write_ledger(account, version, write.ledger.clone(), at) else {
            let newest = server.ledgers[account].clone();
            self.know(account, &newest);
            self.world.retry_account(account.clone());
            return None;
        };
        let before = Ledger::clone(&self.ledgers[account].value);
        if random.hits(self.loses) {
            self.world.retry_account(account.clone());
        } else {
            self.world.wrote(&write, written.version.to_string());
            self.ledgers.insert(account.clone(), written);
        }
        Some((before, write))
    }

    fn answer(&mut self, server: &mut Server, moment: Moment, (now, random): (u64, &mut Random)) {
        for write in self.world.answers(moment) {
            let is_it = |lease: &Versioned<Lease>| lease.value.node == write.node;
            let node = server.leases.iter().position(is_it).unwrap();
            let own = (node, write.version.parse().unwrap());
            let at = (now, &mut *random);
            match server.write_grants(own, write.grants.clone(), at) {
                Some(written) if !random.hits(self.loses) => {
                    self.world.answered(write, written.version.to_string());
                }
                Some(_) | None => self.world.retry_node(write.node),
            }
        }
    }
}

fn note(effects: &[Effect], done: &mut Done) {
    for effect in effects {
        match effect {
            Effect::Granted { bytes, .. } => done.granted += bytes,
            Effect::Settled {
                ending: Ending::Reported,
                ..
            } => {}
            Effect::Settled { spent, .. } => done.unreported += spent,
        }
    }
}

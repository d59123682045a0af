//! The world, turn by turn, against a map of objects in place of an API server.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::objects::is_older;
use super::world::{GRACE, ROUND};
use super::*;
use crate::crd::{DenialLine, NamespaceUse};
use crate::egress::lease::{Demand, Incarnation, Lease};
use crate::egress::ledger::{Effect, Ending, Ledger, Rules};
use crate::egress::terms::{Account, Namespace, PolicyUid};
use crate::govern::status::StatusWrite;

mod api;
mod denials;
mod edits;
mod refusals;
mod scale;
mod sentences;

const GIB: u64 = 1 << 30;
const UID: &str = "u";

fn account(budget: &str, namespace: Option<&str>) -> Account {
    Account {
        policy: PolicyUid(UID.to_owned()),
        budget: budget.to_owned(),
        namespace: namespace.map(|name| Namespace(name.to_owned())),
    }
}

fn daily() -> Account {
    account("daily", Some("team-a"))
}

/// A policy for team-a and team-b with so many bytes a day each, and for both together.
fn policy(bytes: &str) -> Value {
    json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "research", "uid": UID, "generation": 1, "annotations": {"tonnage.dev/changed-by": "ada"}},
        "spec": {
            "namespaces": {"names": ["team-a", "team-b"]},
            "allow": [{}],
            "budgets": [
                {"name": "daily", "bytes": bytes, "window": {"calendar": "Daily"}},
                {"name": "all", "bytes": "100Gi", "window": {"rolling": "30d"}, "scope": "Shared"},
            ],
            "pricePerGiB": {"amount": "0.50", "currency": "EUR"},
        },
    })
}

fn read(policy: &Value) -> Change {
    let object = serde_json::from_value(policy.clone()).unwrap();
    Change::Policy(Box::new(PolicyObject::read(&object)))
}

/// A world beside the objects as the API server has them.
struct Story {
    world: World,
    now: Moment,
    version: u64,
    ledgers: BTreeMap<String, Ledger>,
    statuses: Vec<StatusWrite>,
    /// What nodes were told, in turn: node, bytes, message.
    told: Vec<(String, u64, Option<String>)>,
    effects: Vec<Effect>,
    deleted: Vec<String>,
}

impl Story {
    fn new(policy: &Value) -> Self {
        let mut world = World::new(Rules::default());
        for name in ["team-a", "team-b", "team-c"] {
            world.change(Change::Namespace(name.to_owned(), BTreeMap::new()));
        }
        world.change(read(policy));
        Self {
            world,
            now: Moment {
                wall: 1_795_751_063,
                monotonic: Duration::from_secs(5_000),
            },
            version: 0,
            ledgers: BTreeMap::new(),
            statuses: Vec::new(),
            told: Vec::new(),
            effects: Vec::new(),
            deleted: Vec::new(),
        }
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn lease(&mut self, node: &str, demands: Vec<Demand>) {
        self.lease_of(node, demands, Vec::new());
    }

    fn lease_of(&mut self, node: &str, demands: Vec<Demand>, denials: Vec<DenialLine>) {
        let known = self.world.leases.get(node);
        let grants = known.map_or_else(Vec::new, |known| known.lease.grants.clone());
        let version = self.next_version();
        self.world.change(Change::Lease(Box::new(LeaseObject {
            version,
            lease: Lease {
                node: node.to_owned(),
                incarnation: Incarnation(7),
                demands,
                grants,
            },
            spent_by: BTreeMap::new(),
            denials,
        })));
    }

    /// A turn in which every write succeeds.
    fn turn(&mut self) {
        let now = self.now;
        for Creation { name, spec } in self.world.creations(now) {
            self.ledgers.insert(name.clone(), Ledger::default());
            let version = self.next_version();
            self.world.change(Change::Budget(Box::new(BudgetObject {
                uid: format!("uid of {name}"),
                name,
                version,
                spec,
                ledger: Ledger::default(),
                users: Vec::new(),
            })));
        }
        let Turns { ledgers, deletions } = self.world.turns(now);
        for write in ledgers {
            self.ledgers
                .insert(write.name.clone(), write.ledger.clone());
            self.effects.extend(write.effects.iter().cloned());
            let version = self.next_version();
            self.world.wrote(&write, version);
        }
        for Deletion { name, .. } in deletions {
            self.ledgers.remove(&name);
            self.deleted.push(name.clone());
            self.world.change(Change::BudgetGone(name));
        }
        for write in self.world.answers(now) {
            for (grant, line) in write.grants.iter().zip(&write.status.grants) {
                self.told
                    .push((write.node.clone(), grant.bytes, line.message.clone()));
            }
            let version = self.next_version();
            self.world.answered(write, version);
        }
        for write in self.world.statuses(now) {
            self.statuses.push(write.clone());
            self.world.told(write, now);
        }
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.pass(1);
        }
    }

    /// So many seconds at once.
    fn pass(&mut self, seconds: u32) {
        self.now.wall += i64::from(seconds);
        self.now.monotonic += Duration::from_secs(u64::from(seconds));
        self.turn();
    }
}

fn demand(account: Account, seq: u64, (wanted, spent): (u64, u64)) -> Demand {
    Demand {
        account,
        seq,
        wanted,
        spent,
    }
}

#[test]
fn the_first_demand_makes_a_ledger_and_is_granted_in_the_same_turn() {
    let mut story = Story::new(&policy("100Gi"));
    story.turn();
    assert!(story.ledgers.is_empty(), "nobody has asked");
    story.lease("n", vec![demand(daily(), 1, (5 * GIB, 0))]);
    story.turn();
    let names: Vec<&String> = story.ledgers.keys().collect();
    assert_eq!(names, ["research.daily.team-a"]);
    assert_eq!(story.told, [("n".to_owned(), 5 * GIB, None)]);
    story.lease("n", vec![demand(daily(), 2, (0, 3 * GIB))]);
    story.turn();
    let ledger = &story.ledgers["research.daily.team-a"];
    assert_eq!(ledger.held(), 0);
    let settled: u64 = ledger.settled.values().sum();
    assert_eq!(settled, 3 * GIB);
}

#[test]
fn an_idle_world_writes_nothing() {
    let mut story = Story::new(&policy("100Gi"));
    story.lease("n", vec![demand(daily(), 1, (5 * GIB, 0))]);
    story.wait(1_000);
    let (version, statuses) = (story.version, story.statuses.len());
    assert_eq!(story.ledgers["research.daily.team-a"].held(), 0);
    story.wait(1_000);
    assert_eq!((story.version, story.statuses.len()), (version, statuses));
}

#[test]
fn who_gets_nothing_is_told_which_budget_and_until_when() {
    let mut story = Story::new(&policy("4Gi"));
    story.lease("a", vec![demand(daily(), 1, (4 * GIB, 0))]);
    story.turn();
    story.lease("b", vec![demand(daily(), 1, (4 * GIB, 0))]);
    story.wait(5);
    let (node, bytes, message) = story.told.last().unwrap();
    assert_eq!((node.as_str(), *bytes), ("b", 0));
    assert_eq!(
        message.as_deref(),
        Some(
            "budget daily of EgressPolicy research for namespace team-a has 0 B of 4.0 GiB left: 0 B are spent and 4.0 GiB are granted to nodes; bytes come back at 2026-11-28T00:00:00Z, or when an administrator raises the budget"
        )
    );
    assert_eq!(story.told.len(), 2, "told once");
    // The limit is raised: the demand stands and is granted.
    story.world.change(read(&policy("8Gi")));
    story.turn();
    assert_eq!(story.told.last().unwrap(), &("b".to_owned(), 4 * GIB, None));
}

#[test]
fn a_grant_of_a_node_that_is_gone_counts_in_full_when_it_has_run_out() {
    let mut story = Story::new(&policy("100Gi"));
    story.lease("n", vec![demand(daily(), 1, (5 * GIB, 0))]);
    story.turn();
    story.world.change(Change::LeaseGone("n".to_owned()));
    story.wait(899);
    assert_eq!(story.ledgers["research.daily.team-a"].held(), 5 * GIB);
    story.wait(ROUND.as_secs() * 2);
    let settled = Effect::Settled {
        node: Some("n".to_owned()),
        granted: 5 * GIB,
        spent: 5 * GIB,
        ending: Ending::Expired,
    };
    assert_eq!(story.effects.last(), Some(&settled));
}

#[test]
fn an_account_that_does_not_exist_is_refused_after_a_while_and_has_no_ledger() {
    let mut story = Story::new(&policy("100Gi"));
    let stray = account("daily", Some("team-c"));
    story.lease("n", vec![demand(stray, 1, (GIB, 0))]);
    story.wait(ROUND.as_secs() * 3 + GRACE.as_secs());
    assert!(story.ledgers.is_empty());
    let message = "EgressPolicy research does not select namespace team-c any more";
    assert_eq!(story.told, [("n".to_owned(), 0, Some(message.to_owned()))]);
}

#[test]
fn a_policy_that_is_read_late_is_not_taken_for_one_that_is_gone() {
    let mut story = Story::new(&policy("100Gi"));
    story
        .world
        .change(Change::PolicyGone("research".to_owned()));
    story.lease("n", vec![demand(daily(), 1, (GIB, 0))]);
    story.wait(3);
    assert!(story.told.is_empty());
    story.world.change(read(&policy("100Gi")));
    story.turn();
    assert_eq!(story.told, [("n".to_owned(), GIB, None)]);
}

#[test]
fn a_malformed_policy_changes_no_ledger() {
    let mut story = Story::new(&policy("100Gi"));
    story.lease("n", vec![demand(daily(), 1, (5 * GIB, 0))]);
    story.turn();
    let before = story.ledgers.clone();
    story.world.change(read(&policy("100GB")));
    story.lease("n", vec![demand(daily(), 2, (5 * GIB, GIB))]);
    story.wait(2_000);
    assert_eq!(story.ledgers, before);
    assert!(story.deleted.is_empty());
    story.world.change(read(&policy("100Gi")));
    story.turn();
    assert_eq!(story.told.last().unwrap(), &("n".to_owned(), 5 * GIB, None));
}

#[test]
fn a_ledger_that_somebody_else_wrote_is_gone_on_from() {
    let mut story = Story::new(&policy("4Gi"));
    story.lease("n", vec![demand(daily(), 1, (GIB, 0))]);
    let now = story.now;
    story.turn();
    let mut theirs = story.world.budgets["research.daily.team-a"].clone();
    let window = crate::egress::window::Window::Rolling { seconds: 3_600 };
    theirs.ledger.settled.insert(window.key(now.wall), 3 * GIB);
    // An older one is not believed.
    theirs.version = "0".to_owned();
    assert!(is_older("0", "1"));
    story.world.change(Change::Budget(Box::new(theirs.clone())));
    assert!(
        story.world.budgets["research.daily.team-a"]
            .ledger
            .settled
            .is_empty()
    );
    theirs.version = story.next_version();
    story.world.change(Change::Budget(Box::new(theirs)));
    story.lease("b", vec![demand(daily(), 1, (GIB, 0))]);
    story.turn();
    assert_eq!(story.told.last().unwrap().1, 0);
}

#[test]
fn the_status_of_a_policy_tells_what_is_used_denied_and_spent() {
    let mut story = Story::new(&policy("10Gi"));
    story.turn();
    assert_eq!(story.statuses.len(), 1, "said at once");
    let denials = vec![denials::line(UID, 3)];
    story.lease_of("n", vec![demand(daily(), 1, (8 * GIB, 0))], denials);
    story.turn();
    story.lease("n", vec![demand(daily(), 2, (0, 6 * GIB))]);
    story.wait(1);
    assert_eq!(story.statuses.len(), 1, "not twice within ten seconds");
    story.wait(2 * ROUND.as_secs());
    assert_eq!(story.statuses.len(), 2);
    let StatusWrite { policy, status, .. } = story.statuses.last().unwrap();
    assert_eq!(policy, "research");
    assert_eq!(status.modified_by.as_deref(), Some("ada"));
    assert_eq!(status.conditions[0].reason, "InForce");
    let scarcest = status.scarcest.as_ref().unwrap();
    assert_eq!(scarcest.budget, "daily team-a");
    assert_eq!(scarcest.used, "6.0 GiB of 10.0 GiB");
    assert_eq!(scarcest.left, "4.0 GiB");
    let names: Vec<&str> = status.budgets.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["daily", "all"]);
    let user = NamespaceUse {
        namespace: "team-a".to_owned(),
        bytes: i64::try_from(6 * GIB).unwrap(),
    };
    assert_eq!(status.budgets[0].top_users, [user]);
    assert_eq!(status.denied.as_ref().unwrap().count, 3);
    assert_eq!(status.cost.as_deref(), Some("3.00 EUR"));
}

#[test]
fn figures_are_those_of_the_ledgers_of_each_namespace_and_of_what_they_share() {
    let mut story = Story::new(&policy("10Gi"));
    story.turn();
    assert!(story.world.figures().is_empty(), "nothing was asked of yet");
    let other = account("daily", Some("team-b"));
    let demands = vec![
        demand(daily(), 1, (2 * GIB, 0)),
        demand(other, 1, (GIB, 0)),
        demand(account("all", None), 1, (3 * GIB, 0)),
    ];
    story.lease("n", demands);
    story.turn();
    let figure = |budget: &str, namespace: Option<&str>, limit: u64, used: u64| BudgetFigure {
        policy: "research".to_owned(),
        budget: budget.to_owned(),
        namespace: namespace.map(str::to_owned),
        limit_bytes: limit * GIB,
        used_bytes: used * GIB,
    };
    assert_eq!(
        story.world.figures(),
        [
            figure("all", None, 100, 3),
            figure("daily", Some("team-a"), 10, 2),
            figure("daily", Some("team-b"), 10, 1),
        ]
    );
}

#[test]
fn an_emergency_is_told_once() {
    let mut story = Story::new(&policy("10Gi"));
    let mut overruled = policy("10Gi");
    overruled["metadata"]["annotations"] = json!({
        "tonnage.dev/override-until": "2026-11-27T03:45:23Z",
        "tonnage.dev/override-reason": "incident 4711",
    });
    story.world.change(read(&overruled));
    story.wait(120);
    let told: Vec<Option<&str>> = story
        .statuses
        .iter()
        .map(|write| write.overruled.as_deref())
        .collect();
    let message = "it only watches until 2026-11-27T03:45:23Z: incident 4711";
    // And then it is in force again.
    assert_eq!(told, [Some(message), None]);
}

//! A node as the gate sees it, with policies, a lease that is never used up, and one pod that waits for one load; and a run of it. The
//! gates of the hot path compile it in, too.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use serde_json::{Value, json};
use tonnage_cache::clock::{Clock, SystemClock};
use tonnage_cache::digest::PART_SIZE;
use tonnage_cache::fetch::Settings;
use tonnage_cache::gate::{Demand, Gate, Purpose};
use tonnage_cache::report::Progress;
use tonnage_cache::source::location::Location;
use tonnage_csi::crd::EgressLease;
use tonnage_csi::egress::compiled::Compiled;
use tonnage_csi::egress::lease::{Demand as Ask, Grant, Incarnation};
use tonnage_csi::egress::ledger::objects::{spec, status};
use tonnage_csi::egress::policy::DefaultEgress;
use tonnage_csi::egress::terms::Account;
use tonnage_csi::govern::audit::Audit;
use tonnage_csi::govern::cost::Cost;
use tonnage_csi::govern::gate::{EgressGate, Opened, Parts};
use tonnage_csi::govern::rules::Rulebook;
use tonnage_csi::govern::spend::Spender;
use tonnage_csi::govern::tabs::{Seat, Waiter, Wanted};
use tonnage_csi::inflight::WaiterId;
use tonnage_csi::sources::Locations;
use tonnage_csi::volume::VolumeId;

const NODE: &str = "node-1";
const LOAD: &str = "models/base/llama";
const POLICIES: usize = 20;
const SELECTING: usize = 3;
/// More than any measurement spends, of a lease as of what is still to be loaded.
const PLENTY: u64 = 1 << 60;
const ME: Incarnation = Incarnation(7);

/// Asks for a run, sends its request and receives all of it: what a stage does with a permit.
pub(crate) fn run(gate: &dyn Gate, demand: &Demand) {
    let asking = pin!(gate.admit(demand));
    match asking.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => {
            let mut permit = answer.unwrap();
            assert!(permit.begin(), "the permission does not hold any more");
            permit.settle(demand.bytes, true);
        }
        Poll::Pending => unreachable!("a run waits: the lease or the rate is too small"),
    }
}

/// A node on which one pod waits for one load.
pub(crate) struct Node {
    pub(crate) gate: EgressGate,
    /// How many hold for a run.
    pub(crate) budgets_and_rates: (usize, usize),
    _opened: Opened,
    _seat: Seat,
}

impl Node {
    pub(crate) fn new(policies: Vec<Compiled>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let rulebook = Rulebook::new(DefaultEgress::Allow, Arc::clone(&clock));
        rulebook.replace(policies, clock.monotonic());
        let locations = Locations::default();
        let location = Location {
            host: "s3.example.com".to_owned(),
            bucket: "weights".to_owned(),
            ..Location::default()
        };
        locations.put("models", location);
        let spender = Spender::new(ME, Arc::clone(&clock));
        let (waiter, wanted) = (waiter(), wanted());
        let rules = rulebook.snapshot();
        let decision = rules.decide(0, &waiter.who(), &wanted.what());
        let charges = decision.charges.iter();
        let accounts: Vec<Account> = charges.map(|charge| charge.account.clone()).collect();
        let rates = decision.rates.bytes_per_second_per_node.iter().count();
        fill(&spender, &accounts);
        let gate = EgressGate::new(Parts {
            rulebook,
            spender,
            locations,
            denials: Arc::default(),
            audit: Audit::to(std::io::sink()),
            cost: Cost::new(),
            clock,
            node: NODE.to_owned(),
        });
        let progress = Arc::<Progress>::default();
        progress.expect(PLENTY, 1);
        let (opened, seat) = gate.judge(waiter, wanted).unwrap().open(LOAD, progress);
        Self {
            gate,
            budgets_and_rates: (accounts.len(), rates),
            _opened: opened,
            _seat: seat,
        }
    }
}

/// Plays the controller once: grants plenty of every account.
fn fill(spender: &Spender, accounts: &[Account]) {
    if spender.charge(accounts, 1, PLENTY, PLENTY).is_ok() {
        // Nobody is charged.
        return;
    }
    let asks = spender.demands().unwrap();
    spender.written();
    let grant = |ask: &Ask| Grant {
        account: ask.account.clone(),
        incarnation: ME,
        seq: ask.seq,
        bytes: ask.wanted,
        seconds: 86_400,
    };
    let grants: Vec<Grant> = asks.iter().map(grant).collect();
    let mut object = EgressLease::new(NODE, spec(ME, &asks));
    object.status = Some(status(&grants, |_| None));
    spender.accept(&object);
}

/// Twenty, of which three select the namespace.
pub(crate) fn policies() -> Vec<Compiled> {
    (0..POLICIES).map(policy).collect()
}

/// The first has all that is charged; those after the first three are for other namespaces.
fn policy(n: usize) -> Compiled {
    let tier = if n < SELECTING { "research" } else { "other" };
    let mut spec = json!({
        "namespaces": {"matchLabels": {"tier": tier}},
        "allow": [{"sources": ["models"], "prefixes": [format!("team-{n}"), "base"]}],
    });
    if n == 0 {
        spec["budgets"] = budgets();
        spec["rate"] = json!({"bytesPerSecondPerNode": "1P"});
        spec["pricePerGiB"] = json!({"amount": "0.09", "currency": "EUR"});
    }
    Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": format!("policy-{n:02}"), "uid": format!("uid-{n:02}"), "generation": 1},
        "spec": spec,
    }))
}

/// One of each namespace, and one that all have together, of which it is noted who spent it.
fn budgets() -> Value {
    json!([
        {"name": "daily", "bytes": "1Pi", "window": {"calendar": "Daily"}},
        {"name": "monthly", "bytes": "1Pi", "window": {"calendar": "Monthly"}, "scope": "Shared"},
    ])
}

fn waiter() -> Waiter {
    let labels = BTreeMap::from([("tier".to_owned(), "research".to_owned())]);
    Waiter {
        id: WaiterId {
            volume: VolumeId::parse("csi-1").unwrap(),
            target: "pod".into(),
        },
        namespace: "team-a".to_owned(),
        labels: Arc::new(labels),
        service_account: "default".to_owned(),
        pod: Some("pod".to_owned()),
    }
}

fn wanted() -> Wanted {
    Wanted {
        source: "models".to_owned(),
        host: "s3.example.com".to_owned(),
        bucket: "weights".to_owned(),
        path: "base/llama".to_owned(),
        has_digest: false,
        revision: None,
    }
}

/// A run as long as they are by default.
pub(crate) fn demand() -> Demand {
    Demand {
        source: "models".to_owned(),
        payer: "team-a".to_owned(),
        load: LOAD.to_owned(),
        key: "base/llama/model.safetensors".to_owned(),
        bytes: Settings::default().run_parts * PART_SIZE,
        purpose: Purpose::Content,
    }
}

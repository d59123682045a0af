//! The gate with real rules, a real purse, and a controller that is played by hand.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Mutex;
use std::time::SystemTime;

use futures::poll;
use serde_json::{Value, json};
use tonnage_cache::clock::ManualClock;
use tonnage_cache::gate::Purpose;
use tonnage_cache::report::Progress;
use tonnage_cache::source::location::Location;

use super::*;
use crate::crd::EgressLease;
use crate::egress::compiled::Compiled;
use crate::egress::lease::{Demand as Ask, Grant, Incarnation};
use crate::egress::ledger::objects::{spec, status};
use crate::egress::policy::DefaultEgress;
use crate::egress::terms::{Account, Namespace};
use crate::govern::audit::paper::Paper;
use crate::govern::audit::{Entry, Event, Line, read};
use crate::govern::tabs::{Seat, Waiter, Wanted};
use crate::inflight::WaiterId;
use crate::policy;
use crate::volume::VolumeId;

mod hosts;
mod paying;
mod publishing;

const ME: Incarnation = Incarnation(7);
/// 2026-11-27T00:00:00Z.
const NOW: u64 = 1_795_737_600;
const LOAD: &str = "l1";

/// A node, and what the controller has left to grant to each namespace.
struct Site {
    gate: EgressGate,
    rulebook: Rulebook,
    spender: Arc<Spender>,
    denials: Arc<Denials>,
    clock: Arc<ManualClock>,
    paper: Paper,
    room: Mutex<BTreeMap<&'static str, u64>>,
    granted: Mutex<BTreeMap<(Account, u64), u64>>,
    /// What stands in the node's object.
    asks: Mutex<Vec<Ask>>,
}

impl Site {
    fn new(policies: &[Compiled]) -> Self {
        let clock = Arc::new(ManualClock::at(
            SystemTime::UNIX_EPOCH + Duration::from_secs(NOW),
        ));
        let seam = || Arc::<ManualClock>::clone(&clock) as Arc<dyn Clock>;
        let rulebook = Rulebook::new(DefaultEgress::Allow, seam());
        rulebook.replace(policies.to_vec(), Duration::ZERO);
        let locations = Locations::default();
        locations.put(
            "models",
            Location {
                host: "s3.example.com".to_owned(),
                bucket: "weights".to_owned(),
                base: "base".to_owned(),
                exchange_hosts: vec!["sts.example.com".to_owned()],
            },
        );
        let (spender, denials) = (Spender::new(ME, seam()), Arc::<Denials>::default());
        let paper = Paper::default();
        let gate = EgressGate::new(Parts {
            rulebook: rulebook.clone(),
            spender: Arc::clone(&spender),
            locations,
            denials: Arc::clone(&denials),
            audit: Audit::to(paper.clone()),
            cost: Cost::new(),
            clock: seam(),
            node: "node-1".to_owned(),
        });
        Self {
            gate,
            rulebook,
            spender,
            denials,
            clock,
            paper,
            room: Mutex::default(),
            granted: Mutex::default(),
            asks: Mutex::default(),
        }
    }

    /// The rules are these from now on.
    fn rules(&self, policies: &[Compiled]) {
        self.rulebook
            .replace(policies.to_vec(), self.clock.monotonic());
    }

    fn judge(&self, namespace: &str) -> Result<Admission, policy::Refusal> {
        self.gate.judge(waiter(namespace), wanted())
    }

    /// The load begins for the first of these namespaces, and the others join.
    fn load(&self, namespaces: &[&str]) -> (Opened, Vec<Seat>) {
        let mut admissions = namespaces.iter().map(|name| self.judge(name).unwrap());
        let progress = Arc::<Progress>::default();
        let (opened, seat) = admissions.next().unwrap().open(LOAD, progress);
        let joined = admissions.map(|admission| admission.join(LOAD).unwrap());
        let seats = [seat].into_iter().chain(joined).collect();
        (opened, seats)
    }

    fn has(&self, namespace: &'static str, bytes: u64) {
        self.room.lock().unwrap().insert(namespace, bytes);
    }

    /// The controller answers what is asked by now, and what it could not grant before.
    fn answer(&self) {
        self.clock.advance(Duration::from_secs(5));
        let mut asks = self.asks.lock().unwrap();
        if let Some(new) = self.spender.demands() {
            *asks = new;
            self.spender.written();
        }
        let grants: Vec<Grant> = asks.iter().map(|ask| self.grant(ask)).collect();
        let mut object = EgressLease::new("node-1", spec(ME, &[]));
        let nothing = |grant: &Grant| (grant.bytes == 0).then(|| "nothing is left".to_owned());
        object.status = Some(status(&grants, nothing));
        self.spender.accept(&object);
    }

    fn grant(&self, ask: &Ask) -> Grant {
        let mut granted = self.granted.lock().unwrap();
        let key = (ask.account.clone(), ask.seq);
        let bytes = granted.get(&key).copied().filter(|bytes| *bytes > 0);
        let bytes = bytes.unwrap_or_else(|| {
            let mut room = self.room.lock().unwrap();
            let name = ask.account.namespace.clone().unwrap();
            let left = room.get_mut(name.0.as_str());
            left.map_or(0, |left| {
                let bytes = ask.wanted.min(*left);
                *left -= bytes;
                bytes
            })
        });
        granted.insert(key, bytes);
        Grant {
            account: ask.account.clone(),
            incarnation: ME,
            seq: ask.seq,
            bytes,
            seconds: 900,
        }
    }

    /// A run is asked for and goes out, while the controller answers.
    async fn run(&self, bytes: u64) -> Result<Box<dyn Permit>, Refusal> {
        self.answered(bytes).await.map(begun)
    }

    async fn answered(&self, bytes: u64) -> Result<Box<dyn Permit>, Refusal> {
        let demand = demand(bytes);
        let mut asking = pin!(self.gate.admit(&demand));
        for _ in 0..8 {
            if let std::task::Poll::Ready(answer) = poll!(&mut asking) {
                return answer;
            }
            self.answer();
        }
        panic!("neither paid nor refused");
    }

    /// The same, while the controller is silent.
    async fn run_alone(&self, bytes: u64) -> Result<Box<dyn Permit>, Refusal> {
        self.gate.admit(&demand(bytes)).await.map(begun)
    }

    fn left(&self, namespace: &str) -> u64 {
        self.spender.left(&account(namespace))
    }

    /// What the audit log says, in the end.
    fn events(self) -> Vec<Entry> {
        let Self { gate, paper, .. } = self;
        assert_eq!(gate.tabs().count(), 0, "a load is still open");
        drop(gate);
        let text = paper.text();
        let entry = |line: &str| match read(line) {
            Ok(Line::Entry(read)) => read.entry,
            other => panic!("{other:?}"),
        };
        text.lines().map(entry).collect()
    }
}

/// The request goes out.
fn begun(mut permit: Box<dyn Permit>) -> Box<dyn Permit> {
    assert!(permit.begin(), "nobody waits any more");
    permit
}

fn waiter(namespace: &str) -> Waiter {
    Waiter {
        id: WaiterId {
            volume: VolumeId::parse("csi-1").unwrap(),
            target: namespace.into(),
        },
        namespace: namespace.to_owned(),
        labels: Arc::default(),
        service_account: "default".to_owned(),
        pod: Some(format!("pod-{namespace}")),
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

fn demand(bytes: u64) -> Demand {
    Demand {
        source: "models".to_owned(),
        payer: "a".to_owned(),
        load: LOAD.to_owned(),
        key: "base/llama/x".to_owned(),
        bytes,
        purpose: Purpose::Content,
    }
}

fn account(namespace: &str) -> Account {
    Account {
        policy: policy_uid(),
        budget: "daily".to_owned(),
        namespace: Some(Namespace(namespace.to_owned())),
    }
}

fn policy_uid() -> PolicyUid {
    PolicyUid("uid-of-p".to_owned())
}

/// The policy `p` with this specification beside a selector of everything.
fn policy(spec: &Value) -> Compiled {
    policy_with(spec, &json!({}))
}

fn policy_with(spec: &Value, annotations: &Value) -> Compiled {
    let mut object = json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "p", "uid": "uid-of-p", "generation": 3, "annotations": annotations},
        "spec": {"namespaces": {}},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    Compiled::from_json(&object)
}

/// A budget of each namespace, for a policy that allows everything.
fn budget() -> Value {
    json!({
        "allow": [{}],
        "budgets": [{"name": "daily", "bytes": "1Ti", "window": {"calendar": "Daily"}}],
    })
}

/// The same with one thing more.
fn budget_and(key: &str, value: &str) -> Value {
    let mut spec = budget();
    spec[key] = json!(value);
    spec
}

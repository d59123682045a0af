//! The controller's part in budgets, played by hand: it grants what a namespace has, and then says in a sentence that nothing is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tonnage_cache::clock::{Clock, ManualClock};
use tonnage_csi::crd::EgressLease;
use tonnage_csi::egress::lease::{Demand, Grant, Incarnation};
use tonnage_csi::egress::ledger::objects::{spec, status};
use tonnage_csi::egress::terms::Account;
use tonnage_csi::govern::spend::Spender;

const NODE: Incarnation = Incarnation(1);
/// How long a node pauses between two demands.
const PAUSE: Duration = Duration::from_secs(5);
/// The term of a grant.
const SECONDS: u32 = 900;

/// Answers one node, whose spender it has.
#[derive(Debug)]
pub(crate) struct Granter {
    /// Time of the spender, which goes on with each demand, so that nothing waits for the next one.
    clock: Arc<ManualClock>,
    spender: Arc<Spender>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that are not granted yet, by namespace.
    room: BTreeMap<String, u64>,
    /// What stands in the node's object.
    asks: Vec<Demand>,
    /// What was granted, by the number of the demand.
    granted: BTreeMap<(Account, u64), u64>,
}

impl Granter {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
        let seam: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        Self {
            clock,
            spender: Spender::new(NODE, seam),
            state: Mutex::default(),
        }
    }

    pub(crate) fn spender(&self) -> &Arc<Spender> {
        &self.spender
    }

    /// A namespace has so many bytes more.
    pub(crate) fn raise(&self, namespace: &str, bytes: u64) {
        let mut state = self.state.lock().unwrap();
        *state.room.entry(namespace.to_owned()).or_default() += bytes;
    }

    /// Answers what is asked by now, and what it could not grant before.
    pub(crate) fn answer(&self) {
        let mut state = self.state.lock().unwrap();
        if let Some(asks) = self.spender.demands() {
            self.spender.written();
            self.clock.advance(PAUSE);
            state.asks = asks;
        }
        let asks = state.asks.clone();
        let grants: Vec<Grant> = asks.iter().map(|ask| state.grant(ask)).collect();
        let sentence =
            |grant: &Grant| (grant.bytes == 0).then(|| used_up(namespace(&grant.account)));
        let mut object = EgressLease::new("node-1", spec(NODE, &[]));
        object.status = Some(status(&grants, sentence));
        self.spender.accept(&object);
    }

    /// Answers whatever is asked until something has come to its end.
    pub(crate) async fn answer_during<F: Future>(&self, future: F) -> F::Output {
        let mut future = Box::pin(future);
        loop {
            self.answer();
            tokio::select! {
                biased;
                output = &mut future => return output,
                () = tokio::task::yield_now() => {}
            }
        }
    }
}

impl State {
    fn grant(&mut self, ask: &Demand) -> Grant {
        let key = (ask.account.clone(), ask.seq);
        let before = self.granted.get(&key).copied().unwrap_or_default();
        let bytes = if before > 0 {
            before
        } else {
            self.take(namespace(&ask.account), ask.wanted)
        };
        self.granted.insert(key, bytes);
        Grant {
            account: ask.account.clone(),
            incarnation: NODE,
            seq: ask.seq,
            bytes,
            seconds: SECONDS,
        }
    }

    fn take(&mut self, namespace: &str, wanted: u64) -> u64 {
        self.room.get_mut(namespace).map_or(0, |left| {
            let bytes = wanted.min(*left);
            *left -= bytes;
            bytes
        })
    }
}

fn namespace(account: &Account) -> &str {
    &account.namespace.as_ref().unwrap().0
}

/// What a namespace is told that has no bytes left.
pub(crate) fn used_up(namespace: &str) -> String {
    format!("the daily bytes of namespace {namespace} are used up")
}

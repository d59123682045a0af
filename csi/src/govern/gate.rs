//! The gate that every byte of a node in a cluster passes: [`EgressGate`] asks the rules who may load what, takes the bytes from
//! the budgets that are charged, and holds the speed.
//!
//! ```text
//! publish ─► judge: allowed? ─► Admission ─► open: a tab as long as the load runs, a seat as long as the pod waits
//! run ─────► admit: the tab's guests, first come first ─► rules as they are now ─► budgets ─► pace ─► Paid ─► settle
//! connect ─► the source's own host, or one that gives keys for it, or one that some guest of the source may use
//! redirect ► one that a guest of this very load may use
//! ```
//!
//! * **The rules are asked again for every run**, so that a change takes effect in the middle of a download; a run that had to
//!   wait is asked about once more before it begins.
//! * **A shared load goes on as long as one guest may and can**: the first whose rules allow it and whose budgets have bytes pays
//!   for the run. Only if all are refused the load ends, with what is verified kept.
//! * **What is denied is denied; what is used up comes back**: a rule that forbids is [`Refusal::Denied`]; rules too old, a budget
//!   used up and a controller that is silent are [`Refusal::Exhausted`], which kubelet tries again. At publish only the rules
//!   decide: content that is here mounts whatever budgets say.
//! * **A controller is silent** if it has not answered for half a minute. Until it is heard again, or for a minute, nobody waits for
//!   it: loads
//!   spend what is granted, owe (`whenControllerUnreachable: Allow`), or stop (`Deny`, also where something is granted).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tonnage_cache::clock::{Clock, unix_millis};
use tonnage_cache::gate::{Connection, Demand, Gate, Permit, Redirection, Refusal};

use super::audit::Audit;
use super::cost::Cost;
use super::denials::Denials;
use super::pace::Pace;
use super::rules::{Rulebook, Snapshot};
use super::spend::Spender;
use super::tabs::{Guest, Tab, Tabs};
use crate::egress::policy::Denial;
use crate::egress::terms::PolicyUid;
use crate::sources::Locations;

mod admission;
mod pay;
mod tell;
mod words;

pub use admission::{Admission, Opened};

/// How long a silent controller is not waited for again.
const SILENCE: Duration = Duration::from_mins(1);

/// No moment.
const NEVER: u64 = u64::MAX;

/// What a gate is made of.
#[derive(Debug)]
pub struct Parts {
    /// The rules.
    pub rulebook: Rulebook,
    /// The budgets.
    pub spender: Arc<Spender>,
    /// Where sources are.
    pub locations: Locations,
    /// Is told what was denied.
    pub denials: Arc<Denials>,
    /// Is told of decisions.
    pub audit: Audit,
    /// Is told of bytes and their price.
    pub cost: Arc<Cost>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Name of this node.
    pub node: String,
}

/// Decides for all loads of a node. Clones share everything.
#[derive(Debug, Clone)]
pub struct EgressGate {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    parts: Parts,
    tabs: Tabs,
    pace: Arc<Pace>,
    /// Since when the controller is silent, in milliseconds on the monotonic clock; [`NEVER`] if it is not.
    silent_since: AtomicU64,
    /// How often it had been heard by then.
    heard: AtomicU64,
    /// Version of the rules by which debts were last looked at.
    forgiven: AtomicU64,
}

impl EgressGate {
    /// A gate of these parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            shared: Arc::new(Shared {
                parts,
                tabs: Tabs::default(),
                pace: Arc::default(),
                silent_since: AtomicU64::new(NEVER),
                heard: AtomicU64::new(0),
                forgiven: AtomicU64::new(0),
            }),
        }
    }

    /// The loads that run.
    pub fn tabs(&self) -> &Tabs {
        &self.shared.tabs
    }
}

impl Shared {
    /// The rules now. Debts to policies that are gone by them go, too.
    fn rules(&self) -> Snapshot {
        let rules = self.parts.rulebook.snapshot();
        // Older rules, which another thread may still have, forgive nothing that newer ones know.
        if self.forgiven.fetch_max(rules.version, Ordering::Relaxed) < rules.version {
            let is_known = |uid: &PolicyUid| rules.policies.iter().any(|it| it.uid == *uid);
            self.parts.spender.forgive_all_but(is_known);
        }
        rules
    }

    /// Now, in seconds since 1970 (UTC).
    fn now_unix(&self) -> i64 {
        let seconds = unix_millis(self.parts.clock.now()) / 1_000;
        i64::try_from(seconds).unwrap_or(i64::MAX)
    }

    fn now_millis(&self) -> u64 {
        millis(self.parts.clock.monotonic())
    }

    /// Whether the controller has not answered lately.
    fn is_silent(&self) -> bool {
        let since = self.silent_since.load(Ordering::Relaxed);
        since != NEVER
            && self.now_millis().saturating_sub(since) < millis(SILENCE)
            && self.parts.spender.heard() == self.heard.load(Ordering::Relaxed)
    }

    /// Somebody has waited in vain, since the controller had been heard so often. If others have heard it meanwhile, it is there.
    fn note_silence(&self, heard: u64) {
        if self.parts.spender.heard() == heard {
            self.heard.store(heard, Ordering::Relaxed);
            self.silent_since
                .store(self.now_millis(), Ordering::Relaxed);
        }
    }

    /// Whether somebody who waits for one of these loads may also use this host. A refusal names the host, so that each of them can
    /// be told its own. If nobody may, `tell` has each denial.
    fn check_host(
        &self,
        tabs: &[Arc<Tab>],
        (source, host): (&str, &str),
        tell: impl Fn(&Snapshot, (&Tab, &Guest), &Denial),
    ) -> Result<(), Refusal> {
        let rules = self.rules();
        let now = self.now_unix();
        let at_host = |sentence: &str| words::at_host(sentence, host);
        let (mut why, mut denials) = (None, Vec::new());
        for tab in tabs {
            for guest in tab.guests(&rules, now) {
                if let Some(sentence) = rules.stale(&guest.decision) {
                    why = Some(Refusal::Exhausted(at_host(&sentence)));
                    continue;
                }
                let decision = rules.decide(now, &guest.waiter.who(), &tab.wanted.what_at(host));
                let denial = match (&guest.decision.verdict, decision.verdict) {
                    (Ok(_), Ok(_)) => return Ok(()),
                    (Ok(_), Err(denial)) => denial,
                    (Err(denial), _) => denial.clone(),
                };
                denials.push((tab, guest, denial));
            }
        }
        for (tab, guest, denial) in denials {
            let message = at_host(&denial.message);
            let denial = Denial { message, ..denial };
            tell(&rules, (tab, &guest), &denial);
            why.get_or_insert(Refusal::Denied(denial.message));
        }
        Err(why.unwrap_or_else(|| Refusal::Denied(words::nobody_at(source, host))))
    }
}

impl Gate for EgressGate {
    fn connect(&self, connection: &Connection) -> Result<(), Refusal> {
        let Connection { source, host, .. } = connection;
        let shared = &self.shared;
        let location = shared.parts.locations.find(source);
        if location.is_some_and(|location| location.has_host(host)) {
            return Ok(());
        }
        // Whose connection it is, nobody knows: all who wait for the source are asked, and none is told.
        shared.check_host(&shared.tabs.of_source(source), (source, host), |_, _, _| {})
    }

    fn redirect(&self, redirection: &Redirection<'_>) -> Result<(), Refusal> {
        let Redirection { source, host, load } = *redirection;
        let tab = self.shared.tabs.find(load);
        let shared = &self.shared;
        shared.check_host(tab.as_slice(), (source, host), |rules, guest, denial| {
            shared.denied_at(rules, guest, (host, denial));
        })
    }

    fn admit<'a>(&'a self, demand: &'a Demand) -> BoxFuture<'a, Result<Box<dyn Permit>, Refusal>> {
        Box::pin(async move {
            let paid = self.shared.admit(demand).await?;
            Ok(Box::new(paid) as Box<dyn Permit>)
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

//! The controller's ledgers: reads policies and what nodes ask, keeps an `EgressBudget` for every account that is asked for, grants
//! bytes to nodes and says at the policies what is used. Only the replica that leads does it.
//!
//! ```text
//! EgressPolicy ─┐                    ┌─► EgressBudget   (with the version that was read)
//! EgressLease  ─┼─► watch ─► World ──┼─► EgressLease.status
//! EgressBudget ─┤      once a second └─► EgressPolicy.status
//! Namespace    ─┘
//! ```
//!
//! * `world`, `turns`, `answers`, `statuses`: what is to be done, as values (the transitions are `egress::ledger`).
//! * `standing`: which accounts there are.
//! * `keeper`: the loop; `watch`, `store`: the API server; `silence`, `waits`: when it fails everybody, and when one object;
//!   `record`: the audit log; `doubts`: writes whose answer is missing.
//!
//! **A leader begins with nothing**: it reads everything, counts the terms of grants anew, and then acts. One that does not know
//! that it was replaced does no harm: its writes of ledgers fail by their version, and what it tells nodes was in a ledger. While
//! nothing is asked, only the watches are open. Which verbs it needs: `list` and `watch` of namespaces, egresspolicies, egressleases
//! and egressbudgets; `get`, `create` and `delete` of egressbudgets; `update` of the status of egressbudgets and egressleases; `patch`
//! of that of egresspolicies.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch::{Receiver, Sender};
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::Clock;

use super::audit::Audit;
use super::status::BudgetFigure;
use crate::leader;

mod answers;
mod doubts;
mod keeper;
mod objects;
mod record;
mod silence;
mod standing;
mod statuses;
mod store;
mod turns;
pub(crate) mod users;
mod waits;
mod watch;
mod words;
mod world;

pub use answers::LeaseWrite;
use keeper::Keeper;
pub use objects::{BudgetObject, LeaseObject, PolicyObject};
pub use turns::{Creation, Deletion, LedgerWrite, Turns};
pub(crate) use words::{comes_back, time};
pub use world::{Change, Moment, World};

/// What the loop is made of.
pub struct Parts {
    /// Of the API server.
    pub client: kube::Client,
    /// Whether this replica leads.
    pub leading: Receiver<bool>,
    /// Where grants and what became of them are recorded.
    pub audit: Audit,
    /// What is used of budgets, for metrics; nothing while another replica leads.
    pub figures: Sender<Vec<BudgetFigure>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// Keeps the ledgers while this replica leads, until `stop`.
pub async fn run(parts: Parts, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work(parts) => {}
    }
}

async fn work(parts: Parts) {
    let Parts {
        client,
        mut leading,
        audit,
        figures,
        clock,
    } = parts;
    let keep = || async {
        let mut keeper = Keeper::new(client.clone(), audit.clone(), Arc::clone(&clock));
        Box::pin(keeper.keep(&figures)).await;
    };
    loop {
        let goes_on = leader::term(&mut leading, keep).await;
        figures.send_replace(Vec::new());
        if !goes_on {
            return;
        }
    }
}

#[cfg(test)]
mod tests;

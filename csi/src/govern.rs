//! Governance at work: what `egress` decides is asked here for every load, connection and run, and told to the cluster. Nodes
//! ask and spend, the controller keeps the ledgers; the API server is the only thing between them.
//!
//! ```text
//! node        EgressPolicy ─► rules ─┐
//!             publish ─► tabs ───────┼─► gate ─► spend ─► lease ─► EgressLease.spec
//!                                    └─► denials, audit, cost
//! controller  EgressLease, EgressPolicy ─► ledgers ─► EgressBudget, EgressLease.status ─► status ─► EgressPolicy.status
//! ```

pub mod audit;
pub mod cost;
pub mod denials;
pub mod gate;
pub mod gpu;
pub mod lease;
pub mod ledgers;
pub mod pace;
pub mod quota_status;
pub mod quotas;
pub mod rules;
pub mod spend;
pub mod status;
pub mod tabs;

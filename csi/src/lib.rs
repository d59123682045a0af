//! The CSI driver: publishes the cache's views as read-only volumes, and the parts that the command line shares with it.
//!
//! Imports point down the table of ranks in `docs/architecture.md`, which `e2e/tests/layers.rs` holds. The
//! program's own modules (`args`, `command`, …) hang below `main.rs`.

pub mod access;
pub mod bundle;
pub mod claims;
pub mod control;
pub mod crd;
pub mod egress;
pub mod events;
/// Crash points.
#[cfg(feature = "failpoints")]
pub mod failpoints;
pub mod govern;
pub mod grant;
pub mod identity;
pub mod inflight;
pub mod leader;
pub mod loads;
pub mod log;
pub mod metrics;
pub mod mount;
pub mod node_cache;
pub mod node_object;
pub mod pin;
pub mod policy;
pub mod provision;
pub mod publish;
pub mod reconcile;
pub mod record;
pub mod registration;
pub mod run;
pub mod server;
pub mod service;
pub mod size;
pub mod sources;
pub mod status;
pub mod target;
pub mod trace;
pub mod upkeep;
pub mod volume;
pub mod volumes;
mod watching;

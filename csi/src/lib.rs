//! The CSI driver: publishes the cache's views as read-only volumes, and the parts that the command line shares with it.
//!
//! Modules by rank; imports point down only: 0 `volume target` · 1 `mount identity policy grant loads record inflight
//! volumes` · 2 `sources status publish` · 3 `service` · 4 `server registration` · 5 `metrics trace log pin upkeep
//! control` · 6 `run`.

pub mod control;
/// Crash points.
#[cfg(feature = "failpoints")]
pub mod failpoints;
pub mod grant;
pub mod identity;
pub mod inflight;
pub mod loads;
pub mod log;
pub mod metrics;
pub mod mount;
pub mod pin;
pub mod policy;
pub mod publish;
pub mod record;
pub mod registration;
pub mod run;
pub mod server;
pub mod service;
pub mod sources;
pub mod status;
pub mod target;
pub mod trace;
pub mod upkeep;
pub mod volume;
pub mod volumes;

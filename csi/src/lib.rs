//! CSI.

pub mod control;
/// Crash points.
#[cfg(feature = "failpoints")]
pub mod failpoints;
pub mod pin;
pub mod upkeep;

//! CSI.

/// Crash points.
#[cfg(feature = "failpoints")]
pub mod failpoints;

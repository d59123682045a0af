//! Pod stories: the real node service over its socket, a real cache, and a mounter that remembers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that meets what it does not expect fails"
)]

#[path = "pods/crowd.rs"]
mod crowd;
#[path = "pods/governing.rs"]
mod governing;
#[path = "pods/granter.rs"]
mod granter;
#[path = "../src/govern/audit/paper.rs"]
mod paper;
#[path = "pods/publishing.rs"]
mod publishing;
#[path = "pods/restarts.rs"]
mod restarts;
#[path = "pods/retaining.rs"]
mod retaining;
#[path = "pods/sharing.rs"]
mod sharing;
#[path = "pods/source.rs"]
mod source;
#[path = "pods/waiting.rs"]
mod waiting;
#[path = "pods/world.rs"]
mod world;

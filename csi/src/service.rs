//! The CSI services: they parse requests, call one function, and word the answer. They hold no logic.

mod capability;
mod controller;
mod identity;
mod node;

pub use controller::ControllerService;
pub use identity::IdentityService;
pub use node::{NodeFacts, NodeService};

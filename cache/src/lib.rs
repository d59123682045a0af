//! Tonnage's cache: fetches model weights and datasets from object storage, stores them once under their
//! content hash and lays them out as read-only directory trees. It is a library that works unprivileged in
//! any directory: it knows no gRPC, no Kubernetes and no mount(2).
//!
//! Data goes one way: `source` → `fetch` → `store` → `view`, with `gate` deciding which bytes may leave the
//! host. `source` and `store` never import each other; `cache` is the front door.

pub mod buffer;
pub mod cache;
pub mod clock;
pub mod digest;
pub mod disk;
pub mod error;
pub mod fetch;
pub mod gate;
pub mod journal;
pub mod manifest;
pub mod path;
pub mod report;
pub mod source;
pub mod store;
pub mod view;

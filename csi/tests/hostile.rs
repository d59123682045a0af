//! Whatever a tenant, kubelet or the API server sends ends in a value or in one sentence, and what cannot be read never allows
//! more than what can. Texts and objects are arbitrary, or what is right with one piece of it broken.
//!
//! Every run is the same. Case numbers and seeds of the environment (`PROPTEST_CASES`, `PROPTEST_RNG_SEED`) look further; what
//! fails is kept in `hostile/regressions.txt` and tried first from then on.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that meets what it does not expect fails"
)]

#[path = "hostile/amounts.rs"]
mod amounts;
#[path = "hostile/attributes.rs"]
mod attributes;
#[path = "hostile/hosts.rs"]
mod hosts;
#[path = "hostile/leases.rs"]
mod leases;
#[path = "hostile/ledgers.rs"]
mod ledgers;
#[path = "hostile/policies.rs"]
mod policies;
#[path = "hostile/targets.rs"]
mod targets;
#[path = "hostile/tokens.rs"]
mod tokens;
#[path = "hostile/values.rs"]
mod values;
#[path = "../../cache/tests/hostile/words.rs"]
mod words;

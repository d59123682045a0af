//! Who may load what from where, how many bytes that may take and what they cost: governance as values and pure functions. No
//! clock, no network, no object is read here; nodes, the controller and the command line all decide with this code.
//!
//! ```text
//! EgressPolicy ─► compiled ─► policy::decide ─► Decision: allowed by which rule, or denied in a sentence
//!                                │                 ├─ charges: accounts with limit and window ─► lease, ledger
//!                                │                 ├─ rates, price, how stale the rules may be
//! CacheQuota ──► quota::decide   │                 └─ what policies in mode Audit would have denied
//!                                └─► explain: the same for people
//! ```
//!
//! * `terms`: whom bytes are charged to, and when.
//! * `select`: namespaces, hosts and paths that rules name.
//! * `compiled`: a policy read once; one that cannot be read denies what it selects.
//! * `overrule`: a policy that only watches until a time, in an emergency.
//! * `policy`: what all policies together say of one question.
//! * `window`, `price`: time and money, exact.
//! * `quota`: how much content the volumes of a namespace may have.
//! * `explain`: a decision as `tonnage policy explain` shows it.
//! * `simulate`: what other policies would have made of an audit log, as `tonnage policy simulate` shows it.
//! * `lease`, `ledger`: how nodes get bytes to spend, so that a budget is never exceeded.
//!
//! `docs/governance.md` states the rules; a test evaluates its examples.

pub mod compiled;
pub mod explain;
pub mod lease;
pub mod ledger;
pub mod overrule;
pub mod policy;
pub mod price;
pub mod quota;
pub mod reservation;
pub mod select;
pub mod simulate;
pub mod terms;
pub mod window;

#[cfg(test)]
mod tests;

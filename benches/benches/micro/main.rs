//! Micro-benchmarks of what must stay cheap at a size that only large nodes reach: merging hashes, planning requests,
//! choosing what to evict, laying out a view, reading a manifest; and of what every run of parts pays: the gate.
//!
//! `cargo bench -p tonnage-benches --bench micro [FILTER]`. Nothing here touches the network; only `view` writes, into
//! a directory of its own below `target/`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a set-up that fails must stop the measurement"
)]

use criterion::Criterion;
// The plan, which is compiled in here, looks for it in the crate's root.
use tonnage_cache::digest;

mod evict;
mod gate;
mod hash;
mod manifest;
mod planning;
mod view;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    gate::measure(&mut criterion);
    hash::measure(&mut criterion);
    planning::measure(&mut criterion);
    evict::measure(&mut criterion);
    manifest::measure(&mut criterion);
    view::measure(&mut criterion);
    criterion.final_summary();
}

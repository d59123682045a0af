//! What governance adds to a run: asked of the gate, paid, begun, and settled in full. Each run of parts does it once, so this against
//! the processor time of as many runs as a gigabyte has is the gate's overhead.
//!
//! Beside the open gate: a node without policies, and one with twenty of which three select the namespace, where two budgets are
//! charged, a price holds, and a rate is booked that never makes a run wait. Nothing waits here, so that no runtime is needed.

use std::hint::black_box;

use criterion::Criterion;
use tonnage_cache::gate::OpenGate;

mod node;

use node::{Node, demand, policies, run};

pub(super) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gate");
    let demand = demand();
    group.bench_function("open", |bencher| {
        bencher.iter(|| run(black_box(&OpenGate), black_box(&demand)));
    });
    let cases = [
        ("no_policies", Vec::new(), (0, 0)),
        ("20_policies_2_budgets_1_rate", policies(), (2, 1)),
    ];
    for (name, policies, budgets_and_rates) in cases {
        let node = Node::new(policies);
        assert_eq!(node.budgets_and_rates, budgets_and_rates, "{name}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| run(black_box(&node.gate), black_box(&demand)));
        });
    }
    group.finish();
}

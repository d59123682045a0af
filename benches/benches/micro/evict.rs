//! Choosing what goes, out of a store of a million objects.

use std::hint::black_box;

use criterion::{BatchSize, Criterion};
use tonnage_cache::digest::Digest;
use tonnage_cache::store::Goal;
use tonnage_cache::store::evict::{IdleView, LooseObject, Step, Stock, choose};

const OBJECTS: u64 = 1_000_000;
const OBJECT_BYTES: u64 = 4096;
const VIEWS: u64 = 10_000;

pub(super) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("evict");
    group.sample_size(20);
    let stock = Stock {
        objects: (0..OBJECTS).map(object).collect(),
        views: (0..VIEWS).map(view).collect(),
        ..Stock::default()
    };
    let cases = [
        ("objects_400000_of_1e6", Goal::bytes(OBJECT_BYTES * 400_000)),
        ("objects_1_of_1e6", Goal::bytes(1)),
        ("view_1_of_1e4_beside_1e6_objects", Goal::ALL),
    ];
    for (name, goal) in cases {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || stock.clone(),
                |mut stock| {
                    let step = choose(black_box(&mut stock), &goal);
                    assert_ne!(step, Step::Done);
                    // Returned, so that dropping them is not timed.
                    (step, stock)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn object(n: u64) -> LooseObject {
    LooseObject {
        digest: Digest::of(&n.to_le_bytes()),
        bytes: OBJECT_BYTES,
        since_millis: scatter(n),
    }
}

fn view(n: u64) -> IdleView {
    let manifest = Digest::of(&n.to_le_bytes());
    IdleView {
        name: format!("{manifest}.0"),
        manifest,
        released_millis: scatter(n),
    }
}

/// Times in no order.
fn scatter(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

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
    let objects: Vec<LooseObject> = (0..OBJECTS).map(object).collect();
    let views: Vec<IdleView> = (0..VIEWS).map(view).collect();
    let stock = Stock::new(Vec::new(), views.clone(), objects.clone());
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
    group.bench_function("stock_of_1e6", |bencher| {
        bencher.iter_batched(
            || (views.clone(), objects.clone()),
            |(views, objects)| Stock::new(Vec::new(), views, objects),
            BatchSize::PerIteration,
        );
    });
    // A whole eviction: every view lets a hundred objects go.
    group.sample_size(10);
    group.bench_function("all_of_1e4_views_and_1e6_objects", |bencher| {
        bencher.iter_batched(
            || Stock::new(Vec::new(), views.clone(), Vec::new()),
            |mut stock| assert_eq!(all(&mut stock, &objects), OBJECTS),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Chooses until nothing is left; returns how many objects were chosen.
fn all(stock: &mut Stock, objects: &[LooseObject]) -> u64 {
    let mut loosened = objects.chunks(usize::try_from(OBJECTS / VIEWS).unwrap());
    let mut chosen = 0;
    loop {
        match choose(black_box(stock), &Goal::ALL) {
            Step::View(_) => stock.add_objects(loosened.next().unwrap().iter().copied()),
            Step::Objects(objects) => chosen += objects.len() as u64,
            Step::Partials(_) => {}
            Step::Done => return chosen,
        }
    }
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

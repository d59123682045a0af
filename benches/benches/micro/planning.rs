//! Every decision of a whole job about what to ask for next, made as the driver makes them: 16 requests under way, runs
//! of 8 parts, the oldest one ends first.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use tonnage_cache::digest::{PART_SIZE, part_count};
// Where the plan looks for its one setting.
use tonnage_cache::fetch as settings;

use plan::{Plan, Run, run_length};

/// The plan is no part of the library's surface, so its source is compiled in here.
#[allow(
    unused,
    reason = "its own tests, which come with it, do not run in a benchmark"
)]
#[path = "../../../cache/src/fetch/plan.rs"]
mod plan;

const CONNECTIONS: usize = 16;
const RUN_PARTS: u64 = 8;

pub(super) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    let jobs = [
        ("1x32GiB", vec![32u64 << 30]),
        ("64x512MiB", vec![512 << 20; 64]),
        ("100000x256KiB", vec![256 << 10; 100_000]),
    ];
    for (name, sizes) in jobs {
        let parts = sizes.iter().map(|size| part_count(*size)).sum();
        group.throughput(Throughput::Elements(parts));
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(whole_job(black_box(&sizes)), parts));
        });
    }
    group.finish();
}

/// Plans and "fetches" everything; returns the number of parts.
fn whole_job(sizes: &[u64]) -> u64 {
    let size = |entry: usize| sizes.get(entry).copied().unwrap_or_default();
    let mut plan = Plan::new(sizes.iter().copied());
    let mut under_way: VecDeque<Run> = VecDeque::new();
    let mut fetched = 0;
    while !plan.is_done() || !under_way.is_empty() {
        while plan.open_files() < 2 * CONNECTIONS + 2
            && let Some(entry) = plan.next_to_open(CONNECTIONS, RUN_PARTS, size)
        {
            plan.opened(entry, (0..part_count(size(entry))).map(|_| false));
        }
        while under_way.len() < CONNECTIONS
            && let Some(run) = next(&mut plan)
        {
            under_way.push_back(run);
        }
        if let Some(run) = under_way.pop_front() {
            fetched += end(&mut plan, &run, size(run.entry));
        }
    }
    fetched
}

fn next(plan: &mut Plan) -> Option<Run> {
    if plan.has_small() {
        return plan.next_small();
    }
    let left = plan.unasked_parts() / CONNECTIONS as u64;
    let pace = (Duration::from_millis(1), Duration::from_millis(2));
    plan.next_run(run_length(RUN_PARTS, pace.0, pace.1, left))
}

fn end(plan: &mut Plan, run: &Run, size: u64) -> u64 {
    let parts = run.parts.end - run.parts.start;
    let bytes = run.bytes(size);
    assert!(bytes.end - bytes.start <= parts * PART_SIZE);
    if plan.verified(run.entry, parts) {
        plan.close(run.entry);
    }
    parts
}

//! What governance adds to the processor time of a run. The governed node is that of the micro-benchmark `gate`.

#[path = "../../benches/micro/gate/node.rs"]
mod node;

use std::hint::black_box;
use std::time::Duration;

use tonnage_cache::clock::{Clock as _, SystemClock};
use tonnage_cache::digest::{PART_SIZE, hash_part};

use node::{Node, demand, policies, run};

/// How often both are measured; medians count.
const ROUNDS: usize = 101;
/// Runs in one measurement: a single one takes not much longer than reading the clock.
const RUNS: u32 = 200;
/// Bytes of the file that the run is of.
const FILE: u64 = 4 << 30;

/// Measured against hashing the same bytes, part by part with the function of a stage: it needs neither network nor disk, so that it is
/// as steady as what is measured, and a stage hashes every byte and does more. So what is at most a hundredth of the hash is
/// less than a hundredth of the run. Both are processor time of this thread and take turns: what else runs on the machine costs
/// neither of them more than caches and clock rate, which are the same for both.
#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "judges optimized code: run it with --release"
)]
fn governing_a_run_costs_less_than_a_hundredth_of_it() {
    const MOST: f64 = 0.01;
    let node = Node::new(policies());
    assert_eq!(node.budgets_and_rates, (2, 1));
    let demand = demand();
    let bytes = vec![7u8; usize::try_from(demand.bytes).unwrap()];
    let (mut governing, mut hashing) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        hashing.push(cpu_time(|| hash(&bytes)));
        let all = cpu_time(|| {
            for _ in 0..RUNS {
                run(black_box(&node.gate), black_box(&demand));
            }
        });
        governing.push(all / RUNS);
    }
    let (governing, hashing) = (median(governing), median(hashing));
    let share = governing.as_secs_f64() / hashing.as_secs_f64();
    let figures = format!(
        "a run of {} MiB: governing {governing:?} is {:.3} % of hashing {hashing:?}",
        demand.bytes >> 20,
        share * 100.0
    );
    eprintln!("{figures}");
    assert!(share < MOST, "{figures}");
}

/// Processor time of this thread.
fn cpu_time(work: impl FnOnce()) -> Duration {
    let clock = SystemClock::new();
    let start = clock.thread_cpu();
    work();
    clock.thread_cpu().saturating_sub(start)
}

fn hash(bytes: &[u8]) {
    let part = usize::try_from(PART_SIZE).unwrap();
    for (index, part) in (0..).zip(bytes.chunks_exact(part)) {
        black_box(hash_part(FILE, index, black_box(part)));
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

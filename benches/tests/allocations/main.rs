//! Gate of the hot path: how many times the heap is asked for memory for each further part of a large file, and for
//! each further request.
//!
//! `cargo test -p tonnage-benches --release --features gates --test allocations -- --nocapture` names the lines that
//! ask. Counted is what 1024 parts take more than 256, in one process and cache that have fetched before, so that starts,
//! connections and buffers do not count; twice, in short and in long runs, which tells parts from requests. A test
//! program of its own, because it counts the allocations of its whole process.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a gate that meets what it does not expect fails; it shows what it has measured"
)]

mod costs;
mod heap;
#[path = "../gates/stand.rs"]
#[allow(dead_code, reason = "the other gates need all of it")]
mod stand;

use std::sync::Arc;

use tonnage_cache::cache::{Cache, Config, LoadOptions, Reference};
use tonnage_cache::fetch::PageCache;
use tonnage_cache::gate::OpenGate;
use tonnage_cache::source::Source;
use tonnage_cache::source::config::{SourceConfig, build};
use tonnage_cache::store::{Env, Holder};

use costs::{Costs, Stretch};
use stand::Stand;

const MIB: u64 = 1 << 20;
/// Parts of a run: few, and as many as there may be.
const RUNS: [u64; 2] = [4, 64];
/// Nothing is asked for on behalf of a part; what is measured is the noise of threads in the background.
const MOST_PER_PART: f64 = 0.1;
/// 37.1 were measured, 10 of them in the HTTP library.
const MOST_PER_REQUEST: f64 = 40.0;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_further_part_costs_no_allocation() {
    let files = [
        ("warm-up", 256 * MIB),
        ("short", 256 * MIB),
        ("long", 1024 * MIB),
    ];
    let stand = Stand::serving(&files);
    let many = measure(&stand, RUNS[0]).await;
    let few = measure(&stand, RUNS[1]).await;
    let costs = Costs::of(&many, &few);
    eprintln!("{} and {} requests: {costs}", many.requests, few.requests);
    assert!(costs.per_part <= MOST_PER_PART, "{costs}");
    assert!(costs.per_request <= MOST_PER_REQUEST, "{costs}");
}

/// What 768 further parts take in runs of this length.
async fn measure(stand: &Stand, run_parts: u64) -> Stretch {
    let root = stand.new_directory();
    let mut config = Config::new(root.path());
    // As many connections throughout, and no second requests.
    config.fetch.run_parts = run_parts;
    config.fetch.connections_start = 4;
    config.fetch.connections_max = 4;
    config.fetch.hedge_permille = 0;
    let cache = Cache::open(config, Env::real(), OpenGate::shared())
        .await
        .unwrap();
    let config = SourceConfig {
        url: "s3://models".to_owned(),
        ..SourceConfig::default()
    };
    let config = config.with_endpoint(&stand.endpoint());
    let source = build(&config, OpenGate::shared()).unwrap();
    load(&cache, &source, "warm-up").await;
    stand.reset();
    let short = heap::count(load(&cache, &source, "short")).await;
    let requests = gets(stand);
    stand.reset();
    let long = heap::count(load(&cache, &source, "long")).await;
    Stretch {
        parts: 768.0,
        requests: gets(stand) - requests,
        allocations: long.since(&short),
    }
}

fn gets(stand: &Stand) -> f64 {
    stand.stats()["gets"].as_f64().unwrap()
}

async fn load(cache: &Cache, source: &Arc<dyn Source>, path: &str) {
    let mut options = LoadOptions::new(Holder::new("gate"));
    options.page_cache = PageCache::Direct;
    let reference = Reference::new(Arc::clone(source), path);
    cache.load(&reference, &options).await.unwrap();
}

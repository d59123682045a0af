//! Gate of the hot path: how many times the heap is asked for memory for each further part of a large file.
//!
//! `cargo test -p tonnage-benches --release --test allocations -- --nocapture` names the lines that ask. Counted is what
//! 1024 parts take more than 256, in one process and cache that have fetched before, so that starts, connections and
//! buffers do not count. A test program of its own, because it counts the allocations of its whole process.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a gate that meets what it does not expect fails; it shows what it has measured"
)]

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

use stand::Stand;

const MIB: u64 = 1 << 20;
/// 11.9 was measured: 5 for each part and 57 for each run of 8.
const MOST_PER_PART: f64 = 15.0;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_further_part_costs_few_allocations() {
    let files = [
        ("warm-up", 256 * MIB),
        ("short", 256 * MIB),
        ("long", 1024 * MIB),
    ];
    let stand = Stand::serving(&files);
    let config = Config::new(stand.new_directory());
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
    let short = heap::count(load(&cache, &source, "short")).await;
    let long = heap::count(load(&cache, &source, "long")).await;
    let more = long.since(&short, 768.0);
    eprintln!("{more}");
    assert!(more.per_part <= MOST_PER_PART, "{more}");
}

async fn load(cache: &Cache, source: &Arc<dyn Source>, path: &str) {
    let mut options = LoadOptions::new(Holder::new("gate"));
    options.page_cache = PageCache::Direct;
    let reference = Reference::new(Arc::clone(source), path);
    cache.load(&reference, &options).await.unwrap();
}

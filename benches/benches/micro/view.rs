//! Laying out 100,000 files, and looking a view of them over at its first use after a start.
//!
//! The files share 10,000 objects: what is measured is links, names and looks, not the writing of objects.

use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput};
use tonnage_cache::buffer::Buffer;
use tonnage_cache::digest::Digest;
use tonnage_cache::manifest::{File, Manifest};
use tonnage_cache::path::RelPath;
use tonnage_cache::store::{Config, Env, Store};
use tonnage_cache::view::Views;

const FILES: u64 = 100_000;
const OBJECTS: u64 = 10_000;

pub(super) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("view_100000");
    group.sample_size(10);
    group.throughput(Throughput::Elements(FILES));
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open(Config::new(scratch.path()), Env::real()).unwrap();
    fill(&store);
    let manifest = Manifest::new((0..FILES).map(file).collect()).unwrap();
    let digest = manifest.digest();
    let views = Views::new(Arc::clone(&store));
    let remove = |view: &Path| store.disk().remove_tree(view).unwrap();
    group.bench_function("build", |bencher| {
        bencher.iter_batched(
            || {
                if let Some(view) = views.find(&digest, &manifest).unwrap() {
                    remove(&view);
                }
            },
            |()| views.ensure(&digest, &manifest).unwrap(),
            BatchSize::PerIteration,
        );
    });
    let view = views.ensure(&digest, &manifest).unwrap();
    group.bench_function("first_find", |bencher| {
        bencher.iter_batched(
            || Views::new(Arc::clone(&store)),
            |views| views.find(&digest, &manifest).unwrap().unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
    criterion.bench_function("view_100000/next_find", |bencher| {
        bencher.iter(|| views.find(&digest, &manifest).unwrap().unwrap());
    });
    remove(&view);
}

fn fill(store: &Arc<Store>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut buffer = Buffer::unpooled();
        for n in 0..OBJECTS {
            let bytes = n.to_le_bytes();
            let (front, _) = buffer.bytes_mut().split_at_mut(bytes.len());
            front.copy_from_slice(&bytes);
            let put = store.put_small(buffer, bytes.len(), Digest::of(&bytes));
            buffer = put.await.unwrap().1;
        }
        store.sync_now().await;
    });
}

fn file(n: u64) -> File {
    let object = n % OBJECTS;
    File {
        path: RelPath::parse(&format!("shard-{:03}/sample-{n:06}.bin", n % 100)).unwrap(),
        size: 8,
        digest: Digest::of(&object.to_le_bytes()),
    }
}

//! Writing and reading the manifest of 100,000 files: each publish of a cached volume reads one.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use tonnage_cache::digest::Digest;
use tonnage_cache::manifest::{File, Manifest};
use tonnage_cache::path::RelPath;

const FILES: u64 = 100_000;

pub(super) fn measure(criterion: &mut Criterion) {
    let files: Vec<File> = (0..FILES).map(file).collect();
    let manifest = Manifest::new(files.clone()).unwrap();
    let bytes = manifest.encode();
    let mut group = criterion.benchmark_group("manifest_100000");
    group.sample_size(20);
    group.throughput(Throughput::Elements(FILES));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| black_box(&manifest).encode());
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Manifest::decode(black_box(&bytes)).unwrap());
    });
    group.bench_function("new", |bencher| {
        bencher.iter_batched(
            || files.clone(),
            |files| Manifest::new(files).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn file(n: u64) -> File {
    File {
        path: RelPath::parse(&format!("shard-{:03}/sample-{n:06}.bin", n % 100)).unwrap(),
        size: 256 << 10,
        digest: Digest::of(&n.to_le_bytes()),
    }
}

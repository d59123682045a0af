//! Combining the hashes of all parts of a file into its digest: what is left to do when the last byte is there.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use tonnage_cache::digest::{ChainingValue, Digest, PART_SIZE, PartHash, combine, hash_part};

pub(super) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash");
    for gib in [4u64, 32] {
        let length = gib << 30;
        let parts: Vec<PartHash> = (0..length / PART_SIZE).map(part).collect();
        group.throughput(Throughput::Elements(parts.len() as u64));
        group.bench_function(BenchmarkId::new("merge", format!("{gib}GiB")), |bencher| {
            bencher.iter(|| combine(length, black_box(&parts)).unwrap());
        });
    }
    let bytes = vec![7u8; 1 << 20];
    group.throughput(Throughput::Bytes(PART_SIZE));
    group.bench_function("part", |bencher| {
        bencher.iter(|| hash_part(4 << 30, 5, black_box(&bytes)));
    });
    group.finish();
}

fn part(index: u64) -> PartHash {
    PartHash::Part(ChainingValue(*Digest::of(&index.to_le_bytes()).as_bytes()))
}

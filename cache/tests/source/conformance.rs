//! What every `Source` must do, whatever is behind it. Implementations call [`check`] with a tree that they
//! hold; `e2e` calls it for the stores that need a server.

use std::sync::Arc;

use tonnage_cache::error::Kind;
use tonnage_cache::source::{Entry, Error, Limits, Source, read as read_some, read_to_end};

/// Files below `tree/` that the source under test must hold, and nothing else there; keys with everything that
/// URLs, XML and signatures may stumble over.
pub(crate) const NAMES: [&str; 10] = [
    "a.bin",
    "dir/b.bin",
    "dir/c d+e.bin",
    "dir/deep/er/%41%2F.bin",
    "dir/hash#query?and&=.bin",
    "empty",
    "tilde~!*'().bin",
    "unicode-\u{e9}\u{2603}\u{1f680}.bin",
    "z;:@$,[]{}|^`\"<>\\.bin",
    "~",
];

/// The bytes of a file, which differ from file to file and from byte to byte.
pub(crate) fn content(name: &str) -> Vec<u8> {
    let length = if name == "empty" {
        0
    } else {
        700_001 + name.len()
    };
    let seed = name.bytes().fold(7u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    let step = |at: usize| u32::try_from(at).unwrap().wrapping_mul(2_654_435_761) ^ seed;
    (0..length).map(|at| step(at).to_le_bytes()[3]).collect()
}

/// Runs the whole suite.
pub(crate) async fn check(source: Arc<dyn Source>) {
    lists_every_file_by_its_path(&*source).await;
    lists_below_a_prefix_and_a_single_file(&*source).await;
    refuses_what_is_not_there_or_not_a_path(&*source).await;
    holds_limits(&*source).await;
    reads_every_range_exactly(&*source).await;
    refuses_another_version(&*source).await;
    survives_a_dropped_body(&*source).await;
}

async fn listed(source: &dyn Source, prefix: &str) -> Vec<Entry> {
    source
        .list(prefix, &Limits::default())
        .await
        .unwrap()
        .entries
}

async fn read(
    source: &dyn Source,
    entry: &Entry,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, Error> {
    read_to_end(source.open(entry, range).await?).await
}

async fn lists_every_file_by_its_path(source: &dyn Source) {
    assert!(!source.name().is_empty() && !source.uid().is_empty());
    let listing = source.list("tree", &Limits::default()).await.unwrap();
    let found: Vec<(&str, u64)> = (listing.entries.iter())
        .map(|entry| (entry.path.as_str(), entry.size))
        .collect();
    let mut expected: Vec<(&str, u64)> = (NAMES.iter())
        .map(|name| (*name, content(name).len() as u64))
        .collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let again = source.list("tree/", &Limits::default()).await.unwrap();
    assert_eq!(listing.fingerprint(), again.fingerprint());
}

async fn lists_below_a_prefix_and_a_single_file(source: &dyn Source) {
    let below = listed(source, "tree/dir").await;
    let paths: Vec<&str> = below.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "b.bin",
            "c d+e.bin",
            "deep/er/%41%2F.bin",
            "hash#query?and&=.bin"
        ]
    );
    for name in NAMES {
        let one = listed(source, &format!("tree/{name}")).await;
        assert_eq!(one.len(), 1, "{name}");
        assert_eq!(one[0].path.as_str(), name.rsplit('/').next().unwrap());
        assert_eq!(
            read(source, &one[0], 0..one[0].size).await.unwrap(),
            content(name),
            "{name}"
        );
    }
}

async fn refuses_what_is_not_there_or_not_a_path(source: &dyn Source) {
    for missing in ["tree/none", "tre", "tree/dir/b"] {
        let error = source.list(missing, &Limits::default()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{missing}: {error}");
    }
    for bad in ["../tree", "tree/../tree", "/tree", "tree//dir", "tree/\n"] {
        let error = source.list(bad, &Limits::default()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{bad}: {error}");
    }
}

async fn holds_limits(source: &dyn Source) {
    let default = Limits::default();
    for limits in [
        Limits {
            objects: 2,
            ..default
        },
        Limits {
            bytes: 1_000_000,
            ..default
        },
    ] {
        let error = source.list("tree", &limits).await.unwrap_err();
        assert!(matches!(error, Error::Limit(_)), "{error}");
    }
}

async fn reads_every_range_exactly(source: &dyn Source) {
    for entry in listed(source, "tree").await {
        let whole = content(entry.path.as_str());
        for range in [
            0..entry.size,
            0..1,
            1..2,
            300_000..600_001,
            entry.size.saturating_sub(1)..entry.size,
        ] {
            if range.end > entry.size {
                continue;
            }
            let read = read(source, &entry, range.clone()).await.unwrap();
            let at = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            assert!(read == whole[at], "{} {range:?}", entry.path);
        }
    }
}

async fn refuses_another_version(source: &dyn Source) {
    let entry = listed(source, "tree").await.remove(0);
    let mut other = entry.clone();
    other.version.etag = Some("\"another\"".to_owned());
    let mut longer = entry.clone();
    longer.size += 1;
    let mut gone = entry.clone();
    gone.key.push_str(".gone");
    for stale in [other, longer, gone] {
        let error = read(source, &stale, 0..10).await.unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
        assert!(!error.is_retryable());
    }
}

async fn survives_a_dropped_body(source: &dyn Source) {
    let entry = listed(source, "tree").await.remove(0);
    for _ in 0..3 {
        let mut body = source.open(&entry, 0..entry.size).await.unwrap();
        assert!(read_some(&mut body, &mut [0; 1]).await.is_ok());
    }
    assert_eq!(
        read(source, &entry, 0..10).await.unwrap(),
        content(entry.path.as_str())[..10]
    );
}

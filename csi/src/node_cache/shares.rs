//! What namespaces have on the node, for their `CacheQuota`s: bytes as volumes show them, and bytes of the disk. A file that two
//! namespaces use is each one's in full, and said to be shared.
//!
//! Manifests are read again only when a namespace uses another set of contents than at the last look.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tonnage_cache::digest::Digest;
use tonnage_cache::store::{self, Store};

use crate::crd::{MOST_NAMESPACES, NamespaceContent};
use crate::govern::quotas::{Quotas, Use};

/// Contents by namespace.
type Contents = BTreeMap<String, BTreeSet<Digest>>;

/// Bytes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Physical {
    bytes: u64,
    shared: u64,
}

/// Looks at what namespaces have, again and again.
#[derive(Debug)]
pub(super) struct Shares {
    quotas: Arc<Quotas>,
    seen: Contents,
    physical: BTreeMap<String, Physical>,
}

impl Shares {
    pub(super) fn new(quotas: Arc<Quotas>) -> Self {
        Self {
            quotas,
            seen: Contents::new(),
            physical: BTreeMap::new(),
        }
    }

    /// The namespaces with a quota that use most, largest first, and before them those with one of the cluster. Blocking.
    pub(super) fn look(&mut self, store: &Store) -> Result<Vec<NamespaceContent>, store::Error> {
        let mut uses = self.quotas.uses();
        if !uses.iter().any(|it| it.is_governed) {
            return Ok(Vec::new());
        }
        let contents = uses
            .iter()
            .map(|it| (it.namespace.clone(), it.contents.clone()));
        let contents: Contents = contents.collect();
        if contents != self.seen {
            self.physical = measure(store, &contents)?;
            self.seen = contents;
        }
        uses.retain(|it| it.is_governed);
        uses.sort_by(|a, b| {
            let key = |it: &Use| Reverse((it.report.is_some(), it.usage.logical_bytes));
            key(a)
                .cmp(&key(b))
                .then_with(|| a.namespace.cmp(&b.namespace))
        });
        uses.truncate(MOST_NAMESPACES);
        Ok(uses.into_iter().map(|it| self.line(it)).collect())
    }

    fn line(&self, it: Use) -> NamespaceContent {
        let physical = self
            .physical
            .get(&it.namespace)
            .copied()
            .unwrap_or_default();
        NamespaceContent {
            logical_bytes: signed(it.usage.logical_bytes),
            volumes: signed(it.usage.volumes),
            physical_bytes: signed(physical.bytes),
            shared_bytes: signed(physical.shared),
            wanted_bytes: it.report.map(|it| signed(it.wants.logical_bytes)),
            wanted_volumes: it.report.map(|it| signed(it.wants.volumes)),
            seq: it.report.and_then(|report| report.seq).map(signed),
            namespace: it.namespace,
        }
    }
}

/// Whose file it is.
enum Owner<'a> {
    One(&'a str),
    Several,
}

/// Bytes of every namespace's files. Blocking.
fn measure(store: &Store, contents: &Contents) -> Result<BTreeMap<String, Physical>, store::Error> {
    let mut files: BTreeMap<&str, HashMap<Digest, u64>> = BTreeMap::new();
    let mut owners: HashMap<Digest, Owner<'_>> = HashMap::new();
    for (namespace, digests) in contents {
        let own = files.entry(namespace).or_default();
        for digest in digests {
            // What is gone meanwhile has no bytes.
            let Some(manifest) = store.find_manifest(digest)? else {
                continue;
            };
            for file in manifest.files() {
                own.insert(file.digest, file.size);
                let owner = owners.entry(file.digest).or_insert(Owner::One(namespace));
                if matches!(owner, Owner::One(other) if *other != namespace) {
                    *owner = Owner::Several;
                }
            }
        }
    }
    let measured = files.into_iter().map(|(namespace, files)| {
        let mut physical = Physical::default();
        for (digest, size) in files {
            physical.bytes = physical.bytes.saturating_add(size);
            if matches!(owners.get(&digest), Some(Owner::Several)) {
                physical.shared = physical.shared.saturating_add(size);
            }
        }
        (namespace.to_owned(), physical)
    });
    Ok(measured.collect())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_cache::manifest::{File, Manifest};
    use tonnage_cache::path::RelPath;
    use tonnage_cache::store::{Config, Env};

    /// Content of files of these sizes; a file is what its size is.
    async fn content(store: &Store, sizes: &[u64]) -> Digest {
        let files = sizes.iter().map(|size| File {
            path: RelPath::parse(&format!("file-{size}")).unwrap(),
            size: *size,
            digest: Digest::of(&size.to_le_bytes()),
        });
        let manifest = Manifest::new(files.collect()).unwrap();
        store.put_manifest(&manifest).await.unwrap()
    }

    #[tokio::test]
    async fn a_file_counts_once_for_a_namespace_and_is_shared_if_another_has_it_too() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(Config::new(root.path()), Env::real()).unwrap();
        let first = content(&store, &[1_000, 200]).await;
        let second = content(&store, &[1_000, 30]).await;
        let third = content(&store, &[4]).await;
        let contents = Contents::from([
            ("team-a".to_owned(), BTreeSet::from([first, second])),
            ("team-b".to_owned(), BTreeSet::from([second, third])),
            ("team-c".to_owned(), BTreeSet::from([Digest::of(b"gone")])),
        ]);
        let measured = measure(&store, &contents).unwrap();
        let physical = |bytes, shared| Physical { bytes, shared };
        assert_eq!(
            measured,
            BTreeMap::from([
                ("team-a".to_owned(), physical(1_230, 1_030)),
                ("team-b".to_owned(), physical(1_034, 1_030)),
                ("team-c".to_owned(), physical(0, 0)),
            ])
        );
    }
}

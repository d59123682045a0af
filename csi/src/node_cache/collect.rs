//! Facts about the store, for one report: figures, contents, leases, damage. Blocking, and cheap: directories of names are
//! listed, a manifest is read when it is first seen, leases are in memory, and files are counted only now and then (`count`).

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::{Clock, unix_millis};
use tonnage_cache::digest::Digest;
use tonnage_cache::error::IoContext as _;
use tonnage_cache::store::{self, Damage, Store};

use super::count::{self, Counted};
use super::notes::{Notes, Origin};
use super::shares::Shares;
use crate::crd::NamespaceContent;
use crate::govern::quotas::Quotas;

/// Contents that are reported one by one.
pub(super) const MOST_CONTENTS: usize = 50;
/// Kind of the store's records of when leases ended.
const RELEASED: &str = "released";

/// What a look saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    /// Most bytes that the cache can occupy.
    pub(super) capacity: u64,
    /// Bytes that the file system has left.
    pub(super) free: u64,
    /// Bytes of it that are left to others.
    pub(super) reserved: u64,
    /// How many views there are.
    pub(super) views: usize,
    /// How many contents there are.
    pub(super) contents: usize,
    /// The largest of them, largest first.
    pub(super) largest: Vec<Content>,
    /// `None` only if the service was stopped during the first count.
    pub(super) counted: Option<Counted>,
    /// Objects that were found damaged and are still missing or shown.
    pub(super) damaged: Vec<Damage>,
    /// What namespaces with a quota have, largest first.
    pub(super) namespaces: Vec<NamespaceContent>,
}

/// What there is to be looked at.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) store: Arc<Store>,
    pub(super) notes: Arc<Notes>,
    pub(super) quotas: Arc<Quotas>,
    pub(super) clock: Arc<dyn Clock>,
}

/// One content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    pub(super) files: usize,
    /// Where it was loaded from, if that is known.
    pub(super) origin: Option<Origin>,
    /// Published volumes that show it.
    pub(super) volumes: usize,
    pub(super) pinned: bool,
    /// When its last lease ended, milliseconds since 1970.
    pub(super) released: Option<u64>,
}

/// What is remembered of a content between looks.
#[derive(Debug, Clone, Copy)]
struct Known {
    bytes: u64,
    files: usize,
    is_held: bool,
    released: Option<u64>,
}

/// Looks at one store, again and again.
#[derive(Debug)]
pub(super) struct Collector {
    store: Arc<Store>,
    notes: Arc<Notes>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    shares: Shares,
    known: HashMap<Digest, Known>,
    counted: Option<Counted>,
    has_looked: bool,
}

impl Collector {
    pub(super) fn new(sight: Sight, stop: CancellationToken) -> Self {
        let Sight {
            store,
            notes,
            quotas,
            clock,
        } = sight;
        Self {
            store,
            notes,
            clock,
            stop,
            shares: Shares::new(quotas),
            known: HashMap::new(),
            counted: None,
            has_looked: false,
        }
    }

    /// Looks. Blocking.
    pub(super) fn collect(&mut self) -> Result<Facts, store::Error> {
        if !self.has_looked {
            self.notes.read(self.store.records());
        }
        let views = self.names("views")?;
        let manifests = self.names("manifests")?;
        let partial = self.names("partial")?;
        let contents: HashSet<Digest> = manifests.iter().filter_map(|it| it.parse().ok()).collect();
        self.learn(&contents)?;
        self.notes.forget_all_but(|it| contents.contains(it));
        self.count(&[views.as_slice(), manifests.as_slice(), partial.as_slice()])?;
        self.has_looked = true;
        let root = self.store.root();
        let space = self
            .store
            .disk()
            .space(root)
            .at("read the free space of", root)?;
        let config = self.store.config();
        Ok(Facts {
            capacity: config.capacity(&space),
            free: space.free,
            reserved: config.floor_bytes,
            views: views.len(),
            contents: self.known.len(),
            largest: self.largest(),
            counted: self.counted,
            damaged: self.store.damaged(),
            namespaces: self.shares.look(&self.store)?,
        })
    }

    /// Names in one of the store's directories, sorted.
    fn names(&self, top: &str) -> Result<Vec<String>, store::Error> {
        let directory = self.store.layout().top(top);
        let names = self.store.disk().list(&directory).at("list", &directory)?;
        let names = names.into_iter();
        let mut names: Vec<String> = names.filter_map(|it| it.name.into_string().ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Reads manifests that are new, forgets those that are gone, and notes what was released since the last look.
    fn learn(&mut self, contents: &HashSet<Digest>) -> Result<(), store::Error> {
        let now = unix_millis(self.clock.now());
        let held: HashSet<Digest> = self.store.leases().held().into_iter().collect();
        self.known.retain(|digest, _| contents.contains(digest));
        for digest in contents {
            let is_held = held.contains(digest);
            if let Some(known) = self.known.get_mut(digest) {
                if known.is_held && !is_held {
                    known.released = Some(now);
                }
                known.is_held = is_held;
            } else if let Some(manifest) = self.store.find_manifest(digest)? {
                let known = Known {
                    bytes: manifest.total_bytes(),
                    files: manifest.files().len(),
                    is_held,
                    released: self.released(digest, now)?,
                };
                self.known.insert(*digest, known);
            }
        }
        Ok(())
    }

    /// When a content that is new here was released. What came and went between two looks has no record yet.
    fn released(&self, digest: &Digest, now: u64) -> Result<Option<u64>, store::Error> {
        let recorded = self
            .store
            .records()
            .read::<u64>(RELEASED, &digest.to_hex())?;
        Ok(recorded.or(self.has_looked.then_some(now)))
    }

    fn count(&mut self, names: &[&[String]]) -> Result<(), store::Error> {
        let names = Digest::of(format!("{names:?}").as_bytes());
        let began = self.clock.monotonic();
        if !count::is_due(self.counted.as_ref(), &names, began) {
            return Ok(());
        }
        let walked = count::walk(self.store.disk(), self.store.layout(), &self.stop)?;
        let ended = self.clock.monotonic();
        if let Some(count) = walked {
            self.counted = Some(Counted {
                count,
                millis: unix_millis(self.clock.now()),
                ended,
                took: ended.saturating_sub(began),
                names,
            });
        }
        Ok(())
    }

    fn largest(&self) -> Vec<Content> {
        let mut all: Vec<(&Digest, &Known)> = self.known.iter().collect();
        all.sort_unstable_by_key(|(digest, known)| (Reverse(known.bytes), **digest));
        let largest = all.into_iter().take(MOST_CONTENTS);
        largest
            .map(|(digest, known)| self.content(digest, known))
            .collect()
    }

    fn content(&self, digest: &Digest, known: &Known) -> Content {
        let holders = self.store.leases().holders(digest);
        let of = |kind: &str| {
            let found = holders.iter().filter(|it| it.as_str().starts_with(kind));
            found.count()
        };
        Content {
            digest: *digest,
            bytes: known.bytes,
            files: known.files,
            origin: self.notes.origin(digest),
            volumes: of("volume:"),
            pinned: of("pin:") > 0,
            released: known.released.filter(|_| !known.is_held),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};
    use tonnage_cache::clock::ManualClock;
    use tonnage_cache::disk::{OsDisk, Space};
    use tonnage_cache::manifest::{File, Manifest};
    use tonnage_cache::path::RelPath;
    use tonnage_cache::store::{Config, Env, Holder};

    struct Site {
        collector: Collector,
        store: Arc<Store>,
        clock: Arc<ManualClock>,
        _root: tempfile::TempDir,
    }

    fn site() -> Site {
        let root = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(
            SystemTime::UNIX_EPOCH + Duration::from_secs(100),
        ));
        let env = Env {
            disk: Arc::new(OsDisk::new()),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            boot_id: "boot".to_owned(),
        };
        let store = Store::open(Config::new(root.path()), env).unwrap();
        let sight = Sight {
            store: Arc::clone(&store),
            notes: Arc::default(),
            quotas: Quotas::none(),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        };
        let collector = Collector::new(sight, CancellationToken::new());
        Site {
            _root: root,
            clock,
            store,
            collector,
        }
    }

    async fn content(store: &Store, size: u64) -> Digest {
        let file = File {
            path: RelPath::parse("weights").unwrap(),
            size,
            digest: Digest::of(&size.to_le_bytes()),
        };
        let manifest = Manifest::new(vec![file]).unwrap();
        store.put_manifest(&manifest).await.unwrap()
    }

    #[tokio::test]
    async fn the_largest_contents_come_first_with_who_holds_them() {
        let mut site = site();
        for size in 0..60 {
            content(&site.store, size).await;
        }
        let (used, pinned) = (
            content(&site.store, 1_000).await,
            content(&site.store, 2_000).await,
        );
        let leases = site.store.leases();
        let _volumes = ["volume:1", "volume:2"].map(|it| leases.hold(Holder::new(it), used));
        let _pin = leases.hold(Holder::new("pin:base"), pinned);
        let facts = site.collector.collect().unwrap();
        assert_eq!((facts.contents, facts.largest.len()), (62, MOST_CONTENTS));
        let [first, second, third, ..] = facts.largest.as_slice() else {
            panic!("{facts:?}");
        };
        assert_eq!(
            (first.digest, first.volumes, first.pinned),
            (pinned, 0, true)
        );
        assert_eq!((second.digest, second.volumes), (used, 2));
        assert!(!second.pinned);
        assert_eq!((third.bytes, third.files), (59, 1));
    }

    #[tokio::test]
    async fn a_release_is_dated_by_the_look_that_saw_it_or_by_its_record() {
        let mut site = site();
        let digest = content(&site.store, 7).await;
        let old = content(&site.store, 8).await;
        let records = site.store.records();
        records.write(RELEASED, &old.to_hex(), &55_000u64).unwrap();
        let lease = site.store.leases().hold(Holder::new("volume:1"), digest);
        let released = |facts: &Facts| -> Vec<Option<u64>> {
            facts.largest.iter().map(|it| it.released).collect()
        };
        assert_eq!(
            released(&site.collector.collect().unwrap()),
            [Some(55_000), None]
        );
        drop(lease);
        site.clock.advance(Duration::from_mins(1));
        assert_eq!(
            released(&site.collector.collect().unwrap()),
            [Some(55_000), Some(160_000)]
        );
        site.clock.advance(Duration::from_mins(1));
        let again = site.collector.collect().unwrap();
        assert_eq!(released(&again), [Some(55_000), Some(160_000)]);
    }

    #[test]
    fn a_capacity_is_the_limit_or_what_eviction_and_floor_leave() {
        let space = Space {
            total: 1_000_000,
            free: 10,
            free_files: 1,
        };
        let config = |max_bytes, floor_bytes| Config {
            max_bytes,
            floor_bytes,
            ..Config::new("/c")
        };
        assert_eq!(config(None, 0).capacity(&space), 900_000);
        assert_eq!(config(None, 300_000).capacity(&space), 700_000);
        assert_eq!(config(Some(5_000), 0).capacity(&space), 5_000);
        assert_eq!(config(Some(5_000_000), 0).capacity(&space), 900_000);
        assert_eq!(config(None, 2_000_000).capacity(&space), 0);
    }
}

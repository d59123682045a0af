//! From a revision to a view: take what is here, fetch the rest once, lay it out, remember it.

use std::sync::Arc;
use std::time::Duration;

use super::{Cache, Error, Expected, LoadOptions, Loaded, Reference, Revision, partial_key};
use crate::clock::Clock;
use crate::digest::Digest;
use crate::fetch::Job;
use crate::manifest::{File, Manifest};
use crate::report::{Phase, Report};
use crate::source::Entry;
use crate::store::{PartialKey, Store};

/// What a revision turned out to contain: the record that spares the next load of it the network.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct RevisionRecord {
    uid: String,
    path: String,
    selection: String,
    fingerprint: Digest,
    manifest: Digest,
}

impl RevisionRecord {
    /// Equal listings of different sources are different revisions, because an `ETag` can be chosen.
    fn name(reference: &Reference, fingerprint: Digest) -> String {
        let mut hasher = blake3::Hasher::new();
        for field in [
            reference.source.uid(),
            &reference.path,
            &selection_text(reference),
            &fingerprint.to_hex(),
        ] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Cuts the time of a load into laps.
struct Laps {
    clock: Arc<dyn Clock>,
    last: Duration,
}

impl Laps {
    fn start(clock: &Arc<dyn Clock>) -> Self {
        Self {
            clock: Arc::clone(clock),
            last: clock.monotonic(),
        }
    }

    fn lap(&mut self) -> Duration {
        let now = self.clock.monotonic();
        let lap = now.saturating_sub(self.last);
        self.last = now;
        lap
    }
}

/// What is known so far of the digests of a revision's entries.
struct Gathering<'a> {
    entries: &'a [Entry],
    keys: Vec<PartialKey>,
    found: Vec<Option<Digest>>,
    /// Another load fetched some of it meanwhile.
    is_shared: bool,
}

impl<'a> Gathering<'a> {
    fn new(reference: &Reference, revision: &'a Revision) -> Self {
        let keys: Vec<PartialKey> = revision
            .entries
            .iter()
            .map(|entry| partial_key(&*reference.source, entry))
            .collect();
        Self {
            entries: &revision.entries,
            found: vec![None; keys.len()],
            keys,
            is_shared: false,
        }
    }

    fn missing(&self) -> Vec<usize> {
        self.found
            .iter()
            .enumerate()
            .filter_map(|(index, digest)| digest.is_none().then_some(index))
            .collect()
    }

    fn missing_of(&self, indices: &[usize]) -> Vec<usize> {
        let is_missing = |index: &usize| self.found.get(*index).is_some_and(Option::is_none);
        indices.iter().copied().filter(is_missing).collect()
    }

    fn set(&mut self, index: usize, digest: Digest) {
        if let Some(slot) = self.found.get_mut(index) {
            *slot = Some(digest);
        }
    }

    /// Takes over what is stored already; bytes that another load has just brought count as cached.
    fn take_known(
        &mut self,
        indices: &[usize],
        known: Vec<Option<Digest>>,
        options: &LoadOptions,
        report: &mut Report,
    ) {
        for (index, digest) in indices.iter().zip(known) {
            let (Some(digest), Some(entry)) = (digest, self.entries.get(*index)) else {
                continue;
            };
            self.set(*index, digest);
            options.progress.add_bytes(entry.size);
            options.progress.add_file();
            if self.is_shared {
                add(&mut report.origins.cached, entry.size);
            } else {
                add(&mut report.origins.unchanged, entry.size);
            }
        }
    }
}

impl Cache {
    /// The view of a revision that was loaded before, if all of it is still here.
    pub(super) async fn find_complete(
        &self,
        reference: &Reference,
        fingerprint: Digest,
        options: &LoadOptions,
    ) -> Result<Option<Loaded>, Error> {
        let mut laps = Laps::start(&self.clock);
        let name = RevisionRecord::name(reference, fingerprint);
        let Some(record) = self
            .store
            .records()
            .read::<RevisionRecord>("revisions", &name)?
        else {
            return Ok(None);
        };
        // The lease comes before the look, so that eviction cannot come between.
        let lease = self
            .store
            .leases()
            .hold(options.holder.clone(), record.manifest);
        let Some(manifest) = self.store.get_manifest(record.manifest).await? else {
            return Ok(None);
        };
        check_digest(reference, record.manifest)?;
        check_limit(options, manifest.total_bytes())?;
        let manifest = Arc::new(manifest);
        if !self.has_all(&manifest).await? {
            return Ok(None);
        }
        let mut report = Report {
            files: manifest.files().len() as u64,
            bytes: manifest.total_bytes(),
            page_cache: "cached".to_owned(),
            ..Report::default()
        };
        report.origins.cached = report.bytes;
        options.progress.expect(report.bytes, report.files);
        options.progress.add_bytes(report.bytes);
        report.add_phase(Phase::Resolve, laps.lap());
        options.progress.enter(Phase::View);
        let view = self.lay_out(record.manifest, &manifest).await?;
        report.add_phase(Phase::View, laps.lap());
        Ok(Some(Loaded {
            fingerprint,
            manifest,
            manifest_digest: record.manifest,
            view,
            report,
            lease,
        }))
    }

    /// Brings a revision here and lays it out. A source that changes meanwhile is an error that
    /// [`Error::is_change`] recognizes.
    pub(super) async fn stage(
        &self,
        reference: &Reference,
        revision: &Revision,
        options: &LoadOptions,
    ) -> Result<Loaded, Error> {
        check_limit(options, revision.total_bytes)?;
        if let Some(loaded) = self
            .find_complete(reference, revision.fingerprint, options)
            .await?
        {
            return Ok(loaded);
        }
        let mut report = Report {
            files: revision.entries.len() as u64,
            bytes: revision.total_bytes,
            ..Report::default()
        };
        options.progress.expect(report.bytes, report.files);
        let guard = self.store.leases().guard_stage();
        let digests = self
            .gather(reference, revision, options, &mut report)
            .await?;
        let mut laps = Laps::start(&self.clock);
        options.progress.enter(Phase::Sync);
        let files = revision
            .entries
            .iter()
            .zip(digests)
            .map(|(entry, digest)| File {
                path: entry.path.clone(),
                size: entry.size,
                digest,
            })
            .collect();
        let manifest = Arc::new(Manifest::new(files)?);
        let manifest_digest = manifest.digest();
        check_digest(reference, manifest_digest)?;
        let lease = self
            .store
            .leases()
            .hold(options.holder.clone(), manifest_digest);
        self.store.put_manifest(&manifest).await?;
        report.add_phase(Phase::Sync, laps.lap());
        options.progress.enter(Phase::View);
        // An object may have come back under another inode since a view of it was found whole.
        self.views.distrust(&manifest_digest);
        let view = self.lay_out(manifest_digest, &manifest).await?;
        drop(guard);
        self.store.records().write(
            "revisions",
            &RevisionRecord::name(reference, revision.fingerprint),
            &RevisionRecord {
                uid: reference.source.uid().to_owned(),
                path: reference.path.clone(),
                selection: selection_text(reference),
                fingerprint: revision.fingerprint,
                manifest: manifest_digest,
            },
        )?;
        report.add_phase(Phase::View, laps.lap());
        Ok(Loaded {
            fingerprint: revision.fingerprint,
            manifest,
            manifest_digest,
            view,
            report,
            lease,
        })
    }

    /// The digest of every entry, fetching what is not here. Each round claims what is free, looks at what
    /// is known, fetches the rest of its claim, and then waits for what others claimed.
    async fn gather(
        &self,
        reference: &Reference,
        revision: &Revision,
        options: &LoadOptions,
        report: &mut Report,
    ) -> Result<Vec<Digest>, Error> {
        let mut laps = Laps::start(&self.clock);
        let mut gathering = Gathering::new(reference, revision);
        loop {
            let missing = gathering.missing();
            if missing.is_empty() {
                return Ok(gathering.found.into_iter().flatten().collect());
            }
            let keys = pick(&gathering.keys, &missing);
            let (claim, free) = self.claims.take(&keys);
            if claim.is_empty() {
                options.progress.enter(Phase::Queue);
                tokio::select! {
                    () = self.claims.wait(&keys) => {}
                    () = options.cancel.cancelled() => return Err(Error::Cancelled),
                }
                gathering.is_shared = true;
                report.add_phase(Phase::Queue, laps.lap());
                continue;
            }
            let mine = select(&missing, &free);
            let known = self.known(reference, pick(&gathering.keys, &mine)).await?;
            gathering.take_known(&mine, known, options, report);
            report.add_phase(Phase::Resolve, laps.lap());
            let rest = gathering.missing_of(&mine);
            if !rest.is_empty() {
                let entries = pick(&revision.entries, &rest);
                let digests = self
                    .fetch(reference, entries, options, report, &mut laps)
                    .await?;
                for (index, digest) in rest.into_iter().zip(digests) {
                    gathering.set(index, digest);
                }
            }
            drop(claim);
        }
    }

    async fn fetch(
        &self,
        reference: &Reference,
        entries: Vec<Entry>,
        options: &LoadOptions,
        report: &mut Report,
        laps: &mut Laps,
    ) -> Result<Vec<Digest>, Error> {
        let bytes = entries
            .iter()
            .fold(0u64, |sum, entry| sum.saturating_add(entry.size));
        options.progress.enter(Phase::Queue);
        let reservation = self.store.reserve(bytes, entries.len() as u64).await?;
        report.add_phase(Phase::Queue, laps.lap());
        options.progress.enter(Phase::Transfer);
        let outcome = self
            .fetcher
            .fetch(Job {
                source: Arc::clone(&reference.source),
                payer: options.payer.clone(),
                entries,
                expected: self.expected(reference).await?,
                page_cache: options.page_cache,
                progress: Arc::clone(&options.progress),
                cancel: options.cancel.clone(),
            })
            .await?;
        drop(reservation);
        let lap = laps.lap();
        let first = outcome.first_byte.min(lap);
        report.add_phase(Phase::FirstByte, first);
        report.add_phase(Phase::Transfer, lap.saturating_sub(first));
        add(&mut report.origins.source, outcome.origins.source);
        add(&mut report.origins.retry, outcome.origins.retry);
        add(&mut report.origins.hedge, outcome.origins.hedge);
        add(&mut report.origins.resumed, outcome.origins.resumed);
        add(&mut report.origins.dedup, outcome.origins.dedup);
        add(&mut report.busy.receive_nanos, outcome.busy.receive_nanos);
        add(&mut report.busy.hash_nanos, outcome.busy.hash_nanos);
        add(&mut report.busy.write_nanos, outcome.busy.write_nanos);
        report.connections = report.connections.max(outcome.connections);
        report.page_cache = outcome.page_cache;
        Ok(outcome.digests)
    }

    /// The digests that a pinned manifest demands, when that manifest is known here: a wrong file then fails at
    /// its own end and not at the end of all.
    async fn expected(&self, reference: &Reference) -> Result<Option<Expected>, Error> {
        let Some(digest) = reference.digest else {
            return Ok(None);
        };
        let manifest = self.store.get_manifest(digest).await?;
        Ok(manifest.map(|manifest| {
            manifest
                .files()
                .iter()
                .map(|file| (file.path.clone(), file.digest))
                .collect()
        }))
    }

    /// For each key, the digest of the object that it became, if it is known and still stored.
    async fn known(
        &self,
        reference: &Reference,
        keys: Vec<PartialKey>,
    ) -> Result<Vec<Option<Digest>>, Error> {
        let store = Arc::clone(&self.store);
        let uid = reference.source.uid().to_owned();
        tokio::task::spawn_blocking(move || {
            let known = store.known_objects(&uid)?;
            keys.iter()
                .map(|key| match known.get(key) {
                    Some((digest, size)) if is_stored(&store, digest, *size)? => Ok(Some(*digest)),
                    _ => Ok(None),
                })
                .collect()
        })
        .await
        .map_err(|_| Error::Task)?
    }

    async fn has_all(&self, manifest: &Arc<Manifest>) -> Result<bool, Error> {
        let store = Arc::clone(&self.store);
        let manifest = Arc::clone(manifest);
        tokio::task::spawn_blocking(move || {
            for file in manifest.files() {
                if !is_stored(&store, &file.digest, file.size)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
        .map_err(|_| Error::Task)?
    }

    async fn lay_out(
        &self,
        digest: Digest,
        manifest: &Arc<Manifest>,
    ) -> Result<std::path::PathBuf, Error> {
        let lock = self.layout_lock(digest);
        let _turn = lock.lock().await;
        let views = Arc::clone(&self.views);
        let manifest = Arc::clone(manifest);
        let view = tokio::task::spawn_blocking(move || views.ensure(&digest, &manifest))
            .await
            .map_err(|_| Error::Task)??;
        Ok(view)
    }
}

fn is_stored(store: &Store, digest: &Digest, size: u64) -> Result<bool, Error> {
    Ok(store
        .object_stat(digest)?
        .is_some_and(|object| object.size == size))
}

fn check_digest(reference: &Reference, found: Digest) -> Result<(), Error> {
    match reference.digest {
        Some(expected) if expected != found => Err(Error::OtherContent { expected, found }),
        _ => Ok(()),
    }
}

fn check_limit(options: &LoadOptions, bytes: u64) -> Result<(), Error> {
    match options.limit_bytes {
        Some(limit) if bytes > limit => Err(Error::TooLarge { bytes, limit }),
        _ => Ok(()),
    }
}

/// Those of `indices` whose flag is set.
fn select(indices: &[usize], flags: &[bool]) -> Vec<usize> {
    indices
        .iter()
        .zip(flags)
        .filter_map(|(index, flag)| flag.then_some(*index))
        .collect()
}

fn pick<T: Clone>(all: &[T], indices: &[usize]) -> Vec<T> {
    indices
        .iter()
        .filter_map(|index| all.get(*index).cloned())
        .collect()
}

fn add(total: &mut u64, more: u64) {
    *total = total.saturating_add(more);
}

/// The selection as text, for a record: patterns as written, one per line, `+` wanted and `-` not.
fn selection_text(reference: &Reference) -> String {
    let selection = &reference.selection;
    let include = selection
        .include()
        .iter()
        .map(|pattern| format!("+{pattern}\n"));
    let exclude = selection
        .exclude()
        .iter()
        .map(|pattern| format!("-{pattern}\n"));
    include.chain(exclude).collect()
}

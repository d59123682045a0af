//! Bringing the objects of a revision here, each byte once: what is known already is taken over, what another
//! load is fetching is waited for, and only the rest is fetched.

use std::sync::Arc;
use std::time::Duration;

use super::{Cache, Error, Expected, LoadOptions, Reference, Revision};
use crate::clock::Clock;
use crate::digest::Digest;
use crate::fetch::{Job, partial_key};
use crate::report::{Phase, Report};
use crate::source::Entry;
use crate::store::{PartialKey, Store};

/// Cuts the time of a load into laps.
pub(super) struct Laps {
    clock: Arc<dyn Clock>,
    last: Duration,
}

impl Laps {
    pub(super) fn start(clock: &Arc<dyn Clock>) -> Self {
        Self {
            clock: Arc::clone(clock),
            last: clock.monotonic(),
        }
    }

    pub(super) fn lap(&mut self) -> Duration {
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
    /// The digest of every entry, fetching what is not here. Each round claims what is free, looks at what
    /// is known, fetches the rest of its claim, and then waits for what others claimed.
    pub(super) async fn gather(
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
                // The listing itself, not a copy, where all of it is to be fetched: it may have very many entries.
                let entries = if rest.len() == revision.entries.len() {
                    Arc::clone(&revision.entries)
                } else {
                    Arc::new(pick(&revision.entries, &rest))
                };
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
        entries: Arc<Vec<Entry>>,
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
                load: options.load.clone(),
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
        let sync = outcome.sync.min(lap.saturating_sub(first));
        report.add_phase(Phase::FirstByte, first);
        report.add_phase(
            Phase::Transfer,
            lap.saturating_sub(first).saturating_sub(sync),
        );
        report.add_phase(Phase::Sync, sync);
        add(&mut report.origins.source, outcome.origins.source);
        add(&mut report.origins.retry, outcome.origins.retry);
        add(&mut report.origins.hedge, outcome.origins.hedge);
        add(&mut report.origins.resumed, outcome.origins.resumed);
        add(&mut report.origins.unchanged, outcome.origins.unchanged);
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

pub(super) fn is_stored(store: &Store, digest: &Digest, size: u64) -> Result<bool, Error> {
    Ok(store
        .object_stat(digest)?
        .is_some_and(|object| object.size == size))
}

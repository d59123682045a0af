//! Acting on what `evict` chooses.
//!
//! Invariants: a name is taken away (by rename into `trash/`) under the lease table's lock and after a second look, and
//! unlinked outside of it; so whoever took a lease before it looked finds what it looked for. A view's
//! directories are deleted by descriptors. Objects of a held manifest are kept even if no view links them yet.
//! The store is walked once for each reclaim, and held manifests are read again only when a lease was taken meanwhile.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::error::Error;
use super::evict::{Freed, Goal, IdlePartial, IdleView, LooseObject, Step, Stock, choose};
use super::lease::State;
use super::{Shared, Store};
use crate::clock::unix_millis;
use crate::digest::Digest;
use crate::disk::{FileKind, Stat, absent_is_none, find};
use crate::error::{IoContext, chain};
use crate::manifest::Manifest;

/// The record of when a manifest's last lease ended.
const RELEASED: &str = "released";

/// The objects of all held manifests, as of one generation of the lease table.
///
/// A manifest that is written later than its lease was taken may be missing: until its view links them, its
/// objects are kept by the stage that brings them.
#[derive(Debug)]
struct Protected {
    objects: HashSet<Digest>,
    generation: u64,
}

/// What one reclaim knows beside its stock.
#[derive(Debug)]
struct Round {
    protected: Protected,
    /// How many idle views a manifest has left. Views share their manifest's leases: where one is idle, all are.
    views_left: HashMap<Digest, usize>,
    freed: Freed,
}

impl Store {
    /// Removes a damaged view with what only it still links: after a power cut, files that never reached the disk.
    /// False, and nothing is done, where it is gone or more than the caller's own lease holds the manifest: a pod may
    /// have it mounted. Blocking.
    pub fn retire_view(&self, view: &Path, manifest: &Digest) -> Result<bool, Error> {
        let shared = &self.shared;
        let gone = shared.take_away(view, |leases| leases.is_lone(manifest))?;
        let Some(trash) = gone else {
            return Ok(false);
        };
        shared.disk.remove_tree(&trash).at("remove", &trash)?;
        Ok(true)
    }
}

impl Shared {
    /// Evicts until the goal is met or nothing is left that may go. The caller holds the reclaiming lock.
    pub(super) fn reclaim(&self, goal: Goal) -> Result<Freed, Error> {
        self.record_releases();
        let protected = self.protected()?;
        let (partials, views) = (self.idle_partials()?, self.idle_views()?);
        let objects = self.loose_objects(&protected)?;
        let mut round = Round {
            protected,
            views_left: HashMap::new(),
            freed: Freed::default(),
        };
        for view in &views {
            let left = round.views_left.entry(view.manifest).or_default();
            *left = left.saturating_add(1);
        }
        let mut stock = Stock::new(partials, views, objects);
        loop {
            match choose(&mut stock, &goal.minus(&round.freed)) {
                Step::Done => return Ok(round.freed),
                Step::Partials(partials) => {
                    for partial in &partials {
                        self.evict_partial(partial, &mut round.freed)?;
                    }
                }
                Step::View(view) => stock.add_objects(self.evict_view(&view, &mut round)?),
                Step::Objects(objects) => self.evict_objects(&objects, &mut round)?,
            }
        }
    }

    fn idle_partials(&self) -> Result<Vec<IdlePartial>, Error> {
        let top = self.layout.top("partial");
        let now = unix_millis(self.clock.now());
        let ttl = u64::try_from(self.config.partial_ttl.as_millis()).unwrap_or(u64::MAX);
        let mut idle = Vec::new();
        for entry in self.disk.list(&top).at("list", &top)? {
            let Ok(name) = entry.name.into_string() else {
                continue;
            };
            if self.is_active(&name) {
                continue;
            }
            let directory = top.join(&name);
            let [data, journal] = ["data", "journal"].map(|file| directory.join(file));
            let bytes = find(&*self.disk, &data).at("read", &data)?;
            let progress = find(&*self.disk, &journal).at("read", &journal)?;
            let written = progress.or(bytes).map_or(0, |stat| stat.modified_millis);
            idle.push(IdlePartial {
                name,
                bytes: bytes.map_or(0, |stat| stat.occupied),
                written_millis: written,
                expired: now.saturating_sub(written) > ttl,
            });
        }
        Ok(idle)
    }

    fn idle_views(&self) -> Result<Vec<IdleView>, Error> {
        let top = self.layout.top("views");
        let mut idle = Vec::new();
        for entry in self.disk.list(&top).at("list", &top)? {
            let Ok(name) = entry.name.into_string() else {
                continue;
            };
            let manifest = name.split('.').next().and_then(|hex| hex.parse().ok());
            let Some(manifest) = manifest else {
                tracing::warn!(name, "a foreign name in views/ is left alone");
                continue;
            };
            if self.leases.lock().has(&manifest) {
                continue;
            }
            let released_millis = self.released_millis(&manifest, &top.join(&name))?;
            idle.push(IdleView {
                released_millis,
                name,
                manifest,
            });
        }
        Ok(idle)
    }

    fn released_millis(&self, manifest: &Digest, view: &Path) -> Result<u64, Error> {
        let recorded = self.records.read::<u64>(RELEASED, &manifest.to_hex())?;
        let built = find(&*self.disk, view).at("read", view)?;
        Ok(recorded.unwrap_or_else(|| built.map_or(0, |stat| stat.modified_millis)))
    }

    /// Writes down when leases ended, so that recency survives a restart.
    pub(super) fn record_releases(&self) {
        for (manifest, at) in self.leases.take_released() {
            if let Err(error) = self.records.write(RELEASED, &manifest.to_hex(), &at) {
                tracing::warn!(error = %chain(&error), "the end of a lease was not recorded");
            }
        }
    }

    /// Objects without links, those of a cloned store included.
    fn loose_objects(&self, protected: &Protected) -> Result<Vec<LooseObject>, Error> {
        let mut loose = Vec::new();
        for top in ["unverified", "objects"] {
            let top = self.layout.top(top);
            for fan in absent_is_none(self.disk.list(&top))
                .at("list", &top)?
                .unwrap_or_default()
            {
                let directory = top.join(fan.name);
                for entry in self.disk.list(&directory).at("list", &directory)? {
                    let path = directory.join(&entry.name);
                    let digest = entry.name.to_str().and_then(|name| name.parse().ok());
                    if let Some(digest) = digest
                        && !protected.objects.contains(&digest)
                        && let Some(stat) = find(&*self.disk, &path).at("read", &path)?
                    {
                        loose.extend(as_loose(digest, &stat));
                    }
                }
            }
        }
        Ok(loose)
    }

    fn protected(&self) -> Result<Protected, Error> {
        let (held, generation) = {
            let leases = self.leases.lock();
            (leases.manifests(), leases.generation())
        };
        let mut objects = HashSet::new();
        for manifest in held {
            let manifest = self.read_manifest(&manifest)?;
            objects.extend(
                manifest
                    .iter()
                    .flat_map(Manifest::files)
                    .map(|file| file.digest),
            );
        }
        Ok(Protected {
            objects,
            generation,
        })
    }

    /// Reads the held manifests again if a lease was taken since.
    fn refresh(&self, protected: &mut Protected) -> Result<(), Error> {
        let current = self.leases.lock().generation();
        if current != protected.generation {
            *protected = self.protected()?;
        }
        Ok(())
    }

    fn evict_partial(&self, partial: &IdlePartial, freed: &mut Freed) -> Result<(), Error> {
        let directory = self.layout.top("partial").join(&partial.name);
        let trash = self.trash_path();
        {
            // The same lock that a writer claims its key under.
            let active = self
                .active
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if active.iter().any(|key| key.to_hex() == partial.name) {
                return Ok(());
            }
            self.disk
                .rename(&directory, &trash)
                .at("rename", &directory)?;
        }
        self.disk.remove_tree(&trash).at("remove", &trash)?;
        tracing::info!(
            partial = partial.name,
            expired = partial.expired,
            "an unfinished download was evicted"
        );
        freed.partials = freed.partials.saturating_add(1);
        freed.bytes = freed.bytes.saturating_add(partial.bytes);
        freed.files = freed.files.saturating_add(3);
        Ok(())
    }

    /// Removes a view unless it was leased meanwhile; returns its objects that have no link any more.
    fn evict_view(&self, view: &IdleView, round: &mut Round) -> Result<Vec<LooseObject>, Error> {
        let path = self.layout.top("views").join(&view.name);
        let gone = self.take_away(&path, |leases| !leases.has(&view.manifest))?;
        let Some(trash) = gone else {
            return Ok(Vec::new());
        };
        fail::fail_point!("store::evict::after_trash");
        self.disk.remove_tree(&trash).at("remove", &trash)?;
        tracing::info!(view = view.name, "a view was evicted");
        round.freed.views = round.freed.views.saturating_add(1);
        let manifest = self.read_manifest(&view.manifest)?;
        let left = round.views_left.entry(view.manifest).or_default();
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.forget_manifest(&view.manifest)?;
        }
        self.refresh(&mut round.protected)?;
        let mut loosened = Vec::new();
        let mut seen = HashSet::new();
        for file in manifest.iter().flat_map(Manifest::files) {
            let path = self.layout.object(&file.digest);
            if !round.protected.objects.contains(&file.digest)
                && seen.insert(file.digest)
                && let Some(stat) = find(&*self.disk, &path).at("read", &path)?
            {
                loosened.extend(as_loose(file.digest, &stat));
            }
        }
        Ok(loosened)
    }

    /// A manifest without view is worth little: the next load writes it again.
    fn forget_manifest(&self, manifest: &Digest) -> Result<(), Error> {
        let path = self.layout.manifest(manifest);
        let leases = self.leases.lock();
        // Under the lock: who takes a lease next writes the manifest after this, not before.
        if !leases.has(manifest) {
            absent_is_none(self.disk.unlink(&path)).at("remove", &path)?;
        }
        drop(leases);
        self.records.remove(RELEASED, &manifest.to_hex())
    }

    fn evict_objects(&self, objects: &[LooseObject], round: &mut Round) -> Result<(), Error> {
        for object in objects {
            self.refresh(&mut round.protected)?;
            if round.protected.objects.contains(&object.digest) {
                continue;
            }
            let seen = round.protected.generation;
            let may_go =
                |leases: &State| leases.generation() == seen && !leases.is_touched(&object.digest);
            self.evict_object(object, may_go, &mut round.freed)?;
        }
        Ok(())
    }

    fn evict_object(
        &self,
        object: &LooseObject,
        may_go: impl Fn(&State) -> bool,
        freed: &mut Freed,
    ) -> Result<(), Error> {
        for path in [
            self.layout.object(&object.digest),
            self.layout.unverified(&object.digest),
        ] {
            let unlinked = |path: &Path| {
                find(&*self.disk, path)
                    .map(|stat| stat.is_some_and(|stat| stat.links == 1))
                    .at("read", path)
            };
            if !unlinked(&path)? {
                continue;
            }
            let look = |leases: &State| may_go(leases) && unlinked(&path).unwrap_or(false);
            if let Some(trash) = self.take_away(&path, look)? {
                self.disk.unlink(&trash).at("remove", &trash)?;
                let table = self.layout.parts(&object.digest);
                absent_is_none(self.disk.unlink(&table)).at("remove", &table)?;
                tracing::debug!(digest = %object.digest, "an object was evicted");
                freed.objects = freed.objects.saturating_add(1);
                freed.files = freed.files.saturating_add(1);
                freed.bytes = freed.bytes.saturating_add(object.bytes);
            }
        }
        Ok(())
    }

    /// Renames something into `trash/` if it may go, both under the lease table's lock.
    fn take_away(
        &self,
        path: &Path,
        may_go: impl Fn(&State) -> bool,
    ) -> Result<Option<PathBuf>, Error> {
        let trash = self.trash_path();
        let leases = self.leases.lock();
        if !may_go(&leases) {
            return Ok(None);
        }
        fail::fail_point!("store::evict::before_trash");
        match find(&*self.disk, path).at("read", path)? {
            None => return Ok(None),
            // Moving a directory writes its "..", which needs write permission on it.
            Some(stat) if stat.kind == FileKind::Directory => {
                self.disk
                    .set_mode(path, 0o755)
                    .at("change the mode of", path)?;
            }
            Some(_) => {}
        }
        let moved = self.disk.rename(path, &trash).at("rename", path);
        drop(leases);
        moved?;
        Ok(Some(trash))
    }
}

fn as_loose(digest: Digest, stat: &Stat) -> Option<LooseObject> {
    (stat.kind == FileKind::File && stat.links == 1).then_some(LooseObject {
        digest,
        bytes: stat.occupied,
        since_millis: stat.changed_millis,
    })
}

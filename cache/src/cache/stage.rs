//! From a revision to a view: gather its objects, lay them out, remember what the revision turned out to be.

use std::sync::Arc;

use super::gather::{Laps, is_stored};
use super::{Cache, Error, LoadOptions, Loaded, Reference, Revision};
use crate::digest::Digest;
use crate::manifest::{File, Manifest};
use crate::report::{Phase, Report};

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

//! From a revision to a view: gather its objects, lay them out, remember what the revision turned out to be.

use std::sync::Arc;

use super::gather::Laps;
use super::{Cache, Error, LoadOptions, Loaded, Reference, Revision};
use crate::digest::Digest;
use crate::manifest::{File, Manifest};
use crate::report::{Phase, Report};

impl Cache {
    /// Brings a revision here and lays it out. A source that changes meanwhile is an error that
    /// [`Error::is_change`] recognizes.
    pub(super) async fn stage(
        &self,
        reference: &Reference,
        revision: &Revision,
        options: &LoadOptions,
    ) -> Result<Loaded, Error> {
        check_size(options, revision.total_bytes).await?;
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
        options.progress.name(revision.fingerprint);
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
        check_digest(reference.digest, manifest_digest)?;
        let lease = self
            .store
            .leases()
            .hold(options.holder.clone(), manifest_digest);
        self.store.put_manifest(&manifest).await?;
        report.add_phase(Phase::Sync, laps.lap());
        options.progress.enter(Phase::View);
        // An object may have come back under another inode since a view of it was found whole.
        self.views.distrust(&manifest_digest);
        let (view, lease) = self.lay_out(lease, &manifest).await?;
        drop(guard);
        self.remember(reference, revision.fingerprint, manifest_digest)?;
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
}

pub(super) fn check_digest(expected: Option<Digest>, found: Digest) -> Result<(), Error> {
    match expected {
        Some(expected) if expected != found => Err(Error::OtherContent { expected, found }),
        _ => Ok(()),
    }
}

/// Whether so much may be loaded; asked before anything is fetched.
pub(super) async fn check_size(options: &LoadOptions, bytes: u64) -> Result<(), Error> {
    if let Some(limit) = options.limit_bytes
        && bytes > limit
    {
        return Err(Error::TooLarge { bytes, limit });
    }
    let Some(check) = &options.size_check else {
        return Ok(());
    };
    tokio::select! {
        answer = check.ask(bytes) => Ok(answer?),
        () = options.cancel.cancelled() => Err(Error::Cancelled),
    }
}

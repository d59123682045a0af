//! What was loaded before: a record says which manifest a revision turned out to be, and if all of that is still here, the
//! next load of the revision needs no network.
//!
//! This is the way of every pod but the first, so that all of it is one visit of one blocking thread.

use std::path::PathBuf;
use std::sync::Arc;

use super::gather::{Laps, is_stored};
use super::layouts::Layouts;
use super::stage::{check_digest, check_size};
use super::{Cache, Error, LoadOptions, Loaded, Reference};
use tokio::runtime::Handle;

use crate::digest::Digest;
use crate::manifest::Manifest;
use crate::report::{Phase, Report};
use crate::store::{Lease, Store};
use crate::view::Views;

/// Kind of the records.
const RECORDS: &str = "revisions";

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
            &reference.root(),
            &selection_text(reference),
            &fingerprint.to_hex(),
        ] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// A search for a revision that is complete here.
struct Search {
    store: Arc<Store>,
    views: Arc<Views>,
    layouts: Layouts,
    expected: Option<Digest>,
    options: LoadOptions,
    name: String,
    laps: Laps,
}

/// Complete content under its lease.
struct Complete {
    digest: Digest,
    manifest: Arc<Manifest>,
    lease: Lease,
    report: Report,
    /// `None` while another load is laying it out.
    view: Option<PathBuf>,
    laps: Laps,
}

impl Cache {
    /// The view of a revision that was loaded before, if all of it is still here.
    pub(super) async fn find_complete(
        &self,
        reference: &Reference,
        fingerprint: Digest,
        options: &LoadOptions,
    ) -> Result<Option<Loaded>, Error> {
        let search = Search {
            store: Arc::clone(&self.store),
            views: Arc::clone(&self.views),
            layouts: self.layouts.clone(),
            expected: reference.digest,
            options: options.clone(),
            name: RevisionRecord::name(reference, fingerprint),
            laps: Laps::start(&self.clock),
        };
        let found = tokio::task::spawn_blocking(move || search.run());
        let Some(found) = found.await.map_err(|_| Error::Task)?? else {
            return Ok(None);
        };
        let Complete {
            digest,
            manifest,
            lease,
            mut report,
            view,
            mut laps,
        } = found;
        let (view, lease) = match view {
            Some(view) => (view, lease),
            None => self.lay_out(lease, &manifest).await?,
        };
        report.add_phase(Phase::View, laps.lap());
        Ok(Some(Loaded {
            fingerprint,
            manifest,
            manifest_digest: digest,
            view,
            report,
            lease,
        }))
    }

    /// Remembers what a revision turned out to be. Blocking.
    pub(super) fn remember(
        &self,
        reference: &Reference,
        fingerprint: Digest,
        manifest: Digest,
    ) -> Result<(), Error> {
        let record = RevisionRecord {
            uid: reference.source.uid().to_owned(),
            path: reference.root(),
            selection: selection_text(reference),
            fingerprint,
            manifest,
        };
        let name = RevisionRecord::name(reference, fingerprint);
        Ok(self.store.records().write(RECORDS, &name, &record)?)
    }
}

impl Search {
    fn run(mut self) -> Result<Option<Complete>, Error> {
        let records = self.store.records();
        let Some(record) = records.read::<RevisionRecord>(RECORDS, &self.name)? else {
            return Ok(None);
        };
        let digest = record.manifest;
        let options = &self.options;
        // The lease comes before the look, so that eviction cannot come between.
        let lease = self.store.leases().hold(options.holder.clone(), digest);
        let Some(manifest) = self.store.find_manifest(&digest)? else {
            return Ok(None);
        };
        check_digest(self.expected, digest)?;
        // The answer may take its time, which this thread has.
        Handle::current().block_on(check_size(options, manifest.total_bytes()))?;
        for file in manifest.files() {
            if !is_stored(&self.store, &file.digest, file.size)? {
                return Ok(None);
            }
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
        report.add_phase(Phase::Resolve, self.laps.lap());
        options.progress.enter(Phase::View);
        let view = self.layouts.of(digest).try_lock_owned().ok();
        let view = view
            .map(|_turn| self.views.ensure(&digest, &manifest))
            .transpose()?;
        Ok(Some(Complete {
            digest,
            manifest: Arc::new(manifest),
            lease,
            report,
            view,
            laps: self.laps,
        }))
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

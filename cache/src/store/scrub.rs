//! Reading every object back from the device, at a set rate, and setting aside those that are not what their
//! name says. Scrub fetches nothing: it has no identity to fetch with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::damage::Cause;
use super::error::Error;
use super::verify::{hash_one, open_direct};
use super::{Shared, Store};
use crate::buffer::Buffer;
use crate::digest::{Digest, PartHash, combine, part_count, part_length};
use crate::disk::{FileKind, Handle, absent_is_none, find};
use crate::error::IoContext;

/// What a scrub found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ScrubReport {
    /// Objects read.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Objects that were set aside, with their bad parts (none known: all of it).
    pub bad: Vec<(Digest, Vec<u64>)>,
    /// Part tables that were lost and written again.
    pub tables_rebuilt: u64,
}

impl Store {
    /// Re-hashes one object, or all of them, at no more than `rate` bytes a second. Bad ones are quarantined and
    /// reported by [`Store::damaged`]. Cancel safe.
    pub async fn scrub(
        &self,
        rate: Option<u64>,
        only: Option<Digest>,
    ) -> Result<ScrubReport, Error> {
        let mut report = ScrubReport::default();
        for fan in 0..=u8::MAX {
            let shared = Arc::clone(&self.shared);
            let names = self
                .threads
                .run(move || shared.objects_in(fan, only))
                .await??;
            for digest in names {
                self.scrub_one(digest, rate, &mut report).await?;
            }
        }
        let shared = Arc::clone(&self.shared);
        self.threads.run(move || shared.tidy_quarantine()).await??;
        Ok(report)
    }

    async fn scrub_one(
        &self,
        digest: Digest,
        rate: Option<u64>,
        report: &mut ScrubReport,
    ) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let Some((file, size)) = self
            .threads
            .run(move || shared.open_object(&digest))
            .await??
        else {
            return Ok(());
        };
        let file = Arc::new(file);
        let mut buffer = Buffer::unpooled();
        let mut parts = Vec::new();
        for index in 0..part_count(size) {
            let started = self.shared.clock.monotonic();
            let (shared, file) = (Arc::clone(&self.shared), Arc::clone(&file));
            let read = move || hash_one(&*shared.disk, &file, buffer, size, index);
            let (back, hash) = self.threads.run(read).await??;
            buffer = back;
            parts.push(hash);
            let length = part_length(size, index);
            report.bytes = report.bytes.saturating_add(length);
            if let Some(rate) = rate {
                let spent = self.shared.clock.monotonic().saturating_sub(started);
                let due = Duration::from_nanos(length.saturating_mul(1_000_000_000) / rate.max(1));
                tokio::time::sleep(due.saturating_sub(spent)).await;
            }
        }
        report.objects = report.objects.saturating_add(1);
        let shared = Arc::clone(&self.shared);
        let judged = move || shared.judge(&digest, size, &parts);
        match self.threads.run(judged).await?? {
            Verdict::Good => {}
            Verdict::TableRebuilt => {
                report.tables_rebuilt = report.tables_rebuilt.saturating_add(1);
            }
            Verdict::Bad(parts) => report.bad.push((digest, parts)),
        }
        Ok(())
    }
}

enum Verdict {
    Good,
    TableRebuilt,
    Bad(Vec<u64>),
}

impl Shared {
    fn objects_in(&self, fan: u8, only: Option<Digest>) -> Result<Vec<Digest>, Error> {
        if let Some(only) = only {
            let here = only.as_bytes().first() == Some(&fan);
            return Ok(here.then_some(only).into_iter().collect());
        }
        let directory: PathBuf = self.layout.top("objects").join(format!("{fan:02x}"));
        let names = absent_is_none(self.disk.list(&directory)).at("list", &directory)?;
        let mut digests: Vec<Digest> = (names.unwrap_or_default().into_iter())
            .filter_map(|name| name.name.to_str()?.parse().ok())
            .collect();
        digests.sort();
        Ok(digests)
    }

    fn open_object(&self, digest: &Digest) -> Result<Option<(Handle, u64)>, Error> {
        let path = self.layout.object(digest);
        let stat = find(&*self.disk, &path).at("read", &path)?;
        let Some(stat) = stat.filter(|stat| stat.kind == FileKind::File) else {
            return Ok(None);
        };
        // Evicted between the look and the opening: nothing to scrub.
        let opened = open_direct(&*self.disk, &path, self.probe.direct);
        let opened = absent_is_none(opened.map_err(|error| error.source)).at("open", &path)?;
        Ok(opened.map(|file| (file, stat.size)))
    }

    /// Compares what was read with the object's name and its part table.
    fn judge(
        &self,
        digest: &Digest,
        size: u64,
        parts: &[Option<PartHash>],
    ) -> Result<Verdict, Error> {
        let whole: Vec<PartHash> = parts.iter().flatten().copied().collect();
        let table = self.find_parts(digest)?;
        if whole.len() == parts.len() && combine(size, &whole) == Some(*digest) {
            let is_lost = whole.len() > 1 && table.is_none();
            if is_lost {
                self.keep_parts(digest, size, &whole);
                return Ok(Verdict::TableRebuilt);
            }
            return Ok(Verdict::Good);
        }
        let Some((length, values)) = table else {
            self.retire(digest, size, Cause::Content, Vec::new())?;
            return Ok(Verdict::Bad(Vec::new()));
        };
        if length != size {
            self.retire(digest, length, Cause::Length, Vec::new())?;
            return Ok(Verdict::Bad(Vec::new()));
        }
        let bad: Vec<u64> = (0u64..)
            .zip(parts.iter().zip(&values))
            .filter(|(_, (found, value))| **found != Some(PartHash::Part(**value)))
            .map(|(index, _)| index)
            .collect();
        self.retire(digest, size, Cause::Content, bad.clone())?;
        Ok(Verdict::Bad(bad))
    }
}

//! What the store occupies, found by walking it: for `ls`, `du` and the limit. Needs no lock, so a reader beside
//! the owner sees names come and go and takes what it finds.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::Store;
use super::error::Error;
use super::layout::Layout;
use crate::digest::Digest;
use crate::disk::{Disk, FileKind, Stat, absent_is_none, find};
use crate::error::IoContext;
use crate::manifest::Manifest;

/// A number of files and the disk they occupy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Files.
    pub files: u64,
    /// Bytes of disk.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, stat: &Stat) {
        self.files = self.files.saturating_add(1);
        self.bytes = self.bytes.saturating_add(stat.occupied);
    }
}

/// One view.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ViewUsage {
    /// Its directory's name below `views/`.
    pub name: String,
    /// Its content.
    pub manifest: Digest,
    /// Files, if its manifest is here.
    pub files: u64,
    /// Sum of the files' lengths: what it would occupy alone.
    pub bytes: u64,
}

/// What a store occupies.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Objects, each once however many views link it.
    pub objects: Tally,
    /// Those of them that no view links.
    pub unlinked: Tally,
    /// Verified and not durable yet.
    pub fresh: Tally,
    /// Unfinished downloads.
    pub partial: Tally,
    /// Set aside as damaged.
    pub quarantine: Tally,
    /// Taken over from a cloned disk and not verified yet.
    pub unverified: Tally,
    /// Part tables, manifests and records.
    pub metadata: Tally,
    /// Views, sorted by name.
    pub views: Vec<ViewUsage>,
    /// Bytes of disk in all.
    pub total_bytes: u64,
    /// Bytes that the filesystem has left.
    pub free_bytes: u64,
}

impl Usage {
    /// Walks the store at `root`. Blocking.
    pub fn read(disk: &dyn Disk, root: &Path) -> Result<Self, Error> {
        let layout = Layout::new(root);
        let mut usage = Self::default();
        for (top, unlinked) in [("objects", true), ("unverified", false)] {
            let mut all = Tally::default();
            each_file(disk, &layout.top(top), &mut |stat| {
                all.add(stat);
                if unlinked && stat.links == 1 {
                    usage.unlinked.add(stat);
                }
                ControlFlow::Continue(())
            })?;
            if unlinked {
                usage.objects = all;
            } else {
                usage.unverified = all;
            }
        }
        usage.fresh = tally(disk, &layout, &["fresh"])?;
        usage.partial = tally(disk, &layout, &["partial"])?;
        usage.quarantine = tally(disk, &layout, &["quarantine"])?;
        usage.metadata = tally(disk, &layout, &["parts", "manifests", "records"])?;
        usage.views = views(disk, &layout)?;
        usage.total_bytes = [
            usage.objects,
            usage.unverified,
            usage.fresh,
            usage.partial,
            usage.quarantine,
            usage.metadata,
        ]
        .iter()
        .fold(0, |sum, tally| sum.saturating_add(tally.bytes));
        usage.free_bytes = disk.space(root).at("read the free space of", root)?.free;
        Ok(usage)
    }
}

impl Store {
    /// Walks the store. Blocking.
    pub fn usage(&self) -> Result<Usage, Error> {
        Usage::read(&*self.shared.disk, self.shared.layout.root())
    }
}

/// Bytes of disk that count against the store's limit.
pub(super) fn occupied(disk: &dyn Disk, layout: &Layout) -> Result<u64, Error> {
    let counted = [
        "objects",
        "unverified",
        "fresh",
        "partial",
        "quarantine",
        "parts",
        "manifests",
    ];
    Ok(tally(disk, layout, &counted)?.bytes)
}

fn tally(disk: &dyn Disk, layout: &Layout, tops: &[&str]) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    for top in tops {
        each_file(disk, &layout.top(top), &mut |stat| {
            tally.add(stat);
            ControlFlow::Continue(())
        })?;
    }
    Ok(tally)
}

fn views(disk: &dyn Disk, layout: &Layout) -> Result<Vec<ViewUsage>, Error> {
    let top = layout.top("views");
    let names = absent_is_none(disk.list(&top)).at("list", &top)?;
    let mut views = Vec::new();
    for entry in names.unwrap_or_default() {
        let Some(name) = entry.name.to_str() else {
            continue;
        };
        let Some(manifest) = name.split('.').next().and_then(|hex| hex.parse().ok()) else {
            continue;
        };
        let path = layout.manifest(&manifest);
        let bytes = absent_is_none(disk.read(&path)).at("read", &path)?;
        let content = bytes.and_then(|bytes| Manifest::decode(&bytes).ok());
        views.push(ViewUsage {
            name: name.to_owned(),
            manifest,
            files: content
                .as_ref()
                .map_or(0, |content| content.files().len() as u64),
            bytes: content.as_ref().map_or(0, Manifest::total_bytes),
        });
    }
    views.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(views)
}

/// Shows every file below a directory until it is told to stop; what vanishes meanwhile is skipped. Blocking.
pub fn each_file(
    disk: &dyn Disk,
    top: &Path,
    seen: &mut dyn FnMut(&Stat) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut left: Vec<PathBuf> = vec![top.to_path_buf()];
    while let Some(directory) = left.pop() {
        let names = absent_is_none(disk.list(&directory)).at("list", &directory)?;
        for entry in names.unwrap_or_default() {
            let path = directory.join(&entry.name);
            if entry.kind == FileKind::Directory {
                left.push(path);
            } else if let Some(stat) = find(disk, &path).at("read", &path)?
                && seen(&stat).is_break()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

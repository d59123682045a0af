//! How many files the store holds and what they occupy: a walk, as `tonnage cache du` makes it, that also counts what links
//! save, reads no manifest, and ends early when the service does.
//!
//! A walk of 10⁶ files takes seconds, so that it is made when names have come or gone, and then so seldom that it takes a
//! two-hundredth of the time; once an hour in any case, because eviction of loose objects changes no name that is looked at.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonnage_cache::digest::Digest;
use tonnage_cache::disk::{Disk, Stat};
use tonnage_cache::store::{Error, Layout, each_file};

/// Of so much time, one part may go into walks.
const SHARE: u32 = 200;
/// Longest time between two walks.
const SELDOMEST: Duration = Duration::from_hours(1);
/// Directories of content, whose files views link.
const CONTENT: &[&str] = &["objects", "fresh"];
/// What else occupies disk.
const BESIDE: &[&str] = &[
    "unverified",
    "partial",
    "quarantine",
    "parts",
    "manifests",
    "records",
];

/// What a walk found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Bytes of disk in all.
    pub(super) used: u64,
    /// Distinct files of content.
    pub(super) objects: u64,
    /// Bytes of disk that views would take besides if they shared no file.
    pub(super) saved: u64,
}

/// A walk that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) count: Count,
    /// Wall time, milliseconds since 1970.
    pub(super) millis: u64,
    /// Monotonic time of its end.
    pub(super) ended: Duration,
    /// How long it took.
    pub(super) took: Duration,
    /// Of the names that it goes with.
    pub(super) names: Digest,
}

/// Whether to walk again.
pub(super) fn is_due(last: Option<&Counted>, names: &Digest, now: Duration) -> bool {
    let Some(last) = last else { return true };
    let since = now.saturating_sub(last.ended);
    let wait = if last.names == *names {
        SELDOMEST
    } else {
        last.took.saturating_mul(SHARE).min(SELDOMEST)
    };
    since >= wait
}

/// Walks the store; nothing if `stop` came first. What vanishes meanwhile is skipped. Blocking.
pub(super) fn walk(
    disk: &dyn Disk,
    layout: &Layout,
    stop: &CancellationToken,
) -> Result<Option<Count>, Error> {
    let mut count = Count::default();
    for (tops, are_content) in [(CONTENT, true), (BESIDE, false)] {
        for top in tops {
            each_file(disk, &layout.top(top), &mut |stat| {
                if stop.is_cancelled() {
                    return ControlFlow::Break(());
                }
                count.used = count.used.saturating_add(stat.occupied);
                if are_content {
                    count.add_content(stat);
                }
                ControlFlow::Continue(())
            })?;
        }
    }
    Ok((!stop.is_cancelled()).then_some(count))
}

impl Count {
    /// One name is the store's own and one is the first view's; each further one is a file that a view does without.
    fn add_content(&mut self, stat: &Stat) {
        self.objects = self.objects.saturating_add(1);
        let shared = u64::from(stat.links.saturating_sub(2));
        let saved = stat.occupied.saturating_mul(shared);
        self.saved = self.saved.saturating_add(saved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_cache::disk::OsDisk;

    fn counted(took: u64, names: Digest) -> Counted {
        Counted {
            count: Count::default(),
            millis: 0,
            ended: Duration::from_secs(1_000),
            took: Duration::from_secs(took),
            names,
        }
    }

    #[test]
    fn a_walk_is_made_when_names_changed_and_takes_a_two_hundredth_of_the_time() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let at = |second: u64| Duration::from_secs(1_000 + second);
        assert!(is_due(None, &one, at(0)));
        assert!(!is_due(Some(&counted(2, one)), &one, at(3_599)));
        assert!(is_due(Some(&counted(2, one)), &one, at(3_600)));
        assert!(!is_due(Some(&counted(2, one)), &two, at(399)));
        assert!(is_due(Some(&counted(2, one)), &two, at(400)));
        assert!(is_due(Some(&counted(0, one)), &two, at(0)));
        // However long the last one took.
        assert!(is_due(Some(&counted(60, one)), &two, at(3_600)));
    }

    #[test]
    fn files_are_counted_once_and_what_further_views_link_is_saved() {
        let root = tempfile::tempdir().unwrap();
        let (disk, layout) = (OsDisk::new(), Layout::new(root.path()));
        for directory in [
            "objects/ab",
            "fresh/boot",
            "partial/k",
            "views/v",
            "views/w",
        ] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let put = |path: &str, bytes: usize| {
            std::fs::write(root.path().join(path), vec![1; bytes]).unwrap();
        };
        let link = |from: &str, to: &str| {
            std::fs::hard_link(root.path().join(from), root.path().join(to)).unwrap();
        };
        put("objects/ab/loose", 10_000);
        put("objects/ab/shared", 20_000);
        put("fresh/boot/new", 5_000);
        put("partial/k/data", 30_000);
        link("objects/ab/shared", "views/v/a");
        link("objects/ab/shared", "views/w/a");
        link("objects/ab/shared", "views/w/b");
        link("fresh/boot/new", "views/w/c");
        let occupied = |path: &str| disk.stat(&root.path().join(path)).unwrap().occupied;
        let all = [
            "objects/ab/loose",
            "objects/ab/shared",
            "fresh/boot/new",
            "partial/k/data",
        ];
        let stop = CancellationToken::new();
        let count = walk(&disk, &layout, &stop).unwrap().unwrap();
        assert_eq!(count.objects, 3);
        assert_eq!(count.used, all.into_iter().map(occupied).sum::<u64>());
        assert_eq!(count.saved, 2 * occupied("objects/ab/shared"));
        stop.cancel();
        assert_eq!(walk(&disk, &layout, &stop).unwrap(), None);
    }
}

//! Which mounts are ours: those whose root is exactly a directory of the store's `views/`. Kubelet's own subPath binds
//! show something below a view, or lie elsewhere; they and everybody else's mounts are never touched.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::mount::{Mount, Table};

/// The store's directory of views.
#[derive(Debug, Clone)]
pub(super) struct Views {
    directory: PathBuf,
}

/// What is mounted on a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Occupant {
    /// Nothing.
    Nobody,
    /// A view of ours, by its directory's name; `sound` says whether it is `ro,nosuid,nodev`.
    View { name: String, sound: bool },
    /// Something else, on top.
    Foreign,
}

impl Views {
    pub(super) fn new(root: &Path) -> Self {
        let directory = root.join("views");
        // Without links, as the mount table has it; the directory exists once the store is open.
        Self {
            directory: directory.canonicalize().unwrap_or(directory),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What is topmost on `target`.
    pub(super) fn occupant(&self, table: &Table, target: &Path) -> Occupant {
        match table.at(target).next_back() {
            None => Occupant::Nobody,
            Some(mount) => match self.shown(table, mount, false) {
                Some(name) => Occupant::View {
                    name,
                    sound: mount.has_options(&["ro", "nosuid", "nodev"]),
                },
                None => Occupant::Foreign,
            },
        }
    }

    /// The view that a mount shows; with `or_below`, also if it shows only a part of it.
    pub(super) fn shown(&self, table: &Table, mount: &Mount, or_below: bool) -> Option<String> {
        let (home, within) = table.locate(&self.directory)?;
        let below = mount
            .root
            .strip_prefix(&within)
            .ok()
            .filter(|_| home.device == mount.device)?;
        let mut names = below.iter();
        let name = names.next().and_then(OsStr::to_str)?.to_owned();
        (or_below || names.next().is_none()).then_some(name)
    }

    /// Whether the filesystem of the views carries `SELinux` labels.
    pub(super) fn has_labels(&self, table: &Table) -> bool {
        let home = table.locate(&self.directory).map(|(mount, _)| mount);
        home.is_some_and(|mount| {
            mount
                .super_options
                .split(',')
                .any(|option| option == "seclabel")
        })
    }
}

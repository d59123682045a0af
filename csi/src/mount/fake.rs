//! A mounter for tests that remembers every call and is stricter than the kernel: view and target must be existing
//! directories, a second mount on a target and the removal of an unknown one are errors. It changes nothing on disk.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tonnage_cache::error::PathError;

use super::{Error, Mount, Mounter, Sight, Table};
use crate::target::Spot;
use crate::volume::MountFlags;

/// A call that reached the mounter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// View and target.
    Attach(PathBuf, PathBuf),
    /// Target.
    Detach(PathBuf),
}

#[derive(Debug, Default)]
struct State {
    mounts: Vec<Mount>,
    calls: Vec<Call>,
    tables: usize,
    stacking: bool,
    unguarded: bool,
    fail: Option<rustix::io::Errno>,
}

/// Mounts in memory.
#[derive(Debug, Default)]
pub struct FakeMounter {
    state: Mutex<State>,
}

impl FakeMounter {
    /// No mounts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// How often the whole table was asked for.
    pub fn tables(&self) -> usize {
        self.lock().tables
    }

    /// View and target of every mount, oldest first.
    pub fn attached(&self) -> Vec<(PathBuf, PathBuf)> {
        self.lock()
            .mounts
            .iter()
            .map(|mount| (mount.root.clone(), mount.point.clone()))
            .collect()
    }

    /// Allows mounts on top of each other from now on.
    pub fn allow_stacking(&self) {
        self.lock().stacking = true;
    }

    /// Owners cannot be mapped from now on.
    pub fn refuse_guards(&self) {
        self.lock().unguarded = true;
    }

    /// The next call fails with this error.
    pub fn fail_next(&self, error: rustix::io::Errno) {
        self.lock().fail = Some(error);
    }

    /// Puts a mount there that is not ours.
    pub fn mount_foreign(&self, point: &Path) {
        let mount = Mount {
            root: "/".into(),
            device: (0, 99),
            ..ours(Path::new("/"), point, MountFlags::default())
        };
        self.lock().mounts.push(mount);
    }

    /// Forgets all mounts, as a reboot does.
    pub fn reboot(&self) {
        self.lock().mounts.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ours(view: &Path, point: &Path, flags: MountFlags) -> Mount {
    let mut options = "ro,nosuid,nodev".to_owned();
    if flags.noexec {
        options.push_str(",noexec");
    }
    if flags.noatime {
        options.push_str(",noatime");
    }
    if flags.guarded {
        options.push_str(",idmapped");
    }
    Mount {
        device: (0, 1),
        root: view.to_path_buf(),
        point: point.to_path_buf(),
        options,
        shared: false,
        filesystem: "fake".to_owned(),
        super_options: "rw".to_owned(),
    }
}

fn failed(error: rustix::io::Errno, operation: &'static str, path: &Path) -> Error {
    PathError {
        operation,
        path: path.to_path_buf(),
        source: error.into(),
    }
    .into()
}

impl Mounter for FakeMounter {
    fn attach(&self, view: &Path, spot: &Spot, flags: MountFlags) -> Result<(), Error> {
        let mut state = self.lock();
        state
            .calls
            .push(Call::Attach(view.to_path_buf(), spot.path().to_path_buf()));
        if let Some(error) = state.fail.take() {
            return Err(failed(error, "mount on", spot.path()));
        }
        spot.open()?;
        if !view.is_dir() {
            return Err(failed(rustix::io::Errno::NOENT, "clone the mount of", view));
        }
        if !state.stacking && state.mounts.iter().any(|mount| mount.point == spot.path()) {
            return Err(failed(
                rustix::io::Errno::BUSY,
                "mount twice on",
                spot.path(),
            ));
        }
        state.mounts.push(ours(view, spot.path(), flags));
        Ok(())
    }

    fn check_guard(&self, directory: &Path) -> Result<(), Error> {
        if self.lock().unguarded {
            let source = rustix::io::Errno::INVAL.into();
            return Err(Error::Unguarded { source });
        }
        if directory.is_dir() {
            return Ok(());
        }
        let absent = rustix::io::Errno::NOENT;
        Err(failed(absent, "clone the mount of", directory))
    }

    fn detach(&self, spot: &Spot) -> Result<(), Error> {
        let mut state = self.lock();
        state.calls.push(Call::Detach(spot.path().to_path_buf()));
        if let Some(error) = state.fail.take() {
            return Err(failed(error, "unmount", spot.path()));
        }
        match state
            .mounts
            .iter()
            .rposition(|mount| mount.point == spot.path())
        {
            Some(index) => {
                state.mounts.remove(index);
                Ok(())
            }
            None => Err(Error::NotMounted {
                path: spot.path().to_path_buf(),
            }),
        }
    }

    fn look(&self, spot: &Spot, view: Option<&Path>) -> Result<Sight, Error> {
        let state = self.lock();
        let topmost = state
            .mounts
            .iter()
            .rfind(|mount| mount.point == spot.path());
        Ok(match topmost {
            None => Sight::Nothing,
            Some(mount) if view == Some(mount.root.as_path()) => Sight::View {
                sound: mount.has_options(&["ro", "nosuid", "nodev"]),
            },
            Some(_) => Sight::Other,
        })
    }

    fn mounts(&self) -> Result<Table, Error> {
        let below = Mount {
            options: "rw".to_owned(),
            ..ours(Path::new("/"), Path::new("/"), MountFlags::default())
        };
        let mut state = self.lock();
        state.tables = state.tables.saturating_add(1);
        Ok(Table::new(
            std::iter::once(below)
                .chain(state.mounts.iter().cloned())
                .collect(),
        ))
    }
}

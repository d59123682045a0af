//! `meta.json`: the store's format version, features, identity and home.
//!
//! Only a higher version or an unknown *incompat* feature is refused, before anything is touched. A store whose home
//! (machine, root inode and its birth) is another one is a copy: it gets a new id, its records are dropped and its
//! objects count as unverified.

use std::path::Path;

use super::error::Error;
use super::{Config, write_file};
use crate::disk::{Disk, absent_is_none};
use crate::error::IoContext;

/// The version that this program writes.
pub(super) const VERSION: u64 = 1;
const KNOWN_INCOMPAT: [&str; 0] = [];

/// The content of `meta.json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Meta {
    /// Format version.
    pub version: u64,
    /// Features that any version may ignore.
    #[serde(default)]
    pub compat: Vec<String>,
    /// Features that a reader may ignore and a writer must know.
    #[serde(default)]
    pub ro_compat: Vec<String>,
    /// Features that every program must know.
    #[serde(default)]
    pub incompat: Vec<String>,
    /// Random name of this store.
    pub store_id: String,
    /// Where it was made.
    pub home: Home,
}

/// What changes when a store is copied or its disk is attached to another machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Home {
    /// The machine's id, where it could be read.
    pub machine: Option<String>,
    /// Inode of the root directory.
    pub inode: u64,
    /// Creation of the root directory, milliseconds since 1970; 0 where unknown.
    pub born_millis: u64,
}

impl Home {
    /// The home of a store at `root` on this machine.
    pub(super) fn here(disk: &dyn Disk, config: &Config) -> Result<Self, Error> {
        let stat = disk.stat(&config.root).at("read", &config.root)?;
        Ok(Self {
            machine: config.machine_id.clone(),
            inode: stat.inode,
            born_millis: stat.born_millis,
        })
    }

    /// Whether both can be the same store; what is unknown on either side is not compared.
    pub fn is_same(&self, other: &Self) -> bool {
        let machine = match (&self.machine, &other.machine) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        let born = self.born_millis == other.born_millis
            || self.born_millis == 0
            || other.born_millis == 0;
        machine && born && self.inode == other.inode
    }
}

impl Meta {
    /// A new store's.
    pub(super) fn new(home: Home) -> Self {
        Self {
            version: VERSION,
            compat: Vec::new(),
            ro_compat: Vec::new(),
            incompat: Vec::new(),
            store_id: format!("{:032x}", rand::random::<u128>()),
            home,
        }
    }

    /// Reads and checks `meta.json`; `None` if there is none.
    pub fn read(disk: &dyn Disk, root: &Path) -> Result<Option<Self>, Error> {
        let path = root.join("meta.json");
        let Some(bytes) = absent_is_none(disk.read(&path)).at("read", &path)? else {
            return Ok(None);
        };
        // The version is looked at first: a later format may have other fields.
        let version = serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|value| value.get("version")?.as_u64());
        match version {
            Some(found) if found > VERSION => {
                return Err(Error::Version {
                    root: root.to_path_buf(),
                    found,
                    known: VERSION,
                });
            }
            _ => {}
        }
        let meta: Self = serde_json::from_slice(&bytes).map_err(|_| Error::Unusable {
            root: root.to_path_buf(),
            reason: "its meta.json cannot be read; restore that file, or use an empty directory"
                .to_owned(),
        })?;
        let unknown = meta
            .incompat
            .iter()
            .find(|name| !KNOWN_INCOMPAT.contains(&name.as_str()));
        match unknown {
            Some(feature) => Err(Error::Feature {
                root: root.to_path_buf(),
                feature: feature.clone(),
            }),
            None => Ok(Some(meta)),
        }
    }

    /// Writes it durably.
    pub(super) fn write(&self, disk: &dyn Disk, root: &Path) -> Result<(), Error> {
        let bytes = serde_json::to_vec_pretty(self)?;
        let fresh = root.join("meta.json.new");
        absent_is_none(disk.unlink(&fresh)).at("remove", &fresh)?;
        let file = write_file(disk, &fresh, &bytes)?;
        disk.sync_data(&file).at("sync", &fresh)?;
        let path = root.join("meta.json");
        disk.rename(&fresh, &path).at("rename to", &path)?;
        disk.sync_dir(root).at("sync", root)?;
        Ok(())
    }
}

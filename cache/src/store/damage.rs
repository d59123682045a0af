//! Objects that turned out not to hold what their name says: set aside, reported, and repaired part by part.
//!
//! Invariants: a bad object loses its name before anything else happens, so nobody links it any more; readers of a
//! view keep their inode; what is in `quarantine/` is capped in bytes and age, and each removal is logged. A report
//! is a record, so it survives a restart; it ends when the content is back and no view holds the bad inode.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use super::error::Error;
use super::layout::ensure_directory;
use super::partial::PartialKey;
use super::{Shared, Store, write_file};
use crate::buffer::{Buffer, CAPACITY};
use crate::clock::unix_millis;
use crate::digest::{Digest, PART_SIZE, PartHash, part_length};
use crate::disk::{Open, find};
use crate::error::{IoContext, chain};
use crate::journal;

const KIND: &str = "damage";

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It has another length.
    Length,
    /// Its bytes hash to something else.
    Content,
    /// It could not be made durable; views may show bytes that are lost at the next boot.
    Sync,
}

/// A report about one object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Damage {
    /// The object's name.
    pub digest: Digest,
    /// Its proper length.
    pub size: u64,
    /// What is wrong.
    pub cause: Cause,
    /// The bad parts, where they could be told apart.
    pub bad_parts: Vec<u64>,
    /// Inode of the bad file: views that link it show bad bytes.
    pub inode: u64,
    /// When it was found, milliseconds since 1970.
    pub found_millis: u64,
    /// The content was fetched again.
    pub repaired: bool,
    /// The file's name in `quarantine/`.
    pub quarantined: Option<String>,
    /// The object versions that it came from: their next fetch starts from the good parts.
    pub keys: Vec<PartialKey>,
}

pub(super) type Damages = BTreeMap<Digest, Damage>;

impl Store {
    /// Objects that were found damaged and are still missing or still shown by a view.
    pub fn damaged(&self) -> Vec<Damage> {
        self.shared.damages().values().cloned().collect()
    }
}

impl Shared {
    fn damages(&self) -> MutexGuard<'_, Damages> {
        self.damages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the reports of earlier runs.
    pub(super) fn load_damages(&self) -> Result<(), Error> {
        for name in self.records.list(KIND)? {
            if let Some(damage) = self.records.read::<Damage>(KIND, &name)? {
                self.damages().insert(damage.digest, damage);
            }
        }
        Ok(())
    }

    /// Takes a bad object's name away, sets the file aside and reports it.
    pub(super) fn retire(
        &self,
        digest: &Digest,
        size: u64,
        cause: Cause,
        bad_parts: Vec<u64>,
    ) -> Result<(), Error> {
        let path = self.layout.object(digest);
        let inode = self.disk.stat(&path).at("read", &path)?.inode;
        let name = self.quarantine(&path, digest)?;
        self.report(Damage {
            digest: *digest,
            size,
            cause,
            bad_parts,
            inode,
            found_millis: unix_millis(self.clock.now()),
            repaired: false,
            quarantined: Some(name),
            keys: self.history.keys_of(digest)?,
        });
        Ok(())
    }

    /// Reports an object without touching it.
    pub(super) fn report_damage(
        &self,
        digest: &Digest,
        size: u64,
        cause: Cause,
        bad_parts: Vec<u64>,
    ) {
        let path = self.layout.fresh_object(&self.boot_id, digest);
        self.report(Damage {
            digest: *digest,
            size,
            cause,
            bad_parts,
            inode: self.disk.stat(&path).map_or(0, |stat| stat.inode),
            found_millis: unix_millis(self.clock.now()),
            repaired: false,
            quarantined: None,
            keys: Vec::new(),
        });
    }

    fn report(&self, damage: Damage) {
        tracing::error!(digest = %damage.digest, cause = ?damage.cause, parts = ?damage.bad_parts, "an object is damaged");
        self.keep_report(&damage);
        self.damages().insert(damage.digest, damage);
    }

    fn keep_report(&self, damage: &Damage) {
        let kept = self.records.write(KIND, &damage.digest.to_hex(), damage);
        if let Err(error) = kept {
            tracing::warn!(error = %chain(&error), "a damage report will not survive a restart");
        }
    }

    /// Notes that good content has the name again.
    pub(super) fn heal(&self, digest: &Digest) {
        let healed = {
            let mut damages = self.damages();
            damages.get_mut(digest).map(|damage| {
                damage.repaired = true;
                damage.clone()
            })
        };
        if let Some(damage) = healed {
            self.keep_report(&damage);
        }
    }

    /// Moves a file to `quarantine/` and returns its name there.
    pub(super) fn quarantine(&self, path: &Path, digest: &Digest) -> Result<String, Error> {
        let name = format!(
            "{digest}.{}-{}",
            unix_millis(self.clock.now()),
            self.next_serial()
        );
        let to = self.layout.top("quarantine").join(&name);
        self.disk.rename(path, &to).at("rename to", &to)?;
        tracing::warn!(file = %to.display(), "content was quarantined");
        Ok(name)
    }

    /// Removes what is too old or too much in `quarantine/`, oldest first, and reports that have ended.
    pub(super) fn tidy_quarantine(&self) -> Result<(), Error> {
        let directory = self.layout.top("quarantine");
        let now = unix_millis(self.clock.now());
        let ttl = u64::try_from(self.config.quarantine_ttl.as_millis()).unwrap_or(u64::MAX);
        let mut files = Vec::new();
        for name in self.disk.list(&directory).at("list", &directory)? {
            let path = directory.join(&name.name);
            if let Some(stat) = find(&*self.disk, &path).at("read", &path)? {
                // Renaming into quarantine/ changed the inode: that is its age.
                files.push((stat.changed_millis, stat.occupied, path));
            }
        }
        files.sort();
        let mut total = files.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        for (since, bytes, path) in files {
            if total > self.config.quarantine_bytes || now.saturating_sub(since) > ttl {
                self.disk.remove_tree(&path).at("remove", &path)?;
                tracing::info!(file = %path.display(), bytes, "removed from quarantine");
                total = total.saturating_sub(bytes);
            }
        }
        self.end_reports()
    }

    fn end_reports(&self) -> Result<(), Error> {
        let ended: Vec<Digest> = self
            .damages()
            .values()
            .filter(|damage| damage.repaired && !self.is_shown(damage))
            .map(|damage| damage.digest)
            .collect();
        for digest in ended {
            self.records.remove(KIND, &digest.to_hex())?;
            self.damages().remove(&digest);
        }
        Ok(())
    }

    /// Whether a view may still hold the bad inode.
    fn is_shown(&self, damage: &Damage) -> bool {
        damage.quarantined.as_ref().is_some_and(|name| {
            let path = self.layout.top("quarantine").join(name);
            self.disk.stat(&path).is_ok_and(|stat| stat.links > 1)
        })
    }

    /// Makes a partial file of a quarantined object's good parts, if `key` is where it came from. What cannot be
    /// restored is fetched instead.
    pub(super) fn restore_quarantined(&self, key: &PartialKey, size: u64) -> Result<(), Error> {
        let directory = self.layout.partial(key);
        let damage = self
            .damages()
            .values()
            .find(|damage| !damage.repaired && damage.size == size && damage.keys.contains(key))
            .cloned();
        let Some(damage) = damage else {
            return Ok(());
        };
        if find(&*self.disk, &directory)
            .at("read", &directory)?
            .is_some()
        {
            return Ok(());
        }
        if let Err(error) = self.restore(&damage, key, &directory) {
            tracing::warn!(digest = %damage.digest, error = %chain(&error), "good parts were not restored");
            self.discard(&directory)?;
        }
        Ok(())
    }

    fn restore(&self, damage: &Damage, key: &PartialKey, directory: &Path) -> Result<(), Error> {
        let Some(name) = &damage.quarantined else {
            return Ok(());
        };
        let from = self.layout.top("quarantine").join(name);
        let table = self.find_parts(&damage.digest)?;
        let (Some((length, values)), Some(stat)) =
            (table, find(&*self.disk, &from).at("read", &from)?)
        else {
            return Ok(());
        };
        if length != damage.size || damage.bad_parts.is_empty() {
            return Ok(());
        }
        ensure_directory(&*self.disk, directory)?;
        let data = directory.join("data");
        if stat.links == 1 {
            self.disk.rename(&from, &data).at("rename to", &data)?;
            self.disk
                .set_mode(&data, 0o600)
                .at("change the mode of", &data)?;
        } else {
            self.copy_parts(&from, &data, damage)?;
        }
        let mut bytes = journal::encode_header(key.as_bytes(), length);
        for (index, value) in (0u64..).zip(values) {
            if !damage.bad_parts.contains(&index) {
                bytes.extend(journal::encode_record(index, &PartHash::Part(value)));
            }
        }
        drop(write_file(&*self.disk, &directory.join("journal"), &bytes)?);
        Ok(())
    }

    fn copy_parts(&self, from: &Path, to: &Path, damage: &Damage) -> Result<(), Error> {
        let source = self.disk.open(from, Open::Read).at("open", from)?;
        let target = self.disk.open(to, Open::Create).at("create", to)?;
        if self.disk.reflink(&source, &target).is_ok() {
            return Ok(());
        }
        self.disk.truncate(&target, damage.size).at("extend", to)?;
        let mut buffer = Buffer::unpooled();
        for index in 0..crate::digest::part_count(damage.size) {
            if damage.bad_parts.contains(&index) {
                continue;
            }
            let length = usize::try_from(part_length(damage.size, index)).unwrap_or(CAPACITY);
            let offset = index.saturating_mul(PART_SIZE);
            let (back, read) = self
                .disk
                .read_at(&source, buffer, length, offset)
                .at("read", from)?;
            buffer = self
                .disk
                .write_at(&target, back, read, offset)
                .at("write", to)?;
        }
        Ok(())
    }
}

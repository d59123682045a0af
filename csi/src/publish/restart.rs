//! After a restart: mounts have lived on, records say what they are. Where the two disagree, the kernel is right: a record
//! without a mount is dropped (kubelet publishes again), a mount without a record gets one.

use std::path::Path;

use tonnage_cache::clock::unix_millis;
use tonnage_cache::digest::Digest;

use super::{Error, Occupant, Publisher};
use crate::mount::{Mount, Table};
use crate::record::Record;

impl Publisher {
    /// Makes records and mounts agree. Blocking.
    pub(super) fn reconstruct(&self) -> Result<(), Error> {
        let table = self.parts.mounter.mounts()?;
        for record in self.published.all() {
            let target = self.parts.root.below(&record.target);
            let shown = self.views.occupant(&table, target.path());
            if !matches!(shown, Occupant::View { name, .. } if name == record.view) {
                tracing::info!(target = %target.path().display(), "a published volume is not mounted any more");
                self.published.remove(&record.target)?;
            }
        }
        for mount in table.mounts() {
            self.adopt(&table, mount)?;
        }
        Ok(())
    }

    /// Writes the record of a mounted view that has none, so that its content is kept and it can be unpublished.
    fn adopt(&self, table: &Table, mount: &Mount) -> Result<(), Error> {
        let Ok(target) = mount.point.strip_prefix(self.parts.root.path()) else {
            return Ok(());
        };
        // Kubelet's subPath binds show views, too; they live and die with the volume that they are a part of.
        let Some(view) = self
            .views
            .shown(table, mount, false)
            .filter(|_| is_target(target))
        else {
            return Ok(());
        };
        let manifest = view
            .split('.')
            .next()
            .and_then(|hex| hex.parse::<Digest>().ok());
        let Some(manifest) = manifest.filter(|_| self.published.find(target).is_none()) else {
            return Ok(());
        };
        tracing::warn!(target = %mount.point.display(), "a mounted volume had no record; it has one now");
        self.published.insert(Record {
            target: target.to_path_buf(),
            identity: None,
            view,
            manifest,
            fingerprint: None,
            bytes: 0,
            files: 0,
            boot_id: self.parts.boot_id.clone(),
            since_millis: unix_millis(self.parts.clock.now()),
            namespace: None,
        })?;
        Ok(())
    }
}

/// `pods/<uid>/volumes/kubernetes.io~csi/<name>/mount`, as kubelet makes them.
fn is_target(target: &Path) -> bool {
    let mut parts = target.iter();
    let words = [parts.next(), parts.nth(1), parts.next(), parts.nth(1)];
    let expected = ["pods", "volumes", "kubernetes.io~csi", "mount"];
    words
        .iter()
        .zip(expected)
        .all(|(word, expected)| word.is_some_and(|word| word == expected))
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_csi_targets_are_targets() {
        assert!(is_target(Path::new(
            "pods/u/volumes/kubernetes.io~csi/v/mount"
        )));
        for other in [
            "pods/u/volume-subpaths/v/c/0",
            "pods/u/volumes/kubernetes.io~csi/v/mount/sub",
            "x/u/volumes/kubernetes.io~csi/v/mount",
            "",
        ] {
            assert!(!is_target(Path::new(other)), "{other}");
        }
    }
}

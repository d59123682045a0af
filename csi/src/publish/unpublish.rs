//! Taking a volume away: the waiter leaves, mounts of ours come off the target, the directory and the record go. Every step
//! may have been done before; absent is OK.

use std::sync::Arc;

use super::{Error, Occupant, Publisher, shown};
use crate::inflight::WaiterId;
use crate::record::Record;
use crate::target::{Spot, TargetPath};
use crate::volume::VolumeId;

impl Publisher {
    /// Unpublishes a volume at a target. When this returns, no fetch runs for it and no mount of it can appear.
    pub async fn unpublish(
        self: &Arc<Self>,
        volume_id: VolumeId,
        target: &str,
    ) -> Result<(), Error> {
        let target = self.parts.root.target(target)?;
        let id = WaiterId {
            volume: volume_id,
            target: target.relative().to_path_buf(),
        };
        let this = Arc::clone(self);
        let work = async move {
            this.loads.leave(&id).await;
            let _turn = this.locks.lock(&id.volume).await;
            let volume = id.volume.clone();
            let removed = this
                .blocking(move |this| this.unpublish_now(&volume, &target))
                .await;
            this.tell_count();
            removed
        };
        self.tasks.spawn(work).await.map_err(|_| Error::Task)?
    }

    fn unpublish_now(&self, volume: &VolumeId, target: &TargetPath) -> Result<(), Error> {
        let record = self.published.find(target.relative());
        if record.as_ref().is_some_and(|record| !record.is_of(volume)) {
            // The target is another volume's: this one is absent.
            return Ok(());
        }
        fail::fail_point!("unpublish::before_unmount");
        if let Some(spot) = self.parts.root.spot(target)? {
            self.detach_all(&spot, target, record.as_ref())?;
            fail::fail_point!("unpublish::after_unmount");
            spot.remove_dir()?;
        }
        fail::fail_point!("unpublish::after_rmdir");
        self.published.remove(target.relative())?;
        fail::fail_point!("unpublish::after_record");
        Ok(())
    }

    /// Takes off every mount of ours, topmost first.
    fn detach_all(
        &self,
        spot: &Spot,
        target: &TargetPath,
        record: Option<&Record>,
    ) -> Result<(), Error> {
        let one = || self.detach_one(spot, target, record);
        // Nothing was there, or one mount and now nothing: no need of the table.
        if !one()? || matches!(self.occupant_of(spot, target, record)?, Occupant::Nobody) {
            return Ok(());
        }
        // Several are rare: then the table says how many, so that this ends whatever the kernel answers.
        let stacked = self.parts.mounter.mounts()?.at(target.path()).count();
        for _ in 0..stacked {
            if !one()? {
                break;
            }
        }
        Ok(())
    }

    /// Unmounts the topmost view; false if nothing is mounted.
    fn detach_one(
        &self,
        spot: &Spot,
        target: &TargetPath,
        record: Option<&Record>,
    ) -> Result<bool, Error> {
        match self.occupant_of(spot, target, record)? {
            Occupant::Nobody => Ok(false),
            Occupant::View { .. } => {
                self.parts.mounter.detach(spot)?;
                Ok(true)
            }
            Occupant::Foreign => Err(Error::Foreign {
                path: shown(target),
            }),
        }
    }
}

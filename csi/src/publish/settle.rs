//! The end of a publish: record, target directory, mount, account. It runs as a task of its own, one at a time for each
//! volume, so that a dropped call never leaves half of it; every step that fails is taken back. The account is told to
//! the observers when the caller has its answer.

use std::sync::Arc;

use tonnage_cache::cache::Loaded;
use tonnage_cache::clock::unix_millis;
use tonnage_cache::error::chain;
use tonnage_cache::report::{Origins, Phase, Report};

use super::{Admitted, Error, Occupant, Publisher, shown, shows, view_name};
use crate::inflight::WaiterId;
use crate::loads::Load;
use crate::record::Record;
use crate::volume::MountFlags;

impl Publisher {
    /// Mounts what was loaded.
    pub(super) async fn settle(
        self: &Arc<Self>,
        admitted: Admitted,
        loaded: Arc<Loaded>,
    ) -> Result<(), Error> {
        let this = Arc::clone(self);
        let work = async move {
            let _turn = this.locks.lock(&admitted.request.volume_id).await;
            let admitted = Arc::new(admitted);
            let (own, shown) = (Arc::clone(&admitted), Arc::clone(&loaded));
            let settled = this
                .blocking(move |this| this.settle_now(&own, &shown))
                .await;
            if settled.is_ok() {
                this.retain(&admitted, &loaded).await;
            }
            this.tell_count();
            if let Some(load) = settled? {
                this.tell(load);
            }
            Ok(())
        };
        self.tasks.spawn(work).await.map_err(|_| Error::Task)?
    }

    /// Tells the observers of a load, after the answer: no pod waits for its account to be written.
    fn tell(self: &Arc<Self>, load: Load) {
        let this = Arc::clone(self);
        drop(self.tasks.spawn(async move {
            let _turn = this.telling.lock().await;
            let told = this.blocking(move |this| {
                for observer in &this.parts.observers {
                    observer.load_ended(&load);
                }
                Ok(())
            });
            if let Err(error) = told.await {
                tracing::warn!(error = %chain(&error), "a load was not reported");
            }
        }));
    }

    /// Returns the account of a load, if this is what mounted it.
    fn settle_now(&self, admitted: &Admitted, loaded: &Loaded) -> Result<Option<Load>, Error> {
        let result = self.mount_once(admitted, loaded);
        // Uncertain or final: nothing runs for this waiter any more.
        admitted.call.finish();
        result
    }

    fn mount_once(&self, admitted: &Admitted, loaded: &Loaded) -> Result<Option<Load>, Error> {
        let Admitted {
            request,
            target,
            identity,
            call,
            ..
        } = admitted;
        let started = self.parts.clock.monotonic();
        let known = self.published.find(target.relative());
        let occupant = self.occupant(target, known.as_ref())?;
        if shows(target, identity, &occupant, known.as_ref())? {
            return Ok(None);
        }
        if !call.is_wanted() {
            return Err(Error::Unpublished);
        }
        let id = WaiterId {
            volume: request.volume_id.clone(),
            target: target.relative().to_path_buf(),
        };
        self.check_single(request, &id)?;
        if !request.ephemeral {
            self.bind(admitted, loaded)?;
        }
        let record = self.record(admitted, loaded)?;
        match occupant {
            Occupant::Nobody => {}
            // Its record was lost: the same content is the same volume, anything else is not ours to replace.
            Occupant::View { name, sound } if sound && name == record.view => {
                self.published.insert(record)?;
                return Ok(None);
            }
            // Foreign ones were refused before.
            Occupant::View { .. } | Occupant::Foreign => {
                return Err(Error::Taken {
                    path: shown(target),
                });
            }
        }
        fail::fail_point!("publish::before_record");
        self.published.insert(record)?;
        fail::fail_point!("publish::after_record");
        if let Err(error) = self.attach(admitted, loaded) {
            return Err(match self.published.remove(target.relative()) {
                Ok(()) => error,
                Err(second) => left_behind(&error, &second),
            });
        }
        fail::fail_point!("publish::after_mount");
        let mounted = self.parts.clock.monotonic().saturating_sub(started);
        let load = self.account(admitted, loaded, mounted);
        fail::fail_point!("publish::before_ok");
        Ok(Some(load))
    }

    /// A claim shows one revision to all its pods.
    fn bind(&self, admitted: &Admitted, loaded: &Loaded) -> Result<(), Error> {
        let volume = &admitted.request.volume_id;
        match self.published.claimed(volume)? {
            Some(bound) if bound != loaded.fingerprint => Err(Error::OtherRevision {
                bound,
                found: loaded.fingerprint,
            }),
            Some(_) | None => Ok(self.published.claim(
                volume,
                loaded.fingerprint,
                unix_millis(self.parts.clock.now()),
            )?),
        }
    }

    fn record(&self, admitted: &Admitted, loaded: &Loaded) -> Result<Record, Error> {
        Ok(Record {
            target: admitted.target.relative().to_path_buf(),
            identity: Some(admitted.identity.clone()),
            view: view_name(loaded)?,
            manifest: loaded.manifest_digest,
            fingerprint: Some(loaded.fingerprint),
            bytes: loaded.report.bytes,
            files: loaded.report.files,
            boot_id: self.parts.boot_id.clone(),
            since_millis: unix_millis(self.parts.clock.now()),
            // Its waiter is still there.
            namespace: self.parts.quotas.namespace_of(&WaiterId {
                volume: admitted.request.volume_id.clone(),
                target: admitted.target.relative().to_path_buf(),
            }),
        })
    }

    fn attach(&self, admitted: &Admitted, loaded: &Loaded) -> Result<(), Error> {
        let target = &admitted.target;
        let spot = self.parts.root.spot(target)?;
        let spot = spot.ok_or_else(|| crate::target::Error::NoParent {
            path: shown(target),
        })?;
        let made = spot.ensure_dir()?;
        fail::fail_point!("publish::after_target");
        let view = self.views.path(&view_name(loaded)?);
        let request = &admitted.request;
        // A container runtime is told to mount it writable, and may do so.
        let flags = MountFlags {
            guarded: !request.readonly,
            ..request.flags
        };
        let Err(error) = self.parts.mounter.attach(&view, &spot, flags) else {
            return Ok(());
        };
        let error = Error::from(error);
        match if made { spot.remove_dir() } else { Ok(()) } {
            Ok(()) => Err(error),
            Err(second) => Err(left_behind(&error, &second)),
        }
    }

    /// The pod's account: its phases add up to the time since its first call. One that joined another's load
    /// spent that time queueing, and brought no bytes.
    fn account(&self, admitted: &Admitted, loaded: &Loaded, mounted: std::time::Duration) -> Load {
        let Admitted {
            request,
            call,
            authorized,
            ..
        } = admitted;
        let wall = self.parts.clock.monotonic().saturating_sub(call.since());
        let own = call.began();
        let mut report = if own {
            loaded.report.clone()
        } else {
            let origins = Origins {
                cached: loaded.report.bytes,
                ..Origins::default()
            };
            Report {
                phases: Vec::new(),
                origins,
                files: loaded.report.files,
                bytes: loaded.report.bytes,
                page_cache: loaded.report.page_cache.clone(),
                ..Report::default()
            }
        };
        let loading = std::mem::take(&mut report.phases);
        let known = Report {
            phases: loading.clone(),
            ..Report::default()
        }
        .total();
        let queued = wall.saturating_sub(known).saturating_sub(mounted);
        let deciding = (*authorized).min(queued);
        report.add_phase(Phase::Authorize, deciding);
        report.add_phase(Phase::Queue, queued.saturating_sub(deciding));
        report.phases.extend(loading);
        report.add_phase(Phase::Mount, mounted);
        Load {
            ended_millis: unix_millis(self.parts.clock.now()),
            volume: request.volume_id.as_str().to_owned(),
            pod: request.credentials.pod.clone(),
            source: request.attributes.source.clone(),
            path: request.attributes.path.clone(),
            revision: loaded.fingerprint,
            digest: loaded.manifest_digest,
            report,
        }
    }
}

fn left_behind(first: &Error, second: &(dyn std::error::Error + 'static)) -> Error {
    Error::LeftBehind {
        first: chain(first),
        second: chain(second),
    }
}

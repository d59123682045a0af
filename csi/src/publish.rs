//! Publishing: from a parsed request to a mount, and back. Services hold no logic; it is here.
//!
//! A publish is: is it there already? → may this principal? → find or start the fetch, and wait for it → mount. Only the
//! waiting happens in the call's handler, which may be dropped at any time; mounting and unmounting are tasks of
//! their own (`settle`, `unpublish`), one at a time for each volume.
//!
//! Architecture invariants: authorization is asked for every pod before any wait, also when the bytes are here; only a sound mount
//! that is there already needs none. A final error leaves no mount, no waiter and no record. Who waits for a load of several is
//! told nothing of the others (`refused`, `audience`).
//!
//! Crash points (feature `failpoints`), in the order in which a volume passes them: `publish::before_record`,
//! `publish::after_record`, `publish::after_target`, `publish::after_mount`, `publish::before_ok`, `unpublish::before_unmount`,
//! `unpublish::after_unmount`, `unpublish::after_rmdir`, `unpublish::after_record`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tonnage_cache::cache::{self, Cache, Loaded};
use tonnage_cache::clock::{Clock, unix_millis};
use tonnage_cache::path::Escaped;

use crate::govern::gate::{Admission, EgressGate};
use crate::govern::quotas::{Quotas, Shown, place_of};
use crate::grant::Grants;
use crate::inflight::{Call, Registry, VolumeLocks, Waited, WaiterId};
use crate::loads::Observer;
use crate::mount::{Mounter, Sight};
use crate::policy::Authorizer;
use crate::record::{Published, Record};
use crate::sources::Sources;
use crate::target::{KubeletRoot, Spot, TargetPath};
use crate::upkeep::Upkeep;
use crate::volume::{PublishIdentity, VolumeId};

mod admit;
mod audience;
mod error;
mod refused;
mod request;
mod restart;
mod retain;
mod settle;
mod unpublish;
mod views;

use admit::no_room;
use audience::{Audience, Audiences};
pub use error::Error;
pub use request::{Holds, PublishRequest, Usage};
use views::{Occupant, Views};

/// The parts that a publisher is made of.
#[derive(Debug)]
pub struct Parts {
    /// The content.
    pub cache: Arc<Cache>,
    /// Pins what is to be retained.
    pub upkeep: Arc<Upkeep>,
    /// Makes mounts.
    pub mounter: Arc<dyn Mounter>,
    /// Kubelet's directory.
    pub root: KubeletRoot,
    /// Where content may come from.
    pub sources: Sources,
    /// Who may.
    pub authorizer: Arc<dyn Authorizer>,
    /// Proof at the store.
    pub grants: Arc<dyn Grants>,
    /// The rules of egress, and the gate of `cache`; `None` where nobody governs.
    pub governor: Option<EgressGate>,
    /// How much namespaces may have.
    pub quotas: Arc<Quotas>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// This boot.
    pub boot_id: String,
    /// How long calls wait.
    pub holds: Holds,
    /// Who wants to know.
    pub observers: Vec<Arc<dyn Observer>>,
}

/// Publishes volumes on this node.
#[derive(Debug)]
pub struct Publisher {
    parts: Parts,
    published: Arc<Published>,
    loads: Registry<Loaded, Failed>,
    audiences: Audiences,
    locks: VolumeLocks,
    views: Views,
    tasks: TaskTracker,
    /// One account at a time is told to the observers.
    telling: tokio::sync::Mutex<()>,
    /// One at a time is retained: what a pin keeps and for whom is one thing in two records.
    retaining: tokio::sync::Mutex<()>,
    labels: bool,
}

type LoadCall = Call<Loaded, Failed>;

/// Why a load has failed, and who had waited for it.
#[derive(Debug)]
struct Failed {
    error: Arc<cache::Error>,
    audience: Arc<Audience>,
}

/// A waiter of a load.
#[derive(Debug)]
struct Joined {
    call: LoadCall,
    /// By what the gate let it wait; `None` where nobody governs.
    admission: Option<Admission>,
}

/// A publish that has come as far as waiting.
struct Admitted {
    request: PublishRequest,
    target: TargetPath,
    identity: PublishIdentity,
    call: LoadCall,
    /// How long authorization took.
    authorized: Duration,
}

impl Publisher {
    /// A publisher that knows what an earlier process of this boot has published. Blocking.
    pub fn open(parts: Parts) -> Result<Arc<Self>, Error> {
        let store = parts.cache.store();
        let now = unix_millis(parts.clock.now());
        let published = Arc::new(Published::open(
            store.records().clone(),
            store.leases().clone(),
            &parts.boot_id,
            now,
        )?);
        let records = Arc::clone(&published);
        parts
            .quotas
            .looks_at(move || records.all().into_iter().filter_map(counted).collect());
        let views = Views::new(store.root());
        let labels = views.has_labels(&parts.mounter.mounts()?);
        let this = Self {
            loads: Registry::new(Arc::clone(&parts.clock)),
            audiences: Audiences::default(),
            locks: VolumeLocks::default(),
            tasks: TaskTracker::new(),
            telling: tokio::sync::Mutex::default(),
            retaining: tokio::sync::Mutex::default(),
            published,
            views,
            labels,
            parts,
        };
        this.reconstruct()?;
        this.tell_count();
        Ok(Arc::new(this))
    }

    /// Publishes a volume, waiting for its bytes as long as the deadline allows.
    pub async fn publish(self: &Arc<Self>, request: PublishRequest) -> Result<(), Error> {
        let target = self.parts.root.target(&request.target)?;
        if !request.readonly {
            if self.labels {
                return Err(Error::SeLinux);
            }
            // Asked before anything is fetched.
            self.blocking(|this| Ok(this.parts.mounter.check_guard(this.views.directory())?))
                .await?;
        }
        let identity = PublishIdentity::new(
            request.volume_id.clone(),
            &request.attributes,
            request.access,
            request.readonly,
        );
        let started = self.parts.clock.monotonic();
        let id = WaiterId {
            volume: request.volume_id.clone(),
            target: target.relative().to_path_buf(),
        };
        let joined = match self.begin(&request, &target, &id, &identity).await {
            Ok(Some(joined)) => joined,
            Ok(None) => return Ok(()),
            Err(error) => return Err(self.give_up(&id, error).await),
        };
        let since_start = || self.parts.clock.monotonic().saturating_sub(started);
        let authorized = since_start();
        let hold = self.parts.holds.hold(request.deadline);
        let left = || hold.saturating_sub(since_start());
        let call = &joined.call;
        let waited = tokio::select! {
            biased;
            refused = self.parts.quotas.refused(&id) => {
                // The load may go on for others.
                call.finish();
                return Err(no_room(joined.admission.as_ref(), refused));
            }
            waited = call.wait(left()) => waited,
        };
        let loaded = match waited {
            Waited::Working(rate) => return Err(Error::InProgress(rate)),
            Waited::Done(loaded) => loaded,
            // Stopped because the target was unpublished: that is the cause, not the cut.
            Waited::Failed(_) if !call.is_wanted() => return Err(Error::Unpublished),
            Waited::Failed(failed) => {
                let failed = (request.attributes.source.as_str(), &*failed);
                let told = self.told(&id, &joined, failed);
                call.finish();
                return Err(told);
            }
            Waited::Died => {
                call.finish();
                return Err(Error::LoadDied);
            }
        };
        // Others of the load may have it, and this one not yet.
        let settled = self.parts.quotas.settled(&id, loaded.report.bytes, left());
        if let Err(refused) = settled.await {
            call.finish();
            return Err(no_room(joined.admission.as_ref(), refused));
        }
        self.settle(
            Admitted {
                request,
                target,
                identity,
                call: joined.call,
                authorized,
            },
            loaded,
        )
        .await
    }

    /// Whether the target shows this very volume. Something else there is an error.
    async fn is_published(
        self: &Arc<Self>,
        target: &TargetPath,
        identity: &PublishIdentity,
    ) -> Result<bool, Error> {
        let (target, identity) = (target.clone(), identity.clone());
        self.blocking(move |this| {
            let record = this.published.find(target.relative());
            let occupant = this.occupant(&target, record.as_ref())?;
            shows(&target, &identity, &occupant, record.as_ref())
        })
        .await
    }

    /// What is topmost on a target. One look tells in most cases, the mount table in the others.
    fn occupant(&self, target: &TargetPath, record: Option<&Record>) -> Result<Occupant, Error> {
        match self.parts.root.spot(target) {
            Ok(Some(spot)) => self.occupant_of(&spot, target, record),
            Ok(None) => Ok(Occupant::Nobody),
            // What is wrong with the path is said where it is to be used.
            Err(_) => self.listed(target),
        }
    }

    fn occupant_of(
        &self,
        spot: &Spot,
        target: &TargetPath,
        record: Option<&Record>,
    ) -> Result<Occupant, Error> {
        let view = record.map(|record| self.views.path(&record.view));
        match (self.parts.mounter.look(spot, view.as_deref())?, record) {
            (Sight::Nothing, _) => Ok(Occupant::Nobody),
            (Sight::View { sound }, Some(Record { view, .. })) => Ok(Occupant::View {
                name: view.clone(),
                sound,
            }),
            (Sight::View { .. } | Sight::Other, _) => self.listed(target),
        }
    }

    fn listed(&self, target: &TargetPath) -> Result<Occupant, Error> {
        let table = self.parts.mounter.mounts()?;
        Ok(self.views.occupant(&table, target.path()))
    }

    /// Bytes and files of the volume published at `path`.
    pub async fn usage(self: &Arc<Self>, volume_id: &VolumeId, path: &str) -> Result<Usage, Error> {
        let absent = || Error::NotPublished {
            path: Escaped(path).to_string(),
        };
        let target = self.parts.root.target(path).map_err(|_| absent())?;
        let record = self
            .published
            .find(target.relative())
            .filter(|record| record.is_of(volume_id));
        let record = record.ok_or_else(absent)?;
        let usage = Usage {
            bytes: record.bytes,
            files: record.files,
        };
        let occupant = self.blocking(move |this| this.occupant(&target, Some(&record)));
        match occupant.await? {
            Occupant::View { .. } => Ok(usage),
            Occupant::Nobody | Occupant::Foreign => Err(absent()),
        }
    }

    /// Gives up waiters that kubelet has forgotten. To be called every now and then.
    pub fn sweep(&self) {
        self.loads.sweep();
    }

    /// How many targets are published, how many waiters wait, and how many loads run.
    pub fn counts(&self) -> (usize, usize, usize) {
        let (waiters, running) = self.loads.counts();
        (self.published.count(), waiters, running)
    }

    /// Stops all loads, lets mounts and unmounts that have begun come to their end and their accounts be told, and returns.
    /// Published volumes stay.
    pub async fn close(&self) {
        self.loads.close().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn tell_count(&self) {
        let count = self.published.count();
        for observer in &self.parts.observers {
            observer.published(count);
        }
    }

    /// Runs system calls on a thread that may block.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .map_err(|_| Error::Task)?
    }
}

/// Whether what is on a target is this very volume. Something else there is an error.
fn shows(
    target: &TargetPath,
    identity: &PublishIdentity,
    occupant: &Occupant,
    record: Option<&Record>,
) -> Result<bool, Error> {
    match (occupant, record) {
        (Occupant::Foreign, _) => Err(Error::Foreign {
            path: shown(target),
        }),
        (
            Occupant::View { name, sound: true },
            Some(Record {
                identity: Some(known),
                view,
                ..
            }),
        ) if view == name && known == identity => Ok(true),
        // A record that was lost and rebuilt does not say what was asked for; the view decides (`settle`).
        (Occupant::Nobody, _)
        | (Occupant::View { .. }, Some(Record { identity: None, .. }) | None) => Ok(false),
        (Occupant::View { .. }, Some(_)) => Err(Error::Taken {
            path: shown(target),
        }),
    }
}

/// What a quota counts of a record; nothing of one that does not say whose it is.
fn counted(record: Record) -> Option<Shown> {
    let identity = record.identity?;
    let namespace = record.namespace?;
    Some(Shown {
        place: place_of(&namespace, &identity),
        volume: identity.volume_id,
        namespace,
        bytes: record.bytes,
        manifest: record.manifest,
    })
}

/// Name of a view's directory.
fn view_name(loaded: &Loaded) -> Result<String, Error> {
    let name = loaded.view.file_name().and_then(std::ffi::OsStr::to_str);
    name.map(str::to_owned).ok_or(Error::Task)
}

/// Path of a target for messages.
fn shown(target: &TargetPath) -> PathBuf {
    target.path().to_path_buf()
}

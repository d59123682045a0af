//! One at a time lays out a manifest: whoever comes second finds the view.
//!
//! The lease and the turn belong to the thread that lays out, and not to whoever waits for it: a wait that is given up leaves no
//! thread at work on a view that others take for nobody's.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Cache, Error};
use crate::digest::Digest;
use crate::manifest::Manifest;
use crate::store::Lease;
use crate::view;

/// Locks by manifest.
#[derive(Debug, Clone, Default)]
pub(super) struct Layouts {
    locks: Arc<Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Layouts {
    /// The manifest's lock.
    pub(super) fn of(&self, manifest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(manifest).or_default())
    }
}

impl Cache {
    /// The view of the lease's manifest, built now if there is none. The lease comes back with it. Cancel safe.
    pub(super) async fn lay_out(
        &self,
        lease: Lease,
        manifest: &Arc<Manifest>,
    ) -> Result<(PathBuf, Lease), Error> {
        let digest = *lease.manifest();
        let turn = self.layouts.of(digest).lock_owned().await;
        let (views, manifest) = (Arc::clone(&self.views), Arc::clone(manifest));
        let laying = tokio::task::spawn_blocking(move || {
            let view = views.ensure(&digest, &manifest)?;
            drop(turn);
            Ok::<_, view::Error>((view, lease))
        });
        Ok(laying.await.map_err(|_| Error::Task)??)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::sync::oneshot;

    use super::super::Config;
    use super::*;
    use crate::disk::{Fault, FaultyDisk, OsDisk, Verb};
    use crate::gate::OpenGate;
    use crate::store::{Env, Holder};

    #[tokio::test]
    async fn a_thread_that_lays_out_has_lease_and_turn_also_when_nobody_waits_for_it_any_more() {
        let root = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(OsDisk::new());
        let env = Env {
            disk: Arc::new(disk.clone()),
            ..Env::real()
        };
        let cache = Cache::open(Config::new(root.path()), env, OpenGate::shared());
        let cache = cache.await.unwrap();
        let manifest = Arc::new(Manifest::new(Vec::new()).unwrap());
        let digest = manifest.digest();
        let hold = |name: &str| cache.store.leases().hold(Holder::new(name), digest);
        let (begins, has_begun) = oneshot::channel();
        let (goes_on, may_go_on) = mpsc::channel::<()>();
        let stop = move || {
            begins.send(()).unwrap();
            may_go_on.recv().unwrap();
        };
        disk.strike_verb(Verb::RenameNoreplace, 0, Fault::Call(Box::new(stop)));
        tokio::select! {
            begun = has_begun => begun.unwrap(),
            _ = cache.lay_out(hold("gone"), &manifest) => panic!("nothing held it up"),
        }
        assert_eq!(cache.store.leases().holders(&digest), [Holder::new("gone")]);
        assert!(cache.layouts.of(digest).try_lock().is_err());
        goes_on.send(()).unwrap();
        let (view, lease) = cache.lay_out(hold("next"), &manifest).await.unwrap();
        assert_eq!(view, cache.store.root().join(format!("views/{digest}.0")));
        assert_eq!(lease.holder(), &Holder::new("next"));
        // What the thread has left behind is dropped when it ends.
        while cache.store.leases().count() > 1 {
            tokio::task::yield_now().await;
        }
    }
}

//! The front of a publish: may this principal, what exactly is to be loaded, and whose load is joined. All of it is asked
//! before any wait, for every pod.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tonnage_cache::cache::{self, LoadOptions, Loaded, Reference};
use tonnage_cache::digest::Digest;
use tonnage_cache::source::select::Selection;
use tonnage_cache::store::Holder;

use super::{Error, LoadCall, PublishRequest, Publisher};
use crate::identity::Principal;
use crate::inflight::{WaiterId, Work};
use crate::policy::Question;
use crate::status::{Cause, Rpc, code, is_uncertain};
use crate::target::TargetPath;
use crate::volume::{Access, Attributes, PublishIdentity};

/// Longest time that authorization may take, in seconds: all pods of a claim wait behind it.
const DECISION_SECONDS: u64 = 5;

impl Publisher {
    /// A call that ends with a final error must not leave a waiter from an earlier one behind.
    pub(super) async fn give_up(&self, id: &WaiterId, error: Error) -> Error {
        if !is_uncertain(code(error.cause(), Rpc::NodePublishVolume)) {
            self.loads.leave(id).await;
        }
        error
    }

    /// Becomes a waiter; `None` if the target shows the volume already.
    pub(super) async fn begin(
        self: &Arc<Self>,
        request: &PublishRequest,
        target: &TargetPath,
        id: &WaiterId,
        identity: &PublishIdentity,
    ) -> Result<Option<LoadCall>, Error> {
        let looking = self.is_published(target, identity);
        let admitting = self.admit(request, id, identity);
        if self.published.find(target.relative()).is_some() {
            return if looking.await? {
                Ok(None)
            } else {
                admitting.await.map(Some)
            };
        }
        // A target without a record is not published: a look can only refuse, so that nothing waits for it.
        match tokio::join!(looking, admitting) {
            // Another call has published it meanwhile.
            (Ok(true), Err(_)) => Ok(None),
            (looked, begun) => looked.and(begun).map(Some),
        }
    }

    /// Decides, and becomes a waiter.
    async fn admit(
        self: &Arc<Self>,
        request: &PublishRequest,
        id: &WaiterId,
        identity: &PublishIdentity,
    ) -> Result<LoadCall, Error> {
        let (wanted, secrets) = (&request.attributes.source, &request.credentials.secrets);
        self.parts.sources.check(wanted, secrets)?;
        let limit = Duration::from_secs(DECISION_SECONDS);
        let decision = tokio::time::timeout(limit, self.decide(request, &id.target));
        let (principal, reference) = decision.await.map_err(|_| Error::Undecided {
            seconds: DECISION_SECONDS,
        })??;
        self.check_single(request, id)?;
        let key = task_key(&reference, &request.attributes);
        let cache = Arc::clone(&self.parts.cache);
        let mut options = LoadOptions::new(Holder::new(format!("load:{key}")));
        options.page_cache = request.attributes.page_cache;
        options.payer = principal.namespace;
        options.limit_bytes = request.attributes.limit_bytes;
        let begin = move |work: Work| -> BoxFuture<'static, Result<Loaded, cache::Error>> {
            options.progress = work.progress;
            options.cancel = work.cancel;
            Box::pin(async move { cache.load(&reference, &options).await })
        };
        let retry = |error: &cache::Error| {
            is_uncertain(code(Cause::Kind(error.kind()), Rpc::NodePublishVolume))
        };
        Ok(self
            .loads
            .join(id.clone(), (digest_of(identity), key), retry, begin)?)
    }

    /// Who asks, what exactly is to be loaded, and whether they may.
    async fn decide(
        self: &Arc<Self>,
        request: &PublishRequest,
        target: &Path,
    ) -> Result<(Principal, Reference), Error> {
        let question = Question {
            credentials: &request.credentials,
            attributes: &request.attributes,
            pod_uid: pod_of(target),
        };
        let principal = self.parts.authorizer.authorize(&question).await?;
        let reference = self.reference(request, &principal).await?;
        self.parts.grants.prove(&principal, &reference).await?;
        Ok((principal, reference))
    }

    /// What to load, as the principal reads it: a claim that was used on this node before is bound to its revision.
    async fn reference(
        self: &Arc<Self>,
        request: &PublishRequest,
        principal: &Principal,
    ) -> Result<Reference, Error> {
        let wanted = &request.attributes;
        let secrets = &request.credentials.secrets;
        let sources = &self.parts.sources;
        let source = sources.get_for(&wanted.source, principal, secrets)?;
        let mut reference = Reference::new(source, wanted.path.clone());
        reference.selection = Selection::new(&wanted.include, &wanted.exclude)?;
        reference.revision = wanted.revision;
        reference.digest = wanted.digest;
        if !request.ephemeral && wanted.revision.is_none() {
            let volume = request.volume_id.clone();
            reference.revision = self
                .blocking(move |this| Ok(this.published.claimed(&volume)?))
                .await?;
        }
        Ok(reference)
    }

    pub(super) fn check_single(
        &self,
        request: &PublishRequest,
        id: &WaiterId,
    ) -> Result<(), Error> {
        let elsewhere = || {
            self.published
                .targets_of(&id.volume)
                .iter()
                .any(|target| *target != id.target)
        };
        match request.access {
            Access::SingleWriter if self.loads.has_other_waiter(id) || elsewhere() => {
                Err(Error::SecondTarget)
            }
            Access::SingleWriter | Access::Shared => Ok(()),
        }
    }
}

/// Uid of the pod in a target below kubelet's directory: `pods/<uid>/volumes/kubernetes.io~csi/<name>/mount`
/// (kubelet, `pkg/volume/csi/csi_mounter.go`, `GetPath`).
fn pod_of(target: &Path) -> Option<&str> {
    let parts: Option<Vec<&str>> = target.iter().map(OsStr::to_str).collect();
    match parts?.as_slice() {
        ["pods", uid, "volumes", "kubernetes.io~csi", _, "mount"] => Some(*uid),
        _ => None,
    }
}

fn digest_of(identity: &PublishIdentity) -> Digest {
    digest_fields(&[&format!("{identity:?}")])
}

/// Publishes with equal keys share a fetch.
fn task_key(reference: &Reference, attributes: &Attributes) -> Digest {
    digest_fields(&[
        reference.source.uid(),
        &reference.path,
        &format!("{:?}", (&attributes.include, &attributes.exclude)),
        &format!("{:?}", (reference.revision, reference.digest)),
        &format!("{:?}", (attributes.page_cache, attributes.limit_bytes)),
    ])
}

fn digest_fields(fields: &[&str]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for field in fields {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field.as_bytes());
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pod_s_own_volume_directory_tells_its_uid() {
        let of = |path: &'static str| pod_of(Path::new(path));
        assert_eq!(
            of("pods/3f2a/volumes/kubernetes.io~csi/weights/mount"),
            Some("3f2a")
        );
        for other in [
            "pods/3f2a/volumes/kubernetes.io~csi/weights",
            "pods/3f2a/volumes/kubernetes.io~csi/weights/mount/x",
            "pods/3f2a/volumes/kubernetes.io~empty-dir/weights/mount",
            "pods/3f2a/volume-subpaths/kubernetes.io~csi/weights/mount",
            "x/pods/3f2a/volumes/kubernetes.io~csi/weights/mount",
            "plugins/3f2a/volumes/kubernetes.io~csi/weights/mount",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}

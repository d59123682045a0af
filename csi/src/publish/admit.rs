//! The front of a publish: may this principal, what exactly is to be loaded, and whose load is joined. All of it is asked
//! before any wait, for every pod.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tonnage_cache::cache::{LoadOptions, Loaded, Reference};
use tonnage_cache::digest::Digest;
use tonnage_cache::source::select::Selection;
use tonnage_cache::store::Holder;

use super::audience::Member;
use super::{Error, Failed, Joined, PublishRequest, Publisher};
use crate::govern::gate::Admission;
use crate::govern::quotas::{Asked, Refused, place_of};
use crate::govern::tabs::Waiter;
use crate::identity::Principal;
use crate::inflight::{WaiterId, Work};
use crate::policy::{Authorized, Question, Refusal};
use crate::status::{Cause, Rpc, code, is_uncertain};
use crate::target::TargetPath;
use crate::volume::{Access, Attributes, PublishIdentity};

/// Longest time that authorization may take, in seconds: all pods of a claim wait behind it.
const DECISION_SECONDS: u64 = 5;

/// Who asks, for what, and by which rules they may.
struct Decided {
    principal: Principal,
    reference: Reference,
    admission: Option<Admission>,
}

impl Publisher {
    /// A call that ends with a final error must not leave a waiter from an earlier one behind.
    pub(super) async fn give_up(&self, id: &WaiterId, error: Error) -> Error {
        // Who has no room must not pay for the load of others either.
        let has_no_room = matches!(error, Error::Quota(Refused::Exceeded(_)));
        if has_no_room || !is_uncertain(code(error.cause(), Rpc::NodePublishVolume)) {
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
    ) -> Result<Option<Joined>, Error> {
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
    ) -> Result<Joined, Error> {
        let (wanted, secrets) = (&request.attributes.source, &request.credentials.secrets);
        self.parts.sources.check(wanted, secrets)?;
        let limit = Duration::from_secs(DECISION_SECONDS);
        let decision = tokio::time::timeout(limit, self.decide(request, id));
        let Decided {
            principal,
            reference,
            admission,
        } = decision.await.map_err(|_| Error::Undecided {
            seconds: DECISION_SECONDS,
        })??;
        self.check_single(request, id)?;
        let key = task_key(&reference, &request.attributes);
        let load = key.to_string();
        // Before the load is joined: it asks about everyone who has a seat.
        let stay = self.parts.quotas.enter(Asked {
            waiter: id.clone(),
            load: load.clone(),
            namespace: principal.namespace.clone(),
            place: place_of(&principal.namespace, identity),
        });
        let stay = stay.map_err(|refused| no_room(admission.as_ref(), refused))?;
        let cache = Arc::clone(&self.parts.cache);
        let member = Member {
            namespace: principal.namespace.clone(),
            service_account: principal.service_account,
        };
        let mut options = LoadOptions::new(Holder::new(format!("load:{key}")));
        options.page_cache = request.attributes.page_cache;
        options.payer = principal.namespace;
        options.load.clone_from(&load);
        options.limit_bytes = request.attributes.limit_bytes;
        options.size_check = Some(self.parts.quotas.size_check(&load));
        let mut seat = None;
        let (own_seat, asked) = (&mut seat, admission.as_ref());
        let (audiences, first) = (&self.audiences, member.clone());
        let begin = move |work: Work| -> BoxFuture<'static, Result<Loaded, Failed>> {
            let audience = audiences.open(&options.load, first);
            // Before the load can ask the gate for anything.
            let opened = asked.map(|admission| {
                let (opened, seat) = admission.open(&options.load, Arc::clone(&work.progress));
                *own_seat = Some(seat);
                opened
            });
            options.progress = work.progress;
            options.cancel = work.cancel;
            Box::pin(async move {
                let loaded = cache.load(&reference, &options).await;
                drop(opened);
                let error = loaded.map_err(Arc::new);
                error.map_err(|error| Failed { error, audience })
            })
        };
        let retry = |failed: &Failed| {
            let cause = Cause::Kind(failed.error.kind());
            is_uncertain(code(cause, Rpc::NodePublishVolume))
        };
        let ids = (digest_of(identity), key);
        let call = self.loads.join(id.clone(), ids, retry, begin)?;
        self.audiences.join(&load, member);
        let joined = |admission: &Admission| seat.or_else(|| admission.join(&load));
        // They are given up with the waiter, however that ends.
        call.keep((admission.as_ref().and_then(joined), stay));
        if let Some(admission) = &admission
            && call.is_first()
        {
            admission.tell(&load);
        }
        Ok(Joined { call, admission })
    }

    /// Who asks, what exactly is to be loaded, and whether they may. The rules of egress are asked before the store is: a proof
    /// is a request, too.
    async fn decide(
        self: &Arc<Self>,
        request: &PublishRequest,
        id: &WaiterId,
    ) -> Result<Decided, Error> {
        let question = Question {
            credentials: &request.credentials,
            attributes: &request.attributes,
            pod_uid: pod_of(&id.target),
        };
        let authorized = self.parts.authorizer.authorize(&question).await?;
        let reference = self.reference(request, &authorized.principal).await?;
        self.check_current(&authorized)?;
        let principal = authorized.principal;
        let admission = self.judge(request, id, (&principal, &reference))?;
        self.parts.grants.prove(&principal, &reference).await?;
        Ok(Decided {
            principal,
            reference,
            admission,
        })
    }

    /// Whether the object that said yes still describes the source. It is asked after the source was looked up: had the object
    /// changed before that, it would be another one now, because generations only grow.
    fn check_current(&self, authorized: &Authorized) -> Result<(), Refusal> {
        match &authorized.object {
            Some(object) if !self.parts.sources.is_current(object) => Err(Refusal::Unavailable(
                "the source was changed while it was decided who may use it; this is tried again by itself"
                    .to_owned(),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// What the rules of egress say, where there are some.
    fn judge(
        &self,
        request: &PublishRequest,
        id: &WaiterId,
        (principal, reference): (&Principal, &Reference),
    ) -> Result<Option<Admission>, Refusal> {
        let Some(gate) = &self.parts.governor else {
            return Ok(None);
        };
        let waiter = Waiter {
            id: id.clone(),
            namespace: principal.namespace.clone(),
            labels: Arc::clone(&principal.labels),
            service_account: principal.service_account.clone(),
            pod: pod_of(&id.target).map(str::to_owned),
        };
        let wanted = gate.wanted(&request.attributes, reference.revision);
        gate.judge(waiter, wanted).map(Some)
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

/// What a pod is told that has no room, and the audit log with it.
pub(super) fn no_room(admission: Option<&Admission>, refused: Refused) -> Error {
    if let (Some(admission), Refused::Exceeded(exceeded)) = (admission, &refused) {
        admission.tell_no_room(exceeded);
    }
    refused.into()
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

/// Publishes with equal keys share a fetch. Paths begin at the root of the bucket, because sources of one bucket may have different
/// bases; sources of different names are different to the rules of egress.
fn task_key(reference: &Reference, attributes: &Attributes) -> Digest {
    digest_fields(&[
        reference.source.uid(),
        &attributes.source,
        &reference.root(),
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
    use tonnage_cache::gate::OpenGate;
    use tonnage_cache::source::config::{SourceConfig, build};

    use super::*;

    #[test]
    fn only_pods_that_mean_the_same_place_of_the_same_source_share_a_load() {
        let key = |name: &str, url: &str, path: &str| {
            let config = SourceConfig {
                name: name.to_owned(),
                url: url.to_owned(),
                ..SourceConfig::default()
            };
            let attributes = Attributes {
                source: name.to_owned(),
                path: path.to_owned(),
                ..Attributes::default()
            };
            let source = build(&config, OpenGate::shared()).unwrap();
            task_key(&Reference::new(source, path), &attributes)
        };
        let own = key("models", "s3://bucket/public", "llama");
        assert_eq!(own, key("models", "s3://bucket/public", "llama"));
        // The bucket is the same, so that objects are; the path below the bases is, too.
        assert_ne!(own, key("models", "s3://bucket/secret", "llama"));
        assert_ne!(own, key("others", "s3://bucket/public", "llama"));
    }

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

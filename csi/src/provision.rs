//! From a `CreateVolume` request to a record. Outside of a cluster, the record is what was asked for. In a cluster it is what
//! the request comes to: the path of the `StorageClass` and of the claim, for a namespace that may read it, and the one revision
//! that all pods of the claim are going to see. Nothing is downloaded, and what rules of egress let nobody of the namespace load is not
//! listed.
//!
//! **A record is asked for first.** A request that it could have been made for gets it, whatever has changed since: the
//! annotation of the claim, the source, the files. So a retry returns what was recorded, and a volume never moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonnage_cache::clock::Clock;
use tonnage_cache::digest::Digest;
use tonnage_cache::source::select::Selection;

use crate::access::consumers::{may_namespace, needs_labels};
use crate::access::namespaces::Namespaces;
use crate::claims::{self, Claims};
use crate::crd::{AuthMode, Consumer, RevisionPolicy, SourceSpec};
use crate::egress::select::covers;
use crate::govern::audit::Audit;
use crate::govern::rules::Rulebook;
use crate::policy::Refusal;
use crate::sources::Sources;
use crate::volume::{Attributes, VolumeId};
use crate::volumes::{Claim, Volume, VolumeRecords};

mod egress;
mod error;
mod listings;
mod refusals;

use egress::{Egress, Tenant};
pub use error::{Error, Place};
use listings::{Listings, Question};

/// How long a call may take to find out the revision; the provisioner waits for 10 s.
const PATIENCE: Duration = Duration::from_secs(8);
/// What is said while nobody knows where a source is.
const LOCATING: &str = "the source is being read; this is tried again by itself";

/// Makes, finds and removes records of volumes.
#[derive(Debug)]
pub struct Provisioner {
    records: Arc<dyn VolumeRecords>,
    sources: Sources,
    cluster: Option<Cluster>,
}

/// What there is in a cluster besides.
#[derive(Debug)]
struct Cluster {
    claims: Claims,
    namespaces: Namespaces,
    listings: Listings,
    /// `None` where nobody governs.
    egress: Option<Egress>,
}

impl Provisioner {
    /// Volumes of configured sources, for everyone.
    pub fn new(records: Arc<dyn VolumeRecords>, sources: Sources) -> Self {
        Self {
            records,
            sources,
            cluster: None,
        }
    }

    /// Volumes of the API server's sources, for claims of namespaces that may use them.
    pub fn in_cluster(
        records: Arc<dyn VolumeRecords>,
        sources: Sources,
        client: kube::Client,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let cluster = Cluster {
            claims: Claims::new(client.clone()),
            namespaces: Namespaces::new(client, clock),
            listings: Listings::default(),
            egress: None,
        };
        Self {
            records,
            sources,
            cluster: Some(cluster),
        }
    }

    /// The same, for claims of namespaces that these rules of egress let load what they ask for. What they refuse is audited.
    #[must_use]
    pub fn governed_by(mut self, rulebook: Rulebook, audit: Audit, clock: Arc<dyn Clock>) -> Self {
        if let Some(cluster) = &mut self.cluster {
            cluster.egress = Some(Egress::new(rulebook, audit, clock));
        }
        self
    }

    /// The volume of this name, which is made unless it exists. One that could not have been made for this request is
    /// [`Error::Exists`].
    pub async fn create(&self, asked: Volume) -> Result<Volume, Error> {
        match &self.cluster {
            None => self.record(asked).await,
            Some(cluster) => Box::pin(self.freeze(cluster, &asked)).await,
        }
    }

    /// The volume with this id.
    pub async fn find(&self, id: &VolumeId) -> Result<Option<Volume>, Error> {
        Ok(self.records.find(id).await?)
    }

    /// Removes the record; absent is fine. Nothing at the source is touched.
    pub async fn delete(&self, id: &VolumeId) -> Result<(), Error> {
        Ok(self.records.delete(id).await?)
    }

    /// Records what was asked for.
    async fn record(&self, mut asked: Volume) -> Result<Volume, Error> {
        asked.claim = None;
        self.sources.get(&asked.attributes.source)?;
        Selection::new(&asked.attributes.include, &asked.attributes.exclude)?;
        let recorded = self.records.create(&asked).await?;
        if recorded == asked {
            Ok(recorded)
        } else {
            Err(Error::exists(&asked))
        }
    }

    /// Records what it comes to.
    async fn freeze(&self, cluster: &Cluster, asked: &Volume) -> Result<Volume, Error> {
        let deadline = Instant::now() + PATIENCE;
        let id = VolumeId::parse(&asked.id())?;
        if let Some(recorded) = self.records.find(&id).await? {
            return own(recorded, asked);
        }
        Selection::new(&asked.attributes.include, &asked.attributes.exclude)?;
        let source = self.sources.spec(&asked.attributes.source)?;
        let mut wanted = asked.clone();
        if let Some(Claim { namespace, name }) = &asked.claim {
            let path = cluster
                .claims
                .get_path(namespace, name, &asked.name)
                .await?;
            wanted.attributes.path = claims::below(&asked.attributes.path, &path)?;
        }
        cluster.check_consumer(&source.spec, &wanted).await?;
        self.check_egress(cluster, &wanted).await?;
        if is_to_be_resolved(&source.spec, &wanted.attributes)? {
            let resolved = self.resolve(cluster, &wanted, deadline).await?;
            wanted.attributes.revision = Some(resolved);
        }
        own(self.records.create(&wanted).await?, asked)
    }

    /// Whether the rules of egress let anybody of the claim's namespace load it. Without a claim nobody is known who could be asked about.
    async fn check_egress(&self, cluster: &Cluster, volume: &Volume) -> Result<(), Error> {
        let Some(egress) = &cluster.egress else {
            return Ok(());
        };
        let Some(Claim { namespace, .. }) = &volume.claim else {
            return Ok(());
        };
        let attributes = &volume.attributes;
        let Some(location) = self.sources.locations().find(&attributes.source) else {
            // It is known from when the source can be used: until then the source says why it cannot.
            self.sources.get(&attributes.source)?;
            return Err(Refusal::Unavailable(LOCATING.to_owned()).into());
        };
        let rules = egress.rules()?;
        let labels = cluster.labels(namespace, rules.needs_labels()).await?;
        let tenant = Tenant {
            namespace,
            labels: &labels,
        };
        Ok(rules.check(tenant, &location, attributes)?)
    }

    /// The revision that the source shows now, if it is not larger than the claim.
    async fn resolve(
        &self,
        cluster: &Cluster,
        wanted: &Volume,
        deadline: Instant,
    ) -> Result<Digest, Error> {
        let attributes = &wanted.attributes;
        let place = Place::of(attributes);
        let question = Question {
            source: self.sources.get(&attributes.source)?,
            path: attributes.path.clone(),
            selection: Selection::new(&attributes.include, &attributes.exclude)?,
        };
        let id = VolumeId::parse(&wanted.id())?;
        let found = cluster.listings.resolve(&id, question, deadline).await;
        let found = found.map_err(|error| error.at(&place))?;
        match attributes.limit_bytes {
            Some(limit) if found.total_bytes > limit => Err(Error::TooLarge {
                place,
                bytes: found.total_bytes,
                limit,
            }),
            Some(_) | None => Ok(found.fingerprint),
        }
    }
}

impl Cluster {
    /// Whether pods of the claim's namespace could read it; which service accounts may is asked at each mount. Without a
    /// claim it is enough that anybody may.
    async fn check_consumer(&self, spec: &SourceSpec, volume: &Volume) -> Result<(), Error> {
        let Attributes { source, path, .. } = &volume.attributes;
        if spec.consumers.is_empty() {
            return Err(Error::NoConsumers {
                name: source.clone(),
            });
        }
        let Some(Claim { namespace, .. }) = &volume.claim else {
            return Ok(());
        };
        let labels = self.labels(namespace, needs_labels(spec)).await?;
        if !may_namespace(spec, namespace, &labels) {
            return Err(Error::Namespace {
                namespace: namespace.clone(),
                name: source.clone(),
            });
        }
        if may_namespace(&that_cover(spec, path), namespace, &labels) {
            return Ok(());
        }
        Err(Error::Path {
            namespace: namespace.clone(),
            place: Place::of(&volume.attributes),
        })
    }

    /// Labels of a namespace, where they decide anything.
    async fn labels(
        &self,
        namespace: &str,
        are_needed: bool,
    ) -> Result<Arc<BTreeMap<String, String>>, Error> {
        if are_needed {
            Ok(self.namespaces.labels(namespace).await?)
        } else {
            Ok(Arc::default())
        }
    }
}

/// Whether the revision is to be found out here: what is pinned stays as it is, and neither keys nor tokens of a pod are here.
fn is_to_be_resolved(spec: &SourceSpec, attributes: &Attributes) -> Result<bool, Error> {
    if attributes.revision.is_some() || attributes.digest.is_some() {
        return Ok(false);
    }
    match (spec.auth.mode, spec.revision_policy) {
        (AuthMode::Anonymous | AuthMode::SharedSecret | AuthMode::Node, _) => Ok(true),
        (AuthMode::PodSecret | AuthMode::WorkloadIdentity, RevisionPolicy::Optional) => Ok(false),
        (AuthMode::PodSecret | AuthMode::WorkloadIdentity, RevisionPolicy::Required) => {
            Err(Error::Unpinned {
                name: attributes.source.clone(),
            })
        }
    }
}

/// The record, if it could have been made for this request.
fn own(recorded: Volume, asked: &Volume) -> Result<Volume, Error> {
    let (is, wanted) = (&recorded.attributes, &asked.attributes);
    let is_path = match &asked.claim {
        // What the claim added to the path is not asked for again.
        Some(_) => covers(&wanted.path, &is.path),
        None => is.path == wanted.path,
    };
    let could_be = Volume {
        attributes: Attributes {
            path: is.path.clone(),
            revision: match (wanted.revision, wanted.digest) {
                // Found out, or left to the nodes.
                (None, None) => is.revision,
                (Some(_), _) | (None, Some(_)) => wanted.revision,
            },
            ..wanted.clone()
        },
        ..asked.clone()
    };
    if is_path && recorded == could_be {
        Ok(recorded)
    } else {
        Err(Error::exists(asked))
    }
}

/// The specification with those consumers only who may read this path.
fn that_cover(spec: &SourceSpec, path: &str) -> SourceSpec {
    let may = |consumer: &&Consumer| {
        consumer.paths.is_empty() || consumer.paths.iter().any(|below| covers(below, path))
    };
    SourceSpec {
        consumers: spec.consumers.iter().filter(may).cloned().collect(),
        ..spec.clone()
    }
}

#[cfg(test)]
mod tests;

//! Who asks, and may they: the answer of a cluster. Of a request only two things are believed. Its token, because the API
//! server vouches for it ([`review`]), and its target path, which kubelet makes; they must name the same pod. Namespace and
//! service account are the token's, so that nothing that a user writes into a volume's attributes changes who asks.
//!
//! What costs nothing is asked first: is there a token, is the volume pinned where it must be. Then the API server says whose
//! token it is, and the source's `consumers` say whether that one may ([`consumers`]). While the API server is away nothing is
//! allowed, and nothing that is mounted is touched. Sources that are read with a pod's own keys or identity ask for a proof at
//! the store besides ([`proof`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tonnage_cache::clock::Clock;

use crate::crd::{self, RevisionPolicy};
use crate::govern::rules::Rulebook;
use crate::identity::Principal;
use crate::policy::{Authorized, Authorizer, Question, Refusal};
use crate::sources::{self, Sources};
use crate::volume::Attributes;

pub mod consumers;
pub mod namespaces;
pub mod proof;
pub mod review;
pub mod token;

use consumers::{Who, decide, needs_labels};
use namespaces::Namespaces;
use review::{Reviewed, Reviewer};
use token::Token;

/// The audience of tokens that are meant for this driver.
pub const AUDIENCE: &str = "csi.tonnage.dev";

/// Longest wait for one answer of the API server or the store: a decision as a whole has 5 s.
const PATIENCE: Duration = Duration::from_secs(4);

/// Asks the API server who it is, and the source's object whether they may.
#[derive(Debug)]
pub struct KubernetesAuthorizer {
    reviewer: Reviewer,
    namespaces: Namespaces,
    sources: Sources,
    /// Name of this node.
    node: String,
    clock: Arc<dyn Clock>,
    rulebook: Option<Rulebook>,
}

impl KubernetesAuthorizer {
    /// Decides for pods of `node`.
    pub fn new(
        client: kube::Client,
        sources: Sources,
        node: String,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            reviewer: Reviewer::new(client.clone()),
            namespaces: Namespaces::new(client, Arc::clone(&clock)),
            sources,
            node,
            clock,
            rulebook: None,
        }
    }

    /// With rules that may select namespaces by their labels, which principals then carry.
    #[must_use]
    pub fn governed_by(mut self, rulebook: Rulebook) -> Self {
        self.rulebook = Some(rulebook);
        self
    }

    async fn find_out(&self, question: &Question<'_>) -> Result<Authorized, Refusal> {
        let Question {
            credentials,
            attributes,
            pod_uid,
        } = *question;
        let token = Token::of_request(&credentials.secrets)?;
        token.check_time(self.clock.now())?;
        let pod_uid = pod_uid.ok_or_else(|| {
            Refusal::Unauthenticated(
                "the target path is not one that kubelet makes for a pod, so that no token can belong to it"
                    .to_owned(),
            )
        })?;
        let source = self.sources.spec(&attributes.source);
        let source = source.map_err(|error| without_object(&error))?;
        check_pin(&source, attributes)?;
        let reviewed = self.reviewer.review(&token).await?;
        reviewed.check_binding(pod_uid, &self.node)?;
        self.check_consumer(&source, &reviewed, &attributes.path)
            .await?;
        let principal = Principal {
            name: reviewed.username(),
            labels: self.labels(&reviewed.namespace).await?,
            namespace: reviewed.namespace,
            service_account: reviewed.service_account,
        };
        Ok(Authorized {
            principal,
            object: Some(source),
        })
    }

    /// Labels of a namespace, where rules govern: also one that is made while the load runs may ask for them.
    async fn labels(&self, namespace: &str) -> Result<Arc<BTreeMap<String, String>>, Refusal> {
        match &self.rulebook {
            Some(_) => self.namespaces.labels(namespace).await,
            None => Ok(Arc::default()),
        }
    }

    /// Labels of the namespace are asked for only where they can change the answer.
    async fn check_consumer(
        &self,
        source: &crd::Source,
        reviewed: &Reviewed,
        path: &str,
    ) -> Result<(), Refusal> {
        let with = |labels: &BTreeMap<String, String>| {
            let who = Who {
                namespace: &reviewed.namespace,
                labels,
                service_account: &reviewed.service_account,
            };
            decide(source, &who, path).map_err(Refusal::Denied)
        };
        match with(&BTreeMap::new()) {
            Err(Refusal::Denied(_)) if needs_labels(&source.spec) => {
                let labels = self.namespaces.labels(&reviewed.namespace).await?;
                with(&labels)
            }
            decided => decided,
        }
    }
}

impl Authorizer for KubernetesAuthorizer {
    fn authorize<'a>(
        &'a self,
        question: &'a Question<'a>,
    ) -> BoxFuture<'a, Result<Authorized, Refusal>> {
        Box::pin(self.find_out(question))
    }
}

/// Whether the volume is pinned, where the source wants that.
fn check_pin(source: &crd::Source, attributes: &Attributes) -> Result<(), Refusal> {
    let is_pinned = attributes.revision.is_some() || attributes.digest.is_some();
    match source.spec.revision_policy {
        RevisionPolicy::Required if !is_pinned => Err(Refusal::Denied(format!(
            "source {} takes pinned volumes only (its spec.revisionPolicy is Required): add the attribute revision, which `tonnage resolve` prints, or digest, which `tonnage pull --json` prints",
            attributes.source
        ))),
        RevisionPolicy::Required | RevisionPolicy::Optional => Ok(()),
    }
}

/// What it means that there is no object which says who may use a source.
fn without_object(error: &sources::Error) -> Refusal {
    use sources::Error;
    match error {
        // It was there a moment ago: a publish asks for the source before it asks who may use it.
        Error::Unknown { name, .. } => Refusal::Unavailable(format!(
            "source {} is gone; if it comes back, this goes on by itself",
            name.escape_default()
        )),
        Error::Unusable { .. } | Error::Unread => Refusal::Unavailable(error.to_string()),
        Error::NoObject(_)
        | Error::Twice(_)
        | Error::Config { .. }
        | Error::Keys { .. }
        | Error::Nobody(_)
        | Error::Token { .. } => {
            Refusal::Denied(format!("{error}, so that nothing says who may use it"))
        }
    }
}

#[cfg(test)]
mod tests;

//! May this principal use this source and path? Asked in every `NodePublishVolume`, also when the bytes are here
//! already. This file owns the seam and the static answer; identities from tokens are another implementation.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tonnage_cache::error::Kind;

use crate::crd;
use crate::identity::{Credentials, Principal};
use crate::volume::Attributes;

/// What is asked.
#[derive(Debug)]
pub struct Question<'a> {
    /// What the request offers as proof.
    pub credentials: &'a Credentials,
    /// What it wants.
    pub attributes: &'a Attributes,
    /// Uid of the pod that the target path belongs to, which no volume context can change; `None` if the path is not
    /// one that kubelet makes for a pod's volume.
    pub pod_uid: Option<&'a str>,
}

/// A yes.
#[derive(Debug, Clone, PartialEq)]
pub struct Authorized {
    /// Who asks.
    pub principal: Principal,
    /// The very version of the source's object that said yes; `None` where no object says who may.
    pub object: Option<Arc<crd::Source>>,
}

/// Why not.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// A rule forbids it; the text names the rule.
    #[error("{0}")]
    Denied(String),
    /// The proof is missing, expired or for someone else; the text names the cure.
    #[error("{0}")]
    Unauthenticated(String),
    /// It cannot be decided now.
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    /// What a caller can do about it.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Denied(_) => Kind::Denied,
            Self::Unauthenticated(_) => Kind::Unauthenticated,
            Self::Unavailable(_) => Kind::Transient,
        }
    }
}

/// Decides who may read what. Implementations answer within seconds: all pods of one claim wait behind it.
pub trait Authorizer: fmt::Debug + Send + Sync {
    /// Finds out who asks and whether they may.
    fn authorize<'a>(
        &'a self,
        question: &'a Question<'a>,
    ) -> BoxFuture<'a, Result<Authorized, Refusal>>;
}

/// Everyone is the one principal, who may read every configured source.
#[derive(Debug, Clone)]
pub struct StaticAuthorizer {
    name: String,
}

impl StaticAuthorizer {
    /// All requests are `name`'s.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

impl Authorizer for StaticAuthorizer {
    fn authorize<'a>(
        &'a self,
        question: &'a Question<'a>,
    ) -> BoxFuture<'a, Result<Authorized, Refusal>> {
        let pod = question.credentials.pod.clone();
        let (namespace, service_account) = pod
            .map(|pod| (pod.namespace, pod.service_account))
            .unwrap_or_default();
        let principal = Principal {
            name: self.name.clone(),
            namespace,
            service_account,
            labels: Arc::default(),
        };
        let object = None;
        Box::pin(std::future::ready(Ok(Authorized { principal, object })))
    }
}

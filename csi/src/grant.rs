//! Proof that a principal may read a revision at its store, with an expiry: asked for in every publish before a running
//! fetch is joined, because possession of a digest is no authorization. This file owns the seam and the open answer, which
//! is right where the source's credentials are the admin's.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use tonnage_cache::cache::Reference;

use crate::identity::Principal;
use crate::policy::Refusal;

/// A proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// When it must be asked for again, on the monotonic clock; `None`: never.
    pub expires: Option<Duration>,
}

/// Gives proofs.
pub trait Grants: fmt::Debug + Send + Sync {
    /// Proves at the store, or by a proof that still holds, that `principal` may read `reference`.
    fn prove<'a>(
        &'a self,
        principal: &'a Principal,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Grant, Refusal>>;
}

/// Whoever is authorized may read: the source's credentials are the admin's.
#[derive(Debug, Default, Clone, Copy)]
pub struct OpenGrants;

impl Grants for OpenGrants {
    fn prove<'a>(
        &'a self,
        _principal: &'a Principal,
        _reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Grant, Refusal>> {
        Box::pin(std::future::ready(Ok(Grant { expires: None })))
    }
}

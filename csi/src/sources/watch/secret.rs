//! The Secrets that sources of mode `SharedSecret` name: read by name, in the service's own namespace, and never listed.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::time::Instant;
use tonnage_cache::error::chain;

use crate::identity::Secrets;

/// Longest wait for a Secret.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads a Secret; `None` if there is none, or why it could not be read.
pub(super) async fn ask(
    api: Api<Secret>,
    name: String,
) -> (String, Result<Option<Secrets>, String>) {
    let answer = match tokio::time::timeout(PATIENCE, api.get_opt(&name)).await {
        Ok(Ok(secret)) => Ok(secret.map(values)),
        Ok(Err(error)) => Err(reason(&error)),
        Err(_) => Err("the API server does not answer".to_owned()),
    };
    (name, answer)
}

fn reason(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error
        && !status.message.is_empty()
    {
        return status.message.clone();
    }
    tracing::debug!(error = chain(error), "a Secret cannot be read");
    "the API server cannot be reached".to_owned()
}

/// What a Secret holds; what is no text is no key.
fn values(secret: Secret) -> Secrets {
    let data = secret.data.unwrap_or_default();
    let texts: HashMap<String, String> = data
        .into_iter()
        .filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)))
        .collect();
    Secrets::new(texts)
}

/// What is known of a Secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing yet, or why it could not be read.
    Unread(Option<String>),
    /// It does not exist.
    Absent,
    /// What it holds.
    Holds(Secrets),
}

/// A Secret that sources name.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) known: Known,
    /// When it is to be read next; `None` while it is being read.
    pub(super) due: Option<Instant>,
}

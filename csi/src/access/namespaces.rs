//! Labels of namespaces, which rules may select by. Each is read when it is asked for and remembered for a minute: so long
//! a label that was taken away still gives rights. What is older is never used, also while the API server is away.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tonnage_cache::clock::Clock;
use tonnage_cache::error::chain;
use tonnage_cache::path::Escaped;

use super::PATIENCE;
use crate::policy::Refusal;

/// How long labels are believed.
const REMEMBERED: Duration = Duration::from_mins(1);

type Labels = Arc<BTreeMap<String, String>>;

/// Reads and remembers labels.
pub struct Namespaces {
    client: kube::Client,
    clock: Arc<dyn Clock>,
    /// With the monotonic time at which they were asked for.
    known: Mutex<HashMap<String, (Duration, Labels)>>,
}

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespaces").finish_non_exhaustive()
    }
}

impl Namespaces {
    /// Namespaces of this client's API server.
    pub fn new(client: kube::Client, clock: Arc<dyn Clock>) -> Self {
        Self {
            client,
            clock,
            known: Mutex::default(),
        }
    }

    /// Labels of a namespace, at most a minute old.
    pub async fn labels(&self, namespace: &str) -> Result<Arc<BTreeMap<String, String>>, Refusal> {
        let now = self.clock.monotonic();
        if let Some(labels) = self.find(namespace, now) {
            return Ok(labels);
        }
        let labels = Arc::new(self.read(namespace).await?);
        let mut known = self.lock();
        known.retain(|_, (since, _)| now.saturating_sub(*since) < REMEMBERED);
        known.insert(namespace.to_owned(), (now, Arc::clone(&labels)));
        Ok(labels)
    }

    fn find(&self, namespace: &str, now: Duration) -> Option<Labels> {
        let known = self.lock();
        let (since, labels) = known.get(namespace)?;
        (now.saturating_sub(*since) < REMEMBERED).then(|| Arc::clone(labels))
    }

    async fn read(&self, namespace: &str) -> Result<BTreeMap<String, String>, Refusal> {
        let unknown = |why: &str| {
            Refusal::Unavailable(format!(
                "the labels of namespace {} cannot be read now ({why}); this is tried again by itself",
                Escaped(namespace)
            ))
        };
        let api = Api::<Namespace>::all(self.client.clone());
        match tokio::time::timeout(PATIENCE, api.get_metadata_opt(namespace)).await {
            Ok(Ok(Some(object))) => Ok(object.metadata.labels.unwrap_or_default()),
            Ok(Ok(None)) => Err(Refusal::Denied(format!(
                "namespace {} does not exist any more",
                Escaped(namespace)
            ))),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                Err(Refusal::Unavailable(
                    "the API server does not let the driver read namespaces, whose labels the spec.consumers of this source or an EgressPolicy asks for: its ClusterRole needs the verb get for namespaces"
                        .to_owned(),
                ))
            }
            Ok(Err(error)) => {
                tracing::debug!(namespace, error = chain(&error), "a namespace cannot be read");
                if let kube::Error::Api(status) = error {
                    Err(unknown(&format!("the API server answers {}", status.code)))
                } else {
                    Err(unknown("the API server cannot be reached"))
                }
            }
            Err(_) => Err(unknown("the API server does not answer")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Duration, Labels)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

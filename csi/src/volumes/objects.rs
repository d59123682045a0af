//! Records as `Volume` objects of the API server: cluster-scoped, named by the volume id, immutable. Creating is a POST; of
//! concurrent ones the API server lets one win, and the others read what it wrote. An object that cannot be understood is
//! an error that names it: nothing is guessed, because pods of the claim must not see other files than before.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use tonnage_cache::error::chain;
use tonnage_cache::path::Escaped;

use super::{Claim, Error, Volume, VolumeRecords, is_made_here};
use crate::crd;
use crate::volume::{Attributes, VolumeId};

/// Longest wait for the API server; the provisioner itself waits for 10 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// Records as objects of the API server.
#[derive(Debug, Clone)]
pub struct VolumeObjects {
    api: Api<crd::Volume>,
}

impl VolumeObjects {
    /// Records at this client's API server.
    pub fn new(client: kube::Client) -> Self {
        Self {
            api: Api::all(client),
        }
    }

    async fn create_now(&self, volume: &Volume) -> Result<Volume, Error> {
        let (name, object) = (volume.id(), object_of(volume));
        let params = PostParams::default();
        match within(self.api.create(&params, &object)).await {
            Ok(created) => volume_of(&name, &created),
            Err(Some(kube::Error::Api(status))) if status.is_already_exists() => {
                let known = self.get(&name).await?;
                known.ok_or_else(|| Error::Unavailable {
                    verb: "create",
                    why: "one of the same name was deleted meanwhile".to_owned(),
                })
            }
            Err(error) => Err(failure("create", &name, error)),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Volume>, Error> {
        let object = within(self.api.get_opt(name))
            .await
            .map_err(|error| failure("get", name, error))?;
        object.map(|object| volume_of(name, &object)).transpose()
    }

    async fn delete_now(&self, name: &str) -> Result<(), Error> {
        let params = DeleteParams::default();
        match within(self.api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(Some(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
            Err(error) => Err(failure("delete", name, error)),
        }
    }
}

impl VolumeRecords for VolumeObjects {
    fn create<'a>(&'a self, volume: &'a Volume) -> BoxFuture<'a, Result<Volume, Error>> {
        Box::pin(self.create_now(volume))
    }

    fn find<'a>(&'a self, id: &'a VolumeId) -> BoxFuture<'a, Result<Option<Volume>, Error>> {
        Box::pin(async move {
            if is_made_here(id.as_str()) {
                self.get(id.as_str()).await
            } else {
                Ok(None)
            }
        })
    }

    fn delete<'a>(&'a self, id: &'a VolumeId) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            if is_made_here(id.as_str()) {
                self.delete_now(id.as_str()).await
            } else {
                Ok(())
            }
        })
    }
}

/// The answer, or why there is none; no error at all if there was none in time.
async fn within<T>(
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Option<kube::Error>> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(Some),
        Err(_) => Err(None),
    }
}

fn failure(verb: &'static str, name: &str, error: Option<kube::Error>) -> Error {
    let unavailable = |why: String| Error::Unavailable { verb, why };
    let name = name.to_owned();
    match error {
        None => unavailable(format!("no answer within {} s", PATIENCE.as_secs())),
        Some(kube::Error::SerdeError(error)) => Error::Object {
            name,
            why: error.to_string(),
        },
        Some(kube::Error::Api(status)) if status.is_forbidden() => Error::Forbidden { verb },
        Some(kube::Error::Api(status)) if status.is_invalid() || status.code == 400 => {
            Error::Refused {
                name,
                why: status.message,
            }
        }
        Some(kube::Error::Api(status)) if status.is_not_found() => unavailable(
            "it does not know volumes.tonnage.dev: install Tonnage's custom resources".to_owned(),
        ),
        Some(kube::Error::Api(status)) => {
            unavailable(format!("status {}: {}", status.code, status.message))
        }
        Some(error) => {
            tracing::debug!(error = chain(&error), verb, "the API server failed");
            unavailable("it cannot be reached".to_owned())
        }
    }
}

fn object_of(volume: &Volume) -> crd::Volume {
    let Volume {
        name,
        attributes,
        capacity_bytes,
        claim,
    } = volume;
    let spec = crd::VolumeSpec {
        request_name: name.clone(),
        attributes: attributes.to_map().into_iter().collect(),
        // CSI has the same type for sizes, so that none is larger.
        capacity_bytes: i64::try_from(*capacity_bytes).unwrap_or(i64::MAX),
        claim: claim
            .as_ref()
            .map(|Claim { namespace, name }| crd::ClaimReference {
                namespace: namespace.clone(),
                name: name.clone(),
            }),
    };
    crd::Volume::new(&volume.id(), spec)
}

fn volume_of(name: &str, object: &crd::Volume) -> Result<Volume, Error> {
    let wrong = |why: String| Error::Object {
        name: name.to_owned(),
        why,
    };
    let crd::VolumeSpec {
        request_name,
        attributes,
        capacity_bytes,
        claim,
    } = &object.spec;
    let map: HashMap<String, String> = attributes.clone().into_iter().collect();
    let volume = Volume {
        name: request_name.clone(),
        attributes: Attributes::parse(&map).map_err(|error| wrong(chain(&error)))?,
        capacity_bytes: u64::try_from(*capacity_bytes)
            .map_err(|_| wrong(format!("its capacityBytes are {capacity_bytes}")))?,
        claim: claim.as_ref().map(|claim| Claim {
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
        }),
    };
    if volume.id() == name {
        return Ok(volume);
    }
    Err(wrong(format!(
        "its name does not follow from its requestName {}",
        Escaped(request_name)
    )))
}

#[cfg(test)]
mod tests;

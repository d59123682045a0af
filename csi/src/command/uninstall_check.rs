//! `tonnage uninstall-check`: whether pods use volumes of this driver. The chart asks before an uninstall, because kubelet
//! cannot unmount without the driver, and a pod that it cannot unmount stays Terminating.
//!
//! A pod uses a volume if it is bound to a node and has not ended, and if it names the driver inline, or a claim whose
//! `PersistentVolume` is the driver's. A pod that is being deleted is about to end: it is waited for.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Volume};
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tonnage_csi::size::Span;

use super::cluster;
use crate::args::service::{DRIVER_NAME, UninstallCheck};
use crate::console::Console;
use crate::exit::{Code, Failure};

/// Objects of one answer.
const PAGE: u32 = 500;
/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// Longest wait, whatever is asked for.
const LONGEST: Duration = Duration::from_hours(1);
/// How many pods a sentence names.
const NAMED: usize = 10;

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    namespace: String,
    name: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod that uses a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    name: Name,
    /// It is being deleted.
    leaves: bool,
}

/// Why the API server did not tell.
#[derive(Debug)]
enum Untold {
    /// It does not let this service account.
    Forbidden(String),
    /// It may tell later.
    Unavailable(String),
}

pub(super) async fn run(
    args: UninstallCheck,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let UninstallCheck { wait: Span(wait) } = args;
    let client = cluster::client().await?;
    tokio::select! {
        users = users_after(&client, wait, console) => judge(&users?),
        () = stop.cancelled() => Err(Failure::stopped(Code::Interrupted)),
    }
}

/// The users that are left when those that leave have left, or when the time is up.
async fn users_after(
    client: &Client,
    wait: Duration,
    console: &Console,
) -> Result<Vec<User>, Failure> {
    let deadline = Instant::now() + wait.min(LONGEST);
    loop {
        // One look is taken whatever the time.
        let patience = deadline.max(Instant::now() + PAUSE);
        let told = timeout_at(patience, users(client))
            .await
            .unwrap_or_else(|_| Err(Untold::Unavailable("it does not answer".to_owned())));
        let is_over = Instant::now() + PAUSE > deadline;
        match told {
            Ok(users) if is_over || users.iter().any(|user| !user.leaves) || users.is_empty() => {
                return Ok(users);
            }
            Ok(users) => console.remark(format!("waiting for {}", listed(&users))),
            Err(Untold::Unavailable(why)) if is_over => {
                return Err(Failure::new(
                    Code::Unavailable,
                    "ask the API server which pods use volumes",
                    why,
                )
                .or_advise("try again, or uninstall with --no-hooks"));
            }
            Err(Untold::Unavailable(_)) => {}
            Err(Untold::Forbidden(why)) => {
                return Err(
                    Failure::new(Code::Denied, "list pods and PersistentVolumes", why)
                        .or_advise("give this service account the verb list for both"),
                );
            }
        }
        sleep(PAUSE).await;
    }
}

fn judge(users: &[User]) -> Result<Code, Failure> {
    if users.is_empty() {
        return Ok(Code::Done);
    }
    let why = format!(
        "{} still use volumes of {DRIVER_NAME}, which kubelet cannot unmount without the driver",
        listed(users)
    );
    Err(Failure::new(Code::Unfit, "uninstall", why).or_advise(
        "delete them first (helm uninstall --no-hooks does not ask, and then they stay Terminating until the driver is installed again)",
    ))
}

/// `3 pods (a/x, a/y, b/z)`, the first few by name.
fn listed(users: &[User]) -> String {
    let mut names: Vec<String> = users
        .iter()
        .take(NAMED)
        .map(|user| user.name.to_string())
        .collect();
    if let Some(more) = users.len().checked_sub(NAMED).filter(|more| *more > 0) {
        names.push(format!("and {more} more"));
    }
    let plural = if users.len() == 1 { "" } else { "s" };
    format!("{} pod{plural} ({})", users.len(), names.join(", "))
}

/// All users, as the API server lists them.
async fn users(client: &Client) -> Result<Vec<User>, Untold> {
    let mut claims = BTreeSet::new();
    each(client, |volume: PersistentVolume| {
        claims.extend(claim(volume));
    })
    .await?;
    let mut users = Vec::new();
    each(client, |pod: Pod| users.extend(user(&pod, &claims))).await?;
    Ok(users)
}

/// Gives every object of a kind to `take`, page by page.
async fn each<K>(client: &Client, mut take: impl FnMut(K)) -> Result<(), Untold>
where
    K: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned,
{
    let api = Api::<K>::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await.map_err(untold)?;
        page.items.into_iter().for_each(&mut take);
        let next = page.metadata.continue_.filter(|token| !token.is_empty());
        let Some(token) = next else { return Ok(()) };
        params = params.continue_token(&token);
    }
}

fn untold(error: kube::Error) -> Untold {
    if let kube::Error::Api(status) = error {
        if status.is_forbidden() {
            return Untold::Forbidden(status.message);
        }
        return Untold::Unavailable(format!("status {}: {}", status.code, status.message));
    }
    Untold::Unavailable(error.to_string())
}

/// The claim that is bound to a volume of the driver.
fn claim(volume: PersistentVolume) -> Option<Name> {
    let spec = volume.spec?;
    let claim = spec.claim_ref?;
    let ours = spec.csi?.driver == DRIVER_NAME;
    ours.then_some(Name {
        namespace: claim.namespace?,
        name: claim.name?,
    })
}

/// The pod, if it uses a volume.
fn user(pod: &Pod, claims: &BTreeSet<Name>) -> Option<User> {
    let spec = pod.spec.as_ref()?;
    let name = Name {
        namespace: pod.metadata.namespace.clone()?,
        name: pod.metadata.name.clone()?,
    };
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    // Kubelet has unmounted, or is unmounting, what a pod that has ended had.
    let is_mounted = spec.node_name.is_some() && !matches!(phase, Some("Succeeded" | "Failed"));
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let uses = volumes.iter().any(|volume| is_ours(volume, &name, claims));
    (is_mounted && uses).then_some(User {
        name,
        leaves: pod.metadata.deletion_timestamp.is_some(),
    })
}

/// Whether a volume of a pod is the driver's.
fn is_ours(volume: &Volume, pod: &Name, claims: &BTreeSet<Name>) -> bool {
    if let Some(inline) = &volume.csi {
        return inline.driver == DRIVER_NAME;
    }
    let named = volume.persistent_volume_claim.as_ref();
    // A generic ephemeral volume's claim is called after pod and volume.
    let ephemeral = volume.ephemeral.as_ref();
    let claim = named
        .map(|named| named.claim_name.clone())
        .or_else(|| ephemeral.map(|_| format!("{}-{}", pod.name, volume.name)));
    claim.is_some_and(|name| {
        claims.contains(&Name {
            namespace: pod.namespace.clone(),
            name,
        })
    })
}

#[cfg(test)]
mod tests;

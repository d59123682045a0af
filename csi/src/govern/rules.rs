//! The rules as this node knows them: all `EgressPolicy` objects, compiled, and since when they are known to be the newest.
//! [`run`] keeps them up to date; whoever decides takes a [`Snapshot`]. A snapshot has the labels of namespaces, too, as far as pods
//! of theirs wait for loads ([`Rulebook::meet`]).
//!
//! **Rules that were never read decide nothing**: until the API server has listed them, nobody knows what they forbid. Once they
//! were read they hold while the API server is away, and get older; how old they may be says each policy.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::Clock;

use crate::egress::compiled::Compiled;
use crate::egress::policy::{Decision, DefaultEgress, Setting, What, Who, decide};

mod labels;
mod watch;

use labels::{Known, Labels};

/// Keeps the rules up to date until `stop`: the policies, and the labels of namespaces that loads run for.
pub async fn run(
    client: kube::Client,
    rulebook: Rulebook,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let labels = labels::run(client.clone(), rulebook.clone(), stop.clone());
    let policies = watch::run(client, rulebook, clock, stop);
    tokio::join!(Box::pin(labels), Box::pin(policies));
}

/// All rules. Clones share them.
#[derive(Debug, Clone)]
pub struct Rulebook {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    default_egress: DefaultEgress,
    clock: Arc<dyn Clock>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    policies: Arc<[Compiled]>,
    version: u64,
    /// When they were known to be the newest, on the monotonic clock; `None`: they were never read.
    proved: Option<Duration>,
    labels: Known,
}

/// Somebody waits for a load, so that the labels of its namespace are looked after.
#[derive(Debug)]
#[must_use]
pub struct Interest {
    rulebook: Rulebook,
    namespace: String,
}

/// The rules at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// All policies, by name.
    pub policies: Arc<[Compiled]>,
    /// What holds where no policy selects.
    pub default_egress: DefaultEgress,
    /// For how long nobody has known whether they are the newest; `None`: they were never read.
    pub age: Option<Duration>,
    /// Changes with the policies, and only with them.
    pub version: u64,
    /// Labels of the namespaces that somebody waits for.
    labels: Arc<BTreeMap<String, Labels>>,
}

impl Rulebook {
    /// Rules that are going to be read.
    pub fn new(default_egress: DefaultEgress, clock: Arc<dyn Clock>) -> Self {
        Self {
            shared: Arc::new(Shared {
                default_egress,
                clock,
                state: RwLock::new(State {
                    policies: Arc::from([]),
                    version: 0,
                    proved: None,
                    labels: Known::default(),
                }),
            }),
        }
    }

    /// The rules now.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.shared.clock.monotonic();
        let state = self.read();
        Snapshot {
            policies: Arc::clone(&state.policies),
            default_egress: self.shared.default_egress,
            age: state.proved.map(|at| now.saturating_sub(at)),
            version: state.version,
            labels: state.labels.now(),
        }
    }

    /// What holds where no policy selects.
    pub fn default_egress(&self) -> DefaultEgress {
        self.shared.default_egress
    }

    /// Takes these policies in place of all others. They were the newest at `at`, on the monotonic clock.
    pub fn replace(&self, policies: Vec<Compiled>, at: Duration) {
        let mut state = self.write();
        if state.proved.is_none() || *state.policies != *policies {
            state.policies = policies.into();
            state.version = state.version.saturating_add(1);
        }
        state.proved = state.proved.max(Some(at));
    }

    /// The policies that were read were still the newest at `at`.
    pub fn prove(&self, at: Duration) {
        let mut state = self.write();
        if state.proved.is_some() {
            state.proved = state.proved.max(Some(at));
        }
    }

    /// Looks after the labels of a namespace as long as somebody waits, who brings them as they were when it came.
    pub fn meet(&self, namespace: &str, brought: &Arc<BTreeMap<String, String>>) -> Interest {
        let now = self.moment();
        self.write().labels.meet(namespace, brought, now);
        Interest {
            rulebook: self.clone(),
            namespace: namespace.to_owned(),
        }
    }

    /// Namespaces whose labels are as old as that.
    fn labels_due(&self, age: Duration) -> Vec<String> {
        let now = self.moment();
        self.read().labels.due(age, now)
    }

    /// The API server has answered what was asked at `asked`; `None`: the namespace is gone.
    pub(super) fn learn_labels(&self, namespace: &str, labels: Option<&Labels>, asked: Duration) {
        self.write().labels.learn(namespace, labels, asked);
    }

    /// Now, on the monotonic clock.
    fn moment(&self) -> Duration {
        self.shared.clock.monotonic()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        let state = self.shared.state.read();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        let state = self.shared.state.write();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.rulebook.write().labels.part(&self.namespace);
    }
}

impl Snapshot {
    /// Labels that a namespace has now, if somebody of it waits for a load.
    pub fn labels_of(&self, namespace: &str) -> Option<&Arc<BTreeMap<String, String>>> {
        self.labels.get(namespace)
    }

    /// What the rules say.
    pub fn decide(&self, now_unix: i64, who: &Who<'_>, what: &What<'_>) -> Decision {
        let setting = Setting {
            default_egress: self.default_egress,
            now_unix,
        };
        decide(&self.policies, &setting, who, what)
    }

    /// Why a decision by these rules lets no bytes through although it allows them, if they are too old or were never read.
    pub fn stale(&self, decision: &Decision) -> Option<String> {
        match self.age {
            None => Some(
                "the EgressPolicies have not been read from the API server yet; this goes on by itself when they are"
                    .to_owned(),
            ),
            Some(age) => decision.stale(age.as_secs()),
        }
    }

    /// Policies by their names.
    pub(super) fn by_name(&self) -> BTreeMap<&str, &Compiled> {
        let policies = self.policies.iter();
        policies
            .map(|policy| (policy.name.as_str(), policy))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;
    use tonnage_cache::clock::ManualClock;

    use super::*;

    fn policy(spec: &serde_json::Value) -> Compiled {
        Compiled::from_json(&json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": "p", "uid": "u", "generation": 1},
            "spec": spec,
        }))
    }

    #[test]
    fn rules_age_from_the_moment_in_which_they_were_the_newest_and_never_grow_younger() {
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
        let rulebook = Rulebook::new(DefaultEgress::Deny, Arc::clone(&clock) as _);
        assert_eq!(rulebook.snapshot().age, None);
        rulebook.prove(Duration::ZERO);
        assert_eq!(rulebook.snapshot().age, None);
        clock.advance(Duration::from_secs(100));
        rulebook.replace(Vec::new(), Duration::from_secs(90));
        assert_eq!(rulebook.snapshot().age, Some(Duration::from_secs(10)));
        rulebook.prove(Duration::from_secs(95));
        rulebook.prove(Duration::from_secs(80));
        assert_eq!(rulebook.snapshot().age, Some(Duration::from_secs(5)));
    }

    #[test]
    fn the_version_changes_with_the_policies_alone() {
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
        let rulebook = Rulebook::new(DefaultEgress::Allow, clock);
        let version = || rulebook.snapshot().version;
        assert_eq!(version(), 0);
        rulebook.replace(Vec::new(), Duration::ZERO);
        assert_eq!(version(), 1);
        let spec = json!({"namespaces": {"matchLabels": {"tier": "gold"}}});
        rulebook.replace(vec![policy(&spec)], Duration::ZERO);
        assert_eq!(version(), 2);
        rulebook.replace(vec![policy(&spec)], Duration::from_secs(1));
        rulebook.prove(Duration::from_secs(2));
        assert_eq!(version(), 2);
    }

    #[test]
    fn rules_that_were_never_read_let_no_bytes_through_and_old_ones_as_long_as_they_say() {
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
        let rulebook = Rulebook::new(DefaultEgress::Allow, Arc::clone(&clock) as _);
        let who = Who {
            namespace: "team-a",
            labels: &BTreeMap::new(),
            service_account: "default",
        };
        let stale = || {
            let snapshot = rulebook.snapshot();
            snapshot.stale(&snapshot.decide(0, &who, &What::default()))
        };
        assert!(stale().unwrap().contains("have not been read"));
        let spec = json!({"namespaces": {}, "allow": [{}], "maxStalenessSeconds": 60});
        rulebook.replace(vec![policy(&spec)], Duration::ZERO);
        clock.advance(Duration::from_mins(1));
        assert_eq!(stale(), None);
        clock.advance(Duration::from_secs(1));
        assert!(stale().unwrap().starts_with("the policies are 61 s old"));
    }
}

//! Reading the objects: four watches, whose events become [`Change`]s. What a new list lacks is gone. An object that cannot be read
//! is told once for each of its versions and counts as gone: nothing is granted by it, and what was granted ends by itself.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt as _};
use tonnage_cache::error::chain;

use super::objects::{BudgetObject, LeaseObject, PolicyObject};
use super::world::Change;
use crate::crd::{EgressBudget, EgressLease, EgressPolicy};
use crate::watching;

/// All watches.
pub(super) struct Watches {
    policies: Watch<DynamicObject>,
    namespaces: Watch<PartialObjectMeta<Namespace>>,
    budgets: Watch<DeserializeGuard<EgressBudget>>,
    leases: Watch<DeserializeGuard<EgressLease>>,
}

/// One watch.
struct Watch<K> {
    events: BoxStream<'static, Result<Event<K>, watcher::Error>>,
    names: Names,
    /// Whether it fails, so that an outage is told once.
    fails: bool,
}

/// Names of objects that there are, as far as is known.
#[derive(Debug, Default)]
struct Names {
    known: BTreeSet<String>,
    /// What the list that is being read has named so far.
    listed: BTreeSet<String>,
    /// Whether a list was read to its end.
    is_read: bool,
}

/// What an event says about objects.
#[derive(Debug, PartialEq, Eq)]
enum Told<K> {
    Is(K),
    Gone(String),
}

impl Watches {
    pub(super) fn new(client: &kube::Client) -> Self {
        let kind = ApiResource::erase::<EgressPolicy>(&());
        Self {
            policies: Watch::new(Api::all_with(client.clone(), &kind)),
            namespaces: Watch::new(Api::all(client.clone())),
            budgets: Watch::new(Api::all(client.clone())),
            leases: Watch::new(Api::all(client.clone())),
        }
    }

    /// Whether everything was read once.
    pub(super) fn are_read(&self) -> bool {
        self.policies.names.is_read
            && self.namespaces.names.is_read
            && self.budgets.names.is_read
            && self.leases.names.is_read
    }

    /// The next changes. Nothing is lost if this is dropped.
    pub(super) async fn next(&mut self) -> Vec<Change> {
        tokio::select! {
            told = self.policies.next() => told.into_iter().map(policy).collect(),
            told = self.namespaces.next() => told.into_iter().map(namespace).collect(),
            told = self.budgets.next() => told.into_iter().map(budget).collect(),
            told = self.leases.next() => told.into_iter().map(lease).collect(),
        }
    }
}

impl<K> Watch<K>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    fn new(api: Api<K>) -> Self {
        Self {
            events: watcher(api, watcher::Config::default())
                .backoff(watching::backoff())
                .boxed(),
            names: Names::default(),
            fails: false,
        }
    }

    async fn next(&mut self) -> Vec<Told<K>> {
        match self.events.next().await {
            Some(Ok(event)) => {
                self.fails = false;
                self.names.take(event, K::name_any)
            }
            Some(Err(error)) => {
                self.complain(&chain(&error));
                Vec::new()
            }
            // A watch does not end.
            None => std::future::pending().await,
        }
    }
}

impl<K> Watch<K> {
    fn complain(&mut self, error: &str) {
        // Without the first list nothing is granted; later, a watch may end and begin anew at any time.
        if !self.names.is_read && !std::mem::replace(&mut self.fails, true) {
            tracing::warn!(
                error,
                "what byte budgets are kept by cannot be read from the API server: install the chart's ClusterRole and custom resources of this version; it is tried again"
            );
        } else {
            tracing::debug!(
                error,
                "an object of governance cannot be watched; it is tried again"
            );
        }
    }
}

impl Names {
    fn take<K>(&mut self, event: Event<K>, name: impl Fn(&K) -> String) -> Vec<Told<K>> {
        match event {
            Event::Init => {
                self.listed.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                self.listed.insert(name(&object));
                vec![Told::Is(object)]
            }
            Event::InitDone => {
                self.is_read = true;
                let listed = std::mem::take(&mut self.listed);
                let gone = self.known.difference(&listed).cloned();
                let gone = gone.map(Told::Gone).collect();
                self.known = listed;
                gone
            }
            Event::Apply(object) => {
                self.known.insert(name(&object));
                vec![Told::Is(object)]
            }
            Event::Delete(object) => {
                let name = name(&object);
                self.known.remove(&name);
                vec![Told::Gone(name)]
            }
        }
    }
}

fn policy(told: Told<DynamicObject>) -> Change {
    match told {
        Told::Is(object) => Change::Policy(Box::new(PolicyObject::read(&object))),
        Told::Gone(name) => Change::PolicyGone(name),
    }
}

fn namespace(told: Told<PartialObjectMeta<Namespace>>) -> Change {
    match told {
        Told::Is(object) => {
            let name = object.name_any();
            Change::Namespace(name, object.metadata.labels.unwrap_or_default())
        }
        Told::Gone(name) => Change::NamespaceGone(name),
    }
}

fn budget(told: Told<DeserializeGuard<EgressBudget>>) -> Change {
    match told {
        Told::Is(object) => {
            let name = object.name_any();
            let read = object.0.map_err(|invalid| invalid.error);
            match read.and_then(|object| BudgetObject::read(&object)) {
                Ok(budget) => Change::Budget(Box::new(budget)),
                Err(why) => {
                    tracing::warn!(
                        budget = name,
                        why,
                        "an EgressBudget is no ledger and is ignored"
                    );
                    Change::BudgetGone(name)
                }
            }
        }
        Told::Gone(name) => Change::BudgetGone(name),
    }
}

fn lease(told: Told<DeserializeGuard<EgressLease>>) -> Change {
    match told {
        Told::Is(object) => {
            let name = object.name_any();
            let read = object.0.map_err(|invalid| invalid.error);
            match read.and_then(|object| LeaseObject::read(&object)) {
                Ok(lease) => Change::Lease(Box::new(lease)),
                Err(why) => {
                    tracing::warn!(
                        node = name,
                        why,
                        "an EgressLease cannot be understood and is ignored"
                    );
                    Change::LeaseGone(name)
                }
            }
        }
        Told::Gone(name) => Change::LeaseGone(name),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn names(events: Vec<Event<&'static str>>) -> (Vec<String>, Names) {
        let mut names = Names::default();
        let mut told = Vec::new();
        for event in events {
            for one in names.take(event, |object| (*object).to_owned()) {
                told.push(match one {
                    Told::Is(object) => format!("+{object}"),
                    Told::Gone(name) => format!("-{name}"),
                });
            }
        }
        (told, names)
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let (told, names) = names(vec![
            Event::Init,
            Event::InitApply("a"),
            Event::InitApply("b"),
            Event::InitDone,
            Event::Apply("c"),
            Event::Delete("b"),
            Event::Init,
            Event::InitApply("c"),
            Event::InitDone,
        ]);
        assert_eq!(told, ["+a", "+b", "+c", "-b", "+c", "-a"]);
        assert!(names.is_read);
    }

    #[test]
    fn nothing_is_read_before_a_list_has_ended() {
        let (_, unread) = names(vec![Event::Init, Event::InitApply("a")]);
        assert!(!unread.is_read);
    }

    fn guarded<K>(object: &Value) -> Told<DeserializeGuard<K>>
    where
        K: kube::Resource + serde::de::DeserializeOwned,
    {
        Told::Is(serde_json::from_value(object.clone()).unwrap())
    }

    #[test]
    fn rubbish_is_gone_and_nothing_panics() {
        for spec in [
            json!(null),
            json!({"demands": 7}),
            json!({"demands": [{"seq": "x"}]}),
            json!({"incarnation": "no", "demands": [{"policyUid": "u", "budget": "b", "seq": 1, "wantedBytes": 1, "spentBytes": 0}]}),
        ] {
            let object = json!({"apiVersion": "tonnage.dev/v1alpha1", "kind": "EgressLease", "metadata": {"name": "n"}, "spec": spec});
            let change = lease(guarded(&object));
            assert_eq!(change, Change::LeaseGone("n".to_owned()), "{object}");
        }
        for spec in [
            json!(null),
            json!({"policy": "p", "policyUid": "u", "budget": "b"}),
        ] {
            let object = json!({"apiVersion": "tonnage.dev/v1alpha1", "kind": "EgressBudget", "metadata": {"name": "n"}, "spec": spec});
            let change = budget(guarded(&object));
            assert_eq!(change, Change::BudgetGone("n".to_owned()), "{object}");
        }
    }
}

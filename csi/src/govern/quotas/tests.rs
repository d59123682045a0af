//! Who is let in, told as pods come and go.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::crd::CacheQuota;

mod cluster;
mod retaining;

const GIB: u64 = 1 << 30;

/// A node with quotas and records, which a test writes.
struct Node {
    quotas: Arc<Quotas>,
    records: Arc<Mutex<Vec<Shown>>>,
    /// What waiters keep.
    stays: Mutex<HashMap<WaiterId, Vec<Stay>>>,
}

impl Node {
    /// With one quota of namespace `team-a`.
    fn with(spec: &Value) -> Self {
        let node = Self {
            quotas: Quotas::awaited("gpu-1"),
            records: Arc::default(),
            stays: Mutex::default(),
        };
        let records = Arc::clone(&node.records);
        node.quotas
            .looks_at(move || records.lock().unwrap().clone());
        node.set(spec, &Value::Null);
        node
    }

    fn set(&self, spec: &Value, status: &Value) {
        let object: CacheQuota = serde_json::from_value(json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "CacheQuota",
            "metadata": {"name": "q", "namespace": "team-a"},
            "spec": spec,
            "status": status,
        }))
        .unwrap();
        let rule = Rule::of(&object, "gpu-1");
        let named = BTreeMap::from([("q".to_owned(), rule)]);
        let mut state = self.quotas.lock();
        state.rules = Some(Rules::from([("team-a".to_owned(), named)]));
        state.has_looked = true;
    }

    /// A pod of `team-a` asks.
    fn enter(&self, pod: &str, volume: &str) -> Result<(), Refused> {
        self.ask(asked("team-a", pod, volume))
    }

    fn ask(&self, asked: Asked) -> Result<(), Refused> {
        let waiter = asked.waiter.clone();
        let stay = self.quotas.enter(asked)?;
        let mut stays = self.stays.lock().unwrap();
        stays.entry(waiter).or_default().push(stay);
        Ok(())
    }

    fn leave(&self, waiter: &WaiterId) {
        let left = self.stays.lock().unwrap().remove(waiter);
        drop(left);
    }

    fn sized(&self, load: &str, gib: u64) -> Result<(), Refusal> {
        let decided = self.quotas.size_is(load, gib * GIB);
        decided.expect("it waits for the controller")
    }

    /// The volume is published, as a publish does it: first the record, then the seat.
    fn publish(&self, pod: &str, volume: &str, gib: u64) {
        let id = waiter(pod, volume);
        let namespace = self.quotas.namespace_of(&id).unwrap();
        self.records.lock().unwrap().push(Shown {
            volume: id.volume.clone(),
            namespace,
            place: place("models", volume),
            bytes: gib * GIB,
            manifest: Digest::of(volume.as_bytes()),
        });
        self.leave(&id);
    }

    /// Enters, loads and publishes.
    fn run(&self, pod: &str, volume: &str, gib: u64) {
        self.enter(pod, volume).unwrap();
        self.sized(volume, gib).unwrap();
        self.publish(pod, volume, gib);
    }

    fn used(&self) -> (u64, u64) {
        let uses = self.quotas.uses();
        let own = uses.iter().find(|it| it.namespace == "team-a");
        own.map_or((0, 0), |it| {
            (it.usage.logical_bytes / GIB, it.usage.volumes)
        })
    }
}

fn waiter(pod: &str, volume: &str) -> WaiterId {
    WaiterId {
        volume: VolumeId::parse(volume).unwrap(),
        target: PathBuf::from(format!("pods/{pod}/{volume}")),
    }
}

/// The load is named as the volume, and so is the path.
fn asked(namespace: &str, pod: &str, volume: &str) -> Asked {
    Asked {
        waiter: waiter(pod, volume),
        load: volume.to_owned(),
        namespace: namespace.to_owned(),
        place: place("models", volume),
    }
}

/// A pod of a namespace without quotas that waits for the load of `v`, too.
fn neighbour(pod: &str) -> Asked {
    Asked {
        load: "v".to_owned(),
        ..asked("team-b", pod, "w")
    }
}

fn sentence<T: fmt::Debug, E: fmt::Display>(outcome: Result<T, E>) -> String {
    outcome.map_err(|error| error.to_string()).unwrap_err()
}

#[test]
fn a_load_that_does_not_fit_is_refused_when_its_size_is_known() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "50Gi"}}));
    node.run("p1", "a", 46);
    node.enter("p2", "b").unwrap();
    let refusal = node.sized("b", 5).unwrap_err();
    assert_eq!(refusal.kind(), Kind::Exhausted);
    assert_eq!(
        refusal.to_string(),
        "the volume has 5.0 GiB and the namespace's others on this node have 46.0 GiB, together more than the 50.0 GiB that CacheQuota q allows: delete pods or retained content, or ask an administrator to raise spec.perNode.logicalBytes"
    );
    // What is refused uses nothing, and is refused again by a load that asks again.
    assert_eq!(node.used(), (46, 1));
    assert!(node.sized("b", 5).is_err());
    node.leave(&waiter("p2", "b"));
    node.run("p3", "c", 4);
    assert_eq!(node.used(), (50, 2));
}

#[test]
fn the_number_of_volumes_is_decided_before_anything_is_listed() {
    let node = Node::with(&json!({"perNode": {"volumes": 2}}));
    node.run("p1", "a", 1);
    node.enter("p2", "b").unwrap();
    let refused = node.enter("p3", "c").unwrap_err();
    assert_eq!(refused.kind(), Kind::Exhausted);
    assert_eq!(
        refused.to_string(),
        "the namespace has 2 volumes on this node and CacheQuota q allows 2: delete pods or retained content, or ask an administrator to raise spec.perNode.volumes"
    );
    // One of them is given up.
    node.leave(&waiter("p2", "b"));
    node.enter("p3", "c").unwrap();
}

#[test]
fn of_many_loads_at_once_as_many_are_let_in_as_fit() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "35Gi"}}));
    let start = Barrier::new(16);
    let fits: usize = std::thread::scope(|scope| {
        let pods: Vec<_> = (0..16)
            .map(|number| {
                let (node, start) = (&node, &start);
                scope.spawn(move || {
                    let name = format!("v{number}");
                    start.wait();
                    node.enter(&name, &name).is_ok() && node.sized(&name, 10).is_ok()
                })
            })
            .collect();
        pods.into_iter()
            .map(|pod| usize::from(pod.join().unwrap()))
            .sum()
    });
    assert_eq!(fits, 3);
    assert_eq!(node.used(), (30, 3));
}

#[tokio::test(start_paused = true)]
async fn a_shared_load_goes_on_without_the_namespace_that_has_no_room() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "10Gi"}}));
    node.enter("p1", "v").unwrap();
    let other = neighbour("p2");
    let free = other.waiter.clone();
    node.ask(other).unwrap();
    let poor = waiter("p1", "v");
    let refused = node.quotas.refused(&poor);
    tokio::pin!(refused);
    assert!(futures::poll!(refused.as_mut()).is_pending());
    node.sized("v", 11).unwrap();
    let refused = refused.await;
    assert_eq!(refused.kind(), Kind::Exhausted);
    assert!(refused.to_string().contains("the volume has 11.0 GiB"));
    let wait = Duration::from_millis(1);
    let waiting = tokio::time::timeout(wait, node.quotas.refused(&free));
    assert!(waiting.await.is_err());
    // When the one that was let in leaves, nobody is left.
    node.leave(&free);
    assert!(node.sized("v", 11).is_err());
}

#[test]
fn who_joins_a_load_of_known_size_is_decided_about_at_once() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "10Gi"}}));
    node.ask(neighbour("p1")).unwrap();
    node.sized("v", 11).unwrap();
    let refused = sentence(node.enter("p2", "v"));
    assert!(refused.starts_with("the volume has 11.0 GiB"), "{refused}");
    assert_eq!(node.used(), (0, 0));
}

#[test]
fn a_lowered_quota_hurts_nothing_that_was_let_in() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "50Gi"}}));
    node.run("p1", "claim", 20);
    node.enter("p2", "loading").unwrap();
    node.sized("loading", 20).unwrap();
    node.set(
        &json!({"perNode": {"logicalBytes": "1Gi", "volumes": 1}}),
        &Value::Null,
    );
    // A call that comes back, a load that looks again, a further pod of the claim.
    node.enter("p2", "loading").unwrap();
    node.sized("loading", 20).unwrap();
    node.enter("p3", "claim").unwrap();
    node.sized("claim", 20).unwrap();
    node.publish("p2", "loading", 20);
    assert_eq!(node.used(), (40, 2));
    assert!(node.enter("p4", "new").is_err());
}

#[test]
fn a_volume_of_several_pods_counts_once_on_its_way_from_seat_to_record() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "10Gi", "volumes": 1}}));
    node.enter("p1", "claim").unwrap();
    node.enter("p2", "claim").unwrap();
    node.sized("claim", 10).unwrap();
    assert_eq!(node.used(), (10, 1));
    node.publish("p1", "claim", 10);
    assert_eq!(node.used(), (10, 1));
    node.publish("p2", "claim", 10);
    assert_eq!(node.used(), (10, 1));
    node.records.lock().unwrap().clear();
    assert_eq!(node.used(), (0, 0));
}

#[test]
fn a_source_that_changed_under_a_load_is_decided_about_anew() {
    let node = Node::with(&json!({"perNode": {"logicalBytes": "10Gi"}}));
    node.enter("p1", "v").unwrap();
    node.sized("v", 9).unwrap();
    assert_eq!(node.used(), (9, 1));
    node.sized("v", 10).unwrap();
    assert_eq!(node.used(), (10, 1));
    assert!(node.sized("v", 11).is_err());
    assert_eq!(node.used(), (0, 0));
    // The next call begins again.
    node.enter("p1", "v").unwrap();
    node.sized("v", 10).unwrap();
}

#[test]
fn nothing_is_let_in_before_the_quotas_were_read() {
    let quotas = Quotas::awaited("gpu-1");
    let refused = quotas.enter(asked("team-a", "p", "v")).unwrap_err();
    assert_eq!(refused, Refused::Unread);
    assert_eq!(refused.kind(), Kind::Transient);
    quotas.lock().rules = Some(Rules::new());
    let _stay = quotas.enter(asked("team-a", "p", "v")).unwrap();
    assert!(quotas.size_is("v", u64::MAX).unwrap().is_ok());
    assert!(!quotas.counts_the_cluster());
}

#[test]
fn a_seat_is_kept_by_any_of_its_stays_and_by_none_of_another_seat() {
    let node = Node::with(&json!({"perNode": {"volumes": 1}}));
    let enter = || node.quotas.enter(asked("team-a", "p1", "a")).unwrap();
    let (first, second) = (enter(), enter());
    drop(first);
    assert!(node.enter("p2", "b").is_err());
    // The pod's volume is another load now.
    let other = Asked {
        load: "newer".to_owned(),
        ..asked("team-a", "p1", "a")
    };
    let third = node.quotas.enter(other).unwrap();
    drop(second);
    assert!(node.enter("p2", "b").is_err());
    drop(third);
    node.enter("p2", "b").unwrap();
}

#[test]
fn uses_name_who_has_a_quota_and_what_is_shown() {
    let node = Node::with(&json!({"perNode": {"volumes": 9}}));
    node.run("p1", "a", 3);
    node.enter("p2", "b").unwrap();
    node.ask(asked("team-b", "p3", "c")).unwrap();
    node.sized("c", 2).unwrap();
    let uses = node.quotas.uses();
    let usage = |gib: u64, volumes| Usage {
        logical_bytes: gib * GIB,
        volumes,
    };
    assert_eq!(
        uses,
        [
            Use {
                namespace: "team-a".to_owned(),
                usage: usage(3, 1),
                contents: BTreeSet::from([Digest::of(b"a")]),
                is_governed: true,
                report: None,
            },
            Use {
                namespace: "team-b".to_owned(),
                usage: usage(2, 1),
                contents: BTreeSet::new(),
                is_governed: false,
                report: None,
            },
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_changes_what_is_used_is_told() {
    let node = Node::with(&json!({"perNode": {"volumes": 9}}));
    node.enter("p1", "a").unwrap();
    node.sized("a", 1).unwrap();
    node.quotas.changed().await;
    node.leave(&waiter("p1", "a"));
    node.quotas.changed().await;
    node.leave(&waiter("p1", "a"));
    let wait = Duration::from_millis(1);
    let told = tokio::time::timeout(wait, node.quotas.changed()).await;
    assert!(told.is_err());
}

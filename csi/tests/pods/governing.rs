//! Pods under rules of egress, and an object that changes while it is asked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tonic::Code;
use tonnage_cache::clock::{Clock as _, ManualClock};
use tonnage_cache::gate::Refusal;
use tonnage_csi::crd;
use tonnage_csi::egress::compiled::Compiled;
use tonnage_csi::egress::policy::DefaultEgress;
use tonnage_csi::govern::rules::Rulebook;

use crate::world::{World, content, of_namespace};

const MODEL_BYTES: u64 = (2 << 20) + 17 + 900;

/// The rulebook, and the clock by which it ages.
pub(crate) fn rules(spec: &Value) -> (Rulebook, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
    let seam: Arc<ManualClock> = Arc::clone(&clock);
    let rulebook = Rulebook::new(DefaultEgress::Allow, seam);
    rulebook.replace(vec![policy(spec)], Duration::ZERO);
    (rulebook, clock)
}

fn policy(spec: &Value) -> Compiled {
    policy_of("p", "default", spec)
}

pub(crate) fn policy_of(name: &str, namespace: &str, spec: &Value) -> Compiled {
    let mut object = json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": name, "uid": name, "generation": 1},
        "spec": {"namespaces": {"names": [namespace]}},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    Compiled::from_json(&object)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_rules_allow_is_loaded_and_its_tab_is_closed() {
    let (rulebook, _) = rules(&json!({"allow": [{"buckets": ["weights"], "prefixes": ["llama"]}]}));
    let world = World::start_governed(rulebook).await;
    let pod = world.pod("a", "llama");
    world.publish(&pod).await.unwrap();
    assert_eq!(world.source.served(), MODEL_BYTES);
    assert_eq!(world.governed_loads(), 0);
    world.unpublish(&pod).await.unwrap();
    world.assert_nothing_is_left(&[&pod]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_they_forbid_is_denied_before_the_source_is_asked_also_when_the_bytes_are_here() {
    let (rulebook, _) = rules(&json!({"allow": [{}]}));
    let world = World::start_governed(rulebook.clone()).await;
    let first = world.pod("a", "llama");
    world.publish(&first).await.unwrap();
    rulebook.replace(
        vec![policy(&json!({"allow": [{"prefixes": ["other"]}]}))],
        Duration::ZERO,
    );
    let listings = world.source.listings();
    let second = world.pod("b", "llama");
    let error = world.publish(&second).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    assert!(
        error
            .message()
            .contains("no entry of spec.allow of EgressPolicy p names it"),
        "{error}"
    );
    assert_eq!(world.source.listings(), listings);
    assert!(!second.target.exists());
    // What is mounted stays.
    world.publish(&first).await.unwrap();
    assert_eq!(world.publisher().counts(), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_are_tightened_end_a_load_and_what_came_is_kept() {
    let (rulebook, _) = rules(&json!({"allow": [{}]}));
    let world = World::start_governed(rulebook.clone()).await;
    world.source.hold();
    let pod = world.pod("a", "llama");
    let error = world.publish_hastily(&pod).await.unwrap_err();
    assert_eq!(error.code(), Code::Aborted, "{error}");
    world.source.is_waiting().await;
    assert_eq!(world.governed_loads(), 1);
    rulebook.replace(vec![policy(&json!({}))], Duration::ZERO);
    let error = world.publish_hastily(&pod).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    assert_eq!(world.governed_loads(), 0);
    world.assert_nothing_is_left(&[&pod]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_share_a_load_are_each_told_their_own_refusal_and_no_name_of_the_other() {
    let policies = |prefix: &str| {
        let spec = json!({"allow": [{"prefixes": [prefix]}], "rate": {"connectionsPerNode": 1}});
        vec![
            policy_of("scarlet", "team-a", &spec),
            policy_of("indigo", "team-b", &spec),
        ]
    };
    let (rulebook, _) = rules(&json!({}));
    rulebook.replace(policies("llama"), Duration::ZERO);
    let world = World::start_governed(rulebook.clone()).await;
    for (seed, name) in [(5, "llama/b.safetensors"), (6, "llama/c.safetensors")] {
        world.source.put(name, content(seed, 2 << 20));
    }
    world.source.hold();
    let pods = [
        of_namespace(world.pod("a", "llama"), "team-a"),
        of_namespace(world.pod("b", "llama"), "team-b"),
    ];
    let tightened = async {
        world.source.is_waiting().await;
        while world.publisher().counts().1 < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.governed_loads(), 1);
        rulebook.replace(policies("other"), Duration::ZERO);
        world.source.release();
    };
    let calls = futures::future::join(world.publish(&pods[0]), world.publish(&pods[1]));
    let ((first, second), ()) = tokio::join!(calls, tightened);
    for (answer, own, strange) in [
        (first, ["team-a/default", "scarlet"], ["team-b", "indigo"]),
        (second, ["team-b/default", "indigo"], ["team-a", "scarlet"]),
    ] {
        let error = answer.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error}");
        for word in own {
            assert!(error.message().contains(word), "{error}");
        }
        for word in strange {
            assert!(!error.message().contains(word), "{error}");
        }
    }
    world.assert_nothing_is_left(&[&pods[0], &pods[1]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_waits_alone_is_told_what_its_load_was_told_whatever_holds_by_then() {
    let (rulebook, _) = rules(&json!({"allow": [{}]}));
    let world = World::start_governed(rulebook).await;
    let said = "the policies are 61 s old, and EgressPolicy p lets nothing be loaded by such ones";
    world.source.refuse(Refusal::Exhausted(said.to_owned()));
    let error = world.publish(&world.pod("a", "llama")).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert_eq!(error.message(), said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_are_too_old_stop_what_must_be_fetched_and_nothing_that_is_here() {
    let (rulebook, clock) = rules(&json!({"allow": [{}], "maxStalenessSeconds": 60}));
    let world = World::start_governed(rulebook.clone()).await;
    let here = world.pod("a", "llama/tokenizer");
    world.publish(&here).await.unwrap();
    clock.advance(Duration::from_secs(61));
    let again = world.pod("b", "llama/tokenizer");
    world.publish(&again).await.unwrap();
    let more = world.pod("c", "llama");
    let error = world.publish(&more).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(
        error.message().contains("the policies are 61 s old"),
        "{error}"
    );
    rulebook.prove(clock.monotonic());
    world.publish(&more).await.unwrap();
    assert_eq!(world.source.served(), MODEL_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unpublish_and_the_driver_s_end_close_the_tab_of_a_load() {
    let (rulebook, _) = rules(&json!({"allow": [{}]}));
    let mut world = World::start_governed(rulebook).await;
    world.source.hold();
    let pods = [world.pod("a", "llama"), world.pod("b", "llama")];
    for pod in &pods {
        let error = world.publish_hastily(pod).await.unwrap_err();
        assert_eq!(error.code(), Code::Aborted, "{error}");
    }
    assert_eq!(world.governed_loads(), 1);
    world.unpublish(&pods[0]).await.unwrap();
    assert_eq!(world.governed_loads(), 1);
    world.unpublish(&pods[1]).await.unwrap();
    assert_eq!(world.governed_loads(), 0);
    let error = world.publish_hastily(&pods[0]).await.unwrap_err();
    assert_eq!(error.code(), Code::Aborted, "{error}");
    world.stop_driver().await;
}

fn object(generation: i64) -> Arc<crd::Source> {
    let object = json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "Source",
        "metadata": {"name": "models", "uid": "u", "generation": generation},
        "spec": {"url": "s3://bucket"},
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_changes_while_it_is_decided_who_may_use_it_is_asked_again() {
    let world = World::start().await;
    let source = Arc::clone(&world.source);
    world.sources().put(object(2), source);
    world.doorman.go_by(object(1));
    let pod = world.pod("a", "llama");
    let error = world.publish(&pod).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(
        error
            .message()
            .contains("the source was changed while it was decided"),
        "{error}"
    );
    assert_eq!(world.source.listings(), 0);
    world.doorman.go_by(object(2));
    world.publish(&pod).await.unwrap();
}

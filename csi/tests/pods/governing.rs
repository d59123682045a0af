//! Pods under rules of egress, and an object that changes while it is asked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tonic::Code;
use tonnage_cache::clock::{Clock as _, ManualClock};
use tonnage_csi::crd;
use tonnage_csi::egress::compiled::Compiled;
use tonnage_csi::egress::policy::DefaultEgress;
use tonnage_csi::govern::rules::Rulebook;

use crate::world::World;

const MODEL_BYTES: u64 = (2 << 20) + 17 + 900;

/// The rulebook, and the clock by which it ages.
fn rules(spec: &Value) -> (Rulebook, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
    let seam: Arc<ManualClock> = Arc::clone(&clock);
    let rulebook = Rulebook::new(DefaultEgress::Allow, seam);
    rulebook.replace(vec![policy(spec)], Duration::ZERO);
    (rulebook, clock)
}

fn policy(spec: &Value) -> Compiled {
    let mut object = json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "p", "uid": "u", "generation": 1},
        "spec": {"namespaces": {"names": ["default"]}},
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

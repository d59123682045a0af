//! Pods of two namespaces that wait for one load, each with a budget of its own, of which one ends in the middle.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join;
use serde_json::json;
use tonic::Code;
use tonnage_csi::govern::audit::{Entry, Event, Line, read};
use tonnage_csi::govern::rules::Rulebook;

use crate::governing;
use crate::granter::used_up;
use crate::world::{Pod, World, content, of_namespace};

const POOR: &str = "team-a";
const RICH: &str = "team-b";
/// Bytes of each file beside the model's own.
const FILE: usize = 2 << 20;
const MORE: [(u8, &str); 3] = [
    (5, "llama/b.safetensors"),
    (6, "llama/c.safetensors"),
    (7, "llama/d.safetensors"),
];
const TOTAL: u64 = (2 << 20) + 17 + 900 + 3 * (2 << 20);
/// More than one file, and less than two.
const SMALL: u64 = 3 << 20;
const LARGE: u64 = 1 << 40;

/// Two namespaces with a policy each, that allows all, has a budget and lets one run at a time be under way.
fn rules() -> Rulebook {
    let spec = json!({
        "allow": [{}],
        "budgets": [{"name": "daily", "bytes": "1Ti", "window": {"calendar": "Daily"}}],
        "rate": {"connectionsPerNode": 1},
    });
    let (rulebook, _) = governing::rules(&json!({}));
    let policies = [("scarlet", POOR), ("indigo", RICH)];
    let policies = policies.map(|(name, namespace)| governing::policy_of(name, namespace, &spec));
    rulebook.replace(policies.into(), Duration::ZERO);
    rulebook
}

/// A node on which both wait for one load that has not listed its files yet; the poor one came first.
async fn both_wait() -> (World, Pod, Pod) {
    let world = World::start_governed(rules()).await;
    for (seed, name) in MORE {
        world.source.put(name, content(seed, FILE));
    }
    world.granter().raise(POOR, SMALL);
    world.granter().raise(RICH, LARGE);
    world.source.hold_listings();
    let poor = of_namespace(world.pod("a", "llama"), POOR);
    let rich = of_namespace(world.pod("b", "llama"), RICH);
    for pod in [&poor, &rich] {
        let error = world.publish_hastily(pod).await.unwrap_err();
        assert_eq!(error.code(), Code::Aborted, "{error}");
    }
    assert_eq!(world.publisher().counts(), (0, 2, 1));
    (world, poor, rich)
}

/// What the audit log says of a namespace.
fn told_of<'a>(entries: &'a [Entry], namespace: &str, event: Event) -> Vec<&'a Entry> {
    let is_of = |entry: &&Entry| {
        let who = entry.who.as_ref();
        entry.event == event && who.is_some_and(|who| who.namespace == namespace)
    };
    entries.iter().filter(is_of).collect()
}

fn read_all(text: &str) -> Vec<Entry> {
    let entry = |line: &str| match read(line) {
        Ok(Line::Entry(read)) => read.entry,
        other => panic!("{other:?}"),
    };
    text.lines().map(entry).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_load_goes_on_with_the_budget_that_is_left_and_both_have_it() {
    let (mut world, poor, rich) = both_wait().await;
    world.source.release_listings();
    let calls = join(world.publish(&poor), world.publish(&rich));
    let (first, second) = world.granter().answer_during(calls).await;
    second.unwrap();
    // What another pod has loaded costs nothing.
    first.unwrap();
    assert_eq!(world.source.served(), TOTAL);
    assert_eq!(world.publisher().counts(), (2, 0, 0));
    world.stop_driver().await;
    let entries = read_all(&world.audited());
    let paid = |namespace: &str| {
        let settled = told_of(&entries, namespace, Event::Settle);
        settled.iter().map(|entry| entry.bytes).sum::<u64>()
    };
    assert_eq!(paid(POOR) + paid(RICH), TOTAL);
    assert!((1..=SMALL).contains(&paid(POOR)), "{}", paid(POOR));
    let settled = entries.iter().filter(|it| it.event == Event::Settle);
    let revisions = settled.map(|it| it.what.clone().unwrap().revision);
    let revisions: BTreeSet<Option<String>> = revisions.collect();
    assert_eq!(revisions.len(), 1);
    assert!(!revisions.contains(&None));
    let refused = told_of(&entries, POOR, Event::Deny);
    let reasons: Vec<_> = refused.iter().map(|it| it.reason.clone()).collect();
    assert_eq!(reasons, [Some(used_up(POOR))]);
    assert!(told_of(&entries, RICH, Event::Deny).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_left_with_a_budget_that_is_used_up_is_told_so_and_goes_on_where_the_load_stopped() {
    let (world, poor, rich) = both_wait().await;
    world.source.hold();
    world.source.release_listings();
    // One run of each is under way: the poor one pays no more.
    let both_pay = async {
        while world.source.held_back() < 2 {
            tokio::task::yield_now().await;
        }
    };
    world.granter().answer_during(both_pay).await;
    world.unpublish(&rich).await.unwrap();
    assert_eq!(world.publisher().counts(), (0, 1, 1));
    world.source.release();
    let told = world.granter().answer_during(world.publish(&poor)).await;
    let error = told.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert_eq!(error.message(), used_up(POOR));
    assert!(!poor.target.exists());
    let before = world.source.served();
    assert!((1..TOTAL).contains(&before), "{before}");
    world.granter().raise(POOR, LARGE);
    let published = world.granter().answer_during(world.publish(&poor)).await;
    published.unwrap();
    assert_eq!(world.source.served(), TOTAL);
    assert_eq!(world.publisher().counts(), (1, 0, 0));
    assert!(!rich.target.exists());
}

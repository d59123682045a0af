//! Seats and what is remembered at them.

use std::time::{Duration, SystemTime};

use serde_json::json;
use tonnage_cache::clock::ManualClock;

use super::*;
use crate::egress::compiled::Compiled;
use crate::egress::policy::DefaultEgress;
use crate::govern::rules::Rulebook;
use crate::volume::VolumeId;

fn waiter(namespace: &str) -> Arc<Waiter> {
    Arc::new(Waiter {
        id: WaiterId {
            volume: VolumeId::parse("csi-1").unwrap(),
            target: namespace.into(),
        },
        namespace: namespace.to_owned(),
        labels: Arc::default(),
        service_account: "default".to_owned(),
        pod: None,
    })
}

fn rulebook() -> Rulebook {
    let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
    let rulebook = Rulebook::new(DefaultEgress::Allow, clock);
    rulebook.replace(Vec::new(), Duration::ZERO);
    rulebook
}

fn names(tab: &Tab, rules: &Snapshot) -> Vec<String> {
    let guests = tab.guests(rules, 0).into_iter();
    guests.map(|guest| guest.waiter.namespace.clone()).collect()
}

#[test]
fn who_sat_down_first_comes_first_and_a_seat_is_free_when_it_is_given_up() {
    let rules = rulebook().snapshot();
    let tabs = Tabs::default();
    let tab = tabs.open("l", Wanted::default(), Arc::default());
    let first = tab.sit(waiter("a"), None, None);
    let second = tab.sit(waiter("b"), None, None);
    assert_eq!(names(&tab, &rules), ["a", "b"]);
    // The first comes back, and its old seat goes.
    let again = tab.sit(waiter("a"), None, None);
    drop(first);
    assert_eq!(names(&tab, &rules), ["a", "b"]);
    drop((second, again));
    assert_eq!(names(&tab, &rules), [""; 0]);
}

#[test]
fn a_load_of_the_same_name_has_a_tab_of_its_own() {
    let tabs = Tabs::default();
    let earlier = tabs.open("l", Wanted::default(), Arc::default());
    let _seat = earlier.sit(waiter("a"), None, None);
    let later = tabs.open("l", Wanted::default(), Arc::default());
    assert_ne!(earlier.number, later.number);
    assert!(Arc::ptr_eq(&tabs.find("l").unwrap(), &later));
    // The end of the earlier one is not the end of the later.
    tabs.close(&earlier);
    assert_eq!(tabs.count(), 1);
    tabs.close(&later);
    assert_eq!(tabs.count(), 0);
}

#[test]
fn rules_are_asked_again_when_they_have_changed_and_not_before() {
    let rulebook = rulebook();
    let tab = Tabs::default().open("l", Wanted::default(), Arc::default());
    let _seat = tab.sit(waiter("a"), None, None);
    let decision = || {
        let guests = tab.guests(&rulebook.snapshot(), 0);
        Arc::clone(&guests[0].decision)
    };
    let first = decision();
    assert!(Arc::ptr_eq(&first, &decision()));
    let closed = Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"namespaces": {}},
    }));
    rulebook.replace(vec![closed], Duration::ZERO);
    let second = decision();
    assert!(first.verdict.is_ok() && second.verdict.is_err());
    assert!(Arc::ptr_eq(&second, &decision()));
}

#[test]
fn labels_that_a_namespace_gets_or_loses_count_for_who_waits_already() {
    let rulebook = rulebook();
    let closed = Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"namespaces": {"matchLabels": {"tier": "research"}}},
    }));
    rulebook.replace(vec![closed], Duration::ZERO);
    let tab = Tabs::default().open("l", Wanted::default(), Arc::default());
    let sit = |name: &str| {
        let waiter = waiter(name);
        let interest = rulebook.meet(name, &waiter.labels);
        tab.sit(waiter, None, Some(interest))
    };
    let seats = [sit("a"), sit("b")];
    let allowed = || {
        let guests = tab.guests(&rulebook.snapshot(), 0).into_iter();
        guests
            .map(|guest| guest.decision.verdict.is_ok())
            .collect::<Vec<_>>()
    };
    assert_eq!(allowed(), [true, true]);
    let research = BTreeMap::from([("tier".to_owned(), "research".to_owned())]);
    rulebook.learn_labels("a", Some(&Arc::new(research)), Duration::ZERO);
    assert_eq!(allowed(), [false, true]);
    let guests = tab.guests(&rulebook.snapshot(), 0);
    let again = tab.guests(&rulebook.snapshot(), 0);
    assert!(Arc::ptr_eq(&guests[0].decision, &again[0].decision));
    // A namespace that is gone is as it was.
    rulebook.learn_labels("a", None, Duration::ZERO);
    assert_eq!(allowed(), [false, true]);
    rulebook.learn_labels("a", Some(&Arc::default()), Duration::ZERO);
    assert_eq!(allowed(), [true, true]);
    drop(seats);
    assert_eq!(rulebook.snapshot().labels_of("a"), None);
}

#[test]
fn what_is_foreseen_is_what_is_missing_without_what_is_under_way() {
    let progress = Arc::<Progress>::default();
    let tab = Tabs::default().open("l", Wanted::default(), Arc::clone(&progress));
    let _seat = tab.sit(waiter("a"), None, None);
    assert_eq!(tab.foreseen(8), 8);
    progress.expect(100, 1);
    progress.add_bytes(30);
    tab.charged(20);
    assert_eq!(tab.foreseen(8), 50);
    let guest = tab.guests(&rulebook().snapshot(), 0).remove(0);
    assert!(!tab.settled(&guest, 20, 5));
    assert_eq!(tab.foreseen(8), 70);
    assert_eq!(tab.foreseen(90), 90);
    let paid = tab.take_paid();
    assert_eq!(paid.len(), 1);
    assert_eq!(paid[0].bytes, 5);
    assert!(tab.take_paid().is_empty());
}

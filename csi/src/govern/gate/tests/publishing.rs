//! What is decided when a volume is published, and what is told of it.

use super::*;
use crate::egress::quota::Exceeded;

#[test]
fn what_the_rules_allow_is_admitted_and_told_with_its_rule() {
    let site = Site::new(&[policy(&json!({"allow": [{"prefixes": ["base/llama"]}]}))]);
    site.judge("a").unwrap().tell(LOAD);
    let events = site.events();
    assert_eq!(events.len(), 1);
    let Entry {
        event,
        time_unix_millis,
        who,
        what,
        policies,
        rule,
        node,
        ..
    } = &events[0];
    assert_eq!((*event, *time_unix_millis), (Event::Allow, NOW * 1_000));
    let who = who.as_ref().unwrap();
    assert_eq!(who.namespace, "a");
    assert_eq!(who.pod_uid.as_deref(), Some("pod-a"));
    assert_eq!(what.as_ref().unwrap().path, "base/llama");
    assert_eq!(rule.as_deref(), Some("p allow[0]"));
    assert_eq!(policies[0].generation, Some(3));
    assert_eq!(node.as_deref(), Some("node-1"));
}

#[test]
fn what_they_forbid_is_denied_and_told_to_the_controller_too() {
    let site = Site::new(&[policy(&json!({"allow": [{"prefixes": ["other"]}]}))]);
    let refusal = site.judge("a").unwrap_err();
    let policy::Refusal::Denied(sentence) = &refusal else {
        panic!("{refusal:?}");
    };
    assert!(
        sentence.starts_with("service account a/default may not load this from source \"models\""),
        "{sentence}"
    );
    let (_, lines) = site.denials.lines(8 << 10);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].policy_uid, "uid-of-p");
    assert_eq!(lines[0].last_namespace, "a");
    assert_eq!(lines[0].last_reason, *sentence);
    assert_eq!(lines[0].last_time, i64::try_from(NOW).unwrap());
    let events = site.events();
    assert_eq!(events[0].event, Event::Deny);
    assert_eq!(events[0].rule.as_deref(), Some("unnamed"));
    assert_eq!(events[0].reason.as_ref(), Some(sentence));
}

#[test]
fn where_there_is_no_room_the_quota_is_named_and_no_policy_counts_a_denial() {
    let site = Site::new(&[policy(&json!({"allow": [{}]}))]);
    let exceeded = Exceeded {
        quota: "limits".to_owned(),
        message: "no room".to_owned(),
    };
    site.judge("a").unwrap().tell_no_room(&exceeded);
    assert_eq!(site.denials.lines(8 << 10).1, []);
    let events = site.events();
    let denied = &events[0];
    assert_eq!(denied.event, Event::Deny);
    assert_eq!(denied.rule.as_deref(), Some("quota"));
    assert_eq!(denied.quota.as_deref(), Some("limits"));
    assert_eq!(denied.reason.as_deref(), Some("no room"));
    assert_eq!(denied.policies, []);
    assert_eq!(denied.who.as_ref().unwrap().namespace, "a");
    assert_eq!(denied.what.as_ref().unwrap().path, "base/llama");
}

#[test]
fn until_the_rules_are_read_nothing_is_admitted_and_nothing_is_denied() {
    let site = Site::new(&[]);
    let unread = Rulebook::new(DefaultEgress::Allow, Arc::clone(&site.clock) as _);
    let parts = Parts {
        rulebook: unread,
        spender: Arc::clone(&site.spender),
        locations: Locations::default(),
        denials: Arc::clone(&site.denials),
        audit: Audit::to(site.paper.clone()),
        cost: Cost::new(),
        clock: Arc::clone(&site.clock) as _,
        node: "node-1".to_owned(),
    };
    let refusal = EgressGate::new(parts).judge(waiter("a"), wanted());
    assert!(
        matches!(refusal, Err(policy::Refusal::Unavailable(_))),
        "{refusal:?}"
    );
    assert_eq!(site.events(), []);
}

#[test]
fn old_rules_and_empty_budgets_are_no_matter_of_a_publish() {
    let site = Site::new(&[policy(&budget_and("whenControllerUnreachable", "Deny"))]);
    site.clock.advance(Duration::from_hours(24));
    assert!(site.judge("a").is_ok());
}

#[test]
fn a_policy_that_only_watches_denies_nothing_and_is_heard() {
    let site = Site::new(&[policy(&json!({"mode": "Audit", "allow": []}))]);
    site.judge("a").unwrap().tell(LOAD);
    let events = site.events();
    let told: Vec<Event> = events.iter().map(|entry| entry.event).collect();
    assert_eq!(told, [Event::Allow, Event::WouldDeny]);
    assert_eq!(events[1].policies[0].name, "p");
    assert!(
        events[1]
            .reason
            .as_ref()
            .unwrap()
            .contains("spec.allow is empty")
    );
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_overruled_watches_until_its_time_and_its_reason_is_told() {
    let overruled = policy_with(
        &json!({"allow": []}),
        &json!({
            "tonnage.dev/override-until": "2026-11-27T00:10:00Z",
            "tonnage.dev/override-reason": "incident 4711",
        }),
    );
    let site = Site::new(&[overruled]);
    site.judge("a").unwrap().tell(LOAD);
    let (opened, seats) = site.load(&["a"]);
    site.run_alone(100).await.unwrap().settle(100, true);
    // The rules are the same, and the time is another.
    site.clock.advance(Duration::from_mins(10));
    let refusal = site.run_alone(100).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Denied(_)), "{refusal:?}");
    drop((opened, seats));
    let events = site.events();
    let overrides: Vec<&Entry> = events
        .iter()
        .filter(|entry| entry.event == Event::Override)
        .collect();
    assert_eq!(overrides.len(), 1);
    assert_eq!(overrides[0].reason.as_deref(), Some("incident 4711"));
    assert_eq!(overrides[0].policies[0].uid, policy_uid());
}

/// A policy of one namespace, which has its name.
fn policy_of(namespace: &str, spec: &Value) -> Compiled {
    let mut object = json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": format!("rules-of-{namespace}"), "uid": namespace},
        "spec": {"namespaces": {"names": [namespace]}},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    Compiled::from_json(&object)
}

#[tokio::test(start_paused = true)]
async fn everyone_who_waited_is_told_its_own_refusal_and_no_name_of_another() {
    let both = |spec: &Value| [policy_of("a", spec), policy_of("b", spec)];
    let site = Site::new(&both(&json!({"allow": [{}]})));
    let (first, second) = (site.judge("a").unwrap(), site.judge("b").unwrap());
    let (_opened, _seat) = first.open(LOAD, Arc::default());
    let _other = second.join(LOAD).unwrap();
    site.rules(&both(&json!({"allow": [{"prefixes": ["other"]}]})));
    let said = site.run_alone(100).await.unwrap_err();
    for (admission, own, strange) in [
        (
            &first,
            ["a/default", "rules-of-a"],
            ["b/default", "rules-of-b"],
        ),
        (
            &second,
            ["b/default", "rules-of-b"],
            ["a/default", "rules-of-a"],
        ),
    ] {
        for told in [
            admission.refusal_of_bytes(&said).unwrap(),
            admission.refusal_of_host(&said).unwrap(),
        ] {
            assert!(matches!(told, Refusal::Denied(_)), "{told:?}");
            let told = told.to_string();
            assert!(own.iter().all(|word| told.contains(word)), "{told}");
            assert!(!strange.iter().any(|word| told.contains(word)), "{told}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_have_more_is_told_nothing_of_a_budget_that_is_another_s() {
    let site = Site::new(&[
        policy_of("a", &budget()),
        policy_of("b", &json!({"allow": [{}]})),
    ]);
    site.has("a", 100);
    let (first, second) = (site.judge("a").unwrap(), site.judge("b").unwrap());
    let (_opened, _seat) = first.open(LOAD, Arc::default());
    site.run(100).await.unwrap().settle(100, true);
    let said = site.run(100).await.unwrap_err();
    let _late = second.join(LOAD).unwrap();
    assert_eq!(second.refusal_of_bytes(&said), None);
    let own = first.refusal_of_bytes(&said);
    assert_eq!(own, Some(Refusal::Exhausted("nothing is left".to_owned())));
    // Nobody was charged for the question.
    site.has("a", 100);
    site.answer();
    site.run(100).await.unwrap().settle(100, true);
}

/// What the gate said to another.
fn of_another() -> Refusal {
    Refusal::Exhausted("nothing is left for another".to_owned())
}

#[tokio::test(start_paused = true)]
async fn who_came_late_and_was_granted_nothing_yet_is_told_nothing_and_nothing_is_asked_for() {
    let site = Site::new(&[policy_of("a", &budget()), policy_of("b", &budget())]);
    let (first, late) = (site.judge("a").unwrap(), site.judge("b").unwrap());
    let (_opened, _seat) = first.open(LOAD, Arc::default());
    let _late = late.join(LOAD).unwrap();
    assert_eq!(late.refusal_of_bytes(&of_another()), None);
    assert_eq!(site.spender.demands(), None);
    // Nor while the controller is silent, where bytes may be owed.
    let owing = Site::new(&[policy(&budget_and("whenControllerUnreachable", "Allow"))]);
    let guest = owing.judge("a").unwrap();
    let (_opened, _seat) = guest.open(LOAD, Arc::default());
    owing.run_alone(100).await.unwrap().settle(100, true);
    assert!(owing.gate.shared.is_silent());
    assert_eq!(guest.refusal_of_bytes(&of_another()), None);
}

#[tokio::test(start_paused = true)]
async fn while_the_controller_is_silent_who_has_no_run_left_is_told_so_and_who_has_one_is_not() {
    const RUN: u64 = 8 << 20;
    let spends = budget_and("whenControllerUnreachable", "SpendLease");
    for (left, is_short) in [(5 << 20, true), (RUN, false)] {
        let site = Site::new(&[policy(&spends)]);
        site.has("a", 100 + left);
        let progress = Arc::<Progress>::default();
        progress.expect(100 + left, 1);
        let (first, late) = (site.judge("a").unwrap(), site.judge("b").unwrap());
        let (_opened, _seat) = first.open(LOAD, progress);
        site.run(100).await.unwrap().settle(100, true);
        let said = site.run_alone(RUN + 1).await.unwrap_err();
        assert!(said.to_string().contains("within 30 s"), "{said}");
        let _late = late.join(LOAD).unwrap();
        assert_eq!(site.left("a"), left);
        let told = |refusal: Option<Refusal>| refusal.map(|refusal| refusal.to_string());
        let own = told(first.refusal_of_bytes(&of_another()));
        let says = "the controller has granted no bytes of budget p/daily of namespace a lately";
        assert_eq!(own.is_some(), is_short, "{own:?}");
        assert!(own.is_none_or(|own| own.starts_with(says)));
        // Nothing was granted to the other, ever.
        let other = told(late.refusal_of_bytes(&said)).unwrap();
        let says = "the controller has granted no bytes of budget p/daily of namespace b lately";
        assert!(other.starts_with(says), "{other}");
        assert_eq!(site.left("a"), left, "to ask charges nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn what_address_rules_say_of_a_host_is_told_to_all() {
    let site = Site::new(&[policy(&json!({"allow": [{}]}))]);
    let admission = site.judge("a").unwrap();
    let said = Refusal::Denied("host \"s3.example.com\" is at 169.254.169.254: no".to_owned());
    assert_eq!(admission.refusal_of_host(&said), Some(said.clone()));
    assert_eq!(admission.refusal_of_bytes(&said), None);
}

#[tokio::test(start_paused = true)]
async fn a_label_that_is_given_to_a_namespace_counts_for_the_next_run_of_a_load() {
    let labelled = json!({"namespaces": {"matchLabels": {"tier": "research"}}, "allow": []});
    let site = Site::new(&[policy(&labelled)]);
    let (_opened, _seats) = site.load(&["a"]);
    site.run_alone(100).await.unwrap().settle(100, true);
    let research = BTreeMap::from([("tier".to_owned(), "research".to_owned())]);
    let now = site.clock.monotonic();
    site.rulebook
        .learn_labels("a", Some(&Arc::new(research)), now);
    let refusal = site.run_alone(100).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Denied(_)), "{refusal:?}");
    assert!(site.judge("b").is_ok());
}

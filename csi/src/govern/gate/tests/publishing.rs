//! What is decided when a volume is published, and what is told of it.

use super::*;

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

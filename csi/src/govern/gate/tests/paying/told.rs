//! What is told of a load: once, and not for each of its runs.

use tonnage_cache::digest::Digest;

use super::*;

/// More loads than anybody remembers for long.
const MANY: usize = 4_200;

/// What the audit log says to a namespace while its loads run, in the end. Lines of others may have been dropped.
fn told_to(namespace: &str, site: Site) -> Vec<(Event, u64)> {
    let Site { gate, paper, .. } = site;
    drop(gate);
    let text = paper.text();
    let entries = text.lines().filter_map(|line| match read(line).unwrap() {
        Line::Entry(read) => Some(read.entry),
        Line::Dropped(_) | Line::Other => None,
    });
    let own = entries.filter(|it| it.event != Event::Settle).filter(|it| {
        let who = it.who.as_ref();
        who.is_some_and(|who| who.namespace == namespace)
    });
    own.map(|it| (it.event, it.bytes)).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_set_aside_for_a_load_is_told_once() {
    let site = Site::new(&[policy(&budget())]);
    site.has("a", 5_000);
    let progress = Arc::<Progress>::default();
    progress.expect(1_000, 1);
    let (opened, seat) = site.judge("a").unwrap().open(LOAD, progress);
    for received in [100, 0, 100] {
        site.run(100).await.unwrap().settle(received, true);
    }
    drop((opened, seat));
    let events = site.events();
    let told: Vec<(Event, u64)> = events.iter().map(|it| (it.event, it.bytes)).collect();
    assert_eq!(told, [(Event::Reserve, 1_000), (Event::Settle, 200)]);
    let reserved = &events[0];
    assert_eq!(reserved.rule.as_deref(), Some("p allow[0]"));
    assert_eq!(reserved.policies[0].generation, Some(3));
    let who = reserved.who.as_ref().unwrap();
    assert_eq!(who.pod_uid.as_deref(), Some("pod-a"));
    assert_eq!(reserved.what.as_ref().unwrap().path, "base/llama");
}

#[tokio::test(start_paused = true)]
async fn what_is_told_of_a_load_says_its_revision_once_that_is_known() {
    let site = Site::new(&[policy(&budget())]);
    site.has("a", 100);
    let progress = Arc::<Progress>::default();
    let admission = site.judge("a").unwrap();
    let (opened, seat) = admission.open(LOAD, Arc::clone(&progress));
    admission.tell(LOAD);
    let revision = Digest::of(b"revision");
    progress.name(revision);
    site.run(100).await.unwrap().settle(100, true);
    assert!(site.run(100).await.is_err(), "nothing is left");
    drop((opened, seat, admission));
    let events = site.events();
    let told: Vec<(Event, Option<String>)> = events
        .into_iter()
        .map(|it| (it.event, it.what.unwrap().revision))
        .collect();
    let found = || Some(revision.to_string());
    let expected = [
        (Event::Allow, None),
        (Event::Reserve, found()),
        (Event::Deny, found()),
        (Event::Settle, found()),
    ];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn what_stops_a_load_and_passes_by_itself_is_told_once_for_each_cause() {
    let mut spec = budget_and("whenControllerUnreachable", "SpendLease");
    spec["maxStalenessSeconds"] = json!(60);
    let site = Site::new(&[policy(&spec)]);
    let (opened, seats) = site.load(&["a"]);
    for _ in 0..2 {
        assert!(site.run_alone(100).await.is_err(), "nothing is granted");
    }
    site.clock.advance(Duration::from_secs(61));
    for _ in 0..2 {
        assert!(site.run_alone(100).await.is_err(), "the rules are too old");
    }
    site.rulebook.prove(site.clock.monotonic());
    for _ in 0..2 {
        assert!(site.run(100).await.is_err(), "nothing is left");
    }
    drop((opened, seats));
    let events = site.events();
    let told: Vec<(Event, &str, Option<Account>)> = events
        .iter()
        .map(|it| (it.event, it.rule.as_deref().unwrap(), it.account.clone()))
        .collect();
    let expected = [
        (Event::Deny, "unanswered", Some(account("a"))),
        (Event::Deny, "stale", None),
        (Event::Deny, "budget", Some(account("a"))),
    ];
    assert_eq!(told, expected);
    for event in &events {
        assert_eq!(event.policies[0].uid, policy_uid());
        assert_eq!(event.policies[0].generation, Some(3));
        assert_eq!(event.who.as_ref().unwrap().namespace, "a");
    }
    let reasons = [
        "the controller has granted",
        "the policies are 61 s old",
        "nothing is left",
    ];
    for (event, words) in events.iter().zip(reasons) {
        let reason = event.reason.as_ref().unwrap();
        assert!(reason.starts_with(words), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_namespace_of_a_shared_load_is_told_what_stops_it() {
    let site = Site::new(&[policy(&budget())]);
    let (opened, seats) = site.load(&["a", "b"]);
    for _ in 0..2 {
        assert!(site.run(100).await.is_err(), "nothing is left for either");
    }
    let last = || {
        let (_, mut lines) = site.denials.lines(8 << 10);
        let line = lines.remove(0);
        (line.count, line.last_namespace)
    };
    assert_eq!(last(), (2, "b".to_owned()));
    site.rules(&[policy(&json!({"allow": [{"prefixes": ["other"]}]}))]);
    for _ in 0..2 {
        assert!(site.run_alone(100).await.is_err(), "a rule forbids it");
    }
    assert_eq!(last(), (4, "b".to_owned()));
    drop((opened, seats));
    let events = site.events();
    let told: Vec<(&str, &str)> = events
        .iter()
        .map(|it| {
            let who = it.who.as_ref().unwrap();
            (who.namespace.as_str(), it.rule.as_deref().unwrap())
        })
        .collect();
    let expected = [
        ("a", "budget"),
        ("b", "budget"),
        ("a", "unnamed"),
        ("b", "unnamed"),
    ];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn each_namespace_of_a_shared_load_is_told_what_a_policy_that_watches_would_deny() {
    let site = Site::new(&[policy(&json!({"allow": [], "mode": "Audit"}))]);
    let (opened, seats) = site.load(&["a", "b"]);
    for name in ["a", "b", "a", "b"] {
        site.judge(name).unwrap().tell(LOAD);
    }
    drop((opened, seats));
    let events = site.events();
    let told: Vec<&str> = events
        .iter()
        .filter(|it| it.event == Event::WouldDeny)
        .map(|it| it.who.as_ref().unwrap().namespace.as_str())
        .collect();
    assert_eq!(told, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_told_of_a_load_is_not_told_again_however_many_loads_come_later() {
    let mut spec = budget();
    spec["maxStalenessSeconds"] = json!(60);
    let site = Site::new(&[policy(&spec)]);
    let grow_old = || site.clock.advance(Duration::from_secs(61));
    let renew = || site.rulebook.prove(site.clock.monotonic());
    site.has("a", 1_000);
    site.has("b", 1 << 20);
    let progress = Arc::<Progress>::default();
    progress.expect(1_000, 1);
    let first = site.judge("a").unwrap().open(LOAD, progress);
    site.run(100).await.unwrap().settle(100, true);
    let number = u64::MAX - 1;
    let asked = site.spender.charge(&[account("b")], number, 1 << 20, 0);
    assert!(asked.is_err(), "nothing is granted yet");
    site.answer();
    site.spender.forget(number);
    grow_old();
    assert!(site.run_alone(100).await.is_err(), "the rules are too old");

    renew();
    let mut later = Vec::new();
    for number in 0..MANY {
        let mut demand = demand(100);
        demand.load = format!("later-{number}");
        let admission = site.judge("b").unwrap();
        later.push((admission.open(&demand.load, Arc::default()), demand));
    }
    for (_, demand) in &later {
        let run = site.gate.admit(demand).await.unwrap();
        run.settle(100, true);
    }
    grow_old();
    for (_, demand) in &later {
        assert!(site.gate.admit(demand).await.is_err());
    }
    for _ in 0..2 {
        assert!(site.run_alone(100).await.is_err(), "the rules are too old");
    }
    renew();
    site.run_alone(100).await.unwrap().settle(100, true);
    drop((first, later));
    let told = told_to("a", site);
    assert_eq!(told, [(Event::Reserve, 1_000), (Event::Deny, 0)]);
}

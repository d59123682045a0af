//! What stands in the audit log of demands and answers.

use serde_json::json;

use super::*;
use crate::egress::compiled::Compiled;
use crate::egress::policy::DefaultEgress;
use crate::govern::audit::paper::Paper;
use crate::govern::audit::{Audit, Entry, Event, Line, read};
use crate::govern::rules::Rulebook;

fn entries(paper: &Paper) -> Vec<Entry> {
    let entry = |line: &str| match read(line) {
        Ok(Line::Entry(read)) => read.entry,
        other => panic!("{other:?}"),
    };
    paper.text().lines().map(entry).collect()
}

#[test]
fn each_demand_that_stands_in_the_object_and_each_answer_is_written_down_once() {
    let site = Site::new();
    let paper = Paper::default();
    let clock: Arc<ManualClock> = Arc::clone(&site.clock);
    let rulebook = Rulebook::new(DefaultEgress::Allow, clock);
    let policy = Compiled::from_json(&json!({
        "apiVersion": "tonnage.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "research", "uid": "p", "generation": 3},
        "spec": {"namespaces": {}},
    }));
    rulebook.replace(vec![policy], Duration::ZERO);
    site.spender.record_by(Scribe {
        audit: Audit::to(paper.clone()),
        rulebook,
        node: "node-1".to_owned(),
    });

    assert!(site.spender.charge(&[account("a")], 1, 10, 0).is_err());
    assert_eq!(site.asks(), [ask("a", 1, 10, 0)]);
    // Somebody has edited the object.
    site.spender.repeat();
    site.pass(5);
    assert_eq!(site.asks(), [ask("a", 1, 10, 0)]);
    for _ in 0..2 {
        site.says(&[("a", 1, 0)], Some("nothing is left"));
    }
    site.says(&[("a", 1, 10)], None);
    // What is given back asks for nothing.
    site.spender.forget(1);
    site.pass(60);
    assert_eq!(site.asks(), [ask("a", 2, 0, 0)]);
    drop(site);

    let entries = entries(&paper);
    let told: Vec<(Event, u64, Option<&str>)> = entries
        .iter()
        .map(|it| (it.event, it.bytes, it.reason.as_deref()))
        .collect();
    let expected = [
        (Event::Reserve, 10, None),
        (Event::Grant, 0, Some("nothing is left")),
        (Event::Grant, 10, None),
    ];
    assert_eq!(told, expected);
    for Entry {
        account: of,
        policies,
        node,
        who,
        ..
    } in &entries
    {
        assert_eq!(of.as_ref(), Some(&account("a")));
        assert_eq!(policies[0].name, "research");
        assert_eq!(policies[0].generation, Some(3));
        assert_eq!((node.as_deref(), who), (Some("node-1"), &None));
    }
}

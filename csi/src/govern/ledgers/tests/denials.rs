//! What nodes tell of policies, whenever those are read.

use super::*;

/// So often a policy has denied something on a node.
pub(super) fn line(uid: &str, count: i64) -> DenialLine {
    DenialLine {
        policy_uid: uid.to_owned(),
        count,
        last_namespace: "team-b".to_owned(),
        last_reason: "no".to_owned(),
        last_time: 1_795_751_000,
    }
}

fn of_uid(uid: &str) -> Change {
    let mut policy = policy("10Gi");
    policy["metadata"] = json!({"name": "gitops", "uid": uid, "generation": 1});
    read(&policy)
}

/// What the last status that was written says.
fn denied(story: &Story) -> Option<i64> {
    let last = story.statuses.last().unwrap();
    assert_eq!(last.policy, "gitops");
    last.status.denied.as_ref().map(|denied| denied.count)
}

#[test]
fn what_a_node_told_of_a_policy_before_that_was_read_is_counted() {
    let mut story = Story::new(&policy("10Gi"));
    let lines = vec![line("first", 3), line("nobody's", 5)];
    story.lease_of("n", Vec::new(), lines);
    story.wait(30);
    story.world.change(of_uid("first"));
    story.turn();
    assert_eq!(denied(&story), Some(3));
}

#[test]
fn a_policy_that_is_made_anew_for_the_thousandth_time_says_what_it_denied() {
    let mut story = Story::new(&policy("10Gi"));
    for round in 0..1_000 {
        let uid = format!("uid-{round}");
        story.world.change(of_uid(&uid));
        story.lease_of("n", Vec::new(), vec![line(&uid, 2)]);
    }
    story.turn();
    assert_eq!(denied(&story), Some(2));
}

//! How much is said to a node at once: grants always, sentences as far as they fit.

use super::*;
use crate::crd::{EgressLeaseStatus, MOST_LINES};

/// So many accounts of policies that are gone.
fn accounts(number: usize, budget: &str, length: usize) -> impl Iterator<Item = Account> {
    (0..number).map(move |it| Account {
        policy: PolicyUid(format!("3f0c6d5e-7a55-4c11-9a5c-{it:012}")),
        budget: budget.to_owned(),
        namespace: Some(Namespace(format!("{it:0length$}"))),
    })
}

/// What a node is told that asks for bytes of them.
fn told(accounts: impl Iterator<Item = Account>) -> EgressLeaseStatus {
    let mut story = Story::new(&policy("100Gi"));
    let demands = accounts.map(|account| demand(account, 1, (GIB, 0)));
    story.lease("n", demands.collect());
    let seconds = ROUND.as_secs() * 3 + GRACE.as_secs();
    for _ in 0..seconds {
        story.now.monotonic += Duration::from_secs(1);
        story.world.turns(story.now);
        if let Some(write) = story.world.answers(story.now).pop() {
            return write.status;
        }
    }
    panic!("nothing is said");
}

fn sentences(status: &EgressLeaseStatus) -> usize {
    let messages = status.grants.iter().map(|line| &line.message);
    messages.filter(|message| message.is_some()).count()
}

fn bytes(status: &EgressLeaseStatus) -> usize {
    serde_json::to_vec(status).unwrap().len()
}

#[test]
fn sentences_take_what_the_grants_leave_of_sixteen_kib() {
    let longest = "b".repeat(32);
    let cases = [
        (MOST_LINES, "daily-all", 15),
        (56, longest.as_str(), 63),
        (1, longest.as_str(), 63),
    ];
    for (number, budget, length) in cases {
        let status = told(accounts(number, budget, length));
        assert_eq!(status.grants.len(), number);
        assert!(sentences(&status) > 0, "{number}");
        let bytes = bytes(&status);
        assert!(bytes < 16 << 10, "{number}: {bytes}");
    }
}

#[test]
fn every_grant_is_told_though_no_sentence_fits() {
    let status = told(accounts(MOST_LINES, &"b".repeat(32), 63));
    assert_eq!(status.grants.len(), MOST_LINES);
    assert_eq!(sentences(&status), 0);
}

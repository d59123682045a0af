//! What a thousand nodes and two hundred namespaces cost: how much is written is what is tested, how long it takes is shown.
#![allow(clippy::print_stderr, reason = "how long it takes is a result")]

use super::*;

const NODES: usize = 1_000;
const NAMESPACES: usize = 200;
/// Namespaces that a node loads for.
const OWN: usize = 5;

fn node(index: usize) -> String {
    format!("ip-10-{}-{}.ec2.internal", index / 250, index % 250)
}

fn large() -> Value {
    let mut policy = policy("100Ti");
    policy["spec"]["namespaces"] = json!({});
    policy["spec"]["budgets"][1]["bytes"] = json!("8Pi");
    policy
}

/// Every node asks for so much of the budgets of some namespaces, and of the one that all share.
fn ask(story: &mut Story, seq: u64, amounts: (u64, u64)) {
    for index in 0..NODES {
        let own = (0..OWN).map(|it| {
            let team = format!("team-{}", (index * OWN + it) % NAMESPACES);
            demand(account("daily", Some(&team)), seq, amounts)
        });
        let (wanted, spent) = amounts;
        let of = u64::try_from(OWN).unwrap();
        let shared = demand(account("all", None), seq, (wanted * of, spent * of));
        let demands = own.chain([shared]).collect();
        story.lease(&node(index), demands);
    }
}

#[test]
fn a_thousand_nodes_and_two_hundred_namespaces_cost_a_write_per_node_and_ledger_and_then_none() {
    let clock = tonnage_cache::clock::SystemClock::new();
    let mut story = Story::new(&large());
    for index in 0..NAMESPACES {
        let name = format!("team-{index}");
        story.world.change(Change::Namespace(name, BTreeMap::new()));
    }
    ask(&mut story, 1, (GIB, 0));
    let before = story.version;
    let started = clock.monotonic();
    story.turn();
    let first = clock.monotonic().saturating_sub(started);
    assert_eq!(story.ledgers.len(), NAMESPACES + 1);
    let nodes = u64::try_from(NODES).unwrap();
    let ledgers = u64::try_from(NAMESPACES + 1).unwrap();
    // Each ledger is made and written, each node is answered.
    assert_eq!(story.version - before, 2 * ledgers + nodes);
    // The one that all share has rows for sixty-four at a time: the others follow second by second.
    let mut seconds = 0;
    while story.ledgers["research.all"].used(&ROLLING, story.now.wall) < GIB * 5 * nodes {
        story.wait(1);
        seconds += 1;
        assert!(seconds <= 20, "{seconds}");
    }
    // Everybody reports.
    ask(&mut story, 2, (0, GIB));
    let started = clock.monotonic();
    story.turn();
    let reports = clock.monotonic().saturating_sub(started);
    // Grants that share a line run out by themselves; then there is silence.
    story.wait(1_100);
    let (quiet, told) = (story.version, story.statuses.len());
    let started = clock.monotonic();
    story.wait(100);
    let idle = clock.monotonic().saturating_sub(started) / 100;
    eprintln!(
        "{NODES} nodes, {NAMESPACES} namespaces, {} demands: first turn {first:?}, the last node after {seconds} s; reports {reports:?}; idle {idle:?} a second",
        NODES * (OWN + 1)
    );
    assert_eq!((story.version, story.statuses.len()), (quiet, told));
    let largest = story.statuses.iter().map(|write| {
        let status = serde_json::to_vec(&write.status).unwrap();
        status.len()
    });
    assert!(largest.max().unwrap() < 4 << 10);
}

const ROLLING: crate::egress::window::Window = crate::egress::window::Window::Rolling {
    seconds: 30 * 86_400,
};

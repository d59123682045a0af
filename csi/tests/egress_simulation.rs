//! Byte budgets on a cluster of 200 nodes and 50 namespaces, in one process and by the second: objects with resource versions,
//! watches that lag, requests that are lost, nodes and controllers that die, leaders that do not know that they were replaced.
//! Everything follows from seeds. The decisions are the production code's (`egress::ledger`, `egress::lease`).
//!
//! Seeds of the environment look further, after those that every run has: `TONNAGE_SIMULATION_SEEDS=12,13,14`. The last one that is
//! printed is the one that failed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect fails; how much was written is a result"
)]

#[path = "egress_simulation/cluster.rs"]
mod cluster;
#[path = "egress_simulation/controller.rs"]
mod controller;
#[path = "egress_simulation/node.rs"]
mod node;
#[path = "egress_simulation/random.rs"]
mod random;
#[path = "egress_simulation/server.rs"]
mod server;

use cluster::{Cluster, ELECTION, GIB, HOUR, HOURLY, NAMESPACES, NODES, ROLLING, own, shared};
use node::Faults;

/// Seeds of the environment, with commas between them.
const SEEDS: &str = "TONNAGE_SIMULATION_SEEDS";

/// The seeds of every run, then those of the environment.
fn seeds() -> Vec<u64> {
    let more = std::env::var_os(SEEDS).map_or_else(String::new, |it| it.into_string().unwrap());
    let more = more.split(',').map(str::trim).filter(|it| !it.is_empty());
    let more = more.map(|it| it.parse::<u64>().unwrap());
    (10..12).chain(more).collect()
}

/// Every node loads one model at once: the gang that starts together.
#[test]
fn a_gang_on_every_node_costs_three_writes_a_node_and_then_none() {
    let mut cluster = Cluster::new(1, 400 * GIB * 8, 400 * GIB * 8);
    for node in 0..NODES {
        cluster.load(node, 0, (1, 14 * GIB));
    }
    cluster.run_until_done(HOUR);
    let took = cluster.now;
    // What was not reported is settled when it has run out; then there is silence.
    cluster.run(1_200);
    let before = cluster.server.writes;
    cluster.run(600);
    let writes = cluster.server.writes;
    eprintln!("gang of {NODES}: {took} s, {writes:?}, {}", cluster.sizes());
    assert_eq!(writes, before, "something was written while all were idle");
    let nodes = u64::try_from(NODES).unwrap();
    assert!(writes.demands + writes.grants <= 3 * nodes);
    assert!(writes.ledgers <= nodes, "{writes:?}");
}

/// Every node loads a model of every namespace within two minutes.
#[test]
fn writes_do_not_grow_with_the_number_of_loads() {
    let mut cluster = Cluster::new(2, 8 << 40, 400 << 40);
    for node in 0..NODES {
        for namespace in 0..NAMESPACES {
            let begins = cluster.random.below(120);
            let bytes = (1 + cluster.random.below(8)) * GIB;
            cluster.load(node, namespace, (begins, bytes));
        }
    }
    cluster.run_until_done(HOUR);
    let took = cluster.now;
    let writes = cluster.server.writes;
    eprintln!(
        "{} loads on {NODES} nodes: {took} s, {writes:?}, {}",
        NODES * NAMESPACES,
        cluster.sizes()
    );
    let loads = u64::try_from(NODES * NAMESPACES).unwrap();
    assert!(writes.all() <= 2 * loads, "{writes:?}");
    // One in five seconds and one to begin with, an answer to each, and one a second of each ledger.
    let nodes = u64::try_from(NODES).unwrap();
    assert!(writes.demands <= nodes * (took / 5 + 1), "{writes:?}");
    assert!(writes.ledgers <= took * u64::try_from(NAMESPACES + 1).unwrap());
}

/// The leader is killed while everybody loads.
#[test]
fn a_change_of_leaders_takes_less_than_twenty_seconds_and_loses_nothing() {
    let mut cluster = Cluster::new(3, 8 << 40, 400 << 40);
    for node in 0..NODES {
        for namespace in 0..10 {
            let begins = cluster.random.below(180);
            cluster.load(node, namespace, (begins, 8 * GIB));
        }
    }
    cluster.run(60);
    cluster.controllers[0].acts_until = cluster.now;
    let killed = cluster.now;
    cluster.run(ELECTION);
    cluster.lead(1);
    cluster.run_until_done(HOUR);
    let next = cluster.granted_at.iter().find(|at| **at > killed);
    let gap = next.unwrap() - killed;
    eprintln!("leader killed: {gap} s without grants");
    assert!(gap < 20, "{gap} s");
    assert_eq!(cluster.unreported, 0);
}

/// Fifty nodes want of a budget for ten.
#[test]
fn a_budget_for_ten_is_never_exceeded_by_fifty() {
    let mut cluster = Cluster::new(4, 100 * GIB, 400 << 40);
    for node in 0..50 {
        cluster.load(node, 0, (1, 10 * GIB));
    }
    cluster.run(1_200);
    assert_eq!(cluster.used(&own(0)), 100 * GIB);
    let before = cluster.server.writes;
    cluster.run(600);
    assert_eq!(cluster.server.writes, before, "waiting costs nothing");
    // The next window, and the next.
    cluster.run_until_done(6 * HOUR);
    assert!(cluster.now >= 4 * HOUR);
}

/// Everything that can go wrong, on budgets that are too small, of which some roll, are edited, or are taken out for a while.
#[test]
fn whatever_goes_wrong_no_budget_is_exceeded() {
    for seed in seeds() {
        eprintln!("seed {seed}");
        let mut cluster = Cluster::new(seed, 450 * GIB, 30 << 40);
        cluster.budget(&own(4)).window = ROLLING;
        cluster.budget(&own(7)).window = ROLLING;
        cluster.faults = Faults {
            crashes: 200,
            lost: 20_000,
            answers_lost: 20_000,
            short: 10_000,
        };
        for node in 0..NODES {
            for namespace in 0..NAMESPACES {
                if cluster.random.below(10) < 2 {
                    let begins = cluster.random.below(1_200);
                    let bytes = (1 + cluster.random.below(30)) * GIB;
                    cluster.load(node, namespace, (begins, bytes));
                }
            }
        }
        cluster.lose_answers(10_000);
        cluster.run(300);
        // A second leader, while the first goes on for some time.
        cluster.lead(1);
        cluster.controllers[0].acts_until = cluster.now + 120;
        cluster.run(200);
        cluster.nodes[7].die();
        cluster.nodes[8].die();
        cluster.limit(&own(3), 100 * GIB);
        cluster.budget(&own(4)).window = HOURLY;
        cluster.budget(&own(5)).window = ROLLING;
        cluster.budget(&own(6)).is_named = false;
        let used = cluster.used(&own(6));
        assert!(used > 0, "nothing was asked of what is taken out");
        cluster.run(200);
        assert!(cluster.used(&own(6)) <= used);
        cluster.limit(&own(3), 900 * GIB);
        cluster.budget(&own(6)).is_named = true;
        cluster.server.is_up = false;
        cluster.run(90);
        cluster.server.is_up = true;
        // Another leader, whose clock is an hour ahead, and then goes right.
        cluster.lead(0);
        cluster.controllers[0].ahead = 3_600;
        cluster.controllers[1].acts_until = cluster.now + 30;
        cluster.run(300);
        cluster.controllers[0].ahead = 0;
        cluster.run_until_done(10 * HOUR);
        eprintln!(
            "seed {seed}: {} s, {:?}, {} GiB settled when their time was over, {}",
            cluster.now,
            cluster.server.writes,
            cluster.unreported / GIB,
            cluster.sizes()
        );
        assert!(cluster.server.writes.refused > 0);
        assert!(cluster.unreported > 0);
        assert!(cluster.used(&shared()) <= 30 << 40);
    }
}

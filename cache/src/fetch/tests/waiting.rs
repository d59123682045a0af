//! Runs that wait at the gate, beside others that do not.

use std::ops::Range;

use tokio::task::JoinSet;

use super::gates::SlowGate;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_that_the_gate_makes_wait_keeps_nobody_from_a_connection() {
    let gate = SlowGate::of("slow");
    // Four connections, and forty runs of files large and small that wait.
    let bench = Bench::with(quick(), Arc::new(gate.clone()), 4);
    let names = [("k", "l"), ("m", "n"), ("o", "p"), ("q", "r")];
    let sources =
        names.map(|(large, small)| Arc::new(FakeSource::new(&[(large, 8 * MIB), (small, 1000)])));
    let mut waiting = JoinSet::new();
    for source in sources.clone() {
        let job = Job {
            payer: "slow".to_owned(),
            ..job(&source)
        };
        let fetcher = Arc::clone(&bench.fetcher);
        waiting.spawn(async move { (source, fetcher.fetch(job).await) });
    }
    let other = Arc::new(FakeSource::new(&[("other", 8 * MIB), ("tiny", 1000)]));
    let outcome = bench.fetcher.fetch(job(&other));
    let outcome = tokio::time::timeout(Duration::from_secs(20), outcome).await;
    bench.check(&other, &outcome.expect("the other waits, too").unwrap());
    assert!(sources.iter().all(|source| source.opens() == 0));
    gate.open();
    while let Some(ended) = waiting.join_next().await {
        let (source, outcome) = ended.unwrap();
        bench.check(&source, &outcome.unwrap());
        assert_eq!(source.sent(), source.total());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_whose_sources_stall_in_the_middle_of_every_body_stops_nobody_else() {
    let settings = Settings {
        connections_start: 64,
        buffers_max: 16,
        stall_after: Duration::from_hours(1),
        ..quick()
    };
    let bench = Bench::with(settings, OpenGate::shared(), 16);
    let names: Vec<String> = (0..64).map(|number| format!("small-{number}")).collect();
    let small = names.iter().map(|name| (name.as_str(), 1000));
    let sizes: Vec<(&str, usize)> = small.chain([("large", 64 * MIB)]).collect();
    let halting = |_: u64, _: &str, _: &Range<u64>| Some(Fault::Stall(10));
    let slow = Arc::new(FakeSource::failing(&sizes, halting));
    let stuck = Job {
        payer: "slow".to_owned(),
        ..job(&slow)
    };
    let cancel = stuck.cancel.clone();
    let fetcher = Arc::clone(&bench.fetcher);
    let mut stalled = JoinSet::new();
    stalled.spawn(async move { fetcher.fetch(stuck).await });
    // All that one payer may have.
    while bench.pool.in_use() < 14 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let other = Arc::new(FakeSource::new(&[("other", 8 * MIB), ("tiny", 1000)]));
    let outcome = bench.fetcher.fetch(job(&other));
    let outcome = tokio::time::timeout(Duration::from_secs(20), outcome).await;
    bench.check(&other, &outcome.expect("the other waits, too").unwrap());
    cancel.cancel();
    let ended = stalled.join_next().await.unwrap().unwrap();
    assert!(matches!(ended, Err(Error::Cancelled)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_ends_before_it_has_asked_for_anything_costs_nothing() {
    let gate = SlowGate::of("slow");
    let settings = Settings {
        connections_start: 1,
        connections_max: 1,
        ..quick()
    };
    let bench = Bench::with(settings, Arc::new(gate.clone()), 16);
    let source = Arc::new(FakeSource::new(&[("granted", 2 * MIB)]));
    let job_of = |payer: &str, source: &Arc<FakeSource>| Job {
        payer: payer.to_owned(),
        ..job(source)
    };
    let waiting = job_of("slow", &source);
    let cancel = waiting.cancel.clone();
    let fetcher = Arc::clone(&bench.fetcher);
    let mut waits = JoinSet::new();
    waits.spawn(async move { fetcher.fetch(waiting).await });
    // Before anybody has the connection: who comes later asks for that first.
    while gate.asked() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The only connection, until it has its turn.
    let turns = |_: u64, _: &str, _: &Range<u64>| Some(Fault::Turn);
    let holder = Arc::new(FakeSource::failing(&[("held", 2 * MIB)], turns));
    let holding = job_of("other", &holder);
    let fetcher = Arc::clone(&bench.fetcher);
    let mut holds = JoinSet::new();
    holds.spawn(async move { fetcher.fetch(holding).await });
    while holder.opens() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    gate.open();
    while gate.budget.open() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    cancel.cancel();
    let waited = waits.join_next().await.unwrap().unwrap();
    assert!(matches!(waited, Err(Error::Cancelled)));
    holder.turns.add_permits(100);
    let held = holds.join_next().await.unwrap().unwrap();
    bench.check(&holder, &held.unwrap());
    assert_eq!((source.opens(), gate.budget.charged()), (0, holder.total()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_carries_the_next_request_while_the_last_parts_are_written() {
    let settings = Settings {
        connections_start: 1,
        connections_max: 1,
        run_parts: 1,
        // Two seconds for each part but the first.
        write_rate: Some(MIB as u64 / 2),
        ..quick()
    };
    let bench = Bench::new(settings);
    let source = Arc::new(FakeSource::new(&[("slowly", 4 * MIB)]));
    let job = job(&source);
    let (cancel, progress) = (job.cancel.clone(), Arc::clone(&job.progress));
    let fetcher = Arc::clone(&bench.fetcher);
    let mut running = JoinSet::new();
    running.spawn(async move { fetcher.fetch(job).await });
    while source.opens() < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let written = progress.snapshot().done;
    assert!(
        written < 2 * MIB as u64,
        "the connection waited for the disk"
    );
    cancel.cancel();
    let ended = running.join_next().await.unwrap().unwrap();
    assert!(matches!(ended, Err(Error::Cancelled)));
}

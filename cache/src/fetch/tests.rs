//! Whole jobs against a scripted source and a real store.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::SystemClock;
use crate::gate::OpenGate;
use crate::store::{Config, Env};

mod fake;
mod gates;
mod waiting;

use fake::{FakeSource, Fault, content};
use gates::BudgetGate;

const MIB: usize = 1 << 20;

/// Waits are short: only order matters.
fn quick() -> Settings {
    Settings {
        run_parts: 2,
        backoff_first: Duration::from_millis(1),
        backoff_max: Duration::from_millis(4),
        decide_every: Duration::from_millis(5),
        stall_after: Duration::from_secs(20),
        hedge_permille: 0,
        ..Settings::default()
    }
}

struct Bench {
    _directory: TempDir,
    store: Arc<Store>,
    pool: Pool,
    fetcher: Arc<Fetcher>,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        Self::with(settings, OpenGate::shared(), 16)
    }

    fn with(settings: Settings, gate: Arc<dyn Gate>, buffers: usize) -> Self {
        Self::timed(Arc::new(SystemClock::new()), settings, gate, buffers)
    }

    fn timed(
        clock: Arc<dyn Clock>,
        settings: Settings,
        gate: Arc<dyn Gate>,
        buffers: usize,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let env = Env {
            clock: Arc::clone(&clock),
            ..Env::real()
        };
        let store = Store::open(Config::new(directory.path()), env).unwrap();
        let pool = Pool::new(buffers);
        let fetcher = Fetcher::new(Arc::clone(&store), gate, pool.clone(), clock, settings);
        Self {
            _directory: directory,
            store,
            pool,
            fetcher,
        }
    }

    async fn fetch(&self, source: &Arc<FakeSource>) -> Result<Outcome, Error> {
        let result = self.fetcher.fetch(job(source)).await;
        assert_eq!(self.pool.in_use(), 0, "a buffer leaks");
        result
    }

    /// Fetches and compares the stored bytes with the generator's.
    async fn fetch_all(&self, source: &Arc<FakeSource>) -> Outcome {
        let outcome = self.fetch(source).await.unwrap();
        self.check(source, &outcome);
        outcome
    }

    fn check(&self, source: &FakeSource, outcome: &Outcome) {
        let entries = source.entries();
        assert_eq!(outcome.digests.len(), entries.len());
        let out = tempfile::tempdir_in(self.store.root()).unwrap();
        for (number, (entry, digest)) in entries.iter().zip(&outcome.digests).enumerate() {
            assert_eq!(*digest, source.digest(&entry.key), "{}", entry.key);
            let to = out.path().join(number.to_string());
            self.store.link(digest, entry.size, &to).unwrap();
            assert!(
                std::fs::read(&to).unwrap() == source.bytes(&entry.key),
                "{}",
                entry.key
            );
        }
    }
}

fn job(source: &Arc<FakeSource>) -> Job {
    Job {
        source: Arc::clone(source) as Arc<dyn Source>,
        payer: "team-a".to_owned(),
        load: "load".to_owned(),
        entries: Arc::new(source.entries()),
        expected: None,
        page_cache: PageCache::Direct,
        progress: Arc::new(Progress::default()),
        cancel: CancellationToken::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_is_asked_for_exactly_once() {
    let sizes = [
        ("a/empty", 0),
        ("a/one", 1),
        ("b/almost", MIB - 1),
        ("b/part", MIB),
        ("b/more", MIB + 1),
        ("c/several", 5 * MIB + 77),
        ("d/many", 21 * MIB),
        ("empty", 0),
    ];
    let source = Arc::new(FakeSource::new(&sizes));
    let bench = Bench::new(quick());
    let job = job(&source);
    let progress = Arc::clone(&job.progress);
    let outcome = bench.fetcher.fetch(job).await.unwrap();
    bench.check(&source, &outcome);
    for (key, size) in sizes {
        let once = u32::from(size > 0);
        assert_eq!(source.asked_times(key), (once, once), "{key}");
    }
    assert_eq!(
        outcome.origins,
        Origins {
            source: source.total(),
            ..Origins::default()
        }
    );
    assert_eq!(source.sent(), source.total());
    let seen = progress.snapshot();
    assert_eq!((seen.done, seen.files_done), (source.total(), 8));
    assert!(outcome.connections >= 2);
    assert_eq!(outcome.page_cache, "direct: as asked");
    assert_eq!(bench.pool.in_use(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_wait_for_their_turn_are_all_written() {
    let source = Arc::new(FakeSource::new(&[
        ("large", 12 * MIB + 9),
        ("small", 70_000),
    ]));
    let settings = Settings {
        write_rate: Some(64 * MIB as u64),
        ..quick()
    };
    let bench = Bench::new(settings);
    let outcome = bench.fetch_all(&source).await;
    assert_eq!(outcome.origins.source, source.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_request_fails_only_missing_parts_are_asked_again() {
    let sizes = [("large", 5 * MIB + 9), ("small", 70_000), ("two", MIB + 1)];
    let faults = [
        Fault::Unavailable,
        Fault::Throttled,
        Fault::Protocol,
        Fault::Cut(0),
        Fault::Cut(MIB / 2),
        Fault::Cut(MIB + 5),
        Fault::Short(MIB + 5),
        Fault::Short(0),
        Fault::Extra,
    ];
    // Runs of two parts: three of `large`, one of `two`, one of `small`.
    let bench = Bench::new(quick());
    for fault in faults {
        for k in 0..5 {
            let source = Arc::new(FakeSource::failing(&sizes, move |n, _, _| {
                (n == k).then_some(fault)
            }));
            let outcome = bench.fetch_all(&source).await;
            assert_eq!(outcome.origins.source, source.total(), "{fault:?} {k}");
            let sent = outcome.origins.source + outcome.origins.retry;
            // The extra byte of a body that is too long is not content.
            assert!((source.sent() - sent) <= 1, "{fault:?} {k}");
            assert!(outcome.origins.retry < MIB as u64 + 1, "{fault:?} {k}");
            assert!(source.opens() <= 6, "{fault:?} {k}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_most_of_the_time_is_read_to_the_end() {
    let source = Arc::new(FakeSource::failing(
        &[("large", 9 * MIB), ("small", 500), ("tiny", 1)],
        |n, _, _| match n % 5 {
            0 => None,
            1 => Some(Fault::Throttled),
            2 => Some(Fault::Unavailable),
            3 => Some(Fault::Cut(300)),
            _ => Some(Fault::Short(MIB / 3)),
        },
    ));
    let outcome = Bench::new(quick()).fetch_all(&source).await;
    assert_eq!(outcome.origins.source, source.total());
    assert_eq!(
        outcome.origins.source + outcome.origins.retry,
        source.sent()
    );
}

#[tokio::test(start_paused = true)]
async fn a_total_outage_is_given_up_after_a_minute() {
    let source = Arc::new(FakeSource::failing(
        &[("a", 9), ("b", 5), ("c", MIB), ("d", 7), ("e", 1), ("f", 8)],
        |_, _, _| Some(Fault::Unavailable),
    ));
    let bench = Bench::new(Settings::default());
    let start = tokio::time::Instant::now();
    let error = bench.fetch(&source).await.unwrap_err();
    assert!(
        matches!(error, Error::GaveUp { attempts: 10.., .. }),
        "{error}"
    );
    assert_eq!(error.kind(), Kind::Transient);
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_mins(1) && waited < Duration::from_secs(66),
        "{waited:?}"
    );
    // Back-off: a store that is down is not flooded.
    assert!(source.opens() < 80, "{}", source.opens());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_in_a_readable_error() {
    let source = Arc::new(FakeSource::failing(&[("small", 5)], |_, _, _| {
        Some(Fault::Silent)
    }));
    let error = Bench::new(Settings::default())
        .fetch(&source)
        .await
        .unwrap_err();
    assert_eq!(
        crate::error::chain(&error),
        "gave up after 1 failed requests without progress: \"small\": no byte came for 60 s"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stalls_is_asked_again_from_the_last_part() {
    let source = Arc::new(FakeSource::failing(&[("large", 2 * MIB)], |n, _, _| {
        (n == 0).then_some(Fault::Stall(MIB + 17))
    }));
    let settings = Settings {
        stall_after: Duration::from_millis(30),
        ..quick()
    };
    let outcome = Bench::new(settings).fetch_all(&source).await;
    assert_eq!(outcome.origins.retry, 17);
    let asked = source.asked.lock().unwrap().clone();
    assert_eq!(asked[1].1, MIB as u64..2 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_object_ends_the_job() {
    for fault in [Fault::Changed, Fault::Missing] {
        for k in 0..4 {
            let source = Arc::new(FakeSource::failing(
                &[("large", 7 * MIB)],
                move |n, _, _| (n == k).then_some(fault),
            ));
            let bench = Bench::new(quick());
            let error = bench.fetch(&source).await.unwrap_err();
            assert!(
                matches!(&error, Error::Changed { key, .. } if key == "\"large\""),
                "{error}"
            );
            assert!(
                !bench
                    .store
                    .find(source.digest("large"), 7 * MIB as u64)
                    .await
                    .unwrap()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_refusal_among_a_thousand_ends_the_job() {
    let names: Vec<String> = (0..1000).map(|n| format!("f{n:04}")).collect();
    let sizes: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 100)).collect();
    let source = Arc::new(FakeSource::failing(&sizes, |_, key, _| {
        (key == "f0500").then_some(Fault::Denied)
    }));
    let error = Bench::new(quick()).fetch(&source).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    let opens = source.opens();
    tokio::task::yield_now().await;
    assert_eq!(source.opens(), opens);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_differs_from_its_digest_is_not_named() {
    for (key, size) in [("large", 3 * MIB), ("small", 300)] {
        let source = Arc::new(FakeSource::failing(&[(key, size)], |_, _, range| {
            (range.start == 0).then_some(Fault::Flip)
        }));
        let bench = Bench::new(quick());
        let mut job = job(&source);
        let path = RelPath::parse(key).unwrap();
        job.expected = Some(HashMap::from([(path, source.digest(key))]));
        let error = bench.fetcher.fetch(job).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        let mut wrong = content(key, size).to_vec();
        wrong[0] ^= 1;
        let wrong = Digest::of(&wrong);
        assert!(
            matches!(&error, Error::Mismatch { found, .. } if *found == wrong),
            "{error}"
        );
        assert!(!bench.store.find(wrong, size as u64).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_is_resumed_where_it_was() {
    let source = Arc::new(FakeSource::failing(&[("large", 20 * MIB)], |n, _, _| {
        (n >= 4).then_some(Fault::Turn)
    }));
    let bench = Bench::new(Settings {
        connections_max: 2,
        ..quick()
    });
    let first = job(&source);
    let (cancel, progress) = (first.cancel.clone(), Arc::clone(&first.progress));
    let (result, ()) = tokio::join!(bench.fetcher.fetch(first), async {
        while progress.snapshot().done < 8 * MIB as u64 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    });
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(bench.pool.in_use(), 0);
    source.turns.add_permits(1000);
    let second = job(&source);
    let progress = Arc::clone(&second.progress);
    let outcome = bench.fetcher.fetch(second).await.unwrap();
    bench.check(&source, &outcome);
    assert_eq!(outcome.origins.resumed, 8 * MIB as u64);
    assert_eq!(outcome.origins.source, 12 * MIB as u64);
    assert_eq!(progress.snapshot().done, 20 * MIB as u64);
    assert_eq!(source.sent(), 20 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_job_leaves_no_request_and_no_buffer() {
    let source = Arc::new(FakeSource::failing(&[("large", 20 * MIB)], |_, _, _| {
        Some(Fault::Stall(9))
    }));
    let bench = Bench::new(quick());
    let fetch = bench.fetcher.fetch(job(&source));
    tokio::select! {
        _ = fetch => panic!("the job cannot end"),
        () = async { while source.opens() < 4 { tokio::task::yield_now().await } } => {}
    }
    while bench.pool.in_use() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_small_files_arrive_through_two_buffers() {
    let names: Vec<String> = (0..10_000)
        .map(|n| format!("d{}/f{}", n / 100, n % 100))
        .collect();
    let sizes: Vec<(&str, usize)> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (name.as_str(), n % 100))
        .collect();
    let source = Arc::new(FakeSource::new(&sizes));
    let bench = Bench::with(quick(), OpenGate::shared(), 2);
    let outcome = bench.fetch(&source).await.unwrap();
    for (entry, digest) in source.entries().iter().zip(&outcome.digests) {
        assert_eq!(*digest, source.digest(&entry.key));
    }
    assert_eq!(source.opens(), 9_900);
    assert_eq!(outcome.origins.source, source.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_and_small_files_share_two_buffers() {
    let sizes = [
        ("a", 9 * MIB + 1),
        ("b", 10),
        ("c", MIB),
        ("d", 12 * MIB),
        ("e", 2 * MIB),
    ];
    let source = Arc::new(FakeSource::new(&sizes));
    let bench = Bench::with(quick(), OpenGate::shared(), 2);
    bench.fetch_all(&source).await;
    assert_eq!(source.sent(), source.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_content_under_two_keys_is_fetched_twice_and_stored_once() {
    let mut source = FakeSource::new(&[("a", 3 * MIB), ("b", 3 * MIB)]);
    source.equate("a", "b");
    let source = Arc::new(source);
    let outcome = Bench::new(quick()).fetch_all(&source).await;
    assert_eq!(outcome.origins.source, 6 * MIB as u64);
    assert_eq!(outcome.origins.dedup, 3 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_jobs_for_one_object_fetch_it_once() {
    let source = Arc::new(FakeSource::new(&[("large", 12 * MIB)]));
    let bench = Bench::new(quick());
    let (first, second) = tokio::join!(
        bench.fetcher.fetch(job(&source)),
        bench.fetcher.fetch(job(&source))
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    bench.check(&source, &first);
    bench.check(&source, &second);
    assert_eq!(source.sent(), source.total());
    assert_eq!(
        first.origins.unchanged + second.origins.unchanged,
        source.total()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_ends_stops_the_job_and_nothing_is_fetched_twice() {
    let source = Arc::new(FakeSource::new(&[("large", 12 * MIB), ("small", 1000)]));
    let gate = BudgetGate::new(5 * MIB as u64);
    let bench = Bench::with(quick(), Arc::new(gate.clone()), 16);
    let error = bench.fetch(&source).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted);
    assert_eq!(error.to_string(), "the byte budget of team-a is used up");
    assert!(source.sent() >= 4 * MIB as u64 && source.sent() <= 5 * MIB as u64);
    gate.raise(100 * MIB as u64);
    let outcome = bench.fetch_all(&source).await;
    assert!(outcome.origins.resumed >= 4 * MIB as u64);
    // The small file has no partial; it may have come before the budget ended, and once more after.
    assert!(source.sent() - source.total() <= 1000);
    assert_eq!(gate.charged(), source.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_runs_are_charged_in_full_and_unanswered_ones_not_at_all() {
    let gate = BudgetGate::new(u64::MAX);
    let bench = Bench::with(quick(), Arc::new(gate.clone()), 16);
    let source = Arc::new(FakeSource::failing(
        &[("large", 2 * MIB)],
        |n, _, _| match n {
            0 => Some(Fault::Unavailable),
            1 => Some(Fault::Throttled),
            2 => Some(Fault::Cut(MIB + 3)),
            _ => None,
        },
    ));
    bench.fetch_all(&source).await;
    assert_eq!(gate.charged(), 3 * MIB as u64);
    assert!(gate.charged() >= source.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_volumes_pass_a_huge_one() {
    let huge = Arc::new(FakeSource::failing(&[("huge", 64 * MIB)], |_, _, _| {
        Some(Fault::Turn)
    }));
    let bench = Bench::new(Settings {
        connections_max: 4,
        run_parts: 1,
        ..quick()
    });
    let smalls: Vec<Arc<FakeSource>> = (0..5)
        .map(|n| Arc::new(FakeSource::new(&[(["v", "w", "x", "y", "z"][n], 1000 + n)])))
        .collect();
    let cancel = CancellationToken::new();
    let huge_job = Job {
        cancel: cancel.clone(),
        ..job(&huge)
    };
    let others = async {
        while huge.opens() < 4 {
            tokio::task::yield_now().await;
        }
        // All connections wait for the huge volume's store. One answer frees one connection: the five small
        // volumes use it one after the other, the huge one waits.
        let jobs = smalls.iter().map(|source| {
            bench.fetcher.fetch(Job {
                payer: "team-b".to_owned(),
                ..job(source)
            })
        });
        let (results, ()) = tokio::join!(futures::future::join_all(jobs), async {
            tokio::task::yield_now().await;
            huge.turns.add_permits(1);
        });
        cancel.cancel();
        results
    };
    let (result, results) = tokio::join!(bench.fetcher.fetch(huge_job), others);
    assert!(matches!(result, Err(Error::Cancelled)));
    for (source, outcome) in smalls.iter().zip(results) {
        bench.check(source, &outcome.unwrap());
    }
    assert!(huge.opens() <= 6, "{}", huge.opens());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_far_slower_than_the_others_gets_a_second_request() {
    // The ninth run never answers; its second request does. Two of 128 MiB are within two in a hundred.
    let first = std::sync::atomic::AtomicBool::new(true);
    let source = Arc::new(FakeSource::failing(
        &[("large", 128 * MIB)],
        move |_, _, range| {
            (range.start == 16 * MIB as u64 && first.swap(false, Ordering::SeqCst))
                .then_some(Fault::Stall(MIB + 11))
        },
    ));
    let gate = BudgetGate::new(u64::MAX);
    let settings = Settings {
        hedge_permille: 20,
        hedge_after: Duration::from_millis(50),
        ..quick()
    };
    let bench = Bench::with(settings, Arc::new(gate.clone()), 16);
    let outcome = bench.fetch_all(&source).await;
    assert_eq!(gate.hedged(), MIB as u64);
    assert_eq!(outcome.origins.hedge, 11);
    assert_eq!(outcome.origins.source, source.total());
    assert_eq!(outcome.origins.retry, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_run_that_is_late_gets_a_second_request_without_the_usual_age() {
    // Whoever asks for the last part first never gets it.
    let first = std::sync::atomic::AtomicBool::new(true);
    let source = Arc::new(FakeSource::failing(
        &[("large", 128 * MIB)],
        move |_, _, range| {
            (range.end == 128 * MIB as u64 && first.swap(false, Ordering::SeqCst))
                .then_some(Fault::Stall(0))
        },
    ));
    let settings = Settings {
        hedge_permille: 20,
        hedge_after: Duration::from_hours(1),
        hedge_last_after: Duration::from_millis(20),
        decide_every: Duration::from_mins(1),
        ..quick()
    };
    let gate = BudgetGate::new(u64::MAX);
    let bench = Bench::with(settings, Arc::new(gate.clone()), 16);
    let outcome = bench.fetch_all(&source).await;
    assert!(gate.hedged() > 0);
    assert_eq!(outcome.origins.source, source.total());
    assert_eq!(outcome.origins.retry, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_hedge_harms_nothing() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let source = Arc::new(FakeSource::failing(
        &[("large", 128 * MIB)],
        move |_, _, range| {
            (range.start == 16 * MIB as u64 && first.swap(false, Ordering::SeqCst))
                .then_some(Fault::Stall(0))
        },
    ));
    let gate = BudgetGate::new(u64::MAX);
    gate.refuse_hedges();
    let settings = Settings {
        hedge_permille: 20,
        hedge_after: Duration::from_millis(20),
        stall_after: Duration::from_millis(300),
        ..quick()
    };
    let bench = Bench::with(settings, Arc::new(gate.clone()), 16);
    let outcome = bench.fetch_all(&source).await;
    assert_eq!(gate.hedged(), 0);
    assert_eq!(outcome.origins.source, source.total());
}

/// A clock on which every look costs 20 ms.
#[derive(Debug, Default)]
struct SlowClock(AtomicU64);

impl Clock for SlowClock {
    fn now(&self) -> std::time::SystemTime {
        std::time::SystemTime::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(20 * self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn thread_cpu(&self) -> Duration {
        self.monotonic()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_memory_is_left_alone_from_the_middle_of_a_file_on() {
    for (page_cache, clock, words) in [
        (
            PageCache::Auto,
            Arc::new(SlowClock::default()) as Arc<dyn Clock>,
            "direct: memory turned out slow",
        ),
        (
            PageCache::Warm,
            Arc::new(SlowClock::default()),
            "warm: as asked",
        ),
        (
            PageCache::Direct,
            Arc::new(SystemClock::new()),
            "direct: as asked",
        ),
    ] {
        let source = Arc::new(FakeSource::new(&[
            ("large", 40 * MIB + 5),
            ("next", 3 * MIB),
        ]));
        let bench = Bench::timed(clock, quick(), OpenGate::shared(), 16);
        let outcome = bench
            .fetcher
            .fetch(Job {
                page_cache,
                ..job(&source)
            })
            .await
            .unwrap();
        bench.check(&source, &outcome);
        assert_eq!(outcome.page_cache, words);
    }
}

//! Waiters and tasks, with a clock that is moved by hand and tasks that end when told.

use super::*;
use std::time::SystemTime;
use tokio::sync::oneshot;
use tonnage_cache::clock::ManualClock;
use tonnage_cache::report::{Phase, Snapshot};

type Tasks = Registry<&'static str, &'static str>;

fn registry() -> (Tasks, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
    let seam: Arc<ManualClock> = Arc::clone(&clock);
    (Registry::new(seam), clock)
}

fn id(volume: &str, target: &str) -> WaiterId {
    WaiterId {
        volume: VolumeId::parse(volume).unwrap(),
        target: target.into(),
    }
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// A task that ends when the sender speaks, or when it is stopped.
fn told(
    end: oneshot::Receiver<Result<&'static str, &'static str>>,
) -> impl FnOnce(Work) -> BoxFuture<'static, Result<&'static str, &'static str>> {
    move |work| {
        Box::pin(async move {
            tokio::select! {
                result = end => result.unwrap_or(Err("dropped")),
                () = work.cancel.cancelled() => Err("stopped"),
            }
        })
    }
}

fn never(_: Work) -> BoxFuture<'static, Result<&'static str, &'static str>> {
    panic!("a running task is begun again")
}

fn join(
    tasks: &Tasks,
    who: &WaiterId,
    key: &str,
    begin: impl FnOnce(Work) -> BoxFuture<'static, Result<&'static str, &'static str>>,
) -> Call<&'static str, &'static str> {
    tasks
        .join(
            who.clone(),
            (digest("identity"), digest(key)),
            |error| *error == "transient",
            begin,
        )
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_the_task_running_and_the_next_call_finds_it() {
    let (tasks, _) = registry();
    let (end, ended) = oneshot::channel();
    let call = join(&tasks, &id("v", "t"), "k", told(ended));
    assert!(matches!(
        call.wait(Duration::from_secs(1)).await,
        Waited::Working(_)
    ));
    drop(call);
    assert_eq!(tasks.counts(), (1, 1));
    let call = join(&tasks, &id("v", "t"), "k", never);
    end.send(Ok("view")).unwrap();
    assert!(
        matches!(call.wait(Duration::from_secs(1)).await, Waited::Done(view) if *view == "view")
    );
    assert!(call.began() && call.is_wanted());
    call.finish();
    assert_eq!(tasks.counts(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_call_keeps_goes_with_the_waiter_and_not_with_the_call() {
    let (tasks, clock) = registry();
    let (_end, ended) = oneshot::channel();
    let kept = Arc::new(());
    let call = join(&tasks, &id("v", "t"), "k", told(ended));
    assert!(call.is_first());
    call.keep(Arc::clone(&kept));
    drop(call);
    assert_eq!(Arc::strong_count(&kept), 2);
    clock.advance(Duration::from_secs(1));
    let call = join(&tasks, &id("v", "t"), "k", never);
    assert!(!call.is_first());
    call.keep(Arc::clone(&kept));
    assert_eq!(Arc::strong_count(&kept), 2, "in place of the first");
    drop(call);
    clock.advance(SILENCE);
    tasks.sweep();
    assert_eq!(Arc::strong_count(&kept), 1);
}

#[tokio::test(start_paused = true)]
async fn a_result_waits_for_a_waiter_that_was_told_to_come_back() {
    let (tasks, _) = registry();
    let (end, ended) = oneshot::channel();
    drop(join(&tasks, &id("v", "t"), "k", told(ended)));
    end.send(Ok("view")).unwrap();
    while tasks.counts().1 > 0 {
        tokio::task::yield_now().await;
    }
    let call = join(&tasks, &id("v", "t"), "k", never);
    assert!(matches!(call.wait(Duration::ZERO).await, Waited::Done(_)));
}

#[tokio::test(start_paused = true)]
async fn another_waiter_joins_a_running_task_but_not_an_ended_one() {
    let (tasks, _) = registry();
    let (end, ended) = oneshot::channel();
    let first = join(&tasks, &id("a", "t1"), "k", told(ended));
    let second = join(&tasks, &id("b", "t2"), "k", never);
    assert!(first.began() && !second.began());
    end.send(Ok("old")).unwrap();
    assert!(
        matches!(second.wait(Duration::from_secs(1)).await, Waited::Done(view) if *view == "old")
    );
    let (end, ended) = oneshot::channel();
    let third = join(&tasks, &id("c", "t3"), "k", told(ended));
    end.send(Ok("new")).unwrap();
    assert!(
        matches!(third.wait(Duration::from_secs(1)).await, Waited::Done(view) if *view == "new")
    );
}

#[tokio::test(start_paused = true)]
async fn the_task_is_stopped_and_joined_when_its_last_waiter_leaves() {
    let (tasks, _) = registry();
    let (_end, ended) = oneshot::channel();
    let first = join(&tasks, &id("a", "t1"), "k", told(ended));
    let second = join(&tasks, &id("b", "t2"), "k", never);
    tasks.leave(&id("a", "t1")).await;
    assert!(!first.is_wanted() && second.is_wanted());
    assert!(matches!(
        second.wait(Duration::from_secs(1)).await,
        Waited::Working(_)
    ));
    tasks.leave(&id("b", "t2")).await;
    assert!(
        matches!(second.wait(Duration::from_secs(1)).await, Waited::Failed(error) if *error == "stopped")
    );
    assert_eq!(tasks.counts(), (0, 0));
    tasks.leave(&id("b", "t2")).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_joins_a_task_that_is_being_stopped() {
    let (tasks, _) = registry();
    let (release, released) = oneshot::channel::<()>();
    let stubborn = |work: Work| -> BoxFuture<'static, _> {
        Box::pin(async move {
            work.cancel.cancelled().await;
            released.await.unwrap();
            Err("stopped")
        })
    };
    drop(join(&tasks, &id("a", "t"), "k", stubborn));
    let leaving = tokio::time::timeout(Duration::from_secs(1), tasks.leave(&id("a", "t"))).await;
    assert!(leaving.is_err(), "leave returned before the task had ended");
    let (end, ended) = oneshot::channel();
    let call = join(&tasks, &id("a", "t"), "k", told(ended));
    release.send(()).unwrap();
    end.send(Ok("new")).unwrap();
    assert!(
        matches!(call.wait(Duration::from_secs(1)).await, Waited::Done(view) if *view == "new")
    );
}

#[tokio::test(start_paused = true)]
async fn five_silent_minutes_end_a_waiter_and_a_waiting_call_never_does() {
    let (tasks, clock) = registry();
    let (_end, ended) = oneshot::channel();
    let call = join(&tasks, &id("v", "t"), "k", told(ended));
    clock.advance(SILENCE * 2);
    tasks.sweep();
    assert_eq!(tasks.counts().0, 1);
    drop(call);
    clock.advance(SILENCE.saturating_sub(Duration::from_secs(1)));
    tasks.sweep();
    assert_eq!(tasks.counts().0, 1);
    clock.advance(Duration::from_secs(1));
    tasks.sweep();
    assert_eq!(tasks.counts(), (0, 0));
    tasks.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_final_error_is_told_once_and_a_passing_one_is_tried_again() {
    let (tasks, _) = registry();
    for (error, told_again) in [("final", true), ("transient", false)] {
        let (end, ended) = oneshot::channel();
        let call = join(&tasks, &id("v", "t"), "k", told(ended));
        drop(call);
        end.send(Err(error)).unwrap();
        while tasks.counts().1 > 0 {
            tokio::task::yield_now().await;
        }
        let (end, ended) = oneshot::channel();
        end.send(Ok("view")).unwrap();
        let call = join(&tasks, &id("v", "t"), "k", told(ended));
        let failed = matches!(call.wait(Duration::from_secs(1)).await, Waited::Failed(_));
        assert_eq!(failed, told_again, "{error}");
        call.finish();
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_dies_is_noticed_and_can_be_begun_again() {
    let (tasks, _) = registry();
    let call = join(&tasks, &id("v", "t"), "k", |_| {
        Box::pin(async { panic!("a bug") })
    });
    assert!(matches!(
        call.wait(Duration::from_secs(1)).await,
        Waited::Died
    ));
    drop(call);
    let (end, ended) = oneshot::channel();
    end.send(Ok("view")).unwrap();
    let call = join(&tasks, &id("v", "t"), "k", told(ended));
    assert!(matches!(
        call.wait(Duration::from_secs(1)).await,
        Waited::Done(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn another_identity_at_a_target_with_a_waiting_call_is_busy() {
    let (tasks, _) = registry();
    let (_end, ended) = oneshot::channel();
    let _call = join(&tasks, &id("v", "t"), "k", told(ended));
    let other = tasks.join(
        id("v", "t"),
        (digest("other"), digest("k2")),
        |_| true,
        never,
    );
    assert_eq!(other.unwrap_err(), Busy);
}

#[test]
fn progress_is_one_sentence() {
    let rate = |phase, total, done, speed| {
        Rate {
            snapshot: Snapshot {
                total,
                done,
                phase,
                ..Snapshot::default()
            },
            bytes_per_second: speed,
        }
        .to_string()
    };
    assert_eq!(rate(Some(Phase::Resolve), 0, 0, 0.0), "listing the source");
    let gib = 1u64 << 30;
    assert_eq!(
        rate(Some(Phase::Transfer), 421 * gib / 10, 182 * gib / 10, 1.4e9),
        "staging 43 % (18.2 of 42.1 GiB), 1.4 GB/s"
    );
    assert_eq!(
        rate(Some(Phase::FirstByte), 10 << 20, 0, 0.0),
        "staging 0 % (0.0 of 10.0 MiB), 0.0 MB/s"
    );
}

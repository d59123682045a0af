//! When keys are fetched, and how long they are used.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::join_all;
use tonnage_cache::source::read_to_end;

use super::aws::{given, role, role_at};
use super::slow::Slow;
use super::*;
use crate::responder::{After, file};

const BYTES: &[u8] = b"0123456789";

/// A time as STS writes it, so many minutes after the world's beginning.
pub(super) fn minutes(minutes: u64) -> String {
    format!("2026-01-01T{:02}:{:02}:00Z", minutes / 60, minutes % 60)
}

/// A store, and an STS whose n-th keys have the number n and end after 15 n minutes.
async fn cloud() -> Responder {
    let count = AtomicU64::new(0);
    Responder::start(move |head| match head.method.as_str() {
        "POST" => {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            ok(&given(number, &minutes(15 * number)))
        }
        _ if head.target.contains("list-type=2") => ok(LISTING),
        _ => file(head, BYTES, "\"e\""),
    })
    .await
}

/// Numbers of the keys that the requests to the store were signed with.
fn signers(server: &Responder) -> Vec<String> {
    let signed = |head: &Head| {
        let (_, rest) = head.fields.get("authorization")?.split_once("AKIA")?;
        rest.split('/').next().map(str::to_owned)
    };
    server.heads().iter().filter_map(signed).collect()
}

/// Tokens that STS was shown.
fn shown(server: &Responder) -> Vec<String> {
    let (_, service) = parted(server);
    let posted = service.iter().filter(|head| head.method == "POST");
    posted
        .map(|head| head.body.rsplit('=').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn keys_are_renewed_under_a_running_fetch_at_four_fifths_of_their_life_with_the_newest_token()
{
    let server = cloud().await;
    let world = World::new(&server, "s3://bucket", role(&server));
    let entry = world.list().await.unwrap().entries.remove(0);
    let first = world.source.open(&entry, 0..5).await.unwrap();
    // Four fifths of 15 minutes are 720 seconds, give or take a tenth.
    world.advance(647);
    world.offer("canary-newer", 7200);
    let second = world.source.open(&entry, 5..10).await.unwrap();
    assert_eq!(shown(&server), ["canary-token"]);
    world.advance(145);
    let third = world.source.open(&entry, 0..10).await.unwrap();
    list_until(&world, || signers(&server).last().unwrap() == "2").await;
    assert_eq!(shown(&server), ["canary-token", "canary-newer"]);
    assert_eq!(signers(&server)[..4], ["1"; 4]);
    // What was opened before is read to its end.
    assert_eq!(read_to_end(first).await.unwrap(), b"01234");
    assert_eq!(read_to_end(second).await.unwrap(), b"56789");
    assert_eq!(read_to_end(third).await.unwrap(), BYTES);
}

#[tokio::test]
async fn all_who_ask_at_once_wait_for_one_exchange() {
    let server = cloud().await;
    let world = World::new(&server, "s3://bucket", role(&server));
    for listed in join_all((0..20).map(|_| world.list())).await {
        listed.unwrap();
    }
    assert_eq!(shown(&server), ["canary-token"]);
}

#[tokio::test]
async fn without_a_token_that_is_valid_nothing_is_asked_and_a_newer_one_goes_on_at_once() {
    let server = cloud().await;
    let world = World::new(&server, "s3://bucket", role(&server));
    world.list().await.unwrap();
    world.advance(3631);
    let sentence = format!(
        "no temporary keys from {}: the pod's token has expired and no newer one has come; kubelet brings one when it mounts a volume for a pod of this service account",
        host(&server)
    );
    assert_eq!(world.refused().await, (Kind::Unauthenticated, sentence));
    assert_eq!(shown(&server), ["canary-token"]);
    world.offer("canary-newer", 7200);
    // By then STS counts from its second answer: its keys end after 30 minutes, which is over.
    assert_eq!(world.refused().await.0, Kind::Transient);
    assert_eq!(shown(&server), ["canary-token", "canary-newer"]);
}

#[tokio::test]
async fn while_keys_are_good_a_service_that_fails_is_not_noticed_and_tried_again_after_a_while() {
    let moods = Arc::new(Mutex::new(true));
    let mood = Arc::clone(&moods);
    let server = Responder::start(move |head| match head.method.as_str() {
        "POST" if *mood.lock().unwrap() => ok(&given(1, &minutes(15))),
        "POST" => answer("500 Internal Server Error", ""),
        _ => ok(LISTING),
    })
    .await;
    let world = World::new(&server, "s3://bucket", role(&server));
    world.list().await.unwrap();
    *moods.lock().unwrap() = false;
    world.advance(792);
    for questions in [2, 3, 4] {
        list_until(&world, || shown(&server).len() == questions).await;
        // The answer is taken in meanwhile.
        world.list().await.unwrap();
        world.advance(9);
        world.list().await.unwrap();
        assert_eq!(shown(&server).len(), questions);
        world.advance(1);
    }
    world.advance(78);
    let sentence = format!(
        "no temporary keys from {}: it fails (status 500)",
        host(&server)
    );
    assert_eq!(world.refused().await, (Kind::Transient, sentence));
}

#[tokio::test]
async fn keys_that_age_are_used_while_the_service_is_silent() {
    let (server, sts) = (cloud().await, Slow::start().await);
    let world = World::new(&server, "s3://bucket", role_at(sts.base()));
    sts.answer(1);
    world.list().await.unwrap();
    world.advance(792);
    // The service has not answered.
    let patience = Duration::from_secs(5);
    let listed = tokio::time::timeout(patience, world.list()).await;
    listed.unwrap().unwrap();
    sts.until_asked(2).await;
    assert_eq!(signers(&server), ["1", "1"]);
    sts.answer(2);
    list_until(&world, || signers(&server).last().unwrap() == "2").await;
    assert_eq!(sts.asked(), 2);
}

#[tokio::test]
async fn an_exchange_that_takes_longer_than_who_asked_waits_gives_keys_to_the_next() {
    let (server, sts) = (cloud().await, Slow::start().await);
    let world = World::new(&server, "s3://bucket", role_at(sts.base()));
    tokio::select! {
        () = sts.until_asked(1) => {}
        _ = world.list() => panic!("keys came from nowhere"),
    }
    sts.answer(1);
    world.list().await.unwrap();
    assert_eq!((sts.asked(), signers(&server)), (1, vec!["1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_answer_in_time_is_a_failure_for_all_who_ask_within_a_second() {
    let silent = |_: &Head| Answer {
        bytes: Vec::new(),
        after: After::Hang,
    };
    let server = Responder::start(silent).await;
    let world = World::new(&server, "s3://bucket", role(&server));
    let began = tokio::time::Instant::now();
    let admission = Duration::from_secs(4);
    let cut = tokio::time::timeout(admission, world.list()).await;
    assert!(cut.is_err());
    for _ in 0..3 {
        assert_eq!(world.refused().await.0, Kind::Transient);
    }
    // All of them were told of the one exchange, which ends after ten.
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(11), "{waited:?}");
}

#[tokio::test]
async fn a_failure_is_told_to_all_who_ask_within_a_second() {
    let server = Responder::start(|_| answer("500 Internal Server Error", "")).await;
    let world = World::new(&server, "s3://bucket", role(&server));
    for refused in join_all((0..5).map(|_| world.refused())).await {
        assert_eq!(refused.0, Kind::Transient);
    }
    assert_eq!(shown(&server).len(), 1);
    world.advance(1);
    world.refused().await;
    assert_eq!(shown(&server).len(), 2);
}

#[tokio::test]
async fn keys_that_the_store_refuses_are_replaced_unless_they_are_new() {
    let stale = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&stale);
    let count = AtomicU64::new(0);
    let server = Responder::start(move |head| match head.method.as_str() {
        "POST" => {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            ok(&given(number, &minutes(15 * number)))
        }
        _ if head.fields["authorization"].contains(&format!("AKIA{}/", seen.lock().unwrap())) => {
            answer(
                "400 Bad Request",
                "<Error><Code>ExpiredToken</Code><Message>canary</Message></Error>",
            )
        }
        _ => ok(LISTING),
    })
    .await;
    let world = World::new(&server, "s3://bucket", role(&server));
    "1".clone_into(&mut stale.lock().unwrap());
    let (kind, sentence) = world.refused().await;
    assert_eq!(kind, Kind::Unauthenticated);
    assert!(sentence.ends_with("(ExpiredToken)"), "{sentence}");
    assert_eq!(shown(&server).len(), 1);
    world.advance(60);
    world.list().await.unwrap();
    assert_eq!(signers(&server), ["1", "1", "2"]);
}

#[tokio::test]
async fn all_whose_keys_are_refused_at_once_go_on_with_the_same_new_ones() {
    let stale = Arc::new(Mutex::new("none"));
    let seen = Arc::clone(&stale);
    let count = AtomicU64::new(0);
    let server = Responder::start(move |head| match head.method.as_str() {
        "POST" => {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            ok(&given(number, &minutes(15 * number)))
        }
        _ if head.fields["authorization"].contains(*seen.lock().unwrap()) => answer(
            "400 Bad Request",
            "<Error><Code>ExpiredToken</Code></Error>",
        ),
        _ => ok(LISTING),
    })
    .await;
    let world = World::new(&server, "s3://bucket", role(&server));
    world.list().await.unwrap();
    world.advance(60);
    *stale.lock().unwrap() = "AKIA1/";
    for listed in join_all((0..8).map(|_| world.list())).await {
        listed.unwrap();
    }
    assert_eq!(shown(&server).len(), 2);
}

#[tokio::test]
async fn an_exchange_that_nobody_waits_for_any_more_leaves_the_turn_to_the_next() {
    let server = cloud().await;
    let world = World::new(&server, "s3://bucket", role(&server));
    let mut first = Box::pin(world.list());
    assert!(futures::poll!(&mut first).is_pending());
    drop(first);
    world.list().await.unwrap();
}

//! Reads that fail or lie: each ends in an error of its class, never in other bytes.

use bytes::Bytes;
use tonnage_cache::source::Error;
use tonnage_e2e::s3::{Effect, Fault, Op, S3Server};

use super::{BUCKET, built, config, first, read};

const SIZE: u64 = 3 << 20;

fn bytes() -> Bytes {
    (0..SIZE)
        .map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1])
        .collect()
}

/// Reads the middle of an object under a fault.
async fn struck(effect: Effect) -> Result<Vec<u8>, Error> {
    let server = S3Server::builder().start().await.unwrap();
    server.put(BUCKET, "a", bytes());
    let source = built(&config(&server));
    let entry = first(&*source, "").await.unwrap();
    server.fault(Fault::new(effect).on(Op::Get).first(1));
    let result = read(&*source, &entry, 1000..SIZE - 1000).await;
    // The source is as good as new afterwards, if the object still is.
    if !matches!(result, Err(Error::Changed { .. })) {
        let again = read(&*source, &entry, 0..SIZE).await.unwrap();
        assert!(again == bytes());
    }
    result
}

#[tokio::test]
async fn failing_connections_and_servers_are_worth_another_try() {
    for effect in [
        Effect::Refuse(500, "InternalError".to_owned()),
        Effect::Refuse(503, "SlowDown".to_owned()),
        Effect::HugeError(1 << 20),
        Effect::HangUp,
        Effect::ResetBeforeHead,
        Effect::ResetAfter(500_000),
        Effect::TruncateAfter(500_000),
        Effect::ResetAfter(0),
    ] {
        let name = format!("{effect:?}");
        let error = struck(effect).await.unwrap_err();
        assert!(error.is_retryable(), "{name}: {error:?}");
        assert!(
            matches!(error, Error::Unavailable { .. } | Error::Throttled { .. }),
            "{name}: {error:?}"
        );
    }
}

#[tokio::test]
async fn answers_that_are_not_what_was_asked_for_are_refused() {
    for effect in [
        Effect::Shorten(1000),
        Effect::Extra(1),
        Effect::ClaimLength(17),
        Effect::ContentRange(format!("bytes 0-{}/{SIZE}", SIZE - 1)),
        Effect::ContentRange("nonsense".to_owned()),
        Effect::IgnoreRange,
        Effect::Gzip,
        Effect::Header("content-encoding", "br".to_owned()),
    ] {
        let name = format!("{effect:?}");
        let error = struck(effect).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_changed_object_is_never_mixed() {
    for effect in [
        Effect::Etag("\"0123\"".to_owned()),
        Effect::ClaimSize(SIZE + 1),
        Effect::Delete,
        Effect::Replace(tonnage_e2e::generate::File::memory("a", bytes().slice(1..))),
    ] {
        let name = format!("{effect:?}");
        let error = struck(effect).await.unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{name}: {error:?}");
        assert_eq!(
            error.to_string(),
            "\"a\" changed at the source while it was read"
        );
    }
}

#[tokio::test]
async fn a_server_that_ignores_if_match_is_found_out() {
    let server = S3Server::builder().start().await.unwrap();
    server.put(BUCKET, "a", bytes());
    let source = built(&config(&server));
    let entry = first(&*source, "").await.unwrap();
    let etag = server.etag(BUCKET, "a");
    server.fault(Fault::new(Effect::IgnoreConditions));
    let mut other = bytes().to_vec();
    other[0] ^= 1;
    server.replace(BUCKET, "a", other);
    let error = read(&*source, &entry, 0..10).await.unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert_eq!(server.wire().log().pop().unwrap().if_match, etag);
}

#[tokio::test]
async fn bytes_after_the_end_are_not_read_as_another_answer() {
    let server = S3Server::builder().start().await.unwrap();
    server.put(BUCKET, "a", bytes());
    let source = built(&config(&server));
    let entry = first(&*source, "").await.unwrap();
    server.fault(Fault::new(Effect::Undeclared(100)).on(Op::Get).first(1));
    for _ in 0..3 {
        assert!(read(&*source, &entry, 0..SIZE).await.unwrap() == bytes());
    }
}

#[tokio::test]
async fn a_stall_ends_after_the_set_time() {
    for effect in [Effect::StallAfter(100_000), Effect::NoHead] {
        let server = S3Server::builder().start().await.unwrap();
        server.put(BUCKET, "a", bytes());
        let mut config = config(&server);
        config.read_timeout_seconds = Some(3);
        let source = built(&config);
        let entry = first(&*source, "").await.unwrap();
        server.fault(Fault::new(effect).on(Op::Get));
        // From here on only the stall takes time: the connection of the listing is used again.
        tokio::time::pause();
        let error = read(&*source, &entry, 0..SIZE).await.unwrap_err();
        tokio::time::resume();
        let text = error.to_string();
        assert!(text.ends_with("the server was silent for 3s"), "{text}");
    }
}

#[tokio::test]
async fn connections_are_kept_and_as_many_as_bodies_are_read() {
    let server = S3Server::builder().start().await.unwrap();
    server.put(BUCKET, "a", bytes());
    let source = built(&config(&server));
    let entry = first(&*source, "").await.unwrap();
    for _ in 0..5 {
        let reads = (0..4u64).map(|n| read(&*source, &entry, n * 1000..SIZE));
        for result in futures::future::join_all(reads).await {
            result.unwrap();
        }
    }
    assert_eq!(server.wire().accepted(), 4);
}

#[tokio::test]
async fn an_outage_is_one_sentence_and_passes() {
    let server = S3Server::builder().start().await.unwrap();
    server.put(BUCKET, "a", bytes());
    let source = built(&config(&server));
    let entry = first(&*source, "").await.unwrap();
    server.go_down().await.unwrap();
    let error = read(&*source, &entry, 0..10).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    server.come_up().await.unwrap();
    assert_eq!(read(&*source, &entry, 0..10).await.unwrap(), bytes()[..10]);
}

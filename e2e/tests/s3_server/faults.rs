//! Each fault is what it says, and strikes when it says.

use super::*;

#[tokio::test]
async fn refusals_carry_status_and_code_and_keep_to_their_schedule() {
    let (server, _) = with_object().await;
    let slow = server.fault(
        Fault::status(503, "SlowDown")
            .on(Op::Get)
            .key("k*")
            .first(2),
    );
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(get(&server, "/b/k", "").await.status);
    }
    assert_eq!((statuses, slow.hits()), (vec![503, 503, 200], 2));
    server.fault(Fault::status(403, "AccessDenied").key("other"));
    assert_eq!(get(&server, "/b/k", "").await.status, 200);
    server.clear_faults();
    server.fault(Fault::new(Effect::Redirect(
        307,
        "http://elsewhere.test/x".to_owned(),
    )));
    let reply = get(&server, "/b/k", "").await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (307, Some("http://elsewhere.test/x"))
    );
    assert_eq!(server.wire().total_bytes(), 2000);
}

#[tokio::test]
async fn error_bodies_can_be_huge() {
    let (_, _, reply) = under(Effect::HugeError(10 << 20)).await;
    assert_eq!((reply.status, reply.body.len()), (500, 10 << 20));
}

#[tokio::test]
async fn a_reset_breaks_the_connection_after_the_bytes_named() {
    let (server, bytes, reply) = under(Effect::ResetAfter(100)).await;
    assert_eq!(reply.broke, Some(io::ErrorKind::ConnectionReset));
    assert_eq!(
        (reply.body, server.wire().total_bytes()),
        (bytes[..100].to_vec(), 100)
    );
    let (_, _, reply) = under(Effect::ResetBeforeHead).await;
    assert_eq!(
        (reply.status, reply.broke),
        (0, Some(io::ErrorKind::ConnectionReset))
    );
    let (_, _, reply) = under(Effect::HangUp).await;
    assert_eq!((reply.status, reply.broke), (0, None));
}

#[tokio::test]
async fn a_truncated_body_is_shorter_than_its_length_and_a_shortened_one_is_not() {
    let (_, bytes, reply) = under(Effect::TruncateAfter(10)).await;
    assert_eq!(
        (reply.header("content-length"), reply.broke),
        (Some("1000"), None)
    );
    assert_eq!(reply.body, bytes[..10]);
    let (_, bytes, reply) = under(Effect::Shorten(10)).await;
    assert_eq!(
        (reply.header("content-length"), &reply.body[..]),
        (Some("10"), &bytes[..10])
    );
}

#[tokio::test]
async fn extra_bytes_come_with_or_without_being_declared() {
    let (server, _, reply) = under(Effect::Extra(5)).await;
    assert_eq!(
        (reply.header("content-length"), reply.body.len()),
        (Some("1005"), 1005)
    );
    assert_eq!(server.wire().total_bytes(), 1000);
    let (_, _, reply) = under(Effect::Undeclared(5)).await;
    assert_eq!(
        (reply.header("content-length"), reply.body.len()),
        (Some("1000"), 1005)
    );
}

#[tokio::test]
async fn one_bit_flips_at_its_offset_of_the_object() {
    let (server, mut bytes) = with_object().await;
    server.fault(Fault::new(Effect::FlipBit(600)));
    let before = get(&server, "/b/k", "Range: bytes=0-599\r\n").await;
    assert_eq!(before.body, bytes[..600]);
    bytes[600] ^= 1;
    let around = get(&server, "/b/k", "Range: bytes=500-\r\n").await;
    assert_eq!(around.body, bytes[500..]);
}

#[tokio::test]
async fn sizes_ranges_and_conditions_can_be_lied_about() {
    let (_, _, reply) = under(Effect::ClaimLength(77)).await;
    assert_eq!(
        (reply.header("content-length"), reply.body.len()),
        (Some("77"), 1000)
    );
    let (server, bytes) = with_object().await;
    let ranged = async |effect: Effect, headers: &str| {
        let fault = server.fault(Fault::new(effect));
        let reply = get(&server, "/b/k", &format!("Range: bytes=0-9\r\n{headers}")).await;
        fault.lift();
        reply
    };
    let reply = ranged(Effect::ClaimSize(5 << 40), "").await;
    assert_eq!(
        reply.header("content-range"),
        Some("bytes 0-9/5497558138880")
    );
    let reply = ranged(Effect::ContentRange("bytes 5-14/1000".to_owned()), "").await;
    assert_eq!(reply.header("content-range"), Some("bytes 5-14/1000"));
    let reply = ranged(Effect::IgnoreRange, "").await;
    assert_eq!((reply.status, reply.body == bytes), (200, true));
    let reply = ranged(Effect::IgnoreConditions, "If-Match: \"other\"\r\n").await;
    assert_eq!(reply.status, 206);
    let reply = ranged(Effect::Etag("\"new\"".to_owned()), "").await;
    assert_eq!(reply.header("etag"), Some("\"new\""));
    let reply = ranged(Effect::Gzip, "").await;
    assert_eq!(
        (reply.header("content-encoding"), &reply.body[..2]),
        (Some("gzip"), &[0x1f, 0x8b][..])
    );
}

#[tokio::test]
async fn an_object_is_replaced_or_deleted_between_requests() {
    let (server, _) = with_object().await;
    let etag = server.etag("b", "k").unwrap();
    server.fault(
        Fault::new(Effect::Replace(File::memory("", "new")))
            .on(Op::Get)
            .nth(2),
    );
    let pinned = format!("If-Match: {etag}\r\n");
    assert_eq!(get(&server, "/b/k", &pinned).await.status, 200);
    assert_eq!(get(&server, "/b/k", &pinned).await.status, 412);
    assert_eq!(get(&server, "/b/k", "").await.text(), "new");
    server.fault(Fault::new(Effect::Delete));
    assert_eq!(get(&server, "/b/k", "").await.status, 404);
}

#[tokio::test]
async fn a_stalled_body_goes_on_when_lifted_and_ends_when_the_client_leaves() {
    let (server, bytes) = with_object().await;
    let stall = server.fault(Fault::new(Effect::StallAfter(500)));
    let mut tcp = TcpStream::connect(server.address()).await.unwrap();
    tcp.write_all(b"GET /b/k HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut half = vec![0; 500];
    while !half.ends_with(b"\r\n\r\n") {
        half.push(tcp.read_u8().await.unwrap());
    }
    let mut half = vec![0; 500];
    tcp.read_exact(&mut half).await.unwrap();
    assert_eq!(
        (&half[..], server.wire().total_bytes()),
        (&bytes[..500], 500)
    );
    assert!(futures::poll!(std::pin::pin!(tcp.read_u8())).is_pending());
    stall.lift();
    let mut rest = Vec::new();
    tcp.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, bytes[500..]);
    drop(tcp);
    let stall = server.fault(Fault::new(Effect::StallAfter(0)));
    let mut tcp = TcpStream::connect(server.address()).await.unwrap();
    tcp.write_all(b"GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    stall.wait_hits(1).await;
    drop(tcp);
    while server.wire().open_connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn rates_and_delays_hold_in_tokio_time() {
    let (server, _) = with_object().await;
    let start = tokio::time::Instant::now();
    let delay = server.fault(Fault::new(Effect::Delay(Duration::from_millis(30))));
    get(&server, "/b/k", "").await;
    assert!(start.elapsed() >= Duration::from_millis(30));
    delay.lift();
    let start = tokio::time::Instant::now();
    server.set_total_rate(Some(20_000));
    tokio::join!(get(&server, "/b/k", ""), get(&server, "/b/k", ""));
    assert!(start.elapsed() >= Duration::from_millis(100));
    server.set_total_rate(None);
    let start = tokio::time::Instant::now();
    server.fault(Fault::new(Effect::Rate(20_000)));
    get(&server, "/b/k", "").await;
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn an_outage_refuses_and_ends() {
    let (server, _) = with_object().await;
    let mut idle = TcpStream::connect(server.address()).await.unwrap();
    idle.write_all(b"GET /b HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 4096]).await.unwrap() > 0);
    server.go_down().await.unwrap();
    assert_eq!(idle.read(&mut [0]).await.unwrap_or(0), 0);
    let refused = TcpStream::connect(server.address()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    server.come_up().await.unwrap();
    assert_eq!(get(&server, "/b/k", "").await.status, 200);
}

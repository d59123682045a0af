//! What the wire counts say.

use super::*;

#[tokio::test]
async fn bytes_ranges_and_coverage_are_counted_per_object() {
    let (server, _) = with_object().await;
    get(&server, "/b/k", "Range: bytes=0-499\r\n").await;
    get(&server, "/b/k", "Range: bytes=500-999\r\n").await;
    let wire = server.wire();
    assert!(wire.sent_once("b", "k", 1000));
    assert_eq!(wire.ranges("b", "k"), [0..500, 500..1000]);
    get(&server, "/b/k", "Range: bytes=499-500\r\n").await;
    assert_eq!(
        (
            wire.bytes("b", "k"),
            wire.max_coverage("b", "k"),
            wire.distinct_bytes("b", "k")
        ),
        (1002, 2, 1000)
    );
    get(&server, "/b?list-type=2", "").await;
    assert_eq!(
        (
            wire.total_bytes(),
            wire.requests(Op::Get),
            wire.requests(Op::List)
        ),
        (1002, 3, 1)
    );
    assert!(wire.all_bytes() > 1002);
    let log = wire.log();
    assert_eq!(
        (
            log[0].range.clone(),
            log[0].status,
            log[0].bytes,
            log[0].key.as_str()
        ),
        (Some(0..500), 206, 500, "k")
    );
    server.reset_wire();
    assert_eq!(
        (
            wire.total_bytes(),
            wire.log().len(),
            wire.max_coverage("b", "k")
        ),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn the_peak_of_connections_is_kept() {
    let (server, _) = with_object().await;
    let stall = server.fault(Fault::new(Effect::NoHead));
    let replies = async {
        tokio::join!(
            get(&server, "/b/k", ""),
            get(&server, "/b/k", ""),
            get(&server, "/b/k", "")
        )
    };
    let release = async {
        stall.wait_hits(3).await;
        stall.lift();
    };
    let ((a, b, c), ()) = tokio::join!(replies, release);
    assert_eq!([a.status, b.status, c.status], [200; 3]);
    assert_eq!(server.wire().peak_connections(), 3);
}

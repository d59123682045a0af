//! The S3 test server, asked in raw HTTP: what it serves, what it counts, and that each fault is what it says.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonnage_e2e::generate::{File, Model, ModelSpec, Tree};
use tonnage_e2e::s3::{Certificate, Credentials, Effect, Fault, ListLie, Op, S3Server};

/// What came back, up to the end of the connection.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// How the connection ended, if not in good order.
    broke: Option<io::ErrorKind>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| {
            line.to_ascii_lowercase()
                .starts_with(&format!("{}:", name.to_ascii_lowercase()))
        };
        self.head
            .lines()
            .find(named)
            .and_then(|line| line.split_once(": "))
            .map(|(_, value)| value)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn code(&self) -> String {
        between(&self.text(), "<Code>", "</Code>")
            .first()
            .cloned()
            .unwrap_or_default()
    }

    fn keys(&self) -> Vec<String> {
        between(&self.text(), "<Key>", "</Key>")
    }
}

fn between(text: &str, open: &str, close: &str) -> Vec<String> {
    text.split(open)
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(close)?.0.to_owned()))
        .collect()
}

/// Sends a request whose head lines beyond the first are `headers`, and reads to the end.
async fn send(server: &S3Server, line: &str, headers: &str, body: &[u8]) -> Reply {
    let mut tcp = TcpStream::connect(server.address()).await.unwrap();
    let host = if headers.contains("Host:") {
        ""
    } else {
        "Host: 127.0.0.1\r\n"
    };
    let head = format!(
        "{line} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    tcp.write_all(head.as_bytes()).await.unwrap();
    tcp.write_all(body).await.unwrap();
    read(&mut tcp).await
}

async fn read(tcp: &mut TcpStream) -> Reply {
    let mut raw = Vec::new();
    let mut chunk = vec![0; 65536];
    let broke = loop {
        match tcp.read(&mut chunk).await {
            Ok(0) => break None,
            Ok(len) => raw.extend_from_slice(&chunk[..len]),
            Err(error) => break Some(error.kind()),
        }
    };
    let end = raw
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map_or(raw.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&raw[..end]).into_owned();
    let status = head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
    Reply {
        status,
        head,
        body: raw[end..].to_vec(),
        broke,
    }
}

async fn get(server: &S3Server, path: &str, headers: &str) -> Reply {
    send(server, &format!("GET {path}"), headers, b"").await
}

async fn start() -> S3Server {
    S3Server::builder().start().await.unwrap()
}

/// A server with one object of 1000 random bytes at `b/k`.
async fn with_object() -> (S3Server, Vec<u8>) {
    let server = start().await;
    let file = File::random("k", 1000, 1);
    let bytes = file.read_all().unwrap().to_vec();
    server.put("b", "k", bytes.clone());
    (server, bytes)
}

/// The reply to a plain GET of `b/k` under one fault.
async fn under(effect: Effect) -> (S3Server, Vec<u8>, Reply) {
    let (server, bytes) = with_object().await;
    server.fault(Fault::new(effect));
    let reply = get(&server, "/b/k", "").await;
    (server, bytes, reply)
}

mod serving {
    use super::*;

    #[tokio::test]
    async fn an_object_comes_back_whole_and_in_ranges() {
        let (server, bytes) = with_object().await;
        let whole = get(&server, "/b/k", "").await;
        assert_eq!((whole.status, &whole.body), (200, &bytes));
        assert_eq!(whole.header("content-length"), Some("1000"));
        let part = get(&server, "/b/k", "Range: bytes=10-19\r\n").await;
        assert_eq!((part.status, &part.body[..]), (206, &bytes[10..20]));
        assert_eq!(part.header("content-range"), Some("bytes 10-19/1000"));
        let beyond = get(&server, "/b/k", "Range: bytes=1000-\r\n").await;
        assert_eq!(
            (beyond.status, beyond.code().as_str()),
            (416, "InvalidRange")
        );
        let head = send(&server, "HEAD /b/k", "", b"").await;
        assert_eq!(
            (head.status, head.body.len(), head.header("content-length")),
            (200, 0, Some("1000"))
        );
    }

    #[tokio::test]
    async fn what_is_missing_is_named_as_s3_names_it() {
        let (server, _) = with_object().await;
        let key = get(&server, "/b/absent", "").await;
        assert_eq!((key.status, key.code().as_str()), (404, "NoSuchKey"));
        let bucket = get(&server, "/absent/k", "").await;
        assert_eq!(
            (bucket.status, bucket.code().as_str()),
            (404, "NoSuchBucket")
        );
        let list = get(&server, "/absent?list-type=2", "").await;
        assert_eq!((list.status, list.code().as_str()), (404, "NoSuchBucket"));
    }

    #[tokio::test]
    async fn conditions_hold_or_refuse() {
        let (server, _) = with_object().await;
        let etag = server.etag("b", "k").unwrap();
        assert_eq!(
            get(&server, "/b/k", &format!("If-Match: {etag}\r\n"))
                .await
                .status,
            200
        );
        let stale = get(&server, "/b/k", "If-Match: \"no\"\r\n").await;
        assert_eq!(
            (stale.status, stale.code().as_str()),
            (412, "PreconditionFailed")
        );
        assert_eq!(
            get(&server, "/b/k", &format!("If-None-Match: {etag}\r\n"))
                .await
                .status,
            304
        );
        let date = get(&server, "/b/k", "")
            .await
            .header("last-modified")
            .unwrap()
            .to_owned();
        assert_eq!(
            get(&server, "/b/k", &format!("If-Unmodified-Since: {date}\r\n"))
                .await
                .status,
            200
        );
        server.replace("b", "k", "new");
        assert_eq!(
            get(&server, "/b/k", &format!("If-Unmodified-Since: {date}\r\n"))
                .await
                .status,
            412
        );
        assert_eq!(
            get(&server, "/b/k", &format!("If-Match: {etag}\r\n"))
                .await
                .status,
            412
        );
    }

    #[tokio::test]
    async fn old_versions_stay_readable() {
        let server = S3Server::builder().versioned().start().await.unwrap();
        server.put("b", "k", "one");
        let first = server.version("b", "k").unwrap();
        server.put("b", "k", "two");
        assert_eq!(
            get(&server, &format!("/b/k?versionId={first}"), "")
                .await
                .text(),
            "one"
        );
        assert_eq!(get(&server, "/b/k", "").await.text(), "two");
        assert_eq!(
            get(&server, "/b/k?versionId=none", "").await.code(),
            "NoSuchVersion"
        );
    }

    #[tokio::test]
    async fn what_is_put_over_http_can_be_read_and_deleted() {
        let server = start().await;
        assert_eq!(
            send(&server, "PUT /b/x", "", b"data").await.code(),
            "NoSuchBucket"
        );
        assert_eq!(send(&server, "PUT /b", "", b"").await.status, 200);
        let put = send(&server, "PUT /b/x%20y", "", b"data").await;
        assert_eq!(
            put.header("etag"),
            Some("\"8d777f385d3dfec8815d20f7496026dc\"")
        );
        assert_eq!(get(&server, "/b/x%20y", "").await.text(), "data");
        let streamed = b"4;chunk-signature=00\r\nabcd\r\n2;chunk-signature=00\r\nef\r\n0;chunk-signature=00\r\n\r\n";
        let header = "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n";
        assert_eq!(
            send(&server, "PUT /b/s", header, streamed).await.status,
            200
        );
        assert_eq!(get(&server, "/b/s", "").await.text(), "abcdef");
        assert_eq!(send(&server, "DELETE /b/s", "", b"").await.status, 204);
        assert_eq!(get(&server, "/b/s", "").await.status, 404);
    }

    #[tokio::test]
    async fn the_bucket_may_be_in_the_host_name() {
        let (server, bytes) = with_object().await;
        let reply = get(&server, "/k", "Host: b.localhost:80\r\n").await;
        assert_eq!((reply.status, reply.body), (200, bytes));
    }

    #[tokio::test]
    async fn a_generated_model_is_served_byte_for_byte() {
        let model = Model::generate(&ModelSpec {
            seed: 5,
            size: 5_000_000,
            shards: 2,
            small_files: 3,
        });
        let held = S3Server::builder()
            .hold_in_memory(1 << 30)
            .start()
            .await
            .unwrap();
        let mut tags = Vec::new();
        for server in [start().await, held] {
            server.put_tree("b", "m/", &model);
            for file in model.files() {
                let reply = get(&server, &format!("/b/m/{}", file.path()), "").await;
                assert_eq!(blake3::hash(&reply.body), file.digest().unwrap());
                tags.push(reply.header("etag").unwrap().to_owned());
            }
        }
        let (plain, held) = tags.split_at(model.len());
        assert_eq!(
            plain, held,
            "where the bytes are held does not change the tag"
        );
    }

    #[tokio::test]
    async fn connections_are_kept_and_pipelined_requests_answered() {
        let (server, _) = with_object().await;
        let mut tcp = TcpStream::connect(server.address()).await.unwrap();
        let one = "GET /b/k HTTP/1.1\r\nHost: h\r\nRange: bytes=0-0\r\n";
        tcp.write_all(format!("{one}\r\n{one}Connection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let both = read(&mut tcp).await;
        assert_eq!(
            both.text().matches("206 Partial").count() + both.head.matches("206 Partial").count(),
            2
        );
        assert_eq!(
            (server.wire().accepted(), server.wire().requests(Op::Get)),
            (1, 2)
        );
    }

    #[tokio::test]
    async fn a_plain_http_server_has_files_and_no_listing() {
        let server = S3Server::builder().plain_http().start().await.unwrap();
        server.put("dir", "a.bin", "0123456789");
        let reply = get(&server, "/dir/a.bin", "Range: bytes=3-4\r\n").await;
        assert_eq!((reply.status, reply.text().as_str()), (206, "34"));
        assert!(reply.header("etag").is_some() && reply.header("x-amz-request-id").is_none());
        assert_eq!(get(&server, "/dir/?list-type=2", "").await.status, 404);
    }

    #[tokio::test]
    async fn nothing_is_left_after_shutdown_or_drop() {
        let server = start().await;
        let (address, wire) = (server.address(), server.wire());
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET /b HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(idle.read(&mut [0; 100]).await.unwrap() > 0);
        assert_eq!(wire.open_connections(), 1);
        server.shutdown().await;
        assert_eq!(wire.open_connections(), 0);
        assert!(TcpStream::connect(address).await.is_err());
    }
}

mod listing {
    use super::*;

    async fn with_keys(keys: &[&str]) -> S3Server {
        let server = start().await;
        for key in keys {
            server.put("b", key, "x");
        }
        server
    }

    #[tokio::test]
    async fn pages_cover_every_key_once_in_order() {
        let keys: Vec<String> = (0..25).map(|i| format!("p/{i:03}")).collect();
        let server = with_keys(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
        server.put("b", "q/outside", "x");
        let (mut seen, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let reply = get(
                &server,
                &format!("/b?list-type=2&prefix=p%2F&max-keys=10{token}"),
                "",
            )
            .await;
            seen.extend(reply.keys());
            pages += 1;
            match between(&reply.text(), "<NextContinuationToken>", "</").first() {
                Some(next) => token = format!("&continuation-token={next}"),
                None => break,
            }
        }
        assert_eq!((seen, pages), (keys, 3));
    }

    #[tokio::test]
    async fn a_page_that_ends_with_the_keys_is_the_last() {
        let server = with_keys(&["a", "b"]).await;
        let reply = get(&server, "/b?list-type=2&max-keys=2", "").await;
        assert!(reply.text().contains("<IsTruncated>false"));
        let reply = get(&server, "/b?list-type=2&start-after=a", "").await;
        assert_eq!(reply.keys(), ["b"]);
    }

    #[tokio::test]
    async fn a_delimiter_folds_common_prefixes() {
        let server = with_keys(&["a", "d/1", "d/2", "e/1", "f"]).await;
        let reply = get(&server, "/b?list-type=2&delimiter=/", "").await;
        assert_eq!(reply.keys(), ["a", "f"]);
        assert_eq!(
            between(&reply.text(), "<CommonPrefixes><Prefix>", "</"),
            ["d/", "e/"]
        );
        let reply = get(&server, "/b?list-type=2&delimiter=/&max-keys=2", "").await;
        let next = between(&reply.text(), "<NextContinuationToken>", "</")[0].clone();
        let reply = get(
            &server,
            &format!("/b?list-type=2&delimiter=/&continuation-token={next}"),
            "",
        )
        .await;
        assert_eq!(reply.keys(), ["f"]);
        assert_eq!(
            between(&reply.text(), "<CommonPrefixes><Prefix>", "</"),
            ["e/"]
        );
    }

    #[tokio::test]
    async fn odd_keys_are_url_encoded_or_escaped() {
        let server = with_keys(&["a b+c&d<é\u{1}"]).await;
        server.put("b", b"raw\xff", "x");
        let reply = get(&server, "/b?list-type=2&encoding-type=url", "").await;
        assert_eq!(reply.keys(), ["a+b%2Bc%26d%3C%C3%A9%01", "raw%FF"]);
        let reply = get(&server, "/b?list-type=2", "").await;
        assert_eq!(reply.keys()[0], "a b+c&amp;d&lt;é&#x1;");
        assert!(reply.body.windows(4).any(|w| w == b"raw\xff"));
        assert_eq!(get(&server, "/b/raw%FF", "").await.status, 200);
    }

    #[tokio::test]
    async fn lies_are_told_as_scripted() {
        let server = with_keys(&["p/1", "p/2"]).await;
        let lie = async |lie: ListLie| {
            let handle = server.fault(Fault::new(Effect::List(lie)).on(Op::List).key("p/"));
            let reply = get(&server, "/b?list-type=2&prefix=p/", "").await;
            assert_eq!(handle.hits(), 1);
            handle.lift();
            reply
        };
        assert_eq!(
            lie(ListLie::Duplicates).await.keys(),
            ["p/1", "p/1", "p/2", "p/2"]
        );
        let hostile = vec![(b"../etc".to_vec(), 5 << 40)];
        let also = lie(ListLie::Also(hostile)).await;
        assert_eq!(also.keys(), ["p/1", "p/2", "../etc"]);
        assert!(also.text().contains("<Size>5497558138880</Size>"));
        assert_eq!(
            lie(ListLie::Raw(b"\xff<x".as_slice().into())).await.body,
            b"\xff<x"
        );
        let same = lie(ListLie::SamePage).await;
        let token = between(&same.text(), "<NextContinuationToken>", "</")[0].clone();
        let again = get(
            &server,
            &format!("/b?list-type=2&prefix=p/&continuation-token={token}"),
            "",
        )
        .await;
        assert_eq!(again.keys(), same.keys());
        let endless = server.fault(Fault::new(Effect::List(ListLie::EndlessKeys)));
        let first = get(&server, "/b?list-type=2&prefix=p/", "").await;
        let token = between(&first.text(), "<NextContinuationToken>", "</")[0].clone();
        let second = get(
            &server,
            &format!("/b?list-type=2&prefix=p/&continuation-token={token}"),
            "",
        )
        .await;
        assert!(second.keys()[0] > *first.keys().last().unwrap() && second.keys().len() == 1000);
        endless.lift();
        server.fault(Fault::new(Effect::ClaimSize(7)));
        assert!(
            get(&server, "/b?list-type=2", "")
                .await
                .text()
                .contains("<Size>7</Size>")
        );
    }
}

mod counting {
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
}

mod faults {
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
}

mod access {
    use super::*;
    use object_store::aws::{AwsAuthorizer, AwsCredential};
    use object_store::client::{HttpRequest, HttpRequestBody};

    const OBJECT: &str = "/b/dir/a%20b%2B%C3%A9.txt";

    /// Sends what `object_store` signs with `credentials`, after `change`.
    async fn signed(
        server: &S3Server,
        credentials: &Credentials,
        line: &str,
        change: impl Fn(String) -> String,
    ) -> Reply {
        let credential = AwsCredential {
            key_id: credentials.access_key.clone(),
            secret_key: credentials.secret_key.clone(),
            token: credentials.session_token.clone(),
        };
        let (method, path) = line.split_once(' ').unwrap();
        let mut request: HttpRequest = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", server.endpoint()))
            .body(HttpRequestBody::empty())
            .unwrap();
        AwsAuthorizer::new(&credential, "s3", "eu-west-3")
            .try_authorize(&mut request, None)
            .unwrap();
        let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            format!("{name}: {}\r\n", value.to_str().unwrap())
        };
        let mut headers: String = request.headers().iter().map(header).collect();
        if !request.headers().contains_key("host") {
            headers = format!("Host: {}\r\n{headers}", server.address());
        }
        let headers = headers.replace("host: ", "Host: ");
        send(server, line, &change(headers), b"").await
    }

    async fn code(server: &S3Server, credentials: &Credentials) -> String {
        signed(server, credentials, &format!("GET {OBJECT}"), |h| h)
            .await
            .code()
    }

    async fn keyed(credentials: &Credentials) -> S3Server {
        let server = S3Server::builder()
            .credentials(credentials.clone())
            .start()
            .await
            .unwrap();
        server.put("b", "dir/a b+é.txt", "content");
        server
    }

    #[tokio::test]
    async fn what_object_store_signs_is_accepted() {
        let key = Credentials::new("AKIATEST", "secret").with_token("session/token+=");
        let server = keyed(&key).await;
        let reply = signed(&server, &key, &format!("GET {OBJECT}"), |h| h).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "content"));
        let list = "GET /b?list-type=2&prefix=dir%2Fa%20b&encoding-type=url";
        assert_eq!(
            signed(&server, &key, list, |h| h).await.keys(),
            ["dir/a+b%2B%C3%A9.txt"]
        );
        assert_eq!(
            server.wire().log()[0].access_key.as_deref(),
            Some("AKIATEST")
        );
    }

    #[tokio::test]
    async fn a_tampered_request_or_another_secret_or_token_is_refused() {
        let key = Credentials::new("AKIATEST", "secret").with_token("token");
        let server = keyed(&key).await;
        let tampered = signed(&server, &key, &format!("GET {OBJECT}"), |headers| {
            let at = headers.find("Signature=").unwrap() + "Signature=".len();
            let other = if headers.as_bytes()[at] == b'0' {
                "1"
            } else {
                "0"
            };
            format!("{}{other}{}", &headers[..at], &headers[at + 1..])
        })
        .await;
        assert_eq!(
            (tampered.status, tampered.code().as_str()),
            (403, "SignatureDoesNotMatch")
        );
        let wrong_secret = Credentials {
            secret_key: "Secret".to_owned(),
            ..key.clone()
        };
        assert_eq!(code(&server, &wrong_secret).await, "SignatureDoesNotMatch");
        assert_eq!(
            code(&server, &key.clone().with_token("other")).await,
            "InvalidToken"
        );
        assert_eq!(
            code(&server, &Credentials::new("AKIAOTHER", "secret")).await,
            "InvalidAccessKeyId"
        );
        assert_eq!(get(&server, OBJECT, "").await.code(), "AccessDenied");
        assert_eq!(server.wire().total_bytes(), 0);
    }

    #[tokio::test]
    async fn keys_expire_after_a_count_or_at_a_switch_and_can_be_renewed() {
        let key = Credentials::new("AKIATEST", "secret");
        let server = keyed(&key).await;
        server.expire_after("AKIATEST", 1);
        assert_eq!(code(&server, &key).await, "");
        assert_eq!(code(&server, &key).await, "ExpiredToken");
        server.add_credentials(key.clone());
        assert_eq!(code(&server, &key).await, "");
        server.expire("AKIATEST");
        assert_eq!(code(&server, &key).await, "ExpiredToken");
        server.revoke("AKIATEST");
        assert_eq!(code(&server, &key).await, "InvalidAccessKeyId");
        assert_eq!(
            get(&server, OBJECT, "").await.code(),
            "AccessDenied",
            "no key left is not open"
        );
    }

    #[tokio::test]
    async fn prefixes_are_denied_to_all_or_to_one_key() {
        let server = S3Server::builder()
            .credentials(Credentials::new("A", "s"))
            .anonymous()
            .start()
            .await
            .unwrap();
        server.put("b", "open/x", "1");
        server.put("b", "shut/x", "1");
        server.deny("b", "shut/");
        assert_eq!(get(&server, "/b/open/x", "").await.status, 200);
        assert_eq!(get(&server, "/b/shut/x", "").await.code(), "AccessDenied");
        assert_eq!(
            get(&server, "/b?list-type=2&prefix=shut/", "").await.code(),
            "AccessDenied"
        );
        server.allow_all();
        assert_eq!(get(&server, "/b/shut/x", "").await.status, 200);
        server.deny_to("A", "b", "");
        assert_eq!(get(&server, "/b/shut/x", "").await.status, 200);
    }
}

mod tls {
    use super::*;
    use std::sync::Arc;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

    async fn shake(kind: Certificate) -> Result<String, String> {
        let server = S3Server::builder().tls(kind).start().await.unwrap();
        server.put("b", "k", "content");
        assert!(server.endpoint().starts_with("https://127.0.0.1:"));
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(server.ca_pem().unwrap().as_bytes()).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(server.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connected = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await;
        let mut tls = connected.map_err(|e| e.to_string())?;
        tls.write_all(b"GET /b/k HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        tls.read_to_string(&mut text).await.unwrap();
        Ok(text)
    }

    #[tokio::test]
    async fn a_valid_certificate_is_trusted_through_the_given_ca() {
        assert!(
            shake(Certificate::Valid)
                .await
                .unwrap()
                .ends_with("content")
        );
    }

    #[tokio::test]
    async fn wrong_certificates_are_wrong_in_their_one_way() {
        for (kind, why) in [
            (Certificate::Expired, "expired"),
            (Certificate::WrongHost, "not valid for name"),
            (Certificate::SelfSigned, "UnknownIssuer"),
        ] {
            let error = shake(kind).await.unwrap_err();
            assert!(error.contains(why), "{kind:?}: {error}");
        }
    }
}

#[tokio::test]
async fn small_files_are_served_by_the_thousand() {
    let server = start().await;
    let tree = Tree::small_files(1, 2000, 100);
    server.put_tree("b", "t/", &tree);
    let mut tcp = TcpStream::connect(server.address()).await.unwrap();
    let mut head = vec![0; 4096];
    for file in tree.files() {
        tcp.write_all(format!("GET /b/t/{} HTTP/1.1\r\nHost: h\r\n\r\n", file.path()).as_bytes())
            .await
            .unwrap();
        let len = tcp.read(&mut head).await.unwrap();
        assert!(head[..len].ends_with(&file.read_all().unwrap()));
    }
    assert_eq!(server.wire().total_bytes(), 200_000);
}

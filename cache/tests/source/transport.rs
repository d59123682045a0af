//! The transport: addresses, time-outs, limits, reuse of connections. Seen through a web source.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tonnage_cache::gate::{Connection, Demand, Gate, OpenGate, Permit, Redirection, Refusal};
use tonnage_cache::source::config::{SourceConfig, build};
use tonnage_cache::source::{Entry, Error, Limits, Source, read as read_some, read_to_end};

use super::responder::{After, Answer, Head, Responder, file, raw};

const BYTES: &[u8] = b"0123456789";

fn config(server: &Responder) -> SourceConfig {
    SourceConfig {
        name: "web".to_owned(),
        url: format!("http://{}", server.address),
        allow_http: true,
        allow_loopback: true,
        ..SourceConfig::default()
    }
}

async fn opened(config: &SourceConfig) -> Result<(Arc<dyn Source>, Entry), Error> {
    let source = super::built(config)?;
    let mut listing = source.list("a", &Limits::default()).await?;
    Ok((source, listing.entries.remove(0)))
}

async fn read(source: &dyn Source, entry: &Entry) -> Result<Vec<u8>, Error> {
    read_to_end(source.open(entry, 0..entry.size).await?).await
}

/// Answers HEAD well and GET with what a test wants.
async fn faulty(get: impl Fn(&Head) -> Answer + Send + Sync + 'static) -> Responder {
    Responder::start(move |head| match head.method.as_str() {
        "HEAD" => file(head, BYTES, "\"e\""),
        _ => get(head),
    })
    .await
}

const GOOD: [(&str, &str); 3] = [
    ("Content-Length", "10"),
    ("Content-Range", "bytes 0-9/10"),
    ("ETag", "\"e\""),
];

#[tokio::test]
async fn one_connection_serves_request_after_request() {
    let server = Responder::start(|head| file(head, BYTES, "\"e\"")).await;
    let (source, entry) = opened(&config(&server)).await.unwrap();
    for _ in 0..20 {
        assert_eq!(read(&*source, &entry).await.unwrap(), BYTES);
    }
    // The reader may also stop at the last byte instead of at the end.
    for _ in 0..20 {
        let mut body = source.open(&entry, 0..10).await.unwrap();
        let mut bytes = [0; 10];
        assert_eq!(read_some(&mut body, &mut bytes).await.unwrap(), 10);
        assert_eq!(bytes, BYTES);
    }
    assert_eq!(server.accepted(), 1);
    let head = server.heads().pop().unwrap();
    assert_eq!(head.fields["host"], server.address.to_string());
    assert_eq!(head.fields["range"], "bytes=0-9");
    assert!(!head.fields.contains_key("authorization"));
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_not_used_again() {
    let server = Responder::start(|head| Answer {
        after: After::Close,
        ..file(head, BYTES, "\"e\"")
    })
    .await;
    let (source, entry) = opened(&config(&server)).await.unwrap();
    for _ in 0..5 {
        assert_eq!(read(&*source, &entry).await.unwrap(), BYTES);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_a_while() {
    let server = Responder::start(|head| file(head, BYTES, "\"e\"")).await;
    let (source, entry) = opened(&config(&server)).await.unwrap();
    assert_eq!(server.open(), 1);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(16)).await;
    tokio::time::resume();
    server.all_closed().await;
    assert_eq!(read(&*source, &entry).await.unwrap(), BYTES);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_dropped_body_closes_its_connection() {
    let server = Responder::start(|head| file(head, &vec![7; 1 << 20], "\"e\"")).await;
    let (source, entry) = opened(&config(&server)).await.unwrap();
    let mut body = source.open(&entry, 0..entry.size).await.unwrap();
    read_some(&mut body, &mut [0; 10]).await.unwrap();
    drop(body);
    assert_eq!(read(&*source, &entry).await.unwrap().len(), 1 << 20);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn short_long_and_torn_bodies_are_errors() {
    let short = faulty(|_| Answer {
        after: After::Close,
        ..raw("206 Partial Content", &GOOD, b"01234")
    })
    .await;
    let (source, entry) = opened(&config(&short)).await.unwrap();
    let error = read(&*source, &entry).await.unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. }) && error.is_retryable(),
        "{error}"
    );

    let chunked = |body: &'static [u8]| {
        let fields = [("Transfer-Encoding", "chunked"), GOOD[1], GOOD[2]];
        raw("206 Partial Content", &fields, body)
    };
    let long = faulty(move |_| chunked(b"a\r\n0123456789\r\n1\r\nX\r\n0\r\n\r\n")).await;
    let (source, entry) = opened(&config(&long)).await.unwrap();
    let error = read(&*source, &entry).await.unwrap_err();
    assert!(
        error.to_string().contains("more bytes than asked for"),
        "{error}"
    );

    let few = faulty(move |_| chunked(b"5\r\n01234\r\n0\r\n\r\n")).await;
    let (source, entry) = opened(&config(&few)).await.unwrap();
    let error = read(&*source, &entry).await.unwrap_err();
    assert!(error.to_string().contains("ended 5 bytes early"), "{error}");

    let exact = faulty(move |_| chunked(b"5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n")).await;
    let (source, entry) = opened(&config(&exact)).await.unwrap();
    assert_eq!(read(&*source, &entry).await.unwrap(), BYTES);
}

#[tokio::test]
async fn what_is_not_http_or_too_much_of_it_is_refused() {
    let garbage = faulty(|_| Answer {
        bytes: b"SSH-2.0-canary\r\n\r\n".to_vec(),
        after: After::Close,
    })
    .await;
    let (source, entry) = opened(&config(&garbage)).await.unwrap();
    let error = read(&*source, &entry).await.unwrap_err();
    assert!(
        error.to_string().contains("not HTTP/1.1") && !error.to_string().contains("canary"),
        "{error}"
    );

    let huge = "x".repeat(100 << 10);
    let heads = faulty(move |_| {
        raw(
            "206 Partial Content",
            &[GOOD[0], GOOD[1], GOOD[2], ("X", &huge)],
            BYTES,
        )
    })
    .await;
    let (source, entry) = opened(&config(&heads)).await.unwrap();
    let error = read(&*source, &entry).await.unwrap_err();
    assert!(error.to_string().contains("header fields of"), "{error}");

    let endless = "x".repeat(1 << 20);
    let heads = faulty(move |_| raw("206 Partial Content", &[("X", &endless)], b"")).await;
    let (source, entry) = opened(&config(&heads)).await.unwrap();
    assert!(matches!(
        read(&*source, &entry).await,
        Err(Error::Protocol { .. })
    ));
}

#[tokio::test]
async fn silence_before_or_in_a_body_ends_in_a_time_out() {
    let stalls = |sent: &'static [u8]| {
        faulty(move |_| Answer {
            after: After::Hang,
            ..raw("206 Partial Content", &GOOD, sent)
        })
    };
    let mute = faulty(|_| Answer {
        bytes: Vec::new(),
        after: After::Hang,
    })
    .await;
    for server in [mute, stalls(b"").await, stalls(b"0123").await] {
        let mut config = config(&server);
        config.read_timeout_seconds = Some(7);
        let (source, entry) = opened(&config).await.unwrap();
        // From here on only the silence takes time: the connection of the listing is used again.
        tokio::time::pause();
        let error = read(&*source, &entry).await.unwrap_err();
        tokio::time::resume();
        assert!(
            error.to_string().ends_with("the server was silent for 7s"),
            "{error}"
        );
        assert!(error.is_retryable());
    }
}

#[tokio::test]
async fn nobody_there_is_one_sentence() {
    let server = Responder::start(|head| file(head, BYTES, "\"e\"")).await;
    let config = config(&server);
    server.stop().await;
    let error = opened(&config).await.unwrap_err();
    assert!(
        error.to_string().ends_with(": connection refused"),
        "{error}"
    );
    let unknown = SourceConfig {
        url: "http://no-such-host.invalid".to_owned(),
        ..config
    };
    let error = opened(&unknown).await.unwrap_err();
    assert!(error.to_string().contains("does not resolve"), "{error}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn forbidden_addresses_are_refused_before_connecting_in_any_notation() {
    let server = Responder::start(|head| file(head, BYTES, "\"e\"")).await;
    let port = server.address.port();
    let mut closed = config(&server);
    closed.allow_loopback = false;
    for host in [
        "127.0.0.1",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "localhost",
    ] {
        closed.url = format!("http://{host}:{port}");
        let error = opened(&closed).await.unwrap_err();
        assert!(
            matches!(error, Error::Gate(Refusal::Denied(_))),
            "{host}: {error}"
        );
        assert!(error.to_string().contains("loopback"), "{host}: {error}");
    }
    for (host, address) in [
        ("a.test", "169.254.169.254"),
        ("b.test", "fd00:ec2::254"),
        ("c.test", "::ffff:169.254.169.254"),
    ] {
        closed
            .hosts
            .insert(host.to_owned(), address.parse().unwrap());
        closed.allow_loopback = true;
        closed.url = format!("http://{host}");
        let error = opened(&closed).await.unwrap_err();
        assert!(
            error.to_string().contains("no source may use"),
            "{host}: {error}"
        );
    }
    assert_eq!(server.accepted(), 0);
    closed.allow_loopback = false;
    closed.allowed_cidrs = vec!["127.0.0.0/8".parse().unwrap()];
    closed.url = format!("http://127.0.0.1:{port}");
    assert!(opened(&closed).await.is_ok());
}

#[derive(Debug, Default)]
struct Counting {
    connections: AtomicU64,
    refuses: bool,
}

impl Gate for Counting {
    fn connect(&self, connection: &Connection) -> Result<(), Refusal> {
        assert_eq!(
            (connection.source.as_str(), connection.host.as_str()),
            ("web", "127.0.0.1")
        );
        assert!(connection.address.is_loopback());
        self.connections.fetch_add(1, Ordering::Relaxed);
        if self.refuses {
            return Err(Refusal::Denied("policy p forbids web".to_owned()));
        }
        Ok(())
    }

    fn redirect(&self, redirection: &Redirection<'_>) -> Result<(), Refusal> {
        OpenGate.redirect(redirection)
    }

    fn admit<'a>(
        &'a self,
        _demand: &'a Demand,
    ) -> futures::future::BoxFuture<'a, Result<Box<dyn Permit>, Refusal>> {
        Box::pin(std::future::ready(Err(Refusal::Denied(
            "sources do not ask".to_owned(),
        ))))
    }
}

#[tokio::test]
async fn the_gate_sees_every_connection_and_its_no_counts() {
    let server = Responder::start(|head| file(head, BYTES, "\"e\"")).await;
    let open = Arc::new(Counting::default());
    let source = build(&config(&server), Arc::<Counting>::clone(&open)).unwrap();
    source.list("a", &Limits::default()).await.unwrap();
    assert_eq!(open.connections.load(Ordering::Relaxed), server.accepted());
    let closed = Arc::new(Counting {
        refuses: true,
        ..Counting::default()
    });
    let source = build(&config(&server), closed).unwrap();
    let error = source.list("a", &Limits::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "policy p forbids web");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn proxies_of_the_environment_are_not_read() {
    // The library has no code that reads them; this holds the sources to it.
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in [
        "source/connector.rs",
        "source/connector/link.rs",
        "source/connector/tls.rs",
        "source/connector/tunnel.rs",
        "source/http.rs",
        "source/s3.rs",
        "source/gcs.rs",
        "source/azure.rs",
        "source/config.rs",
    ] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(!text.contains("env::var"), "{file}");
    }
}

//! What proxies say, whole, in pieces and wrong.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tokio::io::duplex;
use url::Url;

use super::*;
use crate::error::Kind;

fn target(url: &str) -> Target {
    Target::of_url(&Url::parse(url).unwrap()).unwrap()
}

fn no(code: u16) -> Said {
    Said::No(StatusCode::from_u16(code).unwrap())
}

/// What becomes of a tunnel to `store.example:443` through `proxy.example:3128` if the proxy sends this, and then no more.
async fn opened(answer: &[u8]) -> Result<(), Error> {
    let (mut near, mut far) = duplex(64 << 10);
    far.write_all(answer).await.unwrap();
    far.shutdown().await.unwrap();
    let (store, proxy) = (
        target("https://store.example"),
        target("http://proxy.example:3128"),
    );
    open(&mut near, &store, &proxy, Duration::from_secs(7)).await
}

#[test]
fn the_request_names_host_and_port_twice() {
    for (url, authority) in [
        ("https://store.example/a", "store.example:443"),
        ("http://store.example", "store.example:80"),
        ("http://10.0.0.1:9000", "10.0.0.1:9000"),
        ("https://[fd00:0::1]", "[fd00::1]:443"),
    ] {
        assert_eq!(
            request(&target(url)),
            format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
        );
    }
}

#[test]
fn the_status_decides_and_nothing_before_the_head_is_whole() {
    for (head, said) in [
        ("HTTP/1.1 200 OK\r\n\r\n", Said::Open),
        (
            "HTTP/1.0 200 Connection established\r\nVia: p\r\n\r\n",
            Said::Open,
        ),
        ("HTTP/1.1 200\r\n\r\n", Said::Open),
        ("HTTP/1.1 204 \r\nContent-Length: 5\r\n\r\n", Said::Open),
        ("HTTP/1.1 100 Continue\r\n\r\n", no(100)),
        ("HTTP/1.1 302 Found\r\nLocation: http://x/\r\n\r\n", no(302)),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", no(403)),
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            no(407),
        ),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", no(502)),
    ] {
        assert_eq!(understand(head.as_bytes()), Some(said), "{head}");
        for length in 0..head.len() {
            assert_eq!(
                understand(&head.as_bytes()[..length]),
                None,
                "{head} {length}"
            );
        }
    }
}

#[test]
fn a_tunnel_is_empty_and_a_refusal_may_have_a_body() {
    assert_eq!(
        understand(b"HTTP/1.1 200 OK\r\n\r\nx"),
        Some(Said::Nonsense(EARLY))
    );
    assert_eq!(
        understand(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
        Some(no(403))
    );
}

#[test]
fn what_is_not_http_1_is_refused_as_soon_as_it_shows() {
    for answer in [
        "SSH-2.0-x",
        "\u{16}\u{3}\u{1}",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.x 200 OK\r\n\r\n",
        "HTTP/1.1200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 20\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 -20 OK\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.\r\n\r\n",
    ] {
        assert_eq!(
            understand(answer.as_bytes()),
            Some(Said::Nonsense(NOT_HTTP)),
            "{answer}"
        );
    }
}

#[test]
fn a_head_is_no_longer_than_any_other() {
    let begins = "HTTP/1.1 200 OK\r\nX: ";
    let filled = |bytes: usize| format!("{begins}{}", "x".repeat(bytes - begins.len()));
    assert_eq!(understand(filled(HEAD_MAX - 1).as_bytes()), None);
    assert_eq!(
        understand(filled(HEAD_MAX).as_bytes()),
        Some(Said::Nonsense(TOO_LONG))
    );
    let longest = filled(HEAD_MAX - END.len()) + "\r\n\r\n";
    assert_eq!(understand(longest.as_bytes()), Some(Said::Open));
    let longer = filled(HEAD_MAX - END.len() + 1) + "\r\n\r\n";
    assert_eq!(
        understand(longer.as_bytes()),
        Some(Said::Nonsense(TOO_LONG))
    );
}

fn answer() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        "HTTP/1\\.[01] [0-9]{2,4}( [a-zA-Z ]{0,8})?\r?\n([A-Za-z]{1,5}: [a-z]{0,5}\r\n){0,3}(\r\n)?[a-z]{0,3}",
        "HTTP/1\\.1 (200|403) OK\r\n([A-Za-z]{1,5}: [a-z]{0,5}\r\n){0,3}\r\n[a-z]{0,3}",
        "HTTP/[\r\n 12.]{0,20}",
    ];
    prop_oneof![
        text.prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::with_cases(512)
    })]

    #[test]
    fn nothing_is_accepted_without_a_whole_head(answer in answer()) {
        if let Some(Said::Open | Said::No(_)) = understand(&answer) {
            prop_assert!(answer.windows(4).any(|it| it == b"\r\n\r\n"));
        }
        if understand(&answer) == Some(Said::Open) {
            prop_assert!(answer.starts_with(b"HTTP/1.") && answer.ends_with(b"\r\n\r\n"));
        }
    }

    #[test]
    fn what_was_understood_is_not_changed_by_what_follows(answer in answer()) {
        let whole = understand(&answer);
        for length in 0..answer.len() {
            match understand(&answer[..length]) {
                None => {}
                Some(Said::Open) => prop_assert_eq!(whole, Some(Said::Nonsense(EARLY))),
                decided => prop_assert_eq!(whole, decided),
            }
        }
    }
}

#[tokio::test]
async fn a_no_by_rule_is_for_good_and_any_other_may_pass() {
    opened(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    for (answer, sentence) in [
        (
            "HTTP/1.1 403 canary\r\n\r\ncanary",
            "the proxy proxy.example:3128 does not let store.example:443 be reached (403): allow that host and port there",
        ),
        (
            "HTTP/1.1 407 canary\r\nProxy-Authenticate: Basic\r\n\r\n",
            "the proxy proxy.example:3128 does not let store.example:443 be reached (407): it asks for credentials, and none can be given to it; allow that host and port there without",
        ),
    ] {
        let error = opened(answer.as_bytes()).await.unwrap_err();
        assert_eq!(error.to_string(), sentence);
        assert_eq!((error.kind(), error.is_retryable()), (Kind::Denied, false));
    }
    for (answer, what) in [
        (
            "HTTP/1.1 502 canary\r\n\r\n",
            "it answers CONNECT with status 502",
        ),
        ("HTTP/1.1 200 OK\r\n\r\ncanary", EARLY),
        ("canary", NOT_HTTP),
        ("HTTP/1.1 200 OK\r\n", "the connection ended too early"),
        ("", "the connection ended too early"),
    ] {
        let error = opened(answer.as_bytes()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("store.example:443: the proxy proxy.example:3128 cannot be used: {what}")
        );
        assert_eq!(
            (error.kind(), error.is_retryable()),
            (Kind::Transient, true)
        );
    }
}

#[tokio::test]
async fn an_answer_may_come_byte_by_byte() {
    let (mut near, mut far) = duplex(1);
    let (store, proxy) = (target("http://store.example"), target("http://p:3128"));
    let answering = async {
        let mut asked = vec![0; request(&store).len()];
        far.read_exact(&mut asked).await.unwrap();
        far.write_all(b"HTTP/1.1 200 OK\r\n\r\nfrom here on the server speaks")
            .await
            .unwrap_err();
        asked
    };
    let opening = async {
        let opened = open(&mut near, &store, &proxy, Duration::from_secs(7)).await;
        drop(near);
        opened
    };
    let (opened, asked) = tokio::join!(opening, answering);
    opened.unwrap();
    assert_eq!(asked, request(&store).into_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_silent_proxy_is_waited_for_no_longer_than_for_a_connection() {
    let (mut near, _far) = duplex(1 << 10);
    let (store, proxy) = (target("http://store.example"), target("http://p:3128"));
    let start = tokio::time::Instant::now();
    let wait = Duration::from_secs(7);
    let error = open(&mut near, &store, &proxy, wait).await.unwrap_err();
    assert_eq!(start.elapsed().as_secs(), 7);
    assert_eq!(
        error.to_string(),
        "store.example:80: the proxy p:3128 cannot be used: it was silent for 7s"
    );
    assert!(error.is_retryable());
}

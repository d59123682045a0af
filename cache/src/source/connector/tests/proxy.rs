//! Connections through a proxy, which is a real one on loopback. The resolver knows the proxy's name and no other.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::*;
use crate::error::Kind;

/// A server whose name only the proxy knows.
const STORE: &str = "store.internal:8080";
const KEPT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What a proxy does when it is asked.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Leads to this server, whatever it is asked for.
    Leads(SocketAddr),
    /// Says this and closes.
    Says(&'static str),
    /// Says nothing.
    Hangs,
}

/// The heads of the requests that came.
#[derive(Debug, Default)]
struct Heads {
    all: Mutex<Vec<String>>,
    came: Notify,
}

impl Heads {
    fn all(&self) -> Vec<String> {
        self.all.lock().unwrap().clone()
    }
}

/// Something that serves on loopback until it is dropped.
struct Served {
    address: SocketAddr,
    heads: Arc<Heads>,
    _serving: JoinSet<()>,
}

impl Served {
    async fn start<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream, Arc<Heads>) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ALLOWED, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Heads>::default();
        let mut serving: JoinSet<()> = JoinSet::new();
        let noted = Arc::clone(&heads);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, Arc::clone(&noted)));
            }
        });
        Self {
            address,
            heads,
            _serving: serving,
        }
    }

    async fn proxy(manner: Manner) -> Self {
        Self::start(move |stream, heads| answer_connect(stream, heads, manner)).await
    }

    /// A web server that keeps its connections.
    async fn store() -> Self {
        Self::start(|mut stream, heads| async move {
            while note_head(&mut stream, &heads).await {
                stream.write_all(KEPT).await.unwrap();
            }
        })
        .await
    }
}

/// Reads a head and notes it; false if the connection has ended.
async fn note_head(stream: &mut TcpStream, heads: &Heads) -> bool {
    let mut head: Vec<u8> = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    let head = String::from_utf8(head).unwrap();
    heads.all.lock().unwrap().push(head);
    heads.came.notify_one();
    true
}

async fn answer_connect(mut stream: TcpStream, heads: Arc<Heads>, manner: Manner) {
    if !note_head(&mut stream, &heads).await {
        return;
    }
    match manner {
        Manner::Leads(server) => {
            let mut server = TcpStream::connect(server).await.unwrap();
            let open = b"HTTP/1.1 200 Connection established\r\n\r\n";
            stream.write_all(open).await.unwrap();
            // Either end may close as it likes.
            drop(tokio::io::copy_bidirectional(&mut stream, &mut server).await);
        }
        Manner::Says(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
        Manner::Hangs => std::future::pending().await,
    }
}

/// A transport through a proxy that has this port and the name [`HOST`], with these answers to the questions for it.
fn through(gate: &Arc<Asked>, port: u16, answers: &[&[IpAddr]]) -> Transport {
    let config = SourceConfig {
        proxy: Some(format!("http://{HOST}:{port}")),
        allowed_cidrs: vec!["127.0.0.1/32".parse().unwrap()],
        connect_timeout_seconds: Some(7),
        ..SourceConfig::default()
    };
    let answers = answers.iter().map(|answer| answer.to_vec()).collect();
    scripted(&config, gate, answers)
}

async fn fetched(transport: &Transport, url: &str) -> Result<Bytes, Error> {
    transport.send(asking(url)).await?.collect(16).await
}

#[tokio::test]
async fn a_server_whose_name_only_the_proxy_knows_is_read_over_one_tunnel() {
    let store = Served::store().await;
    let proxy = Served::proxy(Manner::Leads(store.address)).await;
    let port = proxy.address.port();
    let gate = Arc::<Asked>::default();
    let transport = through(&gate, port, &[&[ALLOWED]]);
    for _ in 0..2 {
        let url = format!("http://{STORE}/a");
        assert_eq!(fetched(&transport, &url).await.unwrap(), "ok");
    }
    assert_eq!(
        proxy.heads.all(),
        [format!("CONNECT {STORE} HTTP/1.1\r\nHost: {STORE}\r\n\r\n")]
    );
    let requests = store.heads.all();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert!(request.starts_with("GET /a HTTP/1.1\r\n"), "{request}");
        let has_host = request
            .to_lowercase()
            .contains(&format!("\r\nhost: {STORE}\r\n"));
        assert!(has_host, "{request}");
    }
    // The host is the bytes', the address is the proxy's.
    let asked = Connection {
        source: String::new(),
        host: "store.internal".to_owned(),
        address: ALLOWED,
        port,
    };
    assert_eq!(*gate.0.lock().unwrap(), [asked]);
}

#[tokio::test]
async fn each_server_has_a_tunnel_of_its_own() {
    let store = Served::store().await;
    let proxy = Served::proxy(Manner::Leads(store.address)).await;
    let gate = Arc::<Asked>::default();
    let transport = through(&gate, proxy.address.port(), &[&[ALLOWED], &[ALLOWED]]);
    for host in ["a.internal", "b.internal"] {
        let url = format!("http://{host}/a");
        assert_eq!(fetched(&transport, &url).await.unwrap(), "ok");
    }
    assert_eq!(proxy.heads.all().len(), 2);
    let asked = gate.0.lock().unwrap().clone();
    let hosts: Vec<_> = asked.iter().map(|asked| asked.host.as_str()).collect();
    assert_eq!(hosts, ["a.internal", "b.internal"]);
}

#[tokio::test]
async fn no_proxy_hears_of_an_address_that_is_forbidden() {
    let proxy = Served::proxy(Manner::Hangs).await;
    for (target, class) in [
        ("169.254.169.254", "a link-local address"),
        ("[::ffff:169.254.169.254]", "a link-local address"),
        ("0xa9fea9fe", "a link-local address"),
        ("100.100.100.200", "an instance metadata address"),
        ("127.0.0.2", "a loopback address"),
    ] {
        let gate = Arc::<Asked>::default();
        let transport = through(&gate, proxy.address.port(), &[&[ALLOWED]]);
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{target}/a");
            let error = fetched(&transport, &url).await.unwrap_err();
            assert!(matches!(error, Error::Gate(Refusal::Denied(_))), "{error}");
            assert!(error.to_string().contains(class), "{error}");
        }
        assert_eq!(gate.addresses(), Vec::<IpAddr>::new());
    }
    assert_eq!(proxy.heads.all(), Vec::<String>::new());
}

#[tokio::test]
async fn the_address_of_the_proxy_is_checked_for_every_connection() {
    let says = Manner::Says("HTTP/1.1 503 x\r\n\r\n");
    let proxy = Served::proxy(says).await;
    let forbidden: IpAddr = "127.0.0.2".parse().unwrap();
    let gate = Arc::<Asked>::default();
    let transport = through(&gate, proxy.address.port(), &[&[ALLOWED], &[forbidden]]);
    let url = format!("http://{STORE}/a");
    let error = fetched(&transport, &url).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    let error = fetched(&transport, &url).await.unwrap_err();
    let sentence = format!("host \"{HOST}\" is at {forbidden}: ");
    assert!(error.to_string().starts_with(&sentence), "{error}");
    assert_eq!(gate.addresses(), [ALLOWED]);
    assert_eq!(proxy.heads.all().len(), 1);
}

#[tokio::test]
async fn what_the_proxy_forbids_is_not_asked_for_again_and_what_it_fails_at_is() {
    for (answer, kind, words) in [
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ncanary",
            Kind::Denied,
            "does not let store.internal:8080 be reached (403)",
        ),
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            Kind::Denied,
            "does not let store.internal:8080 be reached (407)",
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\n\r\n",
            Kind::Transient,
            "it answers CONNECT with status 502",
        ),
        ("", Kind::Transient, "the connection ended too early"),
    ] {
        let proxy = Served::proxy(Manner::Says(answer)).await;
        let port = proxy.address.port();
        let transport = through(&Arc::default(), port, &[&[ALLOWED]]);
        let error = fetched(&transport, &format!("http://{STORE}/a")).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.is_retryable(), kind == Kind::Transient, "{error}");
        let sentence = error.to_string();
        assert!(sentence.contains(words), "{sentence}");
        assert!(
            sentence.contains(&format!("the proxy {HOST}:{port} ")),
            "{sentence}"
        );
        assert!(!sentence.contains("canary"), "{sentence}");
        assert_eq!(proxy.heads.all().len(), 1);
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let listener = TcpListener::bind((ALLOWED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let transport = through(&Arc::default(), port, &[&[ALLOWED]]);
    let error = fetched(&transport, &format!("http://{STORE}/a")).await;
    let error = error.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{STORE}: the proxy {HOST}:{port} cannot be used: connection refused")
    );
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_proxy_that_hangs_is_given_up_like_a_server_that_does_not_answer() {
    let proxy = Served::proxy(Manner::Hangs).await;
    let transport = through(&Arc::default(), proxy.address.port(), &[&[ALLOWED]]);
    let url = format!("http://{STORE}/a");
    let heard = async {
        proxy.heads.came.notified().await;
        // From here on nobody works, and time passes at once.
        tokio::time::pause();
    };
    let (fetched, ()) = tokio::join!(fetched(&transport, &url), heard);
    let error = fetched.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("cannot be used: it was silent for 7s"),
        "{error}"
    );
    assert!(error.is_retryable());
}

#[test]
fn the_metadata_service_is_reached_past_the_proxy() {
    let config = SourceConfig {
        proxy: Some("http://10.0.0.1:3128".to_owned()),
        ..SourceConfig::default()
    };
    let gate = || Arc::<Asked>::default() as Arc<dyn Gate>;
    let proxy = |transport: Transport| {
        let proxy = transport.0.proxy.as_ref();
        proxy.map(ToString::to_string)
    };
    assert_eq!(
        proxy(Transport::new(&config, gate()).unwrap()).as_deref(),
        Some("10.0.0.1:3128")
    );
    assert_eq!(proxy(Transport::direct(&config, gate())), None);
    assert_eq!(
        proxy(Transport::to_instance(&config, gate(), ALLOWED, "metadata")),
        None
    );
}

#[test]
fn a_transport_with_a_proxy_that_is_none_cannot_be_made() {
    let config = SourceConfig {
        proxy: Some("https://proxy.example:3128".to_owned()),
        ..SourceConfig::default()
    };
    let error = Transport::new(&config, Arc::<Asked>::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(
        error.to_string().contains("write http://host:port"),
        "{error}"
    );
}

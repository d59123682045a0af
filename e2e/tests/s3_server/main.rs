//! The S3 test server, asked in raw HTTP: what it serves, what it counts, and that each fault is what it says.

#![expect(clippy::unwrap_used, reason = "a set-up that fails must stop the test")]

mod access;
mod counting;
mod faults;
mod listing;
mod serving;
mod tls;

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

//! A web server on loopback, written by hand so that it shares nothing with the code under test: it answers
//! each request with whatever bytes a function makes of the request. Connections are kept alive until
//! an answer says otherwise.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// Path and query as sent.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) fields: HashMap<String, String>,
    /// What followed the head, where it had a length.
    pub(crate) body: String,
}

/// What goes out, and whether the connection is kept.
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) after: After,
}

/// What happens to the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Keep,
    Close,
    /// Says no more and keeps the connection open.
    Hang,
}

/// A running server; ends when dropped.
pub(crate) struct Responder {
    pub(crate) address: SocketAddr,
    pub(crate) heads: Arc<Mutex<Vec<Head>>>,
    pub(crate) accepted: Arc<Mutex<u64>>,
    open: watch::Receiver<u64>,
    tasks: JoinSet<()>,
}

type Respond = dyn Fn(&Head) -> Answer + Send + Sync;

impl Responder {
    pub(crate) async fn start(respond: impl Fn(&Head) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::new(Mutex::new(0));
        let mut tasks = JoinSet::new();
        let (open, seen) = watch::channel(0);
        let (log, count) = (Arc::clone(&heads), Arc::clone(&accepted));
        let respond: Arc<Respond> = Arc::new(respond);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                let (respond, log, open) = (Arc::clone(&respond), Arc::clone(&log), open.clone());
                connections.spawn(async move {
                    open.send_modify(|open| *open += 1);
                    serve(stream, respond, log).await;
                    open.send_modify(|open| *open -= 1);
                });
            }
        });
        Self {
            address,
            heads,
            accepted,
            open: seen,
            tasks,
        }
    }

    /// Ends the server; when this returns, its port is free.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> u64 {
        *self.open.borrow()
    }

    /// Waits until every connection is closed.
    pub(crate) async fn all_closed(&self) {
        self.open.clone().wait_for(|open| *open == 0).await.unwrap();
    }

    pub(crate) fn heads(&self) -> Vec<Head> {
        self.heads.lock().unwrap().clone()
    }

    pub(crate) fn accepted(&self) -> u64 {
        *self.accepted.lock().unwrap()
    }
}

async fn serve(mut stream: TcpStream, respond: Arc<Respond>, log: Arc<Mutex<Vec<Head>>>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        let mut head = parse(std::str::from_utf8(&buffer[..end]).unwrap());
        buffer.drain(..end);
        let length = head.fields.get("content-length");
        let length = length.map_or(0, |text| text.parse().unwrap());
        while buffer.len() < length {
            if let Ok(0) | Err(_) = stream.read_buf(&mut buffer).await {
                return;
            }
        }
        let body = buffer.drain(..length).collect();
        head.body = String::from_utf8(body).unwrap();
        log.lock().unwrap().push(head.clone());
        let answer = respond(&head);
        if stream.write_all(&answer.bytes).await.is_err() {
            return;
        }
        match answer.after {
            After::Keep => {}
            After::Close => return,
            After::Hang => return std::future::pending().await,
        }
    }
}

fn parse(text: &str) -> Head {
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let fields = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Head {
        method: first.next().unwrap().to_owned(),
        target: first.next().unwrap().to_owned(),
        fields,
        body: String::new(),
    }
}

/// An answer of a status line, fields and a body, verbatim.
pub(crate) fn raw(status: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    Answer {
        bytes,
        after: After::Keep,
    }
}

/// Serves a file as a good web server does: HEAD, one range, `If-Match`.
pub(crate) fn file(head: &Head, bytes: &[u8], etag: &str) -> Answer {
    if head
        .fields
        .get("if-match")
        .is_some_and(|asked| asked != etag)
    {
        return raw("412 Precondition Failed", &[("Content-Length", "0")], b"");
    }
    let length = bytes.len().to_string();
    let tag = ("ETag", etag);
    if head.method == "HEAD" {
        return raw("200 OK", &[("Content-Length", &length), tag], b"");
    }
    let Some(range) = head.fields.get("range") else {
        return raw("200 OK", &[("Content-Length", &length), tag], bytes);
    };
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let Some(part) = bytes.get(first..=last) else {
        return raw("416 Range Not Satisfiable", &[("Content-Length", "0")], b"");
    };
    let sent = format!("bytes {first}-{last}/{length}");
    let part_length = part.len().to_string();
    let fields = [
        ("Content-Length", part_length.as_str()),
        ("Content-Range", &sent),
        tag,
    ];
    raw("206 Partial Content", &fields, part)
}

//! An S3 server over a directory: one thread per connection, content by `sendfile` from the page cache.
//!
//! It knows ranged GET, HEAD, `ListObjectsV2` and `If-Match`, in path style, and ignores signatures: the work of a client is
//! measured here, not the strictness of a server (that one is in `e2e/`). On demand it delays first bytes, limits rates,
//! and slows, refuses or truncates a share of the ranges by a seed. It counts what it sends: `GET /_stats` tells,
//! `POST /_reset` starts again.

mod answer;
mod cli;
mod connection;
mod listing;
mod objects;
mod request;
mod shape;
mod tls;

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use cli::Serve;
pub use objects::Objects;
pub use shape::{Bucket, Shape, Trouble};

/// What a server is started with.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Directory whose subdirectories are buckets.
    pub root: PathBuf,
    /// Port on 127.0.0.1; 0 picks a free one.
    pub port: u16,
    /// Rates, delays and troubles.
    pub shape: Shape,
    /// Speaks TLS, and writes the authority that clients are to trust here, as PEM.
    pub ca_out: Option<PathBuf>,
}

/// What was sent since the last reset.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes of objects, as the kernel took them.
    pub object_bytes: AtomicU64,
    /// Requests for objects.
    pub gets: AtomicU64,
    /// Listings.
    pub lists: AtomicU64,
    /// Connections accepted.
    pub connections: AtomicU64,
}

impl Counts {
    fn reset(&self) {
        for count in [
            &self.object_bytes,
            &self.gets,
            &self.lists,
            &self.connections,
        ] {
            count.store(0, Ordering::Relaxed);
        }
    }

    fn to_json(&self) -> String {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        serde_json::json!({
            "object_bytes": read(&self.object_bytes),
            "gets": read(&self.gets),
            "lists": read(&self.lists),
            "connections": read(&self.connections),
        })
        .to_string()
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    objects: Objects,
    shape: Shape,
    counts: Counts,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl Server {
    /// Reads the directory and listens on 127.0.0.1.
    pub fn bind(settings: Settings) -> io::Result<Self> {
        let tls = settings.ca_out.as_deref().map(tls::config).transpose()?;
        let listener = TcpListener::bind(("127.0.0.1", settings.port))?;
        // Connections inherit it. BBR, the default on some machines, paces a loopback connection by timers, which would
        // measure the server's pacing and charge the client for the timers. Where CUBIC is absent, the default is what
        // there is.
        let _absent = rustix::net::sockopt::set_tcp_congestion(&listener, "cubic");
        Ok(Self {
            listener,
            shared: Arc::new(Shared {
                objects: Objects::new(settings.root),
                shape: settings.shape,
                counts: Counts::default(),
            }),
            tls,
        })
    }

    /// `http://127.0.0.1:PORT` or `https://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.listener.local_addr()?))
    }

    /// Serves until the process ends; a connection that breaks ends its thread and nothing else.
    pub fn serve(self) -> io::Result<()> {
        loop {
            let (stream, _) = self.listener.accept()?;
            self.shared
                .counts
                .connections
                .fetch_add(1, Ordering::Relaxed);
            let shared = Arc::clone(&self.shared);
            let tls = self.tls.clone();
            std::thread::Builder::new()
                .stack_size(256 << 10)
                .spawn(move || connection::serve(&shared, stream, tls))?;
        }
    }
}

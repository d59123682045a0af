//! A TCP proxy on loopback that misbehaves below HTTP: refuses, swallows, cuts, delays, slows down.
//!
//! It owns its tasks: dropping it closes everything.

use crate::pace::Pace;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const FRAME: usize = 64 << 10;

/// What the proxy does. A change takes effect on open connections too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Refuses connections; open ones are reset.
    Refuse,
    /// Accepts connections and passes nothing on, in neither direction.
    BlackHole,
    /// Resets every connection, open or new.
    Cut,
    /// Holds each piece back by this much.
    Delay(Duration),
    /// Passes at most this many bytes per second in each direction of each connection.
    Rate(u64),
    /// Resets each connection after this many bytes towards the client.
    CutAfter(u64),
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    to_client: AtomicU64,
}

/// A running proxy.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    listening: watch::Receiver<bool>,
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

impl TcpProxy {
    /// Listens on a free port of 127.0.0.1 and passes everything on to `upstream`.
    pub async fn start(upstream: SocketAddr) -> io::Result<TcpProxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mode, modes) = watch::channel(Mode::Pass);
        let (state, listening) = watch::channel(true);
        let counts = Arc::new(Counts::default());
        let accept = Accept {
            address,
            upstream,
            modes,
            state,
            counts: Arc::clone(&counts),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept.run(listener));
        Ok(TcpProxy {
            address,
            mode,
            listening,
            counts,
            tasks,
        })
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does; returns once connections are refused, or accepted again.
    pub async fn set(&self, mode: Mode) {
        let mut listening = self.listening.clone();
        self.mode.send_replace(mode);
        // Fails only when the accepting task ended, and then nothing is accepted anyway.
        drop(listening.wait_for(|on| *on == (mode != Mode::Refuse)).await);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    /// Bytes passed on towards clients.
    pub fn bytes_to_clients(&self) -> u64 {
        self.counts.to_client.load(Ordering::Relaxed)
    }

    /// Ends the proxy; returns when nothing of it is left.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

struct Accept {
    address: SocketAddr,
    upstream: SocketAddr,
    modes: watch::Receiver<Mode>,
    state: watch::Sender<bool>,
    counts: Arc<Counts>,
}

impl Accept {
    async fn run(mut self, listener: TcpListener) {
        let mut listener = Some(listener);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                client = next(listener.as_ref()) => if let Ok(client) = client {
                    self.counts.accepted.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(relay(client, self.upstream, self.modes.clone(), Arc::clone(&self.counts)));
                },
                Some(_) = connections.join_next() => {}
                changed = self.modes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let refuse = *self.modes.borrow() == Mode::Refuse;
                    if refuse {
                        listener = None;
                    } else if listener.is_none() {
                        listener = TcpListener::bind(self.address).await.ok();
                    }
                    self.state.send_replace(listener.is_some());
                }
            }
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        None => std::future::pending().await,
    }
}

/// Relays both directions until either ends; a mode that cuts resets both sides.
async fn relay(
    mut client: TcpStream,
    upstream: SocketAddr,
    modes: watch::Receiver<Mode>,
    counts: Arc<Counts>,
) -> io::Result<()> {
    let mut modes_here = modes.clone();
    let cut = async move {
        drop(
            modes_here
                .wait_for(|mode| matches!(mode, Mode::Cut | Mode::Refuse))
                .await,
        );
    };
    client.set_nodelay(true)?;
    // Whatever ends the relay early must look like a broken network, not like an orderly close.
    client.set_zero_linger()?;
    let relayed = async {
        let mut server = TcpStream::connect(upstream).await?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = Pipe {
            from: from_client,
            to: to_server,
            modes: modes.clone(),
            counts: None,
        };
        let down = Pipe {
            from: from_server,
            to: to_client,
            modes,
            counts: Some(counts),
        };
        tokio::try_join!(up.run(), down.run()).map(|_| ())
    };
    tokio::select! {
        result = relayed => result,
        () = cut => Ok(()),
    }
}

/// One direction of one connection.
struct Pipe<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    modes: watch::Receiver<Mode>,
    /// Set towards the client.
    counts: Option<Arc<Counts>>,
}

impl Pipe<'_> {
    async fn run(mut self) -> io::Result<()> {
        let mut buf = vec![0; FRAME];
        let mut passed = 0;
        let mut pace = Pace::new(u64::MAX);
        loop {
            let len = self.from.read(&mut buf[..pace.frame(FRAME)]).await?;
            if len == 0 {
                return self.to.shutdown().await;
            }
            let passing = self.modes.wait_for(|mode| *mode != Mode::BlackHole).await;
            let mode = *passing.map_err(io::Error::other)?;
            let mut end = len;
            match mode {
                Mode::Delay(delay) => tokio::time::sleep(delay).await,
                Mode::Rate(rate) => {
                    if pace.rate() != rate {
                        pace = Pace::new(rate);
                    }
                    pace.take(len).await;
                }
                Mode::CutAfter(limit) if self.counts.is_some() => {
                    end = len.min(usize::try_from(limit.saturating_sub(passed)).unwrap_or(len));
                }
                Mode::CutAfter(_) | Mode::Pass | Mode::Refuse | Mode::BlackHole | Mode::Cut => {}
            }
            self.to.write_all(&buf[..end]).await?;
            passed += end as u64;
            if let Some(counts) = &self.counts {
                counts.to_client.fetch_add(end as u64, Ordering::Relaxed);
            }
            if end < len {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    /// A server that sends back what it gets, a proxy before it, and a client of the proxy.
    async fn echo() -> (JoinSet<()>, TcpProxy, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = TcpProxy::start(listener.local_addr().unwrap())
            .await
            .unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut each = JoinSet::new();
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                each.spawn(async move {
                    let (mut from, mut to) = tcp.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        (tasks, proxy, client)
    }

    async fn ask(client: &mut TcpStream, len: usize) -> io::Result<usize> {
        client.write_all(&vec![7; len]).await?;
        let mut buf = vec![0; len];
        client.read_exact(&mut buf).await
    }

    #[tokio::test]
    async fn passing_passes_everything_on() {
        let (_tasks, proxy, mut client) = echo().await;
        assert_eq!(ask(&mut client, 1000).await.unwrap(), 1000);
        assert_eq!((proxy.accepted(), proxy.bytes_to_clients()), (1, 1000));
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        proxy.shutdown().await;
    }

    #[tokio::test]
    async fn refusing_resets_what_is_open_and_ends_when_told() {
        let (_tasks, proxy, mut client) = echo().await;
        ask(&mut client, 1).await.unwrap();
        proxy.set(Mode::Refuse).await;
        assert!(client.read(&mut [0]).await.is_err());
        let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        proxy.set(Mode::Pass).await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        ask(&mut client, 1).await.unwrap();
    }

    #[tokio::test]
    async fn a_black_hole_answers_nothing_until_it_ends() {
        let (_tasks, proxy, mut client) = echo().await;
        ask(&mut client, 1).await.unwrap();
        proxy.set(Mode::BlackHole).await;
        client.write_all(&[1]).await.unwrap();
        let mut byte = [0];
        assert!(futures::poll!(std::pin::pin!(client.read(&mut byte))).is_pending());
        proxy.set(Mode::Pass).await;
        assert_eq!(client.read(&mut byte).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn cutting_resets_and_does_not_close() {
        let (_tasks, proxy, mut client) = echo().await;
        ask(&mut client, 1).await.unwrap();
        proxy.set(Mode::Cut).await;
        let error = client.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn cutting_after_a_count_passes_no_more_than_that() {
        let (_tasks, proxy, mut client) = echo().await;
        proxy.set(Mode::CutAfter(100)).await;
        assert!(ask(&mut client, 1000).await.is_err());
        assert_eq!(proxy.bytes_to_clients(), 100);
    }

    #[tokio::test]
    async fn rates_and_delays_take_their_time() {
        let (_tasks, proxy, mut client) = echo().await;
        let start = Instant::now();
        proxy.set(Mode::Delay(Duration::from_millis(20))).await;
        ask(&mut client, 1).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(40));
        let start = Instant::now();
        proxy.set(Mode::Rate(100_000)).await;
        ask(&mut client, 5000).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(50));
    }
}

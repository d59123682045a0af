//! The task that accepts connections and owns them; it listens, stops listening and drops them when told.

use super::{Shared, connection};
use std::io;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What the accepting task can be told.
#[derive(Debug)]
pub(super) enum Command {
    /// Drop the connections.
    Disconnect,
    /// Drop the connections and the listener.
    Down,
    /// Listen again.
    Up,
}

/// A command, and where to say that it is done.
pub(super) type Order = (Command, oneshot::Sender<io::Result<()>>);

/// Accepts connections and owns them, until the server is dropped.
pub(super) async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    mut inbox: mpsc::UnboundedReceiver<Order>,
) {
    let address = listener.local_addr();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            tcp = next(listener.as_ref()) => if let Ok(tcp) = tcp {
                connections.spawn(connection::serve(Arc::clone(&shared), tcp, tls.clone()));
            },
            Some(_) = connections.join_next() => {}
            order = inbox.recv() => {
                let Some((command, done)) = order else { return };
                let result = match command {
                    Command::Disconnect => Ok(()),
                    Command::Down => {
                        listener = None;
                        Ok(())
                    }
                    Command::Up => match &address {
                        Ok(address) => TcpListener::bind(address).await.map(|l| listener = Some(l)),
                        Err(error) => Err(io::Error::from(error.kind())),
                    },
                };
                if !matches!(command, Command::Up) {
                    connections.shutdown().await;
                }
                // Whoever gave the order may have stopped waiting for it.
                drop(done.send(result));
            }
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(tcp, _)| tcp),
        None => std::future::pending().await,
    }
}

//! Listening: gRPC on UNIX sockets and health over HTTP. Everything a stranger could make grow is bounded: connections,
//! streams and headers of a connection, calls, message sizes.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonnage_cache::error::{IoContext, PathError};

mod authority;
mod http;
mod routes;

use authority::Repaired;
pub use http::{Health, serve_http};
pub use routes::Routes;

/// Longest request message in bytes: far above any CSI message.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Most connections of one socket.
const CONNECTIONS_MAX: usize = 512;
/// Most streams of one connection.
const STREAMS_MAX: u32 = 256;
/// Longest header list of a call in bytes.
const HEADERS_MAX: u32 = 64 << 10;
/// Longest time that running calls may take after the stop.
const GRACE: Duration = Duration::from_secs(5);

/// What went wrong with a socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Another process listens there.
    #[error("another process serves {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
}

/// A bound socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds `path` for the owner and its group, making its directory and removing the socket of a process that died.
    pub async fn bind(path: &Path) -> Result<Self, Error> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).at("make", parent)?;
        }
        remove_stale(path).await?;
        let listener = UnixListener::bind(path).at("bind", path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
            .at("set the mode of", path)?;
        Ok(Self {
            listener,
            path: path.to_path_buf(),
        })
    }

    /// Serves `routes` until `stop`; calls that run then have a few seconds to end.
    pub async fn serve(self, routes: Routes, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(converse(stream, routes.clone(), stop.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Out of descriptors: give others a moment to close some.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        let path = self.path.clone();
        // No new callers while the last are answered.
        drop(self);
        let ended = tokio::time::timeout(GRACE, async {
            while connections.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            tracing::warn!(path = %path.display(), "calls were cut off by the stop");
        }
    }
}

async fn converse(stream: UnixStream, routes: Routes, stop: CancellationToken) {
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .serve_connection(TokioIo::new(Repaired::new(stream)), routes);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn remove_stale(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = match path.symlink_metadata() {
        Ok(facts) => facts.file_type().is_socket(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map(|_| false).at("look at", path)?,
    };
    match UnixStream::connect(path).await {
        Ok(_) => Err(Error::InUse {
            path: path.to_path_buf(),
        }),
        // Nobody listens: its owner died.
        Err(error) if is_socket && error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(std::fs::remove_file(path).at("remove", path)?)
        }
        result => Ok(result.map(drop).at("replace", path)?),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a socket stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_process_s_socket_is_replaced_and_a_living_one_s_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/csi.sock");
        std::fs::create_dir(directory.path().join("run")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = Socket::bind(&path).await.unwrap();
        assert!(matches!(
            Socket::bind(&path).await,
            Err(Error::InUse { .. })
        ));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        std::fs::write(&path, "x").unwrap();
        assert!(Socket::bind(&path).await.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
    }
}

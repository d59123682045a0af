//! The control socket of a cache: `<root>/control.sock`, through which the command line asks the process that
//! owns the cache to do what needs its lock. Served by the node service; the owner's own user and root may ask.
//!
//! ```text
//! one connection, one request: a line of JSON each way, at most 64 KiB
//! → {"pin":{"name":"base","digest":"3f2a…"}}
//! ← {"answer":"pinned"}   or   {"error":{"kind":"NotFound","message":"…"}}
//! ```
//! This file moves questions and answers; what they do is in `upkeep`.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonnage_cache::error::{Kind, PathError, chain};

use crate::upkeep::{Answer, Request, Upkeep};

const NAME: &str = "control.sock";
const LONGEST_LINE: u64 = 64 << 10;
const MOST_CONNECTIONS: usize = 16;

/// What went wrong between the command line and the owner of the cache.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made or used.
    #[error(transparent)]
    Socket(#[from] PathError),
    /// The other side speaks another language: a version too old or too new.
    #[error("the process that owns the cache does not understand: {0}")]
    Language(String),
    /// The owner tried and failed.
    #[error("{message}")]
    Refused {
        /// What the owner's error was.
        kind: Kind,
        /// Its chain of causes.
        message: String,
    },
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Socket(error) if error.source.kind() == io::ErrorKind::PermissionDenied => {
                Kind::Denied
            }
            Self::Socket(error) => error.kind(),
            Self::Language(_) => Kind::Internal,
            Self::Refused { kind, .. } => *kind,
        }
    }
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Answer(Answer),
    Error { kind: String, message: String },
}

/// Asks the owner of the cache at `root`; `None` if nobody listens there.
pub async fn ask(root: &Path, request: &Request) -> Result<Option<Answer>, Error> {
    let path = root.join(NAME);
    let failed = |operation: &'static str, source: io::Error| PathError {
        operation,
        path: path.clone(),
        source,
    };
    let mut stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failed("connect to", error).into()),
    };
    let line = encode(request)?;
    stream
        .write_all(&line)
        .await
        .map_err(|error| failed("write to", error))?;
    let mut text = String::new();
    BufReader::new(stream.take(LONGEST_LINE))
        .read_line(&mut text)
        .await
        .map_err(|error| failed("read from", error))?;
    match serde_json::from_str(&text) {
        Ok(Reply::Answer(answer)) => Ok(Some(answer)),
        Ok(Reply::Error { kind, message }) => Err(Error::Refused {
            kind: kind_called(&kind),
            message,
        }),
        Err(error) => Err(Error::Language(error.to_string())),
    }
}

/// The bound control socket of a cache, removed when dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    upkeep: Arc<Upkeep>,
}

impl Control {
    /// Binds the socket of the cache whose lock this process holds: a socket that is there already is a dead
    /// owner's.
    pub fn bind(upkeep: Arc<Upkeep>) -> Result<Self, Error> {
        let path = upkeep.store().root().join(NAME);
        let failed = |operation: &'static str, source: io::Error| PathError {
            operation,
            path: path.clone(),
            source,
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", error).into());
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(|error| failed("bind", error))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| failed("change the mode of", error))?;
        Ok(Self {
            listener,
            path,
            upkeep,
        })
    }

    /// Answers until `stop`; running requests are then dropped.
    pub async fn serve(self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(answer(stream, Arc::clone(&self.upkeep)));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the control socket cannot accept");
                        tokio::task::yield_now().await;
                    }
                },
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the control socket stays behind");
        }
    }
}

async fn answer(mut stream: UnixStream, upkeep: Arc<Upkeep>) {
    let own = rustix::process::geteuid().as_raw();
    if !stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
    {
        return;
    }
    if let Err(error) = converse(&mut stream, &upkeep).await {
        tracing::debug!(%error, "a control connection ended early");
    }
}

async fn converse(stream: &mut UnixStream, upkeep: &Upkeep) -> io::Result<()> {
    let mut text = String::new();
    let (read, mut write) = stream.split();
    BufReader::new(read.take(LONGEST_LINE))
        .read_line(&mut text)
        .await?;
    let reply = match serde_json::from_str::<Request>(&text) {
        Ok(request) => match upkeep.perform(request).await {
            Ok(answer) => Reply::Answer(answer),
            Err(error) => refusal(error.kind(), chain(&error)),
        },
        Err(error) => refusal(Kind::Invalid, error.to_string()),
    };
    let line = encode(&reply).map_err(io::Error::other)?;
    write.write_all(&line).await
}

fn refusal(kind: Kind, message: String) -> Reply {
    Reply::Error {
        kind: kind_name(kind),
        message,
    }
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(value).map_err(|error| Error::Language(error.to_string()))?;
    line.push(b'\n');
    Ok(line)
}

fn kind_name(kind: Kind) -> String {
    format!("{kind:?}")
}

fn kind_called(name: &str) -> Kind {
    Kind::ALL
        .into_iter()
        .find(|kind| kind_name(*kind) == name)
        .unwrap_or(Kind::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_cache::digest::Digest;
    use tonnage_cache::manifest::Manifest;
    use tonnage_cache::store::{Config, Env, Store};

    async fn owner() -> (tempfile::TempDir, Arc<Upkeep>) {
        let root = tempfile::tempdir().unwrap();
        let config = Config::new(root.path());
        let open = || Store::open(config, Env::real());
        let store = tokio::task::spawn_blocking(open).await.unwrap().unwrap();
        (root, Upkeep::new(store).unwrap())
    }

    async fn stored(upkeep: &Upkeep) -> Digest {
        upkeep
            .store()
            .put_manifest(&Manifest::new(Vec::new()).unwrap())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn the_owner_does_what_is_asked_through_its_socket() {
        let (root, upkeep) = owner().await;
        let digest = stored(&upkeep).await;
        let stop = CancellationToken::new();
        let control = Control::bind(Arc::clone(&upkeep)).unwrap();
        let mode = std::fs::metadata(root.path().join(NAME))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut server = JoinSet::new();
        server.spawn(control.serve(stop.clone()));
        let pin = Request::Pin {
            name: "a".to_owned(),
            digest,
        };
        assert_eq!(ask(root.path(), &pin).await.unwrap(), Some(Answer::Pinned));
        assert_eq!(upkeep.store().leases().count(), 1);
        let unknown = ask(
            root.path(),
            &Request::Unpin {
                name: "b".to_owned(),
            },
        )
        .await
        .unwrap_err();
        assert_eq!(unknown.kind(), Kind::NotFound);
        assert!(
            unknown.to_string().contains("no pin is called \"b\""),
            "{unknown}"
        );
        let unpin = Request::Unpin {
            name: "a".to_owned(),
        };
        assert_eq!(
            ask(root.path(), &unpin).await.unwrap(),
            Some(Answer::Unpinned { digest })
        );
        assert_eq!(upkeep.store().leases().count(), 0);
        stop.cancel();
        server.join_next().await;
        assert!(!root.path().join(NAME).exists());
    }

    #[tokio::test]
    async fn nobody_listening_is_no_error_and_a_dead_socket_is_replaced() {
        let (root, upkeep) = owner().await;
        let request = Request::Evict(crate::upkeep::Extent::All);
        assert_eq!(ask(root.path(), &request).await.unwrap(), None);
        drop(UnixListener::bind(root.path().join(NAME)).unwrap());
        assert_eq!(ask(root.path(), &request).await.unwrap(), None);
        assert!(Control::bind(upkeep).is_ok());
    }

    #[tokio::test]
    async fn a_line_that_is_no_request_is_answered_as_invalid() {
        let (root, upkeep) = owner().await;
        let control = Control::bind(upkeep).unwrap();
        let mut server = JoinSet::new();
        server.spawn(control.serve(CancellationToken::new()));
        let mut stream = UnixStream::connect(root.path().join(NAME)).await.unwrap();
        stream.write_all(b"{\"explode\":{}}\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("\"kind\":\"Invalid\""), "{text}");
        server.shutdown().await;
    }

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in Kind::ALL {
            assert_eq!(kind_called(&kind_name(kind)), kind);
        }
    }
}

//! An S3 server on loopback that counts what it sends and misbehaves on demand.
//!
//! It stands in for the object store in tests, benches and the demo: objects come from memory, a generator
//! or files; signatures are really verified; every object byte that leaves is counted ([`Wire`]); a script of
//! [`Fault`]s decides what goes wrong. The server owns all its tasks: dropping it leaves nothing.
//!
//! It does not do multipart uploads, bulk deletes, ACLs, or anything else that reading does not need.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use tonnage_e2e::s3::{Effect, Fault, Op, S3Server};
//! let server = S3Server::builder().start().await?;
//! server.put("models", "a/config.json", "{}");
//! server.fault(Fault::new(Effect::ResetAfter(1)).on(Op::Get).first(1));
//! assert_eq!(server.wire().total_bytes(), 0);
//! # Ok(())
//! # }
//! ```

mod accept;
mod access;
mod answer;
mod certificate;
mod connection;
mod fault;
mod gzip;
mod listing;
mod object;
mod operation;
mod request;
mod signature;
mod wire;

pub use access::Credentials;
pub use certificate::Certificate;
pub use fault::{Effect, Fault, FaultHandle, ListLie};
pub use request::Op;
pub use wire::{RequestLog, Wire};

use crate::generate::{File, Tree};
use crate::pace::Pace;
use accept::{Command, Order};
use access::Access;
use bytes::Bytes;
use fault::Faults;
use object::{Buckets, memory};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// What all connections see.
struct Shared {
    buckets: Mutex<Buckets>,
    access: Mutex<Access>,
    faults: Faults,
    wire: Wire,
    domains: Vec<String>,
    plain_http: bool,
    connection_rate: Option<u64>,
    total_rate: Mutex<Option<Arc<Pace>>>,
}

impl Shared {
    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn access(&self) -> MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn total_pace(&self) -> Option<Arc<Pace>> {
        self.total_rate
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// How a server is to behave from the start.
#[derive(Debug, Default)]
pub struct Builder {
    access: Access,
    buckets: Buckets,
    domains: Vec<String>,
    plain_http: bool,
    certificate: Option<Certificate>,
    connection_rate: Option<u64>,
    total_rate: Option<u64>,
    ignore_dates: bool,
}

impl Builder {
    /// Knows this key, and from then on refuses unsigned and wrongly signed requests.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Builder {
        self.access.add(credentials);
        self
    }

    /// Lets unsigned requests in although keys are known.
    #[must_use]
    pub fn anonymous(mut self) -> Builder {
        self.access.anonymous = true;
        self
    }

    /// Accepts signatures of any date; default: 15 minutes around now.
    #[must_use]
    pub fn any_date(mut self) -> Builder {
        self.ignore_dates = true;
        self
    }

    /// Keeps every version of every object, and answers `versionId`.
    #[must_use]
    pub fn versioned(mut self) -> Builder {
        self.buckets.versioned = true;
        self
    }

    /// Keeps generated or file content of up to `bytes` in total in memory, made when it is put.
    #[must_use]
    pub fn hold_in_memory(mut self, bytes: u64) -> Builder {
        self.buckets.memory = bytes;
        self
    }

    /// Takes `bucket.DOMAIN` as virtual-host style; `localhost` always is such a domain.
    #[must_use]
    pub fn domain(mut self, domain: &str) -> Builder {
        self.domains.push(domain.to_owned());
        self
    }

    /// Is a plain HTTP file server: `/bucket/key` with ranges and entity tags, no listings.
    #[must_use]
    pub fn plain_http(mut self) -> Builder {
        self.plain_http = true;
        self
    }

    /// Speaks TLS with this certificate.
    #[must_use]
    pub fn tls(mut self, certificate: Certificate) -> Builder {
        self.certificate = Some(certificate);
        self
    }

    /// Limits each connection to this many body bytes per second.
    #[must_use]
    pub fn connection_rate(mut self, bytes_per_second: u64) -> Builder {
        self.connection_rate = Some(bytes_per_second);
        self
    }

    /// Limits all connections together to this many body bytes per second.
    #[must_use]
    pub fn total_rate(mut self, bytes_per_second: u64) -> Builder {
        self.total_rate = Some(bytes_per_second);
        self
    }

    /// Binds a free port of 127.0.0.1 and serves.
    pub async fn start(mut self) -> io::Result<S3Server> {
        let tls = self.certificate.map(certificate::acceptor).transpose()?;
        let (acceptor, ca_pem) = tls.unzip();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        self.domains.push("localhost".to_owned());
        self.access.check_dates = !self.ignore_dates;
        let shared = Arc::new(Shared {
            buckets: Mutex::new(self.buckets),
            access: Mutex::new(self.access),
            faults: Faults::default(),
            wire: Wire::default(),
            domains: self.domains,
            plain_http: self.plain_http,
            connection_rate: self.connection_rate,
            total_rate: Mutex::new(self.total_rate.map(|rate| Arc::new(Pace::new(rate)))),
        });
        let (commands, inbox) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept::run(Arc::clone(&shared), listener, acceptor, inbox));
        Ok(S3Server {
            shared,
            address,
            ca_pem,
            commands,
            tasks,
        })
    }
}

/// A running server; dropping it ends it.
pub struct S3Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    ca_pem: Option<String>,
    commands: mpsc::UnboundedSender<Order>,
    tasks: JoinSet<()>,
}

impl S3Server {
    /// Starts from defaults: S3, plain TCP, everyone may read and write.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// `http://127.0.0.1:PORT` or `https://127.0.0.1:PORT`, without a slash at the end.
    pub fn endpoint(&self) -> String {
        let scheme = if self.ca_pem.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The CA that clients of a TLS server are to trust.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Makes an empty bucket; putting an object makes its bucket too.
    pub fn create_bucket(&self, bucket: &str) {
        self.shared.buckets().create(bucket);
    }

    /// Puts bytes; returns the entity tag. An object that was there is replaced.
    pub fn put(&self, bucket: &str, key: impl AsRef<[u8]>, bytes: impl Into<Bytes>) -> String {
        self.put_file(bucket, key, memory(bytes))
    }

    /// Puts generated or file content; returns the entity tag.
    pub fn put_file(&self, bucket: &str, key: impl AsRef<[u8]>, file: File) -> String {
        self.shared
            .buckets()
            .put(bucket, key.as_ref(), file)
            .etag
            .clone()
    }

    /// Puts every file of `tree` at `prefix` + path; give `prefix` its slash.
    pub fn put_tree(&self, bucket: &str, prefix: &str, tree: &Tree) {
        self.create_bucket(bucket);
        for file in tree.files() {
            self.put_file(bucket, format!("{prefix}{}", file.path()), file.clone());
        }
    }

    /// Replaces an object; returns the new entity tag.
    pub fn replace(&self, bucket: &str, key: impl AsRef<[u8]>, bytes: impl Into<Bytes>) -> String {
        self.put(bucket, key, bytes)
    }

    /// Deletes an object; its versions stay.
    pub fn delete(&self, bucket: &str, key: impl AsRef<[u8]>) {
        self.shared.buckets().delete(bucket, key.as_ref());
    }

    /// The entity tag of an object, with its quotes.
    pub fn etag(&self, bucket: &str, key: impl AsRef<[u8]>) -> Option<String> {
        Some(
            self.shared
                .buckets()
                .find(bucket, key.as_ref(), None)?
                .etag
                .clone(),
        )
    }

    /// The newest version id of an object on a versioned server.
    pub fn version(&self, bucket: &str, key: impl AsRef<[u8]>) -> Option<String> {
        self.shared
            .buckets()
            .find(bucket, key.as_ref(), None)?
            .version
            .clone()
    }

    /// Puts a fault in force.
    pub fn fault(&self, fault: Fault) -> FaultHandle {
        self.shared.faults.add(fault)
    }

    /// Lifts all faults.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Knows one more key; an old one of that name is replaced and valid again.
    pub fn add_credentials(&self, credentials: Credentials) {
        self.shared.access().add(credentials);
    }

    /// From now on answers `ExpiredToken` to this key.
    pub fn expire(&self, access_key: &str) {
        self.expire_after(access_key, 0);
    }

    /// Answers `ExpiredToken` to this key after that many more requests.
    pub fn expire_after(&self, access_key: &str, requests: u64) {
        self.shared.access().expire_after(access_key, requests);
    }

    /// From now on answers `InvalidAccessKeyId` to this key.
    pub fn revoke(&self, access_key: &str) {
        self.shared.access().revoke(access_key);
    }

    /// Answers `AccessDenied` for keys (and listings) of `bucket` below `prefix`, to everyone.
    pub fn deny(&self, bucket: &str, prefix: &str) {
        self.shared.access().deny(None, bucket, prefix);
    }

    /// Like [`S3Server::deny`], but only to one key.
    pub fn deny_to(&self, access_key: &str, bucket: &str, prefix: &str) {
        self.shared.access().deny(Some(access_key), bucket, prefix);
    }

    /// Forgets all denials.
    pub fn allow_all(&self) {
        self.shared.access().allow_all();
    }

    /// Limits all connections together, from the next response on; `None` lifts the limit.
    pub fn set_total_rate(&self, bytes_per_second: Option<u64>) {
        let pace = bytes_per_second.map(|rate| Arc::new(Pace::new(rate)));
        *self
            .shared
            .total_rate
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = pace;
    }

    /// The counters, live.
    pub fn wire(&self) -> Wire {
        self.shared.wire.clone()
    }

    /// Sets the counters to zero; responses under way are counted no more.
    pub fn reset_wire(&self) {
        self.shared.wire.reset();
    }

    /// Drops every open connection.
    pub async fn disconnect(&self) -> io::Result<()> {
        self.order(Command::Disconnect).await
    }

    /// Total outage: drops every connection and refuses new ones.
    pub async fn go_down(&self) -> io::Result<()> {
        self.order(Command::Down).await
    }

    /// Listens again, on the same port.
    pub async fn come_up(&self) -> io::Result<()> {
        self.order(Command::Up).await
    }

    /// Ends the server; returns when nothing of it is left.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }

    async fn order(&self, command: Command) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let gone = || io::Error::other("the server has ended");
        self.commands.send((command, done)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl std::fmt::Debug for S3Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3Server({})", self.endpoint())
    }
}

//! A whole small world for one test: an S3 server with a secret key, a site with the real node service on it,
//! and a kubelet. [`World::check`] is the oracle with everything filled in that the world knows.
//!
//! Only keys that are canaries are used, so that every check also searches the logs, errors and records for them.

use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::generate::Tree;
use crate::kubelet::{Kubelet, Pod, PodHandle, Timing, probe};
use crate::namespace::Namespace;
use crate::node::{Build, Driver, Site, binary, descriptors};
use crate::oracle::{Broken, Digests, Published, Scene, settled};
use crate::s3::{self, Credentials, S3Server};

/// Longest time that a pod may take in a test.
pub const BOUND: Duration = Duration::from_mins(1);
/// Longest time that background work may take to end.
const SETTLING: Duration = Duration::from_secs(20);
/// The bucket of the source `models`.
pub const BUCKET: &str = "weights";
const ACCESS: &str = "AKIACANARY0ACCESS";
const SECRET: &str = "canary-secret-key-3f9d1b7e5a2c";
const TOKEN: &str = "canary-service-account-token-81c4";

/// How a world begins.
#[derive(Debug, Default)]
pub struct Setup {
    /// The server, beside its key.
    pub server: s3::Builder,
    /// Kubelet's clock; default: real.
    pub timing: Timing,
    /// Shell script that mounts a filesystem for the store at `$STORE` in the namespace.
    pub store: Option<&'static str>,
    /// Further arguments of `tonnage node`.
    pub arguments: Vec<String>,
    /// Further lines of the source `models`.
    pub source: String,
    /// Which binary.
    pub failpoints: bool,
    /// The crash point at which the first node service kills itself.
    pub kill_at: Option<String>,
}

impl Setup {
    /// Makes the world and starts its node service; `None` where this machine is said to allow no mounts.
    pub async fn start(self) -> Option<World> {
        let namespace = Namespace::for_test()?;
        Some(self.start_in(namespace).await)
    }

    #[expect(
        clippy::expect_used,
        reason = "a world that cannot begin fails its test"
    )]
    async fn start_in(self, namespace: Namespace) -> World {
        let build = if self.failpoints {
            Build::Failpoints
        } else {
            Build::Plain
        };
        let binary = tokio::task::spawn_blocking(move || binary(build))
            .await
            .expect("the build does not panic")
            .expect("the binary builds");
        let key = Credentials::new(ACCESS, SECRET);
        let server = self
            .server
            .credentials(key)
            .start()
            .await
            .expect("the server starts");
        server.create_bucket(BUCKET);
        let mut site = Site::new(namespace).expect("the site is made");
        if let Some(script) = self.store {
            let store = site.path("disk");
            std::fs::create_dir_all(&store).expect("the mount point is made");
            let script = script.replace("$STORE", &store.display().to_string());
            let script = script.replace("$SITE", &site.path("").display().to_string());
            site.namespace()
                .shell(&script)
                .expect("the store's filesystem is mounted");
            site = site.with_store(&store);
        }
        let url = format!("s3://{BUCKET}");
        site.add_s3("models", &url, &server.endpoint(), Some((ACCESS, SECRET)))
            .expect("the source is written");
        site.extend_source(&self.source)
            .expect("the source is written");
        let mut world = World {
            kubelet: site.kubelet(self.timing),
            server,
            site,
            node: Mutex::default(),
            binary,
            arguments: self.arguments,
            kill_at: Mutex::new(self.kill_at),
            kills: AtomicU32::new(0),
            baseline: None,
            errors: Mutex::default(),
        };
        let armed = lock(&world.kill_at).is_some();
        world.spawn_node().expect("the node service starts");
        if armed {
            // It may die before it is ready: whoever armed it looks after it.
            return world;
        }
        world.ready().await.expect("the node service is ready");
        world.baseline = Some(
            descriptors(world.pid())
                .expect("the descriptors are read")
                .len(),
        );
        world
    }
}

/// Server, site, driver, kubelet.
#[derive(Debug)]
pub struct World {
    /// The object store.
    pub server: S3Server,
    /// Where the driver lives.
    pub site: Site,
    /// Who calls it.
    pub kubelet: Kubelet,
    binary: PathBuf,
    arguments: Vec<String>,
    node: Mutex<Option<Driver>>,
    kill_at: Mutex<Option<String>>,
    kills: AtomicU32,
    baseline: Option<usize>,
    errors: Mutex<Vec<String>>,
}

/// What a check is to expect.
#[derive(Debug, Default)]
pub struct Expect<'a> {
    /// Pods that are running, and what they must see.
    pub running: Vec<(&'a PodHandle, &'a Digests)>,
    /// Other pods: they must have a readable error.
    pub pending: Vec<&'a PodHandle>,
    /// Partial files may be there for the next attempt.
    pub partials: bool,
    /// Work is going on.
    pub busy: bool,
    /// Idle connections to the store are closed too.
    pub closed: bool,
    /// Most object bytes on the wire since the last reset.
    pub wire: Option<u64>,
    /// Most content bytes in the store.
    pub kept: Option<u64>,
    /// Someone else's mounts below kubelet's directory.
    pub foreign: Vec<PathBuf>,
}

impl World {
    /// Everything at its default.
    pub async fn start() -> Option<Self> {
        Setup::default().start().await
    }

    /// A pod with an inline volume of `path` of the source `models`.
    pub fn pod(&self, name: &str, path: &str) -> Pod {
        let mut pod = Pod::inline(name, &[("source", "models"), ("path", path)]);
        let token = format!("{{\"csi.tonnage.dev\":{{\"token\":\"{TOKEN}\"}}}}");
        pod.secrets
            .insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), token);
        pod
    }

    /// Gives kubelet a pod and waits until it runs.
    #[expect(clippy::panic, reason = "a pod that does not run fails its test")]
    pub async fn run_pod(&self, name: &str, path: &str) -> PodHandle {
        let handle = self.kubelet.add(self.pod(name, path));
        if let Err(stuck) = handle.running(BOUND).await {
            panic!("{stuck}\n{}", self.log());
        }
        handle
    }

    /// Puts a tree below `path/` of the bucket and returns what a volume of it must show.
    #[expect(clippy::expect_used, reason = "the generator's own files can be read")]
    pub fn upload(&self, path: &str, tree: &Tree) -> Digests {
        self.server.put_tree(BUCKET, &format!("{path}/"), tree);
        tree.digests().expect("digests of generated files")
    }

    /// The node service's process id; 0 while it is down.
    pub fn pid(&self) -> u32 {
        lock(&self.node).as_ref().map_or(0, Driver::pid)
    }

    /// What the running (or last) node service has written.
    pub fn log(&self) -> String {
        lock(&self.node)
            .as_ref()
            .map_or_else(String::new, Driver::log)
    }

    /// The command that starts the node service.
    pub fn node_command(&self) -> Command {
        let mut command = self.site.node_command(&self.binary);
        command.args(&self.arguments);
        command
    }

    /// Starts the node service and returns when it is ready.
    pub async fn start_node(&self) -> io::Result<()> {
        self.spawn_node()?;
        self.ready().await
    }

    /// Starts the node service and returns at once; a crash point that was armed holds for this life only.
    pub fn spawn_node(&self) -> io::Result<()> {
        let mut command = self.node_command();
        if let Some(point) = lock(&self.kill_at).take() {
            command.env("TONNAGE_KILL_AT", point);
        }
        let driver = self.site.spawn(command)?;
        *lock(&self.node) = Some(driver);
        Ok(())
    }

    /// Waits until the node service is ready.
    pub async fn ready(&self) -> io::Result<()> {
        let socket = self.site.node_socket();
        let waiting = async {
            while !matches!(probe(&socket).await, Ok(true)) {
                if !self.is_running() {
                    return Err(io::Error::other(format!("it ended:\n{}", self.log())));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        };
        match tokio::time::timeout(BOUND, waiting).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::other(format!("not ready:\n{}", self.log()))),
        }
    }

    /// Whether the node service runs.
    pub fn is_running(&self) -> bool {
        lock(&self.node).as_mut().is_some_and(Driver::is_running)
    }

    /// Makes the next node service kill itself at a crash point (`name` or `name:n` for its n-th passing).
    pub fn arm(&self, point: &str) {
        *lock(&self.kill_at) = Some(point.to_owned());
    }

    /// How often [`World::supervise`] started the driver anew.
    pub fn kills(&self) -> u32 {
        self.kills.load(Ordering::Relaxed)
    }

    /// Starts the node service again whenever it ends, for ever; what the container runtime does.
    #[expect(
        clippy::expect_used,
        reason = "a driver that cannot be started fails the test"
    )]
    pub async fn supervise(&self) {
        loop {
            if !self.is_running() {
                self.kills.fetch_add(1, Ordering::Relaxed);
                self.spawn_node().expect("the node service starts again");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGKILL to the node service.
    pub fn kill_node(&self) -> io::Result<()> {
        lock(&self.node).as_mut().map_or(Ok(()), Driver::kill)
    }

    /// SIGTERM to the node service; returns how it ended.
    pub async fn stop_node(&self) -> io::Result<ExitStatus> {
        let mut driver = lock(&self.node)
            .take()
            .ok_or_else(|| io::Error::other("no driver is up"))?;
        let status = driver.stop().await;
        *lock(&self.node) = Some(driver);
        status
    }

    /// Runs the command line in the namespace on the world's store and returns what it wrote to standard output.
    pub fn tool(&self, arguments: &[&str]) -> io::Result<String> {
        let mut command = self.site.namespace().command(&self.binary);
        command
            .args(arguments)
            .arg("--cache-dir")
            .arg(self.site.store());
        let output = command.output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!(
            "tonnage {arguments:?}: {}: {text}",
            output.status
        )))
    }

    /// Notes an error that a caller got, so that it is searched for canaries.
    pub fn note_error(&self, text: &str) {
        self.errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(text.to_owned());
    }

    /// Checks every invariant; panics with all that do not hold, and the driver's log.
    #[expect(clippy::panic, reason = "a broken invariant fails the test")]
    pub async fn check(&self, expect: &Expect<'_>) {
        if let Err(broken) = self.holds(expect).await {
            panic!("{broken}\n{}", self.log());
        }
    }

    async fn holds(&self, expect: &Expect<'_>) -> Result<(), Broken> {
        settled(SETTLING, || self.scene(expect)).await
    }

    #[expect(
        clippy::expect_used,
        reason = "a scene that cannot be seen fails the test"
    )]
    fn scene<'a>(&self, expect: &Expect<'a>) -> Scene<'a> {
        let mut scene = self.site.scene().expect("the site can be read");
        for (pod, files) in &expect.running {
            scene.published.push(Published {
                target: pod.target().to_owned(),
                files,
            });
        }
        let pods = expect
            .running
            .iter()
            .map(|(pod, _)| *pod)
            .chain(expect.pending.iter().copied());
        scene.pods = pods.map(PodHandle::status).collect();
        scene.leftovers = self.kubelet.leftovers();
        scene.foreign.clone_from(&expect.foreign);
        scene.partials = expect.partials;
        scene.idle = !expect.busy;
        scene.wire = expect
            .wire
            .map(|granted| (self.server.wire().total_bytes(), granted));
        scene.kept_bytes = expect.kept;
        scene.secrets = vec![SECRET.to_owned(), TOKEN.to_owned()];
        let errors = lock(&self.errors);
        scene.texts.extend(
            errors
                .iter()
                .map(|text| ("an error".to_owned(), text.clone())),
        );
        if !expect.busy && self.is_running() {
            // Idle connections are kept for a while: the server says how many there are.
            let kept = if expect.closed {
                0
            } else {
                self.server.wire().open_connections()
            };
            scene.descriptors = self
                .baseline
                .map(|baseline| (self.pid(), baseline + kept + SLACK));
        }
        scene
    }
}

/// Descriptors that a driver may gain for good: the last callers' connections.
const SLACK: usize = 2;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

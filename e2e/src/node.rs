//! The real binary at work: a [`Site`] is a machine's share (a directory with store, kubelet directory, sockets,
//! sources) in a mount namespace of its own; a [`Driver`] is a running `tonnage node` or `tonnage controller` on it.
//!
//! The site survives its drivers, so a test kills one and starts the next on the same directory. Dropping a driver
//! kills it; dropping the site takes mounts and files away. Nothing is in process: what is seen of a driver comes from
//! its sockets, its log and /proc.

mod binary;
mod points;
mod process;

pub use binary::{Build, binary};
pub use points::crash_points;
pub use process::{anonymous_bytes, descriptors};

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::kubelet::{Kubelet, Provisioner, Settings, Timing, probe};
use crate::namespace::Namespace;
use crate::oracle::Scene;
use crate::scratch::Scratch;

/// Longest time a driver may take to answer `Probe` with ready, or to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory and a mount namespace for drivers.
#[derive(Debug)]
pub struct Site {
    namespace: Namespace,
    dir: Scratch,
    store: PathBuf,
    starts: AtomicUsize,
}

impl Site {
    /// A site in `namespace` without sources.
    pub fn new(namespace: Namespace) -> io::Result<Self> {
        let dir = Scratch::new()?;
        for below in ["kubelet/pods", "cache", "volumes", "run", "secret"] {
            std::fs::create_dir_all(dir.path().join(below))?;
        }
        let store = dir.path().join("cache");
        let site = Self {
            namespace,
            dir,
            store,
            starts: AtomicUsize::new(0),
        };
        site.write("sources.toml", "")?;
        Ok(site)
    }

    /// Keeps the store in another directory of the namespace (a small filesystem mounted there).
    #[must_use]
    pub fn with_store(mut self, store: &Path) -> Self {
        store.clone_into(&mut self.store);
        self
    }

    /// A path of the site.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The store's root, as the driver sees it.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The store's root, seen from here.
    pub fn seen_store(&self) -> PathBuf {
        self.namespace.path(&self.store)
    }

    /// The namespace.
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Writes a file of the site.
    pub fn write(&self, below: &str, text: &str) -> io::Result<()> {
        std::fs::write(self.path(below), text)
    }

    /// Adds an S3 source on loopback to `sources.toml`; keys are written to files as an admin would.
    pub fn add_s3(
        &self,
        name: &str,
        url: &str,
        endpoint: &str,
        keys: Option<(&str, &str)>,
    ) -> io::Result<()> {
        let auth = match keys {
            None => "auth = \"anonymous\"".to_owned(),
            Some((access, secret)) => {
                self.write(&format!("secret/{name}-access"), access)?;
                self.write(&format!("secret/{name}-secret"), secret)?;
                let dir = self.path("secret");
                let dir = dir.display();
                format!(
                    "auth = \"static\"\naccess_key_file = \"{dir}/{name}-access\"\nsecret_key_file = \"{dir}/{name}-secret\""
                )
            }
        };
        self.add_source(&format!(
            "name = \"{name}\"\nurl = \"{url}\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n\
             addressing = \"path\"\nallow_loopback = true\nallow_http = true\n{auth}\n"
        ))
    }

    /// Adds one table to `sources.toml`.
    pub fn add_source(&self, table: &str) -> io::Result<()> {
        let sources = self.path("sources.toml");
        let text = std::fs::read_to_string(&sources)?;
        std::fs::write(&sources, format!("{text}[[source]]\n{table}\n"))
    }

    /// Adds lines to the last table of `sources.toml`.
    pub fn extend_source(&self, lines: &str) -> io::Result<()> {
        let sources = self.path("sources.toml");
        let text = std::fs::read_to_string(&sources)?;
        std::fs::write(&sources, format!("{text}{lines}\n"))
    }

    /// A command for the node service with the site's paths; add what is special.
    pub fn node_command(&self, binary: &Path) -> Command {
        let mut command = self.service(binary, "node", "node.sock");
        command.arg("--cache-dir").arg(&self.store);
        command.arg("--kubelet-dir").arg(self.path("kubelet"));
        command.args(["--node-id", "node-1"]);
        command
    }

    /// A command for the controller service.
    pub fn controller_command(&self, binary: &Path) -> Command {
        let mut command = self.service(binary, "controller", "controller.sock");
        command.arg("--volumes-dir").arg(self.path("volumes"));
        command
    }

    fn service(&self, binary: &Path, verb: &str, socket: &str) -> Command {
        let mut command = self.namespace.command(binary);
        command.arg(verb).arg("--endpoint");
        command.arg(format!(
            "unix://{}",
            self.path("run").join(socket).display()
        ));
        command.arg("--sources").arg(self.path("sources.toml"));
        command
    }

    /// Starts a command and returns at once.
    pub fn spawn(&self, mut command: Command) -> io::Result<Driver> {
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        let log = self.path(&format!("run/{start}.log"));
        let out = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()?;
        Ok(Driver { child, log })
    }

    /// Starts the node service of `binary` and waits until it is ready.
    pub async fn start_node(&self, binary: &Path) -> io::Result<Driver> {
        let mut driver = self.spawn(self.node_command(binary))?;
        driver.ready(&self.node_socket()).await?;
        Ok(driver)
    }

    /// Starts the controller service of `binary` and waits until it is ready.
    pub async fn start_controller(&self, binary: &Path) -> io::Result<Driver> {
        let mut driver = self.spawn(self.controller_command(binary))?;
        driver.ready(&self.path("run/controller.sock")).await?;
        Ok(driver)
    }

    /// The node service's socket.
    pub fn node_socket(&self) -> PathBuf {
        self.path("run/node.sock")
    }

    /// external-provisioner for the site's controller.
    pub fn provisioner(&self) -> Provisioner {
        Provisioner::new(&self.path("run/controller.sock"))
    }

    /// A kubelet for the site's node service.
    pub fn kubelet(&self, timing: Timing) -> Kubelet {
        Kubelet::new(Settings {
            socket: self.node_socket(),
            dir: self.path("kubelet"),
            root: self.namespace.root(),
            timing,
        })
    }

    /// What can be seen of the site now, with every log so far.
    pub fn scene<'a>(&self) -> io::Result<Scene<'a>> {
        let mut scene = Scene::new(
            &self.namespace.root(),
            &self.store,
            &self.path("kubelet"),
            self.namespace.mounts()?,
        );
        for start in 0..self.starts.load(Ordering::Relaxed) {
            let log = std::fs::read(self.path(&format!("run/{start}.log")))?;
            let text = String::from_utf8_lossy(&log).into_owned();
            scene.texts.push((format!("log {start}"), text));
        }
        Ok(scene)
    }
}

/// A running service; dropping it kills it.
#[derive(Debug)]
pub struct Driver {
    child: Child,
    log: PathBuf,
}

impl Driver {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map_or_else(
            |error| error.to_string(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Waits until the service at `socket` says that it is ready.
    pub async fn ready(&mut self, socket: &Path) -> io::Result<()> {
        let waiting = async {
            loop {
                if matches!(probe(socket).await, Ok(true)) {
                    return Ok(());
                }
                if let Some(status) = self.child.try_wait()? {
                    let log = self.log();
                    return Err(io::Error::other(format!("ended with {status}:\n{log}")));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::other(format!("not ready:\n{}", self.log()))),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// SIGTERM; returns how it ended.
    pub async fn stop(&mut self) -> io::Result<ExitStatus> {
        self.signal(rustix::process::Signal::TERM)?;
        self.ended().await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("no process id"))?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let waiting = async {
            loop {
                if let Some(status) = self.child.try_wait()? {
                    return Ok(status);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::other(format!("still running:\n{}", self.log()))),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // An error says that it has ended already.
        drop(self.kill());
    }
}

//! The demo's steps: each does what kubelet and external-provisioner do, and proves its line of output with
//! figures from outside the driver (wire counts of the server, the generator's digests, the mount table).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tonnage_cache::clock::{Clock, SystemClock};

use super::report::{self, Load};
use super::screen::{Screen, size, speed, time};
use super::{Error, limits};
use crate::generate::Tree;
use crate::kubelet::{Kubelet, Pod, PodHandle, Provisioner, Timing};
use crate::node::{Driver, Site};
use crate::oracle::{Digests, Published, allocated, hash_file, settled};
use crate::s3::S3Server;

const BUCKET: &str = "models";
const MODEL: &str = "llama";
const COPY: &str = "llama-renamed";
/// Longest time a pod may wait for its weights.
const PATIENCE: Duration = Duration::from_mins(10);

/// What the demo stands on while it runs.
pub(super) struct Stage {
    pub(super) screen: Screen,
    pub(super) server: S3Server,
    pub(super) site: Site,
    pub(super) binary: PathBuf,
    pub(super) tree: Tree,
    digests: Digests,
    node: Driver,
    controller: Driver,
    kubelet: Kubelet,
    provisioner: Provisioner,
    clock: Arc<dyn Clock>,
    /// Content that each published pod must show.
    shown: Vec<(PodHandle, Digests)>,
    volumes: Vec<String>,
}

impl Stage {
    /// Starts both services on a site whose one source is the server.
    pub(super) async fn open(
        screen: Screen,
        server: S3Server,
        site: Site,
        binary: PathBuf,
        tree: Tree,
    ) -> Result<Self, Error> {
        site.add_s3(
            "models",
            &format!("s3://{BUCKET}"),
            &server.endpoint(),
            None,
        )?;
        server.put_tree(BUCKET, &format!("{MODEL}/"), &tree);
        let controller = site.start_controller(&binary).await?;
        let mut command = site.node_command(&binary);
        // A new revision is to be seen at once, not after the usual minute.
        command.args(["--revision-ttl", "0s"]);
        let mut node = site.spawn(command)?;
        node.ready(&site.node_socket()).await?;
        Ok(Self {
            kubelet: site.kubelet(Timing::default()),
            provisioner: site.provisioner(),
            clock: Arc::new(SystemClock::new()),
            screen,
            server,
            site,
            binary,
            digests: tree.digests()?,
            tree,
            node,
            controller,
            shown: Vec::new(),
            volumes: Vec::new(),
        })
    }

    /// Measures what the machine allows; returns the slower of network and disk.
    pub(super) async fn limits(&self) -> Result<f64, Error> {
        let objects: Vec<(String, u64)> = self
            .tree
            .files()
            .iter()
            .filter(|file| file.size() > 0)
            .map(|file| {
                (
                    format!("/{BUCKET}/{MODEL}/{}", encode(file.path())),
                    file.size(),
                )
            })
            .collect();
        let address = self.server.address();
        let dir = self.site.path("run");
        // On threads of their own: the server needs all of the runtime's.
        let network = spawn_blocking(move || limits::network(address, &objects)).await??;
        let disk = spawn_blocking(move || limits::disk(&dir)).await??;
        let text = format!("network {} · disk {}", speed(network), speed(disk));
        self.screen.line("what this machine allows", &text)?;
        self.server.reset_wire();
        Ok(network.min(disk))
    }

    /// The first pod of a claim: nothing is here yet.
    pub(super) async fn first_pod(&mut self, limit: f64) -> Result<(), Error> {
        let volume = self
            .provisioner
            .create(
                "pvc-demo",
                &[("source", "models"), ("path", MODEL)],
                1 << 40,
            )
            .await?;
        self.volumes.push(volume.volume_id.clone());
        let (waited, bytes) = self
            .publish(Pod::of_claim("trainer-0", &volume), "staging")
            .await?;
        let rate = ratio(bytes, waited);
        let share = format!("running after {}", time(waited));
        self.screen.step("first pod, nothing cached", &share)?;
        let share = 100.0 * rate / limit;
        let text = format!(
            "{} over the wire, {}, {share:.0} % of the limit",
            size(bytes),
            speed(rate)
        );
        self.screen.detail(&text)?;
        self.show_load()?;
        // The second pod uses the same claim.
        let pod = Pod::of_claim("trainer-1", &volume);
        let (waited, bytes) = self.publish(pod, "").await?;
        self.screen.step(
            "second pod, same claim",
            &format!("running after {}", time(waited)),
        )?;
        self.screen
            .detail(&format!("{} over the wire", size(bytes)))?;
        expect("bytes fetched for a second pod", bytes, 0)
    }

    /// A new revision at the same place, with one file changed.
    pub(super) async fn new_revision(&mut self) -> Result<(), Error> {
        let changed = self
            .tree
            .files()
            .iter()
            .filter(|file| self.tree.len() == 1 || file.size() < self.tree.size() / 2)
            .max_by_key(|file| file.size())
            .or_else(|| self.tree.files().first())
            .map(|file| file.path().to_owned())
            .ok_or("the model has no file")?;
        self.tree = self.tree.with_changed_file(&changed, 2)?;
        let file = self.tree.file(&changed)?.clone();
        self.digests.insert(changed.clone(), file.digest()?);
        let length = file.size();
        self.server
            .put_file(BUCKET, format!("{MODEL}/{changed}"), file);
        let pod = Pod::inline("trainer-2", &[("source", "models"), ("path", MODEL)]);
        let (waited, bytes) = self.publish(pod, "").await?;
        let count = self.tree.len();
        let label = format!("new revision, 1 of {count} files changed");
        self.screen
            .step(&label, &format!("running after {}", time(waited)))?;
        self.screen
            .detail(&format!("{} over the wire: {changed}", size(bytes)))?;
        expect("bytes fetched for one changed file", bytes, length)
    }

    /// The same content under another name: fetched, because a name proves nothing, and stored once.
    pub(super) async fn copy(&mut self) -> Result<(), Error> {
        self.server
            .put_tree(BUCKET, &format!("{COPY}/"), &self.tree);
        let (before, _) = allocated(&self.site.seen_store())?;
        let pod = Pod::inline("trainer-3", &[("source", "models"), ("path", COPY)]);
        let (waited, bytes) = self.publish(pod, "").await?;
        let (after, _) = allocated(&self.site.seen_store())?;
        let more = after.saturating_sub(before);
        self.screen.step(
            "a copy under another name",
            &format!("running after {}", time(waited)),
        )?;
        let text = format!(
            "{} over the wire, stored once: {} more on disk",
            size(bytes),
            size(more)
        );
        self.screen.detail(&text)?;
        if more > (4 << 20) + bytes / 100 {
            return Err(format!("a copy took {more} bytes of disk").into());
        }
        Ok(())
    }

    /// Reads every file through every mount and compares it with the generator's digests.
    pub(super) fn verify(&mut self) -> Result<(), Error> {
        let mut files = 0usize;
        let mut bytes = 0u64;
        for (pod, expected) in &self.shown {
            for (path, digest) in expected {
                let path = pod.seen().join(path);
                if hash_file(&path)? != *digest {
                    return Err(format!("{} differs from what was uploaded", path.display()).into());
                }
                files += 1;
                bytes += path.metadata()?.len();
            }
        }
        let text = format!("{files} files, {}: equal", size(bytes));
        self.screen
            .step("every file, read through the mounts", &text)?;
        Ok(())
    }

    /// Tries to write through a mount.
    pub(super) fn refuse_writes(&mut self) -> Result<(), Error> {
        let (pod, _) = self.shown.first().ok_or("no pod is running")?;
        let Err(error) = std::fs::write(pod.seen().join("note"), "x") else {
            return Err("a pod could write into its volume".into());
        };
        if error.kind() != io::ErrorKind::ReadOnlyFilesystem {
            return Err(format!("writing failed for another reason: {error}").into());
        }
        let mounts = self.site.namespace().mounts()?;
        let mount = mounts.iter().find(|mount| mount.point == pod.target());
        let options = mount.map(|mount| mount.options.clone()).unwrap_or_default();
        self.screen
            .step("writing into a volume", &format!("refused: {error}"))?;
        self.screen.detail(&format!("mounted {options}"))?;
        let sound = mount.is_some_and(|mount| mount.has_options(&["ro", "nosuid", "nodev"]));
        if sound {
            Ok(())
        } else {
            Err("the mount is not ro,nosuid,nodev".into())
        }
    }

    /// Checks every invariant, deletes the pods and claims, stops the services, and looks for what is left.
    pub(super) async fn close(mut self) -> Result<(), Error> {
        self.check_all().await?;
        for (pod, _) in &self.shown {
            pod.delete();
        }
        for (pod, _) in self.shown.drain(..) {
            pod.deleted(PATIENCE).await?;
        }
        for volume in self.volumes.drain(..) {
            self.provisioner.delete(&volume).await?;
        }
        self.check_all().await?;
        for driver in [&mut self.node, &mut self.controller] {
            let status = driver.stop().await?;
            if !status.success() {
                return Err(format!("a service ended with {status}:\n{}", driver.log()).into());
            }
        }
        let kubelet = self.site.path("kubelet");
        let mounts = self.site.namespace().mounts()?;
        let mounts = mounts
            .iter()
            .filter(|it| it.point.starts_with(&kubelet))
            .count();
        let dir = self.site.path("");
        let Self {
            mut screen,
            server,
            site,
            ..
        } = self;
        server.shutdown().await;
        drop(site);
        expect("mounts left", mounts as u64, 0)?;
        expect("directories left", u64::from(dir.exists()), 0)?;
        screen.step("taken down", "no mount, no process, no file is left")?;
        Ok(())
    }

    async fn check_all(&self) -> Result<(), Error> {
        let look = || {
            let mut scene = match self.site.scene() {
                Ok(scene) => scene,
                Err(error) => {
                    let root = Path::new("/");
                    let mut scene = crate::oracle::Scene::new(root, root, root, Vec::new());
                    scene.leftovers.push(error.to_string().into());
                    scene
                }
            };
            scene.pods = self.shown.iter().map(|(pod, _)| pod.status()).collect();
            scene.leftovers = self.kubelet.leftovers();
            scene.published = self
                .shown
                .iter()
                .map(|(pod, files)| Published {
                    target: pod.target().to_owned(),
                    files,
                })
                .collect();
            scene
        };
        Ok(settled(Duration::from_secs(20), look).await?)
    }

    /// Publishes and returns the time that the pod waited and the object bytes that crossed the wire.
    async fn publish(&mut self, pod: Pod, label: &str) -> Result<(Duration, u64), Error> {
        let before = self.server.wire().total_bytes();
        let start = self.clock.monotonic();
        let handle = self.kubelet.add(pod);
        if label.is_empty() {
            handle.running(PATIENCE).await?;
        } else {
            self.watch(&handle, label, before).await?;
        }
        let waited = self.clock.monotonic().saturating_sub(start);
        self.shown.push((handle, self.digests.clone()));
        Ok((waited, self.server.wire().total_bytes() - before))
    }

    /// Waits for a pod with a bar that follows the wire.
    async fn watch(&self, pod: &PodHandle, label: &str, before: u64) -> Result<(), Error> {
        let wire = self.server.wire();
        let bar = self.screen.bar(label, self.tree.size());
        let running = pod.running(PATIENCE);
        tokio::pin!(running);
        let result = loop {
            tokio::select! {
                result = &mut running => break result,
                () = tokio::time::sleep(Duration::from_millis(50)) => {
                    bar.set_position(wire.total_bytes() - before);
                }
            }
        };
        bar.finish_and_clear();
        Ok(result?)
    }

    fn show_load(&self) -> Result<(), Error> {
        for line in report::last(&self.site, &self.binary)?
            .as_ref()
            .map(Load::lines)
            .unwrap_or_default()
        {
            self.screen.detail(&line)?;
        }
        Ok(())
    }
}

fn expect(what: &str, found: u64, wanted: u64) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{what}: {found}, not {wanted}").into())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate is shown with two digits"
)]
fn ratio(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-9)
}

fn encode(path: &str) -> String {
    percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC)
        .to_string()
        .replace("%2F", "/")
}

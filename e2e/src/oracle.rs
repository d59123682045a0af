//! The one function that says whether the invariants of `docs/semantics.md` hold: [`check`]. Every test of
//! crashes, faults and abuse calls it after every row.
//!
//! It believes nothing that the driver says: mounts come from the kernel, bytes and digests from the generator,
//! wire counts from the server, space and descriptors from the kernel. It changes nothing.
//!
//! | | holds |
//! |---|---|
//! | I1 | the mounts of ours are those of published volumes, each once |
//! | I2 | every name in `objects/` is the BLAKE3 of what it names |
//! | I3 | nothing temporary is left when idle |
//! | I4 | a published target has exactly the reference's files and bytes |
//! | I5 | every target is `ro,nosuid,nodev` |
//! | I6 | bytes on the wire do not exceed what was granted |
//! | I7 | no secret is in a log, an error or a record |
//! | I8 | no descriptor above the baseline |
//! | I9 | every pod is running, or has a readable error; what a final error promised not to leave is not there |
//! | I10 | disk use is what the cache policy keeps |

mod disk;

pub use disk::{allocated, hash_file, list_files};

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::kubelet::{Phase, PodStatus};
use crate::namespace::{Mount, outside};

/// Digests of a volume's files by path, from the generator.
pub type Digests = BTreeMap<String, blake3::Hash>;

/// A volume that must be visible.
#[derive(Debug, Clone)]
pub struct Published<'a> {
    /// The target as the driver sees it.
    pub target: PathBuf,
    /// What it must show.
    pub files: &'a Digests,
}

/// All that is known from outside at one moment.
#[derive(Debug, Clone)]
pub struct Scene<'a> {
    /// Root of the driver's mount namespace, seen from here.
    pub root: PathBuf,
    /// The store's root directory, as the driver sees it.
    pub store: PathBuf,
    /// Kubelet's directory, as the driver sees it.
    pub kubelet_dir: PathBuf,
    /// The mount table.
    pub mounts: Vec<Mount>,
    /// Volumes that must be visible.
    pub published: Vec<Published<'a>>,
    /// Mount points below kubelet's directory that are someone else's.
    pub foreign: Vec<PathBuf>,
    /// Nothing is being staged, published, synced or evicted.
    pub idle: bool,
    /// Partial files of interrupted stages may be kept for resuming.
    pub partials: bool,
    /// Body bytes that the server sent, and the most that it should have.
    pub wire: Option<(u64, u64)>,
    /// Texts that must not hold a secret, with their names.
    pub texts: Vec<(String, String)>,
    /// Canaries.
    pub secrets: Vec<String>,
    /// Process id and the descriptors that it had when idle.
    pub descriptors: Option<(u32, usize)>,
    /// Pods that should be running or say why not.
    pub pods: Vec<PodStatus>,
    /// What kubelet found left behind.
    pub leftovers: Vec<PathBuf>,
    /// Most content bytes that the store may keep.
    pub kept_bytes: Option<u64>,
}

impl Scene<'_> {
    /// An idle scene without pods, wire counts or secrets.
    pub fn new(root: &Path, store: &Path, kubelet_dir: &Path, mounts: Vec<Mount>) -> Self {
        Self {
            root: root.to_owned(),
            store: store.to_owned(),
            kubelet_dir: kubelet_dir.to_owned(),
            mounts,
            published: Vec::new(),
            foreign: Vec::new(),
            idle: true,
            partials: false,
            wire: None,
            texts: Vec::new(),
            secrets: Vec::new(),
            descriptors: None,
            pods: Vec::new(),
            leftovers: Vec::new(),
            kept_bytes: None,
        }
    }
}

/// One thing that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Number of the invariant.
    pub invariant: u8,
    /// What was found.
    pub what: String,
}

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub Vec<Violation>);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.0 {
            writeln!(f, "I{}: {}", violation.invariant, violation.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for Broken {}

/// Checks every invariant that the scene says something about; reports all that do not hold.
pub fn check(scene: &Scene<'_>) -> Result<(), Broken> {
    let mut found = Findings::default();
    found.mounts(scene);
    found.try_all(2, |found| found.objects(scene));
    if scene.idle {
        found.try_all(3, |found| found.temporary(scene));
    }
    for volume in &scene.published {
        found.try_all(4, |found| found.content(scene, volume));
    }
    if let Some((sent, granted)) = scene.wire
        && sent > granted
    {
        found.add(6, format!("{sent} body bytes were sent, {granted} granted"));
    }
    found.try_all(7, |found| found.secrets(scene));
    if let Some((pid, baseline)) = scene.descriptors {
        found.try_all(8, |found| found.descriptors(pid, baseline));
    }
    found.pods(scene);
    if let Some(kept) = scene.kept_bytes {
        found.try_all(10, |found| found.space(scene, kept));
    }
    if found.0.is_empty() {
        Ok(())
    } else {
        Err(Broken(found.0))
    }
}

/// Checks until everything holds or `bound` has passed: background syncs and idle connections end soon, not
/// at once.
pub async fn settled<'a>(
    bound: Duration,
    mut look: impl FnMut() -> Scene<'a>,
) -> Result<(), Broken> {
    let deadline = tokio::time::Instant::now() + bound;
    loop {
        match check(&look()) {
            Ok(()) => return Ok(()),
            Err(broken) if tokio::time::Instant::now() >= deadline => return Err(broken),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[derive(Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, invariant: u8, what: String) {
        self.0.push(Violation { invariant, what });
    }

    /// What cannot be read cannot be said to hold.
    fn try_all(&mut self, invariant: u8, look: impl FnOnce(&mut Self) -> io::Result<()>) {
        if let Err(error) = look(self) {
            self.add(invariant, error.to_string());
        }
    }

    fn mounts(&mut self, scene: &Scene<'_>) {
        let views = Path::new("views");
        let ours = |mount: &&Mount| {
            mount.point.starts_with(&scene.kubelet_dir)
                && mount.point != scene.kubelet_dir
                && !scene.foreign.contains(&mount.point)
        };
        for mount in scene.mounts.iter().filter(ours) {
            let point = mount.point.display();
            if !scene.published.iter().any(|it| it.target == mount.point) {
                self.add(1, format!("{point} is mounted but not published"));
            }
            if mount.root.parent().and_then(Path::file_name) != Some(views.as_os_str()) {
                let root = mount.root.display();
                self.add(1, format!("{point} shows {root}, which is not a view"));
            }
            if !mount.has_options(&["ro", "nosuid", "nodev"]) {
                self.add(5, format!("{point} is mounted {}", mount.options));
            }
        }
        let points = scene.published.iter().map(|it| &it.target);
        for point in points.chain(&scene.foreign) {
            let count = scene.mounts.iter().filter(|it| it.point == *point).count();
            if count != 1 {
                self.add(1, format!("{} is mounted {count} times", point.display()));
            }
        }
    }

    fn objects(&mut self, scene: &Scene<'_>) -> io::Result<()> {
        let objects = outside(&scene.root, &scene.store).join("objects");
        for path in list_files(&objects)? {
            let full = objects.join(&path);
            let hash = hash_file(&full)?.to_hex();
            if path != Path::new(hash.get(..2).unwrap_or_default()).join(hash.as_str()) {
                self.add(2, format!("objects/{} holds {hash}", path.display()));
            }
            let mode = full.metadata()?.permissions().mode() & 0o7777;
            if mode != 0o444 {
                self.add(2, format!("objects/{} has mode {mode:o}", path.display()));
            }
        }
        Ok(())
    }

    fn temporary(&mut self, scene: &Scene<'_>) -> io::Result<()> {
        let store = outside(&scene.root, &scene.store);
        let mut places = vec!["tmp", "trash", "fresh"];
        if !scene.partials {
            places.push("partial");
        }
        for place in places {
            for path in list_files(&store.join(place))? {
                self.add(3, format!("{place}/{} is left", path.display()));
            }
        }
        Ok(())
    }

    fn content(&mut self, scene: &Scene<'_>, volume: &Published<'_>) -> io::Result<()> {
        let target = outside(&scene.root, &volume.target);
        let shown = list_files(&target)?;
        for path in &shown {
            let name = path.to_string_lossy();
            let Some(expected) = volume.files.get(&*name) else {
                self.add(4, format!("{name} is in the volume, not in the reference"));
                continue;
            };
            if hash_file(&target.join(path))? != *expected {
                self.add(4, format!("{name} differs from the reference"));
            }
        }
        for name in volume.files.keys() {
            if !shown.iter().any(|path| path == Path::new(name)) {
                self.add(4, format!("{name} is missing from the volume"));
            }
        }
        Ok(())
    }

    fn secrets(&mut self, scene: &Scene<'_>) -> io::Result<()> {
        if scene.secrets.is_empty() {
            return Ok(());
        }
        let records = outside(&scene.root, &scene.store).join("records");
        let mut texts = scene.texts.clone();
        for path in list_files(&records)? {
            let bytes = std::fs::read(records.join(&path))?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            texts.push((format!("records/{}", path.display()), text));
        }
        let errors = scene.pods.iter().filter_map(|pod| pod.error.clone());
        texts.extend(errors.map(|(code, text)| (format!("an error ({code:?})"), text)));
        for (name, text) in texts {
            for secret in scene.secrets.iter().filter(|it| text.contains(it.as_str())) {
                let length = secret.len();
                self.add(7, format!("{name} holds a secret of {length} characters"));
            }
        }
        Ok(())
    }

    fn descriptors(&mut self, pid: u32, baseline: usize) -> io::Result<()> {
        let open = crate::node::descriptors(pid)?;
        if open.len() > baseline {
            self.add(
                8,
                format!("{} descriptors, {baseline} when idle: {open:?}", open.len()),
            );
        }
        Ok(())
    }

    fn pods(&mut self, scene: &Scene<'_>) {
        for pod in &scene.pods {
            match (&pod.phase, &pod.error) {
                (Phase::Running | Phase::Gone, _) => {}
                (Phase::Pending, Some((_, text))) if text.len() > 10 => {}
                (Phase::Pending, error) => {
                    self.add(
                        9,
                        format!("a pod is pending without a readable error: {error:?}"),
                    );
                }
            }
        }
        for path in &scene.leftovers {
            self.add(9, format!("{} was left behind", path.display()));
        }
    }

    fn space(&mut self, scene: &Scene<'_>, kept: u64) -> io::Result<()> {
        let store = outside(&scene.root, &scene.store);
        let (used, inodes) = allocated(&store)?;
        // Directories, tables, manifests and records: a few blocks per inode.
        let most = kept
            .saturating_add(inodes.saturating_mul(8 << 10))
            .saturating_add(1 << 20);
        if used > most {
            self.add(
                10,
                format!("the store uses {used} bytes for {kept} bytes of content"),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

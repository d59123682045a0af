//! A directory or a file of this machine. Symbolic links below the root and special files are refused by name;
//! files are opened beneath the root without following any. A version is modification time, inode and size;
//! it is checked before the first and after the last byte, so that a file that is written to meanwhile is
//! noticed.

use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::collect::{Collector, Item};
use super::config::{Auth, SourceConfig};
use super::place::bad;
use super::remote::join;
use super::{Body, Entry, Error, Limits, Listing, Source, Version, answer};
use crate::error::IoContext;
use crate::path::{Escaped, RelPath};

/// Bytes of one frame.
const FRAME: usize = 256 << 10;

/// A directory, or a single file.
#[derive(Debug, Clone)]
struct Local {
    name: String,
    uid: String,
    root: PathBuf,
}

/// The source of a `file://` configuration.
pub(super) fn build(config: &SourceConfig) -> Result<Arc<dyn Source>, Error> {
    let path = config.url.strip_prefix("file://").unwrap_or_default();
    if !path.starts_with('/') || path.contains('\0') {
        return Err(bad(&config.url, "must be file:// and an absolute path"));
    }
    if config.auth != Auth::Anonymous {
        return Err(bad(
            &config.url,
            "is local: only auth = \"anonymous\" is possible",
        ));
    }
    let root = PathBuf::from(path);
    Ok(Arc::new(Local {
        name: if config.name.is_empty() {
            config.url.clone()
        } else {
            config.name.clone()
        },
        uid: format!("file:{}", root.display()),
        root,
    }))
}

impl Local {
    /// The directory that keys are relative to, and the one file if the root is a file.
    fn place(&self) -> Result<(PathBuf, Option<RelPath>), Error> {
        let metadata = std::fs::metadata(&self.root).at("open", &self.root)?;
        if metadata.is_dir() {
            return Ok((self.root.clone(), None));
        }
        let name = self.root.file_name().unwrap_or_default();
        let directory = self.root.parent().unwrap_or(Path::new("/"));
        Ok((
            directory.to_owned(),
            Some(RelPath::from_bytes(name.as_bytes())?),
        ))
    }

    fn list_blocking(&self, prefix: &str, limits: &Limits) -> Result<Listing, Error> {
        let root = join("", prefix)?;
        let (directory, only) = self.place()?;
        let mut collector = Collector::new(&root, limits);
        let start = match &only {
            Some(name) if root.is_empty() => name.as_str(),
            Some(_) | None => root.as_str(),
        };
        let from = open_beneath(&directory, start)?;
        let metadata = from.at_metadata(&directory.join(start))?;
        if metadata.is_dir() {
            walk(&directory, &root, &mut collector)?;
        } else {
            collector.push_exact(item(start, &metadata, &directory.join(start))?)?;
        }
        collector.finish(&format!("a file in {}", self.root.join(prefix).display()))
    }

    fn open_blocking(&self, entry: &Entry) -> Result<File, Error> {
        let (directory, _) = self.place()?;
        let missing = |error: &Error| matches!(error, Error::Local(error) if error.source.kind() == std::io::ErrorKind::NotFound);
        let file = match open_beneath(&directory, &entry.key) {
            Err(error) if missing(&error) => return Err(answer::changed(entry)),
            other => other?,
        };
        ensure_unchanged(&file, entry)?;
        Ok(file)
    }
}

fn walk(root: &Path, below: &str, collector: &mut Collector<'_>) -> Result<(), Error> {
    let mut pending = vec![below.to_owned()];
    while let Some(directory) = pending.pop() {
        let path = root.join(&directory);
        for found in std::fs::read_dir(&path).at("list", &path)? {
            let found = found.at("list", &path)?;
            let name = RelPath::from_bytes(found.file_name().as_bytes())?;
            let key = join(&directory, name.as_str())?;
            let metadata = found.metadata().at("stat", &found.path())?;
            if metadata.is_dir() {
                pending.push(key);
            } else {
                collector.push(item(&key, &metadata, &found.path())?)?;
            }
        }
    }
    Ok(())
}

fn item(key: &str, metadata: &Metadata, path: &Path) -> Result<Item, Error> {
    if !metadata.is_file() {
        let shown = path.to_string_lossy();
        let what = if metadata.is_symlink() {
            "a symbolic link"
        } else {
            "neither a file nor a directory"
        };
        return Err(Error::Reference(format!(
            "{} is {what}; a local source holds plain files and directories",
            Escaped(&shown)
        )));
    }
    Ok(Item {
        key: key.to_owned(),
        size: metadata.len(),
        version: version(metadata),
    })
}

fn version(metadata: &Metadata) -> Version {
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    Version {
        etag: Some(format!(
            "{seconds}.{nanos:09}-{}-{}",
            metadata.ino(),
            metadata.len()
        )),
        version: None,
        modified_millis: u64::try_from(seconds).ok().map(|seconds| {
            seconds
                .saturating_mul(1000)
                .saturating_add(nanos.unsigned_abs() / 1_000_000)
        }),
    }
}

/// Opens a file or directory below `root`, following no links.
fn open_beneath(root: &Path, key: &str) -> Result<File, Error> {
    let directory = File::open(root).at("open", root)?;
    let key = if key.is_empty() { "." } else { key };
    let path = root.join(key);
    let opened = rustix::fs::openat2(
        &directory,
        key,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    );
    match opened {
        Ok(descriptor) => Ok(File::from(descriptor)),
        Err(rustix::io::Errno::LOOP) => Err(Error::Reference(format!(
            "{} is or passes a symbolic link, which a local source does not follow",
            Escaped(&path.to_string_lossy())
        ))),
        Err(error) => Err(error).at("open", &path)?,
    }
}

trait AtMetadata {
    fn at_metadata(&self, path: &Path) -> Result<Metadata, Error>;
}

impl AtMetadata for File {
    fn at_metadata(&self, path: &Path) -> Result<Metadata, Error> {
        Ok(self.metadata().at("stat", path)?)
    }
}

fn ensure_unchanged(file: &File, entry: &Entry) -> Result<(), Error> {
    let metadata = file.at_metadata(Path::new(&entry.key))?;
    if metadata.is_file()
        && metadata.len() == entry.size
        && version(&metadata).etag == entry.version.etag
    {
        Ok(())
    } else {
        Err(answer::changed(entry))
    }
}

/// What is left to read of one range.
struct Reading {
    file: File,
    entry: Entry,
    range: Range<u64>,
}

impl Reading {
    /// The next frame, and what is left after it.
    fn step(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        let left = self.range.end.saturating_sub(self.range.start);
        if left == 0 {
            return Ok(None);
        }
        let want = usize::try_from(left).map_or(FRAME, |left| left.min(FRAME));
        let mut frame = Vec::with_capacity(want);
        while frame.len() < want {
            let at = self.range.start.saturating_add(frame.len() as u64);
            let read =
                match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut frame), at)
                {
                    Err(rustix::io::Errno::INTR) => continue,
                    other => other.at("read", Path::new(&self.entry.key))?,
                };
            if read == 0 {
                return Err(answer::changed(&self.entry));
            }
        }
        frame.truncate(want);
        self.range.start = self.range.start.saturating_add(want as u64);
        if self.range.is_empty() {
            ensure_unchanged(&self.file, &self.entry)?;
        }
        Ok(Some((frame.into(), self)))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let stopped = |_| Error::Unavailable {
        subject: "a local source".to_owned(),
        what: "reading was stopped".to_owned(),
    };
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

impl Source for Local {
    fn name(&self) -> &str {
        &self.name
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        limits: &'a Limits,
    ) -> BoxFuture<'a, Result<Listing, Error>> {
        let (this, prefix, limits) = (self.clone(), prefix.to_owned(), *limits);
        Box::pin(async move {
            let place = this.uid.clone();
            let listing = blocking(move || this.list_blocking(&prefix, &limits));
            let listing = tokio::time::timeout(limits.listing_time, listing);
            listing
                .await
                .map_err(|_| super::took_too_long(&place, &limits))?
        })
    }

    fn open<'a>(
        &'a self,
        entry: &'a Entry,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<Body, Error>> {
        let (this, entry) = (self.clone(), entry.clone());
        Box::pin(async move {
            let reading = blocking(move || {
                let file = this.open_blocking(&entry)?;
                Ok(Reading { file, entry, range })
            })
            .await?;
            let frames = stream::try_unfold(reading, |reading| blocking(move || reading.step()));
            Ok(super::frames(frames))
        })
    }
}

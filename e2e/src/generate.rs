//! Deterministic content: files whose bytes follow from a seed and can be produced for any range on demand.
//!
//! A [`Tree`] is what gets uploaded and what a mounted volume is compared with. Digests are computed by a
//! plain `blake3::Hasher` over the stream, never by the product's own hashing. Nothing here writes to disk
//! but [`Tree::write_to`].

mod model;
mod noise;

pub use model::{Model, ModelSpec};
pub use noise::Noise;

use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FRAME: usize = 1 << 20;

/// Where a file's bytes come from.
#[derive(Clone, Debug)]
enum Content {
    Memory(Bytes),
    /// `head` first, then the stream from its beginning.
    Generated {
        head: Bytes,
        noise: Noise,
    },
    Disk(Arc<std::fs::File>, PathBuf),
}

/// One file: a path within its tree, a size, and bytes on demand.
#[derive(Clone, Debug)]
pub struct File {
    path: String,
    size: u64,
    content: Content,
}

impl File {
    /// A file that holds `bytes`.
    pub fn memory(path: impl Into<String>, bytes: impl Into<Bytes>) -> File {
        let bytes = bytes.into();
        File {
            path: path.into(),
            size: bytes.len() as u64,
            content: Content::Memory(bytes),
        }
    }

    /// A file of `size` bytes: `head`, then noise.
    pub fn generated(
        path: impl Into<String>,
        size: u64,
        head: impl Into<Bytes>,
        noise: Noise,
    ) -> File {
        File {
            path: path.into(),
            size,
            content: Content::Generated {
                head: head.into(),
                noise,
            },
        }
    }

    /// A file of `size` bytes of noise named by `seed` and the path.
    pub fn random(path: impl Into<String>, size: u64, seed: u64) -> File {
        let path = path.into();
        let noise = Noise::new(seed, &path);
        File::generated(path, size, Bytes::new(), noise)
    }

    /// Path within the tree, `/`-separated.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes, where they are held in memory anyway.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Memory(bytes) => Some(bytes),
            Content::Generated { .. } | Content::Disk(..) => None,
        }
    }

    /// Fills `buf` with the bytes from `offset`. `UnexpectedEof` beyond the end.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.content {
            Content::Memory(bytes) => {
                let start = index(offset);
                buf.copy_from_slice(&bytes[start..start + buf.len()]);
            }
            Content::Generated { head, noise } => {
                let len = head.len().saturating_sub(index(offset)).min(buf.len());
                let (front, rest) = buf.split_at_mut(len);
                if len > 0 {
                    let start = index(offset);
                    front.copy_from_slice(&head[start..start + len]);
                }
                if !rest.is_empty() {
                    noise.fill((offset + len as u64) - head.len() as u64, rest);
                }
            }
            Content::Disk(file, _) => file.read_exact_at(buf, offset)?,
        }
        Ok(())
    }

    /// The bytes of `range`, clamped to the file.
    pub fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let end = range.end.min(self.size);
        let start = range.start.min(end);
        if let Content::Memory(bytes) = &self.content {
            return Ok(bytes.slice(index(start)..index(end)));
        }
        let mut buf = vec![0; index(end - start)];
        self.read_at(start, &mut buf)?;
        Ok(buf.into())
    }

    /// All bytes.
    pub fn read_all(&self) -> io::Result<Bytes> {
        self.read(0..self.size)
    }

    /// BLAKE3 of the whole, by a plain hasher over the stream.
    pub fn digest(&self) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        self.for_each_frame(|frame| {
            hasher.update(frame);
            Ok(())
        })?;
        Ok(hasher.finalize())
    }

    /// A short text that is equal for equal content of one kind: what an entity tag is made of.
    pub fn identity(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.size.to_le_bytes());
        match &self.content {
            Content::Memory(bytes) => hasher.update(bytes),
            Content::Generated { head, noise } => hasher.update(head).update(noise.key()),
            Content::Disk(_, path) => hasher.update(path.as_os_str().as_encoded_bytes()),
        };
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// The same file with other bytes of the same size; a safetensors header is kept.
    #[must_use]
    pub fn changed(&self, seed: u64) -> File {
        let head = match &self.content {
            Content::Generated { head, .. } => head.clone(),
            Content::Memory(_) | Content::Disk(..) => Bytes::new(),
        };
        let noise = Noise::new(seed, &self.path);
        File::generated(self.path.clone(), self.size, head, noise)
    }

    fn for_each_frame(&self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buf = vec![0; index(self.size).min(FRAME)];
        let mut offset = 0;
        while offset < self.size {
            let len = index(self.size - offset).min(FRAME);
            self.read_at(offset, &mut buf[..len])?;
            each(&buf[..len])?;
            offset += len as u64;
        }
        Ok(())
    }

    fn write_to(&self, path: &Path) -> io::Result<()> {
        use io::Write;
        let mut out = std::fs::File::create(path)?;
        self.for_each_frame(|frame| out.write_all(frame))
    }
}

/// Files sorted by path.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: Vec<File>,
}

impl Tree {
    /// A tree of `files`; of two with one path the later stays.
    pub fn new(files: impl IntoIterator<Item = File>) -> Tree {
        let by_path: BTreeMap<_, _> = files.into_iter().map(|f| (f.path.clone(), f)).collect();
        Tree {
            files: by_path.into_values().collect(),
        }
    }

    /// `count` files of `size` bytes each, 256 to a directory.
    pub fn small_files(seed: u64, count: usize, size: u64) -> Tree {
        Tree::new((0..count).map(|i| {
            let path = format!("{:04x}/file-{i:07}.bin", i / 256);
            File::random(path, size, seed)
        }))
    }

    /// The regular files under `dir`, symbolic links followed; each stays open.
    pub fn from_dir(dir: &Path) -> io::Result<Tree> {
        let mut files = Vec::new();
        let mut pending = vec![dir.to_owned()];
        while let Some(current) = pending.pop() {
            for entry in std::fs::read_dir(&current)? {
                let path = entry?.path();
                if std::fs::metadata(&path)?.is_dir() {
                    pending.push(path);
                } else {
                    files.push(File::open(dir, path)?);
                }
            }
        }
        Ok(Tree::new(files))
    }

    /// All files, sorted by path.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Sum of all sizes in bytes.
    pub fn size(&self) -> u64 {
        self.files.iter().map(File::size).sum()
    }

    /// The file at `path`; `NotFound` if there is none.
    pub fn file(&self, path: &str) -> io::Result<&File> {
        self.find(path).map(|i| &self.files[i])
    }

    /// BLAKE3 of every file, by path.
    pub fn digests(&self) -> io::Result<BTreeMap<String, blake3::Hash>> {
        let each = |file: &File| Ok((file.path.clone(), file.digest()?));
        self.files.iter().map(each).collect()
    }

    /// This tree with other bytes of the same size at `path`; `NotFound` if there is none.
    pub fn with_changed_file(&self, path: &str, seed: u64) -> io::Result<Tree> {
        let at = self.find(path)?;
        let mut tree = self.clone();
        tree.files[at] = tree.files[at].changed(seed);
        Ok(tree)
    }

    /// This tree with `file` added, or put in the place of what has its path.
    #[must_use]
    pub fn with_file(&self, file: File) -> Tree {
        Tree::new(self.files.iter().cloned().chain([file]))
    }

    /// The same content with `prefix` before every path.
    #[must_use]
    pub fn renamed(&self, prefix: &str) -> Tree {
        Tree::new(self.files.iter().map(|file| File {
            path: format!("{prefix}{}", file.path),
            ..file.clone()
        }))
    }

    /// Writes every file below `dir`, which is made where missing.
    pub fn write_to(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        for file in &self.files {
            let path = dir.join(&file.path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            file.write_to(&path)?;
        }
        Ok(())
    }

    fn find(&self, path: &str) -> io::Result<usize> {
        self.files
            .binary_search_by(|file| file.path.as_str().cmp(path))
            .map_err(|_| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("{path} is not in the tree"),
                )
            })
    }
}

impl File {
    fn open(root: &Path, path: PathBuf) -> io::Result<File> {
        let file = std::fs::File::open(&path)?;
        let relative = path.strip_prefix(root).unwrap_or(&path).to_str();
        let not_text = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is not UTF-8", path.display()),
            )
        };
        Ok(File {
            path: relative.ok_or_else(not_text)?.to_owned(),
            size: file.metadata()?.len(),
            content: Content::Disk(Arc::new(file), path),
        })
    }
}

/// A length or offset in memory; one that does not fit names nothing that could be indexed.
fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tree {
        Model::generate(&ModelSpec {
            seed: 1,
            size: 3_000_001,
            shards: 2,
            small_files: 5,
        })
    }

    #[test]
    fn one_seed_gives_one_tree() {
        assert_eq!(sample().digests().unwrap(), sample().digests().unwrap());
    }

    #[test]
    fn ranges_agree_with_the_whole_across_the_header() {
        let tree = sample();
        let file = tree.file("model-00001-of-00002.safetensors").unwrap();
        let whole = file.read_all().unwrap();
        assert_eq!(whole.len() as u64, file.size());
        for start in [0, 7, 8, 100, 1000, 5000, whole.len() - 9] {
            let mut buf = [0; 9];
            file.read_at(start as u64, &mut buf).unwrap();
            assert_eq!(buf, whole[start..start + 9]);
        }
        assert_eq!(file.digest().unwrap(), blake3::hash(&whole));
        assert!(file.read_at(file.size(), &mut [0]).is_err());
    }

    #[test]
    fn changing_one_file_changes_only_its_digest() {
        let (old, name) = (sample(), "model-00002-of-00002.safetensors");
        let new = old.with_changed_file(name, 9).unwrap();
        let (old, new) = (old.digests().unwrap(), new.digests().unwrap());
        let differ: Vec<_> = old.keys().filter(|k| old[*k] != new[*k]).collect();
        assert_eq!(differ, [name]);
        assert!(sample().with_changed_file("absent", 9).is_err());
    }

    #[test]
    fn a_written_tree_reads_back_equal() {
        let dir = tempfile::tempdir().unwrap();
        let tree = sample().renamed("deep/er/");
        tree.write_to(dir.path()).unwrap();
        let back = Tree::from_dir(dir.path()).unwrap();
        assert_eq!(back.digests().unwrap(), tree.digests().unwrap());
        assert_eq!(back.size(), tree.size());
    }

    #[test]
    fn small_files_are_all_different_and_sized() {
        let tree = Tree::small_files(3, 1000, 100);
        let distinct: std::collections::HashSet<_> =
            tree.digests().unwrap().into_values().collect();
        assert_eq!(
            (tree.len(), tree.size(), distinct.len()),
            (1000, 100_000, 1000)
        );
    }
}

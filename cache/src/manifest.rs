//! Manifests: what a volume contains, as canonical bytes whose digest names the content.
//!
//! ```text
//! "tonnage manifest 1\n"
//! then per file, sorted by path (bytewise), one line:
//! <digest: 64 hex> SP <size: decimal> SP <flags: "0"> SP <path> "\n"
//! ```
//! Paths cannot contain a newline ([`RelPath`]), so lines need no escaping. Equal trees have equal bytes.
//! This file neither reads disks nor knows where files come from.

use std::io::Write as _;

use crate::digest::Digest;
use crate::error::Kind;
use crate::path::{self, RelPath};

const MAGIC: &str = "tonnage manifest 1";

/// One file of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct File {
    /// Where it lies in the tree.
    pub path: RelPath,
    /// Length in bytes.
    pub size: u64,
    /// Digest of its bytes.
    pub digest: Digest,
}

/// A sorted set of files that forms a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    files: Vec<File>,
}

/// Why something is not a manifest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The first line is not ours, or of a later version.
    #[error("not a manifest of version 1")]
    Magic,
    /// A line cannot be read.
    #[error("line {line} of the manifest is malformed")]
    Line {
        /// Counted from 1, the magic line included.
        line: usize,
    },
    /// The files do not form a tree, or are not in order.
    #[error("the manifest's files do not form a tree")]
    Tree(#[from] path::Error),
    /// The lines are not sorted.
    #[error("the manifest is not in canonical order")]
    Order,
}

impl Error {
    /// A manifest that cannot be read is corrupt; a set of files that is no tree is invalid.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Tree(_) => Kind::Invalid,
            Self::Magic | Self::Line { .. } | Self::Order => Kind::Corrupt,
        }
    }
}

impl Manifest {
    /// Sorts `files` and checks that they form a tree.
    pub fn new(mut files: Vec<File>) -> Result<Self, Error> {
        files.sort();
        path::check_tree(files.iter().map(|file| &file.path))?;
        Ok(Self { files })
    }

    /// The files, sorted by path.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Sum of all sizes in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.files.len().saturating_mul(112).saturating_add(32));
        bytes.extend_from_slice(MAGIC.as_bytes());
        bytes.push(b'\n');
        for file in &self.files {
            // Writing to a vector does not fail.
            let _unused = writeln!(bytes, "{} {} 0 {}", file.digest, file.size, file.path);
        }
        bytes
    }

    /// The digest of the canonical bytes: the name of the content.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// Reads canonical bytes; refuses anything that would not encode to the same bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::Magic)?;
        let body = text
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.strip_prefix('\n'))
            .ok_or(Error::Magic)?;
        let mut files = Vec::new();
        for (line, number) in body.split_terminator('\n').zip(2..) {
            files.push(decode_line(line).ok_or(Error::Line { line: number })?);
        }
        if !body.is_empty() && !body.ends_with('\n') {
            return Err(Error::Line {
                line: files.len().saturating_add(1),
            });
        }
        if !files.is_sorted() {
            return Err(Error::Order);
        }
        Self::new(files)
    }
}

fn decode_line(line: &str) -> Option<File> {
    let mut fields = line.splitn(4, ' ');
    let digest = fields.next()?;
    let size = fields.next()?;
    let flags = fields.next()?;
    let path = fields.next()?;
    let canonical = flags == "0"
        && digest
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && (size == "0" || !size.starts_with(['0', '+']));
    canonical.then_some(())?;
    Some(File {
        path: RelPath::parse(path).ok()?,
        size: size.parse().ok()?,
        digest: digest.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str, size: u64) -> File {
        File {
            path: RelPath::parse(path).unwrap(),
            size,
            digest: Digest::of(path.as_bytes()),
        }
    }

    #[test]
    fn bytes_are_golden() {
        let manifest = Manifest::new(vec![file("b", 2), file("a/c", 1)]).unwrap();
        let expected = format!(
            "tonnage manifest 1\n{} 1 0 a/c\n{} 2 0 b\n",
            Digest::of(b"a/c"),
            Digest::of(b"b")
        );
        assert_eq!(String::from_utf8(manifest.encode()).unwrap(), expected);
        assert_eq!(manifest.total_bytes(), 3);
    }

    #[test]
    fn foreign_truncated_and_unsorted_bytes_are_refused() {
        let good = Manifest::new(vec![file("a", 1), file("b", 2)])
            .unwrap()
            .encode();
        assert_eq!(Manifest::decode(b"tonnage manifest 2\n"), Err(Error::Magic));
        assert_eq!(
            Manifest::decode(&good[..good.len() - 1]),
            Err(Error::Line { line: 3 })
        );
        let lines: Vec<&str> = std::str::from_utf8(&good).unwrap().lines().collect();
        let swapped = format!("{}\n{}\n{}\n", lines[0], lines[2], lines[1]);
        assert_eq!(Manifest::decode(swapped.as_bytes()), Err(Error::Order));
        let traversal = String::from_utf8(good).unwrap().replace(" 0 b", " 0 ../b");
        assert_eq!(
            Manifest::decode(traversal.as_bytes()),
            Err(Error::Line { line: 3 })
        );
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_decodes_to_itself(sizes in proptest::collection::btree_map("[a-z]{1,6}/[ -~&&[^/]]{1,8}x", any::<u64>(), 0..20)) {
            let files: Vec<File> = sizes.iter().map(|(path, size)| file(path, *size)).collect();
            let manifest = Manifest::new(files).unwrap();
            prop_assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
        }

        #[test]
        fn any_bytes_decode_canonically_or_not_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(manifest) = Manifest::decode(&bytes) {
                prop_assert_eq!(manifest.encode(), bytes);
            }
        }
    }
}

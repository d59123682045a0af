//! Relative paths that are safe to create below a directory: the only way in which a key of an object store
//! becomes a file name.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Longest component in bytes (`NAME_MAX` of ext4, XFS and btrfs).
pub const COMPONENT_MAX: usize = 255;
/// Most components of a path.
pub const DEPTH_MAX: usize = 64;
/// Longest path in bytes; leaves room below `PATH_MAX` for the store's own directories.
pub const LENGTH_MAX: usize = 2048;

/// A relative path of one or more plain components joined by single slashes.
///
/// No component is empty, `.`, `..`, longer than 255 bytes, or contains NUL or another control character.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelPath(Box<str>);

/// Why a text is not a [`RelPath`]; the text is shown escaped.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("path {} {reason}", Escaped(path))]
pub struct Error {
    /// The offending text, unescaped.
    pub path: String,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum Reason {
    /// The empty text.
    #[error("is empty")]
    Empty,
    /// Begins with a slash.
    #[error("is absolute")]
    Absolute,
    /// Two slashes in a row, or one at the end.
    #[error("has an empty component")]
    EmptyComponent,
    /// A component `.` or `..`.
    #[error("has a component \".\" or \"..\"")]
    Dots,
    /// NUL, newline, escape or another control character.
    #[error("has a control character")]
    Control,
    /// A component over 255 bytes.
    #[error("has a component longer than 255 bytes")]
    LongComponent,
    /// Over 2,048 bytes.
    #[error("is longer than 2048 bytes")]
    Long,
    /// Over 64 components.
    #[error("has more than 64 components")]
    Deep,
    /// Not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// Also used as a directory by another path of the same listing.
    #[error("is both a file and a directory")]
    FileAndDirectory,
    /// Named twice in one listing.
    #[error("is listed twice")]
    Twice,
}

/// Shows a text quoted and with control and non-ASCII characters escaped, at most 200 characters of it.
#[derive(Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for character in self.0.chars().take(200) {
            write!(f, "{}", character.escape_default())?;
        }
        if self.0.chars().nth(200).is_some() {
            f.write_str("…")?;
        }
        f.write_str("\"")
    }
}

impl RelPath {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match flaw(text) {
            None => Ok(Self(text.into())),
            Some(reason) => Err(Error {
                path: text.to_owned(),
                reason,
            }),
        }
    }

    /// Checks bytes that should be UTF-8.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text),
            Err(_) => Err(Error {
                path: String::from_utf8_lossy(bytes).into_owned(),
                reason: Reason::NotUtf8,
            }),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The path without its last component; `None` at the top.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }

    /// This path below `base`.
    pub fn below(&self, base: &std::path::Path) -> std::path::PathBuf {
        base.join(&*self.0)
    }
}

fn flaw(text: &str) -> Option<Reason> {
    if text.is_empty() {
        return Some(Reason::Empty);
    }
    if text.chars().any(char::is_control) {
        return Some(Reason::Control);
    }
    if text.starts_with('/') {
        return Some(Reason::Absolute);
    }
    let mut depth = 0usize;
    for component in text.split('/') {
        depth = depth.saturating_add(1);
        match component {
            "" => return Some(Reason::EmptyComponent),
            "." | ".." => return Some(Reason::Dots),
            long if long.len() > COMPONENT_MAX => return Some(Reason::LongComponent),
            _ => {}
        }
    }
    if depth > DEPTH_MAX {
        return Some(Reason::Deep);
    }
    (text.len() > LENGTH_MAX).then_some(Reason::Long)
}

/// Refuses a set of file paths in which one is named twice or is also a directory of another.
///
/// `paths` must be sorted.
pub fn check_tree<'a>(paths: impl Iterator<Item = &'a RelPath> + Clone) -> Result<(), Error> {
    let mut previous: Option<&RelPath> = None;
    for path in paths.clone() {
        if previous == Some(path) {
            return Err(refuse(path, Reason::Twice));
        }
        previous = Some(path);
    }
    let mut directories = BTreeSet::new();
    for path in paths.clone() {
        let mut parent = path.parent();
        while let Some(directory) = parent {
            if !directories.insert(directory) {
                break;
            }
            parent = directory.rsplit_once('/').map(|(above, _)| above);
        }
    }
    match paths
        .into_iter()
        .find(|path| directories.contains(path.as_str()))
    {
        Some(path) => Err(refuse(path, Reason::FileAndDirectory)),
        None => Ok(()),
    }
}

fn refuse(path: &RelPath, reason: Reason) -> Error {
    Error {
        path: path.as_str().to_owned(),
        reason,
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RelPath {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl serde::Serialize for RelPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for RelPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_flaw_has_its_reason() {
        let long = "x".repeat(256);
        let deep = vec!["a"; 65].join("/");
        let lengthy = vec!["x".repeat(200); 11].join("/");
        for (text, reason) in [
            ("", Reason::Empty),
            ("/a", Reason::Absolute),
            ("a//b", Reason::EmptyComponent),
            ("a/", Reason::EmptyComponent),
            ("..", Reason::Dots),
            ("a/../b", Reason::Dots),
            ("./a", Reason::Dots),
            ("a\0b", Reason::Control),
            ("a\nb", Reason::Control),
            ("a\u{1b}[2Jb", Reason::Control),
            ("a\u{9b}b", Reason::Control),
            (long.as_str(), Reason::LongComponent),
            (deep.as_str(), Reason::Deep),
            (lengthy.as_str(), Reason::Long),
        ] {
            assert_eq!(
                RelPath::parse(text).map_err(|e| e.reason),
                Err(reason),
                "{text:?}"
            );
        }
        assert_eq!(
            RelPath::from_bytes(b"a\xff").map_err(|e| e.reason),
            Err(Reason::NotUtf8)
        );
    }

    #[test]
    fn the_message_names_the_path_escaped() {
        let error = RelPath::parse("a\u{1b}[2J").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"path "a\u{1b}[2J" has a control character"#
        );
    }

    #[test]
    fn a_file_that_is_also_a_directory_is_refused() {
        let tree = |texts: &[&str]| {
            let mut paths: Vec<RelPath> =
                texts.iter().map(|t| RelPath::parse(t).unwrap()).collect();
            paths.sort();
            check_tree(paths.iter()).map_err(|e| e.reason)
        };
        assert_eq!(tree(&["a", "a/b"]), Err(Reason::FileAndDirectory));
        assert_eq!(tree(&["a", "a-b", "a/b"]), Err(Reason::FileAndDirectory));
        assert_eq!(tree(&["a", "a"]), Err(Reason::Twice));
        assert_eq!(tree(&["a/b", "a/c", "d"]), Ok(()));
    }

    proptest! {
        #[test]
        fn whatever_parses_stays_below_its_base(text in "\\PC{0,40}|[./a]{0,12}") {
            if let Ok(path) = RelPath::parse(&text) {
                let base = std::path::Path::new("/base");
                let full = path.below(base);
                prop_assert!(full.starts_with(base));
                prop_assert!(full.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
                prop_assert_eq!(path.components().collect::<Vec<_>>().join("/"), text);
            }
        }
    }
}

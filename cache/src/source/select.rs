//! Which files of a listing are wanted: include and exclude globs. Pure; parsing is at the edge.
//!
//! `*` and `?` stay inside one component, `**` crosses components, `{a,b}` is either, `[a-z]` a class. A pattern
//! without a slash is matched against the file's name at any depth (`*.safetensors`), one with a slash against
//! the whole path. A file is wanted if there is no include pattern or one matches, and no exclude pattern does.

use globset::{ErrorKind, GlobBuilder, GlobSet, GlobSetBuilder};

use super::{Error, Listing};
use crate::path::{Escaped, RelPath};

/// Most patterns of one selection.
pub const PATTERNS_MAX: usize = 64;
/// Longest pattern in bytes.
pub const PATTERN_MAX: usize = 512;

/// Include and exclude globs; the default wants everything.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    include: Patterns,
    exclude: Patterns,
}

#[derive(Debug, Clone, Default)]
struct Patterns {
    texts: Vec<String>,
    names: GlobSet,
    paths: GlobSet,
}

impl PartialEq for Selection {
    fn eq(&self, other: &Self) -> bool {
        self.include.texts == other.include.texts && self.exclude.texts == other.exclude.texts
    }
}

impl Eq for Selection {}

impl Selection {
    /// Parses the patterns; a bad one is refused by name.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, Error> {
        Ok(Self {
            include: Patterns::parse("include", include)?,
            exclude: Patterns::parse("exclude", exclude)?,
        })
    }

    /// Whether every file is wanted.
    pub fn is_all(&self) -> bool {
        self.include.texts.is_empty() && self.exclude.texts.is_empty()
    }

    /// The include patterns as written.
    pub fn include(&self) -> &[String] {
        &self.include.texts
    }

    /// The exclude patterns as written.
    pub fn exclude(&self) -> &[String] {
        &self.exclude.texts
    }

    /// Whether the file is wanted.
    pub fn matches(&self, path: &RelPath) -> bool {
        (self.include.texts.is_empty() || self.include.matches(path)) && !self.exclude.matches(path)
    }

    /// Keeps the wanted files of a listing; nothing left is [`Error::NotFound`].
    pub fn apply(&self, mut listing: Listing) -> Result<Listing, Error> {
        if self.is_all() {
            return Ok(listing);
        }
        listing.entries.retain(|entry| self.matches(&entry.path));
        if listing.entries.is_empty() {
            return Err(Error::NotFound(
                "a file that matches include and exclude".to_owned(),
            ));
        }
        Ok(listing)
    }
}

impl Patterns {
    fn parse(which: &str, texts: &[String]) -> Result<Self, Error> {
        if texts.len() > PATTERNS_MAX {
            return Err(Error::Reference(format!(
                "more than {PATTERNS_MAX} {which} patterns"
            )));
        }
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for text in texts {
            let bad =
                |why: &str| Error::Reference(format!("{which} pattern {} {why}", Escaped(text)));
            if text.is_empty() || text.len() > PATTERN_MAX {
                return Err(bad("is empty or longer than 512 bytes"));
            }
            let glob = GlobBuilder::new(text.trim_start_matches('/'))
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| bad(&format!("is not a glob: {}", shown(error.kind()))))?;
            if text.contains('/') {
                paths.add(glob);
            } else {
                names.add(glob);
            }
        }
        let build = |set: &GlobSetBuilder| {
            set.build().map_err(|error| {
                let why = shown(error.kind());
                Error::Reference(format!("{which} patterns are too large: {why}"))
            })
        };
        Ok(Self {
            texts: texts.to_vec(),
            names: build(&names)?,
            paths: build(&paths)?,
        })
    }

    fn matches(&self, path: &RelPath) -> bool {
        self.names.is_match(path.file_name()) || self.paths.is_match(path.as_str())
    }
}

/// What is wrong with a glob, with the characters escaped that it has from the glob.
fn shown(kind: &ErrorKind) -> String {
    let character = |it: char| match it {
        ' '..='~' => it.to_string(),
        it => it.escape_default().to_string(),
    };
    kind.to_string().chars().map(character).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(include: &[&str], exclude: &[&str], path: &str) -> bool {
        let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        Selection::new(&own(include), &own(exclude))
            .unwrap()
            .matches(&RelPath::parse(path).unwrap())
    }

    #[test]
    fn patterns_without_a_slash_match_names_at_any_depth() {
        assert!(wanted(&["*.safetensors"], &[], "a/b/model.safetensors"));
        assert!(!wanted(&["*.safetensors"], &[], "a/b.safetensors/c"));
        assert!(!wanted(&[], &["README.md"], "docs/README.md"));
    }

    #[test]
    fn patterns_with_a_slash_match_the_whole_path() {
        assert!(wanted(&["original/*"], &[], "original/a.bin"));
        assert!(!wanted(&["original/*"], &[], "original/x/a.bin"));
        assert!(wanted(&["original/**"], &[], "original/x/a.bin"));
        assert!(wanted(&["/top.bin"], &[], "top.bin"));
        assert!(!wanted(&["/top.bin"], &[], "x/top.bin"));
        assert!(wanted(&["**/*.{json,txt}"], &[], "x/y.json"));
    }

    #[test]
    fn exclude_wins_and_nothing_means_everything() {
        assert!(wanted(&[], &[], "any/thing"));
        assert!(!wanted(&["*.bin"], &["*.bin"], "a.bin"));
    }

    #[test]
    fn a_bad_pattern_is_refused_by_name() {
        let error = Selection::new(&["a[".to_owned()], &[]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("include pattern \"a[\" is not a glob"),
            "{error}"
        );
        assert!(Selection::new(&[String::new()], &[]).is_err());
        assert!(Selection::new(&vec!["a".to_owned(); 65], &[]).is_err());
    }
}

//! Turns listed objects into a [`Listing`]: keys to paths, folder markers out, limits while it grows. Pure; all
//! sources list through it.

use std::collections::HashSet;

use super::{Entry, Error, Limits, Listing, Version};
use crate::path::{self, Escaped, RelPath};

/// One object as a store lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Full key.
    pub(super) key: String,
    /// Length in bytes.
    pub(super) size: u64,
    /// What pins its bytes.
    pub(super) version: Version,
}

/// A listing that grows within limits.
#[derive(Debug)]
pub(super) struct Collector<'a> {
    /// What all keys begin with: empty, or a prefix with its slash.
    under: String,
    limits: &'a Limits,
    entries: Vec<Entry>,
    bytes: u64,
    pages: u64,
    markers: u64,
    tokens: HashSet<String>,
}

impl<'a> Collector<'a> {
    /// An empty listing of the keys below `root` (without a slash at its end, empty for all).
    pub(super) fn new(root: &str, limits: &'a Limits) -> Self {
        Self {
            under: if root.is_empty() {
                String::new()
            } else {
                format!("{root}/")
            },
            limits,
            entries: Vec::new(),
            bytes: 0,
            pages: 0,
            markers: 0,
            tokens: HashSet::new(),
        }
    }

    /// The prefix to ask for.
    pub(super) fn under(&self) -> &str {
        &self.under
    }

    /// Counts a page whose successor is `next`; a token seen before is a loop.
    pub(super) fn page(&mut self, next: Option<&str>) -> Result<(), Error> {
        self.pages += 1;
        if next.is_some() && self.pages >= self.limits.pages {
            return Err(Error::Limit(format!(
                "the listing has more than {} pages",
                self.limits.pages
            )));
        }
        match next {
            Some(token) if !self.tokens.insert(token.to_owned()) => Err(Error::Protocol {
                key: self.place(),
                what: "the listing runs in a circle".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Adds one object.
    pub(super) fn push(&mut self, item: Item) -> Result<(), Error> {
        let Some(below) = item.key.strip_prefix(&self.under) else {
            return Err(Error::Protocol {
                key: self.place(),
                what: format!("the listing leaves the prefix: {}", Escaped(&item.key)),
            });
        };
        if item.size == 0 && (below.is_empty() || below.ends_with('/')) {
            self.markers += 1;
            return self.count();
        }
        let path = RelPath::parse(below).map_err(|error| path::Error {
            path: item.key.clone(),
            reason: error.reason,
        })?;
        self.push_entry(Entry {
            path,
            key: item.key,
            size: item.size,
            version: item.version,
        })
    }

    /// Adds an object that is itself what was asked for: its path is its name.
    pub(super) fn push_exact(&mut self, item: Item) -> Result<(), Error> {
        let name = item.key.rsplit('/').next().unwrap_or_default();
        self.push_entry(Entry {
            path: RelPath::parse(name)?,
            key: item.key,
            size: item.size,
            version: item.version,
        })
    }

    fn push_entry(&mut self, entry: Entry) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.limits.bytes {
            return Err(Error::Limit(format!(
                "the listing has more than {} bytes, at {}",
                self.limits.bytes,
                Escaped(&entry.key)
            )));
        }
        self.entries.push(entry);
        self.count()
    }

    fn count(&self) -> Result<(), Error> {
        let objects = self.markers.saturating_add(self.entries.len() as u64);
        if objects > self.limits.objects {
            return Err(Error::Limit(format!(
                "the listing has more than {} objects",
                self.limits.objects
            )));
        }
        Ok(())
    }

    /// Whether nothing but markers has come.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sorts, drops empty objects that are parents of others, and checks that the rest is a tree. `place` names
    /// what was listed if there is nothing.
    pub(super) fn finish(mut self, place: &str) -> Result<Listing, Error> {
        self.entries
            .sort_by(|left, right| left.path.cmp(&right.path));
        let parents: HashSet<String> = self
            .entries
            .iter()
            .flat_map(|entry| ancestors(entry.path.as_str()))
            .map(str::to_owned)
            .collect();
        let before = self.entries.len();
        self.entries
            .retain(|entry| entry.size > 0 || !parents.contains(entry.path.as_str()));
        let dropped = before - self.entries.len();
        path::check_tree(self.entries.iter().map(|entry| &entry.path))?;
        if self.entries.is_empty() {
            return Err(Error::NotFound(place.to_owned()));
        }
        self.entries.shrink_to_fit();
        Ok(Listing {
            entries: self.entries,
            markers: self.markers.saturating_add(dropped as u64),
        })
    }

    fn place(&self) -> String {
        Escaped(&self.under).to_string()
    }
}

fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(at, _)| path.get(..at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Reason;
    use proptest::prelude::*;

    fn item(key: &str, size: u64) -> Item {
        Item {
            key: key.to_owned(),
            size,
            version: Version::default(),
        }
    }

    fn listed(root: &str, items: &[(&str, u64)]) -> Result<Listing, Error> {
        let limits = Limits {
            objects: 5,
            bytes: 1000,
            ..Limits::default()
        };
        let mut collector = Collector::new(root, &limits);
        for (key, size) in items {
            collector.push(item(key, *size))?;
        }
        collector.finish("bucket \"b\"")
    }

    fn paths(listing: &Listing) -> Vec<&str> {
        listing
            .entries
            .iter()
            .map(|entry| entry.path.as_str())
            .collect()
    }

    #[test]
    fn markers_are_skipped_and_counted() {
        let listing = listed(
            "d",
            &[("d/", 0), ("d/x/", 0), ("d/a", 1), ("d/y", 0), ("d/y/b", 2)],
        )
        .unwrap();
        assert_eq!(paths(&listing), ["a", "y/b"]);
        assert_eq!(listing.markers, 3);
        assert_eq!(listing.entries[1].key, "d/y/b");
        let empty = listed("d", &[("d/empty", 0)]).unwrap();
        assert_eq!(paths(&empty), ["empty"]);
    }

    #[test]
    fn hostile_keys_are_refused_by_name() {
        for (key, reason) in [
            ("d/../x", Reason::Dots),
            ("d//x", Reason::Absolute),
            ("d/a//x", Reason::EmptyComponent),
            ("d/a\0", Reason::Control),
            ("d/a\nb", Reason::Control),
            ("d/x/", Reason::EmptyComponent),
        ] {
            match listed("d", &[(key, 1)]) {
                Err(Error::Key(error)) => {
                    assert_eq!((error.reason, error.path.as_str()), (reason, key));
                }
                other => panic!("{key:?}: {other:?}"),
            }
        }
        assert!(matches!(
            listed("", &[("a", 1), ("a/b", 1)]),
            Err(Error::Key(_))
        ));
        assert!(matches!(
            listed("", &[("a", 1), ("a", 1)]),
            Err(Error::Key(_))
        ));
        assert!(matches!(
            listed("d", &[("e/x", 1)]),
            Err(Error::Protocol { .. })
        ));
    }

    #[test]
    fn limits_hold_while_it_grows() {
        let error = listed("", &[("big", 5_000_000_000_000)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the listing has more than 1000 bytes, at \"big\""
        );
        assert!(listed("", &[("a", u64::MAX), ("b", u64::MAX)]).is_err());
        let many: Vec<(String, u64)> = (0..6).map(|n| (format!("k{n}/"), 0)).collect();
        let many: Vec<(&str, u64)> = many
            .iter()
            .map(|(key, size)| (key.as_str(), *size))
            .collect();
        assert!(matches!(listed("", &many), Err(Error::Limit(_))));
        assert!(matches!(listed("", &[("d/", 0)]), Err(Error::NotFound(_))));
    }

    #[test]
    fn a_listing_that_runs_in_a_circle_ends() {
        let limits = Limits {
            pages: 3,
            ..Limits::default()
        };
        let mut collector = Collector::new("", &limits);
        collector.page(Some("one")).unwrap();
        assert!(matches!(
            collector.page(Some("one")),
            Err(Error::Protocol { .. })
        ));
        let mut collector = Collector::new("", &limits);
        collector.page(Some("one")).unwrap();
        collector.page(Some("two")).unwrap();
        assert!(matches!(
            collector.page(Some("three")),
            Err(Error::Limit(_))
        ));
    }

    proptest! {
        #[test]
        fn whatever_is_listed_becomes_a_sorted_tree(keys in proptest::collection::vec("[ab/.]{1,6}", 0..8)) {
            let limits = Limits::default();
            let mut collector = Collector::new("", &limits);
            let pushed = keys.iter().try_for_each(|key| collector.push(item(key, 1)));
            if let (Ok(()), Ok(listing)) = (pushed, collector.finish("b")) {
                let found: Vec<_> = listing.entries.iter().map(|entry| entry.path.clone()).collect();
                prop_assert!(found.is_sorted());
                prop_assert!(path::check_tree(found.iter()).is_ok());
                prop_assert_eq!(found.len(), keys.len());
            }
        }
    }
}

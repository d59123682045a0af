//! What was told of a load, so that each of its runs does not tell it again. It is kept for each namespace that waits for the load,
//! since none is told what is another's, and it goes with the load.

use std::collections::{BTreeMap, BTreeSet};

/// What is told once of a load to each namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::govern) enum News {
    /// A rule forbids it in the middle.
    Denied,
    /// A policy that only watches would forbid it.
    WouldDeny,
    /// The rules are older than a policy lets them be.
    Stale,
    /// The controller says nothing about a budget.
    Unanswered,
    /// A budget has nothing left.
    UsedUp,
}

/// What was told, by namespace.
#[derive(Debug, Default)]
pub(super) struct Told {
    news: BTreeMap<News, BTreeSet<String>>,
    /// What is left of what was told as set aside.
    reserved: BTreeMap<String, u64>,
}

impl Told {
    /// Whether nobody has asked this before.
    pub(super) fn is_news(&mut self, news: News, namespace: &str) -> bool {
        let told = self.news.entry(news).or_default();
        !told.contains(namespace) && told.insert(namespace.to_owned())
    }

    /// Bytes were taken; how many are to be told as set aside, if any: the first time all that is foreseen, and again only if
    /// that does not suffice.
    pub(super) fn reserve(&mut self, namespace: &str, bytes: u64, foreseen: u64) -> Option<u64> {
        if let Some(left) = self.reserved.get_mut(namespace)
            && let Some(rest) = left.checked_sub(bytes)
        {
            *left = rest;
            return None;
        }
        let more = foreseen.max(bytes);
        let left = self.reserved.entry(namespace.to_owned()).or_default();
        *left = left.saturating_add(more).saturating_sub(bytes);
        Some(more)
    }

    /// Bytes that were taken did not come.
    pub(super) fn release(&mut self, namespace: &str, unused: u64) {
        if let Some(left) = self.reserved.get_mut(namespace) {
            *left = left.saturating_add(unused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_once_to_each_namespace() {
        let mut told = Told::default();
        for namespace in ["a", "b"] {
            for news in [News::Stale, News::UsedUp] {
                assert!(told.is_news(news, namespace));
                assert!(!told.is_news(news, namespace));
            }
        }
    }

    #[test]
    fn what_is_foreseen_is_told_once_and_again_only_if_it_does_not_suffice() {
        let mut told = Told::default();
        // Its list, before anything is known of the rest.
        assert_eq!(told.reserve("a", 5, 5), Some(5));
        assert_eq!(told.reserve("a", 10, 30), Some(30));
        assert_eq!(told.reserve("a", 10, 20), None);
        told.release("a", 10);
        assert_eq!(told.reserve("a", 10, 20), None);
        assert_eq!(told.reserve("b", 10, 10), Some(10));
        assert_eq!(told.reserve("a", 10, 10), None);
        assert_eq!(told.reserve("a", 10, 10), Some(10));
        // Nothing was told to it.
        told.release("c", 10);
        assert_eq!(told.reserve("c", 10, 10), Some(10));
    }
}

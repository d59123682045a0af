//! Who has waited for each load, from its beginning on. A refusal of the gate is about one of those; so whoever was the only one is
//! told it as it is, and of several each is told its own (`refused`).
//!
//! Invariants: whoever has waited stays in the audience, because a refusal may be about somebody who has left since; pods of one
//! service account are one, for all that the rules know of them. Who comes too late for a load is in no audience of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// For whom something is loaded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) namespace: String,
    pub(super) service_account: String,
}

/// All who have waited for one load.
#[derive(Debug, Default)]
pub(super) struct Audience {
    members: Mutex<BTreeSet<Member>>,
}

/// The audiences of all loads, as long as somebody is about to be told of them.
#[derive(Debug, Default)]
pub(super) struct Audiences {
    open: Mutex<HashMap<String, Weak<Audience>>>,
}

impl Audiences {
    /// The audience of a load that begins, in place of an earlier load's of that name.
    pub(super) fn open(&self, load: &str, member: Member) -> Arc<Audience> {
        let audience = Arc::<Audience>::default();
        audience.add(member);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, known| known.strong_count() > 0);
        open.insert(load.to_owned(), Arc::downgrade(&audience));
        audience
    }

    /// Somebody waits for a load, too. To be called before the gate knows of it.
    pub(super) fn join(&self, load: &str, member: Member) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let audience = open.get(load).and_then(Weak::upgrade);
        drop(open);
        if let Some(audience) = audience {
            audience.add(member);
        }
    }
}

impl Audience {
    /// Whether nobody else has ever waited.
    pub(super) fn is_only(&self, member: &Member) -> bool {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.len() == 1 && members.contains(member)
    }

    fn add(&self, member: Member) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.insert(member);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(namespace: &str, service_account: &str) -> Member {
        Member {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        }
    }

    #[test]
    fn pods_of_one_account_are_alone_until_another_comes_and_then_for_good() {
        let audiences = Audiences::default();
        let own = member("team-a", "trainer");
        let audience = audiences.open("l", own.clone());
        audiences.join("l", own.clone());
        assert!(audience.is_only(&own));
        assert!(!audience.is_only(&member("team-a", "other")));
        audiences.join("l", member("team-a", "other"));
        assert!(!audience.is_only(&own));
    }

    #[test]
    fn a_load_that_begins_anew_has_an_audience_of_its_own() {
        let audiences = Audiences::default();
        let (own, other) = (member("team-a", "x"), member("team-b", "x"));
        let first = audiences.open("l", own.clone());
        let second = audiences.open("l", other.clone());
        audiences.join("m", member("team-c", "x"));
        audiences.join("l", member("team-c", "x"));
        assert!(first.is_only(&own));
        assert!(!second.is_only(&other));
        drop((first, second));
        let third = audiences.open("m", own.clone());
        assert_eq!(audiences.open.lock().unwrap().len(), 1);
        assert!(third.is_only(&own));
    }
}

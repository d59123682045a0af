//! Ledgers of which nobody knows whether they were written, because the API server's answer is missing: what they did goes into the
//! audit log once the object shows that they were. Pure.

use std::collections::BTreeMap;

use super::objects::{BudgetObject, is_older};
use super::turns::LedgerWrite;

/// Most writes of a ledger that are remembered, the first and the newest: the API server may have taken any of them before it fell
/// silent.
const MOST: usize = 32;

/// What may have been written.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// By the name of the object; all of one version of it.
    writes: BTreeMap<String, Vec<LedgerWrite>>,
}

impl Doubts {
    /// Nobody knows of this write.
    pub(super) fn add(&mut self, write: &LedgerWrite) {
        let writes = self.writes.entry(write.name.clone()).or_default();
        writes.retain(|other| (&other.uid, &other.version) == (&write.uid, &write.version));
        if writes.iter().any(|other| other.ledger == write.ledger) {
            return;
        }
        if writes.len() >= MOST {
            writes.remove(1);
        }
        writes.push(write.clone());
    }

    /// A later write at the same version was taken, so that none of these was, or the object is gone.
    pub(super) fn drop(&mut self, name: &str) {
        self.writes.remove(name);
    }

    /// The object was read; what was written after all, if it shows that. One that somebody has written since then shows nothing.
    pub(super) fn read(&mut self, budget: &BudgetObject) -> Option<LedgerWrite> {
        let first = self.writes.get(&budget.name)?.first()?;
        let is_same = first.version == budget.version || is_older(&budget.version, &first.version);
        if first.uid == budget.uid && is_same {
            return None;
        }
        let writes = self.writes.remove(&budget.name)?;
        let is_it = |write: &LedgerWrite| write.uid == budget.uid && write.ledger == budget.ledger;
        writes.into_iter().find(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{EgressBudgetSpec, EgressBudgetStatus};
    use crate::egress::ledger::Ledger;
    use crate::egress::terms::{Account, PolicyUid};

    /// At version 7, with a ledger that tells the time.
    fn write(as_of: i64) -> LedgerWrite {
        LedgerWrite {
            account: Account {
                policy: PolicyUid("u".to_owned()),
                budget: "all".to_owned(),
                namespace: None,
            },
            name: "research.all".to_owned(),
            uid: "b".to_owned(),
            version: "7".to_owned(),
            spec: EgressBudgetSpec {
                policy: "research".to_owned(),
                policy_uid: "u".to_owned(),
                budget: "all".to_owned(),
                namespace: None,
            },
            ledger: Ledger {
                as_of,
                ..Ledger::new(100)
            },
            status: EgressBudgetStatus::default(),
            effects: Vec::new(),
        }
    }

    fn object(version: &str, as_of: i64) -> BudgetObject {
        let LedgerWrite {
            name,
            uid,
            spec,
            ledger,
            ..
        } = write(as_of);
        BudgetObject {
            name,
            uid,
            version: version.to_owned(),
            spec,
            ledger,
            users: Vec::new(),
        }
    }

    #[test]
    fn whichever_of_several_was_taken_is_found_and_only_once() {
        let mut doubts = Doubts::default();
        for as_of in 0..100 {
            doubts.add(&write(as_of));
        }
        assert_eq!(doubts.read(&object("7", 0)), None, "it was not written yet");
        assert_eq!(doubts.read(&object("6", 0)), None, "news from before");
        assert_eq!(doubts.read(&object("8", 0)), Some(write(0)));
        assert_eq!(doubts.read(&object("8", 0)), None);
        doubts.add(&write(1));
        doubts.add(&write(2));
        assert_eq!(doubts.read(&object("8", 2)), Some(write(2)));
    }

    #[test]
    fn what_another_has_written_shows_nothing() {
        let mut doubts = Doubts::default();
        doubts.add(&write(1));
        assert_eq!(doubts.read(&object("9", 3)), None);
        assert_eq!(doubts.read(&object("10", 1)), None, "it is over");
        doubts.add(&write(1));
        doubts.drop("research.all");
        assert_eq!(doubts.read(&object("8", 1)), None);
    }
}

//! Which namespaces spent a budget that they share, grant by grant: it is told along with the report of each grant. For people;
//! nothing is decided by it, and what was received after its grant was reported is told with the next.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::crd::NamespaceUse;
use crate::egress::lease::Demand;
use crate::egress::terms::{Account, PolicyUid};

/// Who spent what of each shared account.
#[derive(Debug, Default)]
pub(super) struct Uses {
    accounts: BTreeMap<Account, Use>,
}

#[derive(Debug, Default)]
struct Use {
    /// Since the last report.
    open: BTreeMap<String, u64>,
    /// Number of the demand that makes the report.
    seq: u64,
    /// What it says, as often as it is written.
    told: BTreeMap<String, u64>,
}

impl Uses {
    /// A namespace received bytes. Of accounts that are one namespace's own nothing is kept: they say it themselves.
    pub(super) fn add(&mut self, account: &Account, namespace: &str, bytes: u64) {
        if account.namespace.is_some() || bytes == 0 {
            return;
        }
        let open = &mut self.accounts.entry(account.clone()).or_default().open;
        let sum = open.entry(namespace.to_owned()).or_default();
        *sum = sum.saturating_add(bytes);
    }

    /// Who spent what a demand reports: those who spent most, at most so many.
    pub(super) fn report(&mut self, demand: &Demand, most: usize) -> Vec<NamespaceUse> {
        let Some(of_account) = self.accounts.get_mut(&demand.account) else {
            return Vec::new();
        };
        if of_account.seq != demand.seq {
            of_account.seq = demand.seq;
            of_account.told = if demand.spent > 0 {
                std::mem::take(&mut of_account.open)
            } else {
                BTreeMap::new()
            };
        }
        let mut users: Vec<_> = of_account.told.iter().collect();
        users.sort_by_key(|(_, bytes)| Reverse(**bytes));
        users.truncate(most);
        let line = |(namespace, bytes): (&String, &u64)| NamespaceUse {
            namespace: namespace.clone(),
            bytes: i64::try_from(*bytes).unwrap_or(i64::MAX),
        };
        users.into_iter().map(line).collect()
    }

    /// Forgets the accounts of policies that are no more.
    pub(super) fn forget_all_but(&mut self, is_known: impl Fn(&PolicyUid) -> bool) {
        self.accounts.retain(|account, _| is_known(&account.policy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::terms::Namespace;

    fn account(namespace: Option<&str>) -> Account {
        Account {
            policy: PolicyUid("p".to_owned()),
            budget: "month".to_owned(),
            namespace: namespace.map(|name| Namespace(name.to_owned())),
        }
    }

    fn demand(seq: u64, spent: u64) -> Demand {
        Demand {
            account: account(None),
            seq,
            wanted: 0,
            spent,
        }
    }

    fn told(uses: &mut Uses, demand: &Demand) -> Vec<(String, i64)> {
        let most = uses.report(demand, 2).into_iter();
        most.map(|it| (it.namespace, it.bytes)).collect()
    }

    #[test]
    fn each_report_names_those_who_spent_most_of_its_grant() {
        let mut uses = Uses::default();
        for (namespace, bytes) in [("a", 1), ("b", 5), ("c", 2), ("a", 3), ("d", 0)] {
            uses.add(&account(None), namespace, bytes);
        }
        let expected = [("b".to_owned(), 5), ("a".to_owned(), 4)];
        assert_eq!(told(&mut uses, &demand(2, 11)), expected);
        // Written once more it says the same, whatever has come meanwhile.
        uses.add(&account(None), "c", 7);
        assert_eq!(told(&mut uses, &demand(2, 11)), expected);
        assert_eq!(told(&mut uses, &demand(3, 7)), [("c".to_owned(), 7)]);
        assert!(told(&mut uses, &demand(4, 9)).is_empty());
    }

    #[test]
    fn what_no_grant_has_paid_for_waits_for_the_first_that_does() {
        let mut uses = Uses::default();
        uses.add(&account(None), "a", 4);
        assert!(told(&mut uses, &demand(1, 0)).is_empty());
        assert_eq!(told(&mut uses, &demand(2, 4)), [("a".to_owned(), 4)]);
    }

    #[test]
    fn accounts_of_one_namespace_and_of_policies_that_are_gone_are_not_kept() {
        let mut uses = Uses::default();
        uses.add(&account(Some("a")), "a", 4);
        assert!(uses.accounts.is_empty());
        uses.add(&account(None), "a", 4);
        uses.forget_all_but(|policy| policy.0 == "p");
        assert_eq!(uses.accounts.len(), 1);
        uses.forget_all_but(|policy| policy.0 == "q");
        assert!(uses.accounts.is_empty());
    }
}

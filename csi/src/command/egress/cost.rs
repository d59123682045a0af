//! What the bytes of ledgers cost. A byte costs what the policy that allowed it says, and has that cost once, however many policies'
//! budgets it is charged to: a policy is shown with the bytes for which its own price holds (`egress::explain::tariff`). Where that
//! cannot be told of some of them, the cost is that of the others, and said to be at least that.
//!
//! Every byte is charged to every budget of a policy: the cost is that of the budget in which most is settled.

use std::collections::BTreeMap;

use tonnage_csi::crd::NamespaceUse;
use tonnage_csi::egress::compiled::{Allowance, Compiled};
use tonnage_csi::egress::explain::tariff::{Holds, Place, own_price};
use tonnage_csi::egress::ledger::objects::read_ledger;

use super::books::{Book, Books};

/// Namespaces that a shared ledger names; one that has fewer names all.
const NAMED: usize = 16;

/// Labels of namespaces, by name.
pub(super) type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// What prices depend on.
#[derive(Debug)]
pub(super) struct Market<'a> {
    pub(super) policies: &'a [Compiled],
    /// Empty if they could not be read.
    pub(super) namespaces: Namespaces,
    pub(super) books: &'a Books,
    pub(super) now_unix: i64,
}

/// What is known of a policy's costs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// What is known, in words; nothing if nothing is.
    pub(super) amount: Option<String>,
    /// The budget that it is worked out from.
    pub(super) budget: Option<String>,
    /// Whether more bytes may cost something.
    pub(super) is_partial: bool,
}

/// Bytes of a budget, by whether the policy's price holds for them.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    own: u64,
    others: u64,
    unknown: u64,
}

impl Sum {
    fn add(&mut self, holds: Holds, bytes: u64) {
        let sum = match holds {
            Holds::Always => &mut self.own,
            Holds::Never => &mut self.others,
            Holds::Sometimes => &mut self.unknown,
        };
        *sum = sum.saturating_add(bytes);
    }

    fn all(self) -> u64 {
        self.own
            .saturating_add(self.others)
            .saturating_add(self.unknown)
    }
}

impl Market<'_> {
    /// What a policy's bytes cost, of all namespaces or of one.
    pub(super) fn cost(&self, policy: &Compiled, namespace: Option<&str>) -> Cost {
        let Ok(rules) = policy.rules() else {
            return Cost::default();
        };
        let Some(price) = &rules.price else {
            return Cost::default();
        };
        let sums = rules.budgets.iter().rev();
        let sums = sums.map(|budget| (budget, self.sum(policy, budget, namespace)));
        let Some((budget, sum)) = sums.max_by_key(|(_, sum)| sum.all()) else {
            return Cost::default();
        };
        let mut budgets = rules.budgets.iter();
        let lacks = budgets.any(|budget| {
            self.books
                .lacks((policy.name.as_str(), budget.name.as_str()), namespace)
        });
        let is_partial = sum.unknown > 0 || lacks;
        let is_elsewhere = sum.others > 0 || is_partial;
        let has_amount = sum.own > 0 || !is_elsewhere;
        Cost {
            amount: has_amount.then(|| price.cost(sum.own).to_string()),
            budget: has_amount.then(|| budget.name.clone()),
            is_partial,
        }
    }

    fn sum(&self, policy: &Compiled, budget: &Allowance, namespace: Option<&str>) -> Sum {
        let mut sum = Sum::default();
        let books = self.books.iter().filter(|book| {
            let spec = &book.spec;
            spec.policy_uid == policy.uid.0
                && spec.budget == budget.name
                && spec.namespace.is_none() == budget.shared
        });
        for book in books {
            let ledger = read_ledger(&book.status);
            let settled = ledger.settled(&budget.window, ledger.time(self.now_unix));
            match (book.spec.namespace.as_deref(), namespace) {
                (Some(owner), Some(namespace)) if owner != namespace => {}
                (Some(owner), _) => sum.add(self.holds(policy, owner), settled),
                (None, Some(namespace)) => {
                    self.share(policy, (book, settled), namespace, &mut sum);
                }
                (None, None) => self.shares(policy, (book, settled), &mut sum),
            }
        }
        sum
    }

    /// What one namespace has of a ledger that is shared.
    fn share(
        &self,
        policy: &Compiled,
        (book, settled): (&Book, u64),
        namespace: &str,
        sum: &mut Sum,
    ) {
        let holds = self.holds(policy, namespace);
        let named = &book.status.users;
        let used = used_most(named, settled);
        match used.iter().find(|user| user.namespace == namespace) {
            Some(it) => sum.add(holds, read(it.bytes)),
            // It is not one of those that used most, and that is all that is known.
            None if named.len() >= NAMED && holds != Holds::Never => {
                sum.add(Holds::Sometimes, 1);
            }
            None => {}
        }
    }

    /// What all namespaces have of a ledger that is shared.
    fn shares(&self, policy: &Compiled, (book, settled): (&Book, u64), sum: &mut Sum) {
        let selected = self
            .namespaces
            .iter()
            .filter(|(name, labels)| policy.selects(name, labels));
        let mut everywhere: Vec<Holds> =
            selected.map(|(name, _)| self.holds(policy, name)).collect();
        everywhere.dedup();
        match everywhere.as_slice() {
            [] => sum.add(own_price(policy, self.policies, None), settled),
            [holds] => sum.add(*holds, settled),
            _ => {
                let mut rest = settled;
                for user in used_most(&book.status.users, settled) {
                    let bytes = read(user.bytes).min(rest);
                    rest = rest.saturating_sub(bytes);
                    sum.add(self.holds(policy, &user.namespace), bytes);
                }
                sum.add(Holds::Sometimes, rest);
            }
        }
    }

    fn holds(&self, policy: &Compiled, namespace: &str) -> Holds {
        let place = self.namespaces.get(namespace).map(|labels| Place {
            namespace,
            labels,
            now_unix: self.now_unix,
        });
        own_price(policy, self.policies, place.as_ref())
    }
}

/// Who used most of a ledger that is shared, most first. A ledger names them as they were when it was written; what has left the window
/// since has left everybody's share in proportion.
pub(super) fn used_most(users: &[NamespaceUse], settled: u64) -> Vec<NamespaceUse> {
    let all: u128 = users.iter().map(|user| u128::from(read(user.bytes))).sum();
    let fits = |bytes: u64| {
        let part = u128::from(bytes).saturating_mul(u128::from(settled));
        let part = part.checked_div(all).unwrap_or_default();
        bytes.min(u64::try_from(part).unwrap_or(bytes))
    };
    let mut fitted: Vec<NamespaceUse> = users
        .iter()
        .map(|user| NamespaceUse {
            namespace: user.namespace.clone(),
            bytes: i64::try_from(fits(read(user.bytes))).unwrap_or(i64::MAX),
        })
        .filter(|user| user.bytes > 0)
        .collect();
    fitted.sort_by(|one, other| {
        let most = other.bytes.cmp(&one.bytes);
        most.then_with(|| one.namespace.cmp(&other.namespace))
    });
    fitted
}

/// Numbers in an object: never negative there.
fn read(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

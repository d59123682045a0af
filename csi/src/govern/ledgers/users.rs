//! Who spent a budget that namespaces share, as nodes tell it. The sum is at most what is settled in the window: when bytes leave
//! the window, everybody's share of them leaves in proportion, so that no list of who spent what when needs to be kept.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::objects::is_label;
use crate::crd::NamespaceUse;

/// Most namespaces that are kept.
const MOST: usize = 16;
/// Longest name of a namespace.
const LABEL: usize = 63;

/// Adds what was spent, of which `settled` bytes in all count.
pub(crate) fn add(
    users: &[NamespaceUse],
    spent: &[NamespaceUse],
    settled: u64,
) -> Vec<NamespaceUse> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for one in users.iter().chain(spent) {
        let bytes = u64::try_from(one.bytes).unwrap_or_default();
        if bytes > 0 && is_label(&one.namespace, LABEL) {
            let sum = sums.entry(&one.namespace).or_default();
            *sum = sum.saturating_add(bytes);
        }
    }
    let all: u128 = sums.values().map(|bytes| u128::from(*bytes)).sum();
    let fits = |bytes: u64| {
        let part = u128::from(bytes).saturating_mul(u128::from(settled));
        let part = part.checked_div(all).unwrap_or_default();
        bytes.min(u64::try_from(part).unwrap_or(bytes))
    };
    let mut fitted: Vec<NamespaceUse> = sums
        .into_iter()
        .map(|(namespace, bytes)| NamespaceUse {
            namespace: namespace.to_owned(),
            bytes: i64::try_from(fits(bytes)).unwrap_or(i64::MAX),
        })
        .filter(|one| one.bytes > 0)
        .collect();
    fitted.sort_by(|one, other| {
        let key = |it: &NamespaceUse| Reverse(it.bytes);
        key(one)
            .cmp(&key(other))
            .then_with(|| one.namespace.cmp(&other.namespace))
    });
    fitted.truncate(MOST);
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(pairs: &[(&str, i64)]) -> Vec<NamespaceUse> {
        let pairs = pairs.iter();
        pairs
            .map(|(namespace, bytes)| NamespaceUse {
                namespace: (*namespace).to_owned(),
                bytes: *bytes,
            })
            .collect()
    }

    #[test]
    fn what_is_spent_adds_up_and_those_who_spent_most_come_first() {
        let users = uses(&[("a", 5), ("b", 3)]);
        let spent = uses(&[("b", 4), ("c", 1), ("b", 1)]);
        assert_eq!(
            add(&users, &spent, 100),
            uses(&[("b", 8), ("a", 5), ("c", 1)])
        );
    }

    #[test]
    fn what_leaves_the_window_leaves_everybody_in_proportion() {
        let users = uses(&[("a", 60), ("b", 30)]);
        assert_eq!(add(&users, &[], 45), uses(&[("a", 30), ("b", 15)]));
        assert_eq!(add(&users, &[], 0), uses(&[]));
        // Nobody is made to have spent more than was told.
        assert_eq!(add(&users, &[], 900), users);
    }

    #[test]
    fn nonsense_is_left_out_and_the_list_is_bounded() {
        let spent = uses(&[("A B", 5), ("", 5), ("a", -3), ("b", 2)]);
        assert_eq!(add(&[], &spent, 100), uses(&[("b", 2)]));
        let names: Vec<String> = (0..40).map(|it| format!("n{it}")).collect();
        let many: Vec<(&str, i64)> = names.iter().map(|it| (it.as_str(), 7)).collect();
        assert_eq!(add(&[], &uses(&many), 1_000).len(), MOST);
    }
}

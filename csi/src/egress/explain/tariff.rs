//! Whose price holds for bytes that were charged. A budget is charged with what any allow-list lets pass, and what bytes cost is said
//! by the policy that allowed them: a ledger does not tell which that was. Of a namespace it can be told which policies' prices may
//! hold there. Where that is one, bytes have a cost, and have it under that policy alone; where two policies have the same price,
//! under the first of them by name.
//!
//! By the rules of now: what was spent while others were in force is priced as if it were spent under these.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::Mode;
use crate::egress::compiled::{Compiled, Rules};
use crate::egress::policy::Who;
use crate::egress::price::Price;
use crate::egress::terms::PolicyUid;

/// A namespace at a time.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its name.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The time, in seconds since 1970 (UTC).
    pub now_unix: i64,
}

/// Whether a policy's price holds for what its budgets are charged with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// For every byte.
    Always,
    /// For none: it has no price, or the bytes are counted under another policy.
    Never,
    /// For some, and nobody can say which.
    Sometimes,
}

/// A policy that is for somebody, with what it says.
type Said<'a> = (&'a Compiled, &'a Rules);

/// Whether the price of a policy holds for the bytes of one namespace that it is charged with; of a namespace whose labels are not
/// known, by what holds in all.
pub fn own_price(policy: &Compiled, policies: &[Compiled], place: Option<&Place<'_>>) -> Holds {
    if !has_price(policy) {
        return Holds::Never;
    }
    let place = place.filter(|place| policy.selects(place.namespace, place.labels));
    let Some(place) = place else {
        return anywhere(policy, policies);
    };
    let mut selecting: Vec<&Compiled> = policies
        .iter()
        .filter(|other| other.selects(place.namespace, place.labels))
        .collect();
    selecting.sort_by(|a, b| (&a.name, &a.uid).cmp(&(&b.name, &b.uid)));
    if selecting.iter().any(|other| other.rules().is_err()) {
        // What its price was cannot be read.
        return Holds::Sometimes;
    }
    let bearers = bearers(policy, &selecting, place);
    match (bearers.contains(&policy.uid), bearers.len()) {
        (_, 0) => anywhere(policy, policies),
        (false, _) => Holds::Never,
        (true, 1) => Holds::Always,
        (true, _) => Holds::Sometimes,
    }
}

fn has_price(policy: &Compiled) -> bool {
    policy.rules().is_ok_and(|rules| rules.price.is_some())
}

/// Whether another policy's price may hold in place of this one's.
pub fn is_rival(other: &Compiled, policy: &Compiled) -> bool {
    other.uid != policy.uid && (other.rules().is_err() || has_price(other))
}

/// Nobody else has a price, or somebody may have one.
fn anywhere(policy: &Compiled, policies: &[Compiled]) -> Holds {
    if policies.iter().any(|other| is_rival(other, policy)) {
        Holds::Sometimes
    } else {
        Holds::Always
    }
}

/// The policies under which the bytes are counted that `policy` is charged with.
fn bearers<'a>(
    policy: &Compiled,
    selecting: &[&'a Compiled],
    place: &Place<'_>,
) -> BTreeSet<&'a PolicyUid> {
    let rules = selecting.iter().filter_map(|other| other.rules().ok());
    let named = rules.flat_map(|rules| rules.service_accounts.iter().map(String::as_str));
    // All accounts that no policy names are alike, and no account has an empty name.
    let accounts: BTreeSet<&str> = named.chain([""]).collect();
    let mut bearers = BTreeSet::new();
    for service_account in accounts {
        let who = Who {
            namespace: place.namespace,
            labels: place.labels,
            service_account,
        };
        if policy.rules_for(&who).is_some() {
            bearers.extend(of_account(&who, selecting, place.now_unix));
        }
    }
    bearers
}

/// Those of one service account: of each policy that may allow its bytes the one whose price holds then, as `policy::decide` has it.
fn of_account<'a>(
    who: &Who<'_>,
    selecting: &[&'a Compiled],
    now_unix: i64,
) -> BTreeSet<&'a PolicyUid> {
    let enforces = |policy: &Compiled| policy.mode(now_unix) == Mode::Enforce;
    let said: Vec<Said<'a>> = selecting
        .iter()
        .filter_map(|policy| policy.rules_for(who).map(|rules| (*policy, rules)))
        .collect();
    let first = said.iter().find(|(_, rules)| rules.price.is_some());
    let may_hold: Vec<Said<'a>> = if selecting.iter().any(|policy| enforces(policy)) {
        let allowing = said
            .iter()
            .filter(|(policy, rules)| enforces(policy) && !rules.allow.is_empty());
        let priced = allowing.filter_map(|said| {
            let (_, rules) = said;
            if rules.price.is_some() {
                Some(said)
            } else {
                first
            }
        });
        priced.copied().collect()
    } else {
        first.copied().into_iter().collect()
    };
    let prices: Vec<&Price> = may_hold
        .iter()
        .filter_map(|(_, rules)| rules.price.as_ref())
        .collect();
    let is_one = prices.windows(2).all(|pair| pair.first() == pair.last());
    let uid = |said: &Said<'a>| &said.0.uid;
    if is_one {
        let counted = may_hold.iter().find(|(_, rules)| !rules.budgets.is_empty());
        counted.or(may_hold.first()).map(uid).into_iter().collect()
    } else {
        may_hold.iter().map(uid).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::egress::policy::{Setting, What, decide};

    const NOW: i64 = 1_795_751_063;

    fn policy(name: &str, spec: &Value) -> Compiled {
        Compiled::from_json(&json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": name},
            "spec": spec,
        }))
    }

    /// A policy that allows sources at a price and has a budget.
    fn priced(name: &str, sources: &[&str], price: &str) -> Compiled {
        policy(
            name,
            &json!({
                "namespaces": {},
                "allow": [{"sources": sources}],
                "budgets": [{"name": "daily", "bytes": "1Ti", "window": {"calendar": "Daily"}}],
                "pricePerGiB": {"amount": price, "currency": "EUR"},
            }),
        )
    }

    fn holds(policies: &[Compiled]) -> Vec<Holds> {
        let labels = BTreeMap::new();
        let place = Place {
            namespace: "team-a",
            labels: &labels,
            now_unix: NOW,
        };
        let own = |policy| own_price(policy, policies, Some(&place));
        policies.iter().map(own).collect()
    }

    #[test]
    fn the_only_price_holds_for_all_that_is_charged_also_where_others_allow() {
        let counts = policy("counts", &json!({"namespaces": {}, "allow": [{}]}));
        let policies = [counts, priced("pays", &["models"], "0.09")];
        assert_eq!(holds(&policies), [Holds::Never, Holds::Always]);
        let labels = BTreeMap::new();
        let who = Who {
            namespace: "team-a",
            labels: &labels,
            service_account: "default",
        };
        let what = What {
            source: "datasets",
            ..What::default()
        };
        let decision = decide(&policies, &Setting::default(), &who, &what);
        assert_eq!(decision.price.unwrap().to_string(), "0.09 EUR/GiB");
        assert_eq!(decision.charges[0].policy, "pays");
    }

    #[test]
    fn of_two_prices_nobody_can_say_which_held_and_of_equal_ones_the_first_has_it() {
        let two = [
            priced("a", &["models"], "0.09"),
            priced("b", &["datasets"], "0.02"),
        ];
        assert_eq!(holds(&two), [Holds::Sometimes, Holds::Sometimes]);
        let equal = [
            priced("a", &["models"], "0.09"),
            priced("b", &["datasets"], "0.09"),
        ];
        assert_eq!(holds(&equal), [Holds::Always, Holds::Never]);
    }

    #[test]
    fn what_allows_nothing_decides_no_price() {
        let roof = policy(
            "a-roof",
            &json!({
                "namespaces": {},
                "budgets": [{"name": "month", "bytes": "1Ti", "window": {"rolling": "30d"}}],
                "pricePerGiB": {"amount": "0.02", "currency": "EUR"},
            }),
        );
        let policies = [roof.clone(), priced("pays", &["models"], "0.09")];
        assert_eq!(holds(&policies), [Holds::Never, Holds::Always]);
        // Where the one that allows has no price, the first by name has.
        let free = policy("free", &json!({"namespaces": {}, "allow": [{}]}));
        assert_eq!(holds(&[roof.clone(), free]), [Holds::Always, Holds::Never]);
        // Nothing is allowed any more: what was spent before is as in a namespace that is not known.
        assert_eq!(holds(&[roof]), [Holds::Always]);
    }

    #[test]
    fn service_accounts_that_only_one_price_is_for_have_that_one() {
        let trainers = policy(
            "trainers",
            &json!({
                "namespaces": {},
                "serviceAccounts": ["trainer"],
                "allow": [{}],
                "pricePerGiB": {"amount": "0.02", "currency": "EUR"},
            }),
        );
        let all = priced("all", &[], "0.09");
        // The trainer's bytes, with which `all` is charged too, may have either price.
        assert_eq!(
            holds(&[all, trainers.clone()]),
            [Holds::Sometimes, Holds::Sometimes]
        );
        let others = policy(
            "others",
            &json!({
                "namespaces": {},
                "serviceAccounts": ["server"],
                "allow": [{}],
                "pricePerGiB": {"amount": "0.09", "currency": "EUR"},
            }),
        );
        assert_eq!(holds(&[others, trainers]), [Holds::Always, Holds::Always]);
    }

    #[test]
    fn what_cannot_be_known_is_said_of_no_price() {
        let pays = priced("pays", &["models"], "0.09");
        let typo = policy("typo", &json!({"namespaces": {}, "mode": "Nap"}));
        assert_eq!(
            holds(&[pays.clone(), typo]),
            [Holds::Sometimes, Holds::Never]
        );
        let elsewhere = policy(
            "elsewhere",
            &json!({
                "namespaces": {"names": ["team-z"]},
                "allow": [{}],
                "pricePerGiB": {"amount": "0.02", "currency": "EUR"},
            }),
        );
        let policies = [elsewhere, pays];
        assert_eq!(holds(&policies)[1], Holds::Always);
        // Without the labels of the namespace it could have been the other one.
        assert_eq!(own_price(&policies[1], &policies, None), Holds::Sometimes);
    }

    #[test]
    fn where_all_only_watch_the_first_price_by_name_holds() {
        let audit = |name: &str, price: &str| {
            policy(
                name,
                &json!({"namespaces": {}, "mode": "Audit", "pricePerGiB": {"amount": price, "currency": "EUR"}}),
            )
        };
        assert_eq!(
            holds(&[audit("b", "0.02"), audit("a", "0.09")]),
            [Holds::Never, Holds::Always]
        );
    }
}

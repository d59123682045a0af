//! Objects of the API server as the ledgers' loop knows them, and what they are called. Reading is total: what cannot be what it
//! says it is makes no ledger, and is told in a sentence.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::Value;
use tonnage_cache::digest::Digest;
use tonnage_cache::path::Escaped;

use crate::crd::{
    CHANGED_BY, DenialLine, EgressBudget, EgressBudgetSpec, EgressLease, EgressPolicyStatus,
    NamespaceUse,
};
use crate::egress::compiled::Compiled;
use crate::egress::lease::Lease;
use crate::egress::ledger::{Ledger, objects};
use crate::egress::terms::{Account, Namespace, PolicyUid};

/// Longest name of a policy or namespace that a budget's object is named after.
const LABEL: usize = 63;
/// Longest name of a budget that its object is named after.
const BUDGET: usize = 32;
/// Hexadecimal digits of a name that is not made of names: more than a budget's name has.
const DIGITS: usize = 40;

/// An `EgressPolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyObject {
    /// What it says.
    pub rules: Compiled,
    /// Who changed it last.
    pub changed_by: Option<String>,
    /// What was said of it last.
    pub status: Option<EgressPolicyStatus>,
}

/// An `EgressBudget` whose name is that of its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetObject {
    /// Its name.
    pub name: String,
    /// Its uid: one that is deleted and made again is another one.
    pub uid: String,
    /// Its resource version.
    pub version: String,
    /// Which account it is.
    pub spec: EgressBudgetSpec,
    /// The ledger.
    pub ledger: Ledger,
    /// Of a shared budget: who spent most.
    pub users: Vec<NamespaceUse>,
}

/// An `EgressLease`.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseObject {
    /// Its resource version.
    pub version: String,
    /// What both sides say.
    pub lease: Lease,
    /// Who spent what a demand reports, where the budget is shared.
    pub spent_by: BTreeMap<Account, Vec<NamespaceUse>>,
    /// What was denied on the node since its service began.
    pub denials: Vec<DenialLine>,
}

impl PolicyObject {
    /// Reads an object, whatever it looks like.
    pub fn read(object: &DynamicObject) -> Self {
        let value = serde_json::to_value(object).unwrap_or(Value::Null);
        let status = value.get("status").cloned();
        Self {
            rules: Compiled::from_json(&value),
            changed_by: object.annotations().get(CHANGED_BY).cloned(),
            status: status.and_then(|status| serde_json::from_value(status).ok()),
        }
    }
}

impl BudgetObject {
    /// Reads an object, or says why it is no ledger.
    pub fn read(object: &EgressBudget) -> Result<Self, String> {
        let name = object.name_any();
        let wanted = object_name(&object.spec);
        if name != wanted {
            return Err(format!(
                "the ledger of its account would be called {}; delete it",
                Escaped(&wanted)
            ));
        }
        let status = object.status.as_ref();
        Ok(Self {
            name,
            uid: object.uid().unwrap_or_default(),
            version: object.resource_version().unwrap_or_default(),
            spec: object.spec.clone(),
            ledger: status.map(objects::read_ledger).unwrap_or_default(),
            users: status
                .map(|status| status.users.clone())
                .unwrap_or_default(),
        })
    }

    /// Whom its bytes are charged to.
    pub fn account(&self) -> Account {
        account_of(&self.spec)
    }
}

impl LeaseObject {
    /// Reads an object, or says why nothing is granted to it. Of several demands on one account the one with the highest number
    /// counts.
    pub fn read(object: &EgressLease) -> Result<Self, String> {
        let incarnation = &object.spec.incarnation;
        let is_known = u64::from_str_radix(incarnation, 16).is_ok();
        if !is_known && !object.spec.demands.is_empty() {
            return Err(format!(
                "its spec.incarnation {} is not a hexadecimal number; the node's service writes it anew when it starts",
                Escaped(incarnation)
            ));
        }
        let mut lease = objects::read_lease(object);
        let mut spent_by = BTreeMap::new();
        for (demand, line) in lease.demands.iter().zip(&object.spec.demands) {
            if !line.spent_by.is_empty() {
                spent_by.insert(demand.account.clone(), line.spent_by.clone());
            }
        }
        lease
            .demands
            .sort_by_key(|demand| std::cmp::Reverse(demand.seq));
        let mut asked = BTreeSet::new();
        lease
            .demands
            .retain(|demand| asked.insert(demand.account.clone()));
        Ok(Self {
            version: object.resource_version().unwrap_or_default(),
            lease,
            spent_by,
            denials: object.spec.denials.clone(),
        })
    }
}

/// What an account's object is called: policy, budget and namespace joined by dots, as people know them. Where one of them is
/// not such a name, which the schemas rule out, it is a digest, so that no two accounts ever share an object.
pub(super) fn object_name(spec: &EgressBudgetSpec) -> String {
    let EgressBudgetSpec {
        policy,
        policy_uid,
        budget,
        namespace,
    } = spec;
    let is_plain = is_label(policy, LABEL)
        && is_label(budget, BUDGET)
        && namespace.as_ref().is_none_or(|name| is_label(name, LABEL));
    if is_plain {
        return spec.object_name();
    }
    let parts = (policy, policy_uid, budget, namespace);
    let digest = Digest::of(format!("{parts:?}").as_bytes()).to_hex();
    format!("egress.{}", digest.get(..DIGITS).unwrap_or(&digest))
}

/// Whether it is a name of at most so many lower-case letters, digits and hyphens.
pub(super) fn is_label(text: &str, longest: usize) -> bool {
    let is_inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    !text.is_empty()
        && text.len() <= longest
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The account that an object says it is of.
pub(super) fn account_of(spec: &EgressBudgetSpec) -> Account {
    Account {
        policy: PolicyUid(spec.policy_uid.clone()),
        budget: spec.budget.clone(),
        namespace: spec.namespace.clone().map(Namespace),
    }
}

/// What the object of an account says.
pub(super) fn spec_of(account: &Account, policy: &str) -> EgressBudgetSpec {
    EgressBudgetSpec {
        policy: policy.to_owned(),
        policy_uid: account.policy.0.clone(),
        budget: account.budget.clone(),
        namespace: account.namespace.clone().map(|it| it.0),
    }
}

/// Whether one version is known to be older than another. They are numbers that grow; if they are not, nothing is known, and a
/// write with the wrong one fails.
pub(super) fn is_older(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version < than,
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(policy: &str, budget: &str, namespace: Option<&str>) -> EgressBudgetSpec {
        EgressBudgetSpec {
            policy: policy.to_owned(),
            policy_uid: "u".to_owned(),
            budget: budget.to_owned(),
            namespace: namespace.map(str::to_owned),
        }
    }

    #[test]
    fn objects_are_named_after_their_accounts_and_by_a_digest_where_names_are_none() {
        assert_eq!(
            object_name(&spec("research", "daily", Some("team-a"))),
            "research.daily.team-a"
        );
        let dotted = object_name(&spec("a.b", "c", None));
        assert_ne!(dotted, object_name(&spec("a", "b", Some("c"))));
        assert_eq!(dotted.len(), "egress.".len() + 40);
        let long = object_name(&spec(&"p".repeat(300), "b", None));
        assert_eq!(long.len(), "egress.".len() + 40);
        // No names make a digest's name.
        let digits = dotted.split_once('.').unwrap().1;
        assert_ne!(object_name(&spec("egress", digits, None)), dotted);
    }

    #[test]
    fn an_object_under_another_name_is_no_ledger() {
        let object = |name: &str| -> EgressBudget {
            serde_json::from_value(json!({
                "apiVersion": "tonnage.dev/v1alpha1",
                "kind": "EgressBudget",
                "metadata": {"name": name, "uid": "b", "resourceVersion": "7"},
                "spec": spec("research", "daily", None),
            }))
            .unwrap()
        };
        let read = BudgetObject::read(&object("research.daily")).unwrap();
        assert_eq!((read.version.as_str(), read.uid.as_str()), ("7", "b"));
        assert_eq!(read.ledger, Ledger::default());
        assert_eq!(
            BudgetObject::read(&object("mine")).unwrap_err(),
            "the ledger of its account would be called \"research.daily\"; delete it"
        );
    }

    fn lease(incarnation: &str, seqs: &[i64]) -> EgressLease {
        let line = |seq: &i64| json!({"policyUid": "u", "budget": "daily", "seq": seq, "wantedBytes": 5, "spentBytes": 0});
        let demands: Vec<_> = seqs.iter().map(line).collect();
        serde_json::from_value(json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressLease",
            "metadata": {"name": "n", "resourceVersion": "3"},
            "spec": {"incarnation": incarnation, "demands": demands},
        }))
        .unwrap()
    }

    #[test]
    fn of_two_demands_on_one_account_the_newer_counts() {
        let read = LeaseObject::read(&lease("00ff", &[4, 9, 5])).unwrap();
        let seqs: Vec<u64> = read.lease.demands.iter().map(|it| it.seq).collect();
        assert_eq!(seqs, [9]);
    }

    #[test]
    fn demands_of_nobody_are_none() {
        assert!(LeaseObject::read(&lease("", &[])).is_ok());
        assert_eq!(
            LeaseObject::read(&lease("zz", &[1])).unwrap_err(),
            "its spec.incarnation \"zz\" is not a hexadecimal number; the node's service writes it anew when it starts"
        );
    }

    #[test]
    fn versions_that_are_numbers_are_compared_and_others_are_not() {
        assert!(is_older("9", "10"));
        assert!(!is_older("10", "10"));
        assert!(!is_older("a", "10"));
        assert!(!is_older("9", "b"));
    }
}

//! Which accounts there are: what policies and namespaces say about whom bytes are granted to. Pure.

use std::collections::BTreeMap;

use crate::egress::compiled::{Allowance, Compiled};
use crate::egress::terms::Account;

/// Labels of namespaces, by name.
pub(super) type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// What becomes of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing<'a> {
    /// It has bytes to grant.
    Open(&'a Allowance),
    /// What it has is counted to its end and nothing is granted, because its namespace is not selected any more.
    Closed(&'a Allowance),
    /// Its policy cannot be read: until somebody mends it, nothing changes.
    Malformed,
    /// Its policy names no such budget any more: what it has is counted to its end by what the ledger says of itself, so that a budget
    /// that is put back finds it.
    Removed,
    /// There is no such policy.
    Gone,
}

impl<'a> Standing<'a> {
    /// What an account is by its policy, if that exists.
    pub(super) fn of(
        account: &Account,
        policy: Option<&'a Compiled>,
        namespaces: &Namespaces,
    ) -> Self {
        let Some(policy) = policy else {
            return Self::Gone;
        };
        let Ok(rules) = policy.rules() else {
            return Self::Malformed;
        };
        let is_it = |allowance: &&Allowance| {
            allowance.name == account.budget && allowance.shared == account.namespace.is_none()
        };
        let Some(allowance) = rules.budgets.iter().find(is_it) else {
            return Self::Removed;
        };
        let is_selected = account.namespace.as_ref().is_none_or(|namespace| {
            let labels = namespaces.get(&namespace.0);
            labels.is_some_and(|labels| policy.selects(&namespace.0, labels))
        });
        if is_selected {
            Self::Open(allowance)
        } else {
            Self::Closed(allowance)
        }
    }

    /// How many bytes in which window, if that is known.
    pub(super) fn allowance(&self) -> Option<&'a Allowance> {
        match self {
            Self::Open(allowance) | Self::Closed(allowance) => Some(allowance),
            Self::Malformed | Self::Removed | Self::Gone => None,
        }
    }

    /// Why nothing is granted; nothing if something is. `policy` is what the account's policy is called, if it exists.
    pub(super) fn refusal(&self, account: &Account, policy: Option<&str>) -> Option<String> {
        let budget = &account.budget;
        let policy = policy.map_or_else(
            || format!("EgressPolicy of uid {}", account.policy),
            |name| format!("EgressPolicy {name}"),
        );
        let sentence = match (self, &account.namespace) {
            (Self::Open(_), _) => return None,
            (Self::Malformed, _) => {
                format!("{policy} is malformed and grants nothing until an administrator mends it")
            }
            (Self::Closed(_), Some(namespace)) => {
                format!("{policy} does not select namespace {namespace} any more")
            }
            (Self::Closed(_), None) | (Self::Removed | Self::Gone, _) => {
                format!("{policy} has no budget {budget} of this scope any more")
            }
        };
        Some(sentence)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::egress::terms::{Namespace, PolicyUid};

    fn policy(bytes: &str) -> Compiled {
        Compiled::from_json(&json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": "research", "uid": "u"},
            "spec": {
                "namespaces": {"matchLabels": {"tier": "research"}},
                "budgets": [
                    {"name": "daily", "bytes": bytes, "window": {"calendar": "Daily"}},
                    {"name": "all", "bytes": bytes, "window": {"rolling": "30d"}, "scope": "Shared"},
                ],
            },
        }))
    }

    fn account(budget: &str, namespace: Option<&str>) -> Account {
        Account {
            policy: PolicyUid("u".to_owned()),
            budget: budget.to_owned(),
            namespace: namespace.map(|name| Namespace(name.to_owned())),
        }
    }

    fn namespaces() -> Namespaces {
        let labels = |tier: &str| BTreeMap::from([("tier".to_owned(), tier.to_owned())]);
        BTreeMap::from([
            ("team-a".to_owned(), labels("research")),
            ("team-b".to_owned(), labels("production")),
        ])
    }

    #[test]
    fn an_account_is_open_where_its_policy_has_the_budget_and_selects_the_namespace() {
        let (good, bad) = (policy("1Ti"), policy("1TB"));
        let namespaces = namespaces();
        let standing = |policy, budget, namespace| {
            let account = account(budget, namespace);
            let standing = Standing::of(&account, policy, &namespaces);
            let name = policy.map(|policy: &Compiled| policy.name.as_str());
            standing.refusal(&account, name).unwrap_or_default()
        };
        for (policy, budget, namespace, why) in [
            (Some(&good), "daily", Some("team-a"), ""),
            (Some(&good), "all", None, ""),
            (
                Some(&good),
                "daily",
                Some("team-b"),
                "EgressPolicy research does not select namespace team-b any more",
            ),
            (
                Some(&good),
                "daily",
                Some("team-c"),
                "EgressPolicy research does not select namespace team-c any more",
            ),
            (
                Some(&good),
                "daily",
                None,
                "EgressPolicy research has no budget daily of this scope any more",
            ),
            (
                Some(&good),
                "weekly",
                Some("team-a"),
                "EgressPolicy research has no budget weekly of this scope any more",
            ),
            (
                Some(&bad),
                "daily",
                Some("team-a"),
                "EgressPolicy research is malformed and grants nothing until an administrator mends it",
            ),
            (
                None,
                "daily",
                Some("team-a"),
                "EgressPolicy of uid u has no budget daily of this scope any more",
            ),
        ] {
            assert_eq!(standing(policy, budget, namespace), why);
        }
    }
}

//! What of ledgers goes into the audit log: a line for every grant, for what became of it, and for a policy that is overruled. Pure.

use super::turns::LedgerWrite;
use crate::egress::compiled::Compiled;
use crate::egress::ledger::{Effect, Ending};
use crate::govern::audit::{Entry, Event, PolicyLine};

/// What a ledger that was written did, by its policy.
pub(super) fn of_ledger(write: &LedgerWrite, policy: Option<&Compiled>, at: u64) -> Vec<Entry> {
    let effects = write.effects.iter();
    let entries = effects.map(|effect| Entry {
        account: Some(write.account.clone()),
        policies: lines(policy),
        ..of_effect(effect, at)
    });
    entries.collect()
}

/// A policy only watches, for a reason.
pub(super) fn of_overrule(reason: &str, policy: Option<&Compiled>, at: u64) -> Entry {
    Entry {
        policies: lines(policy),
        reason: Some(reason.to_owned()),
        ..Entry::of(Event::Override, at)
    }
}

fn lines(policy: Option<&Compiled>) -> Vec<PolicyLine> {
    policy.map(PolicyLine::of).into_iter().collect()
}

fn of_effect(effect: &Effect, at: u64) -> Entry {
    match effect {
        Effect::Granted { node, bytes, .. } => Entry {
            node: Some(node.clone()),
            bytes: *bytes,
            ..Entry::of(Event::Grant, at)
        },
        Effect::Settled {
            node,
            granted,
            spent,
            ending,
        } => {
            let why = match ending {
                Ending::Reported => "reported by the node",
                Ending::Lost => {
                    "counted in full: the node's service began anew, or its report was lost"
                }
                Ending::Expired => "counted in full: its time was over",
            };
            Entry {
                node: node.clone(),
                bytes: *spent,
                reason: Some(format!("of {granted} bytes granted; {why}")),
                ..Entry::of(Event::Settle, at)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::{EgressBudgetSpec, EgressBudgetStatus};
    use crate::egress::ledger::Ledger;
    use crate::egress::terms::{Account, PolicyUid};

    #[test]
    fn a_grant_and_what_became_of_it_name_their_policy_and_its_generation() {
        let policy = Compiled::from_json(&json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": "research", "uid": "u", "generation": 4},
            "spec": {"namespaces": {}},
        }));
        let account = Account {
            policy: PolicyUid("u".to_owned()),
            budget: "all".to_owned(),
            namespace: None,
        };
        let node = "n".to_owned();
        let write = LedgerWrite {
            account: account.clone(),
            name: "research.all".to_owned(),
            uid: "b".to_owned(),
            version: "1".to_owned(),
            spec: EgressBudgetSpec {
                policy: "research".to_owned(),
                policy_uid: "u".to_owned(),
                budget: "all".to_owned(),
                namespace: None,
            },
            ledger: Ledger::new(100),
            status: EgressBudgetStatus::default(),
            effects: vec![
                Effect::Settled {
                    node: Some(node.clone()),
                    granted: 50,
                    spent: 20,
                    ending: Ending::Reported,
                },
                Effect::Granted {
                    node: node.clone(),
                    seq: 2,
                    bytes: 30,
                },
            ],
        };
        let entries = of_ledger(&write, Some(&policy), 7);
        let policies = vec![PolicyLine::of(&policy)];
        assert_eq!(policies[0].generation, Some(4));
        let settled = Entry {
            account: Some(account.clone()),
            node: Some(node.clone()),
            bytes: 20,
            reason: Some("of 50 bytes granted; reported by the node".to_owned()),
            policies: policies.clone(),
            ..Entry::of(Event::Settle, 7)
        };
        let granted = Entry {
            account: Some(account),
            node: Some(node),
            bytes: 30,
            policies,
            ..Entry::of(Event::Grant, 7)
        };
        assert_eq!(entries, [settled, granted]);
    }
}

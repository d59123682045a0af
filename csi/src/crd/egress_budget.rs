//! `EgressBudget`: the ledger of one account, which is one budget of an `EgressPolicy` for one namespace, or for all together.
//! The controller alone writes it, with the resource version that it read as a precondition: a leader that was replaced
//! cannot.
//!
//! It belongs to the cluster and not to its namespace: a namespace that is deleted and made again has not got its bytes back,
//! who may edit everything in a namespace may not edit what it has spent, and a shared budget has no namespace. The policy
//! owns it, so it goes with the policy.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::egress_policy_status::NamespaceUse;

/// Most nodes whose grants have lines of their own.
pub const MOST_OUTSTANDING: usize = 64;
/// Most lines of grants that are held together.
pub const MOST_CROWDS: usize = 32;
/// Most times of a rolling window that settled bytes are kept by.
pub const MOST_SETTLED: usize = 34;

/// Which account it is.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[kube(
    group = "tonnage.dev",
    version = "v1alpha1",
    kind = "EgressBudget",
    plural = "egressbudgets",
    shortname = "tbudget",
    category = "tonnage",
    status = "EgressBudgetStatus",
    derive = "PartialEq",
    doc = "An EgressBudget is the ledger of one budget of an EgressPolicy: how many bytes were spent in the window, and how many are granted to nodes that have not reported yet. Both together never exceed the limit. The controller writes it; delete it to give all bytes of the window back.",
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.policy"),
    printcolumn(name = "Budget", type_ = "string", json_path = ".spec.budget"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.namespace"),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.used"),
    printcolumn(name = "Left", type_ = "string", json_path = ".status.left"),
    printcolumn(
        name = "Granted",
        type_ = "integer",
        json_path = ".status.outstandingBytes",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(validation = kube::core::Rule::new("self == oldSelf").message("an EgressBudget is always of one account; delete it, and the controller makes another"))]
#[serde(rename_all = "camelCase")]
pub struct EgressBudgetSpec {
    /// Name of the `EgressPolicy`.
    #[schemars(length(min = 1, max = 63))]
    pub policy: String,
    /// Its uid.
    #[schemars(length(min = 1, max = 64))]
    pub policy_uid: String,
    /// Name of one of its budgets.
    #[schemars(length(min = 1, max = 32))]
    pub budget: String,
    /// The namespace; absent where the budget is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// What is spent and what is granted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EgressBudgetStatus {
    /// How many bytes the policy allows in the window.
    #[serde(default)]
    pub limit_bytes: i64,
    /// The window: `24h` or `Daily +02:00`. `settled` has its keys; when the policy names another, they are carried over.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub window: String,
    /// Second of the last entry, since 1970 (UTC): earlier times are not believed any more.
    #[serde(default)]
    pub as_of: i64,
    /// Bytes that are settled, by the time at which they count: one line for a calendar's period, up to 34 for a rolling
    /// window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 34))]
    pub settled: Vec<SettledLine>,
    /// Grants, by node: bytes that nodes may still spend, and for a while what was answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub outstanding: Vec<OutstandingLine>,
    /// Grants of nodes that have no line any more, held together until their time is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub crowds: Vec<CrowdLine>,
    /// The bytes of both together.
    #[serde(default)]
    pub outstanding_bytes: i64,
    /// In words: `1.2 TiB of 2.0 TiB`, what is granted included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub used: Option<String>,
    /// In words: `0.8 TiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub left: Option<String>,
    /// Of a shared budget: who spent most in the window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub users: Vec<NamespaceUse>,
}

/// Settled bytes.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SettledLine {
    /// First second of the stretch of time that they are booked in, since 1970 (UTC).
    pub start: i64,
    /// How many.
    #[schemars(range(min = 0))]
    pub bytes: i64,
}

/// A node's grant.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OutstandingLine {
    /// The node.
    #[schemars(length(max = 253))]
    pub node: String,
    /// Which start of the node's service was granted it.
    #[schemars(length(max = 16))]
    pub incarnation: String,
    /// Number of its demand that was answered.
    #[schemars(range(min = 0))]
    pub seq: i64,
    /// How many bytes may still be spent; 0 once it is settled.
    #[schemars(range(min = 0))]
    pub bytes: i64,
    /// For how long it was granted.
    #[schemars(range(min = 0))]
    pub duration_seconds: i64,
    /// When that ends by the wall clock, in seconds since 1970 (UTC). For people: nothing is decided by it.
    pub until: i64,
}

/// Grants of about the same time.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CrowdLine {
    /// Its name; grows.
    pub id: i64,
    /// How many bytes are held.
    #[schemars(range(min = 0))]
    pub bytes: i64,
    /// The longest of their terms.
    #[schemars(range(min = 0))]
    pub duration_seconds: i64,
}

impl EgressBudgetSpec {
    /// The object's name: policy, budget and namespace joined by dots, none of which has one. A shared budget has two parts.
    pub fn object_name(&self) -> String {
        let Self {
            policy,
            policy_uid: _,
            budget,
            namespace,
        } = self;
        match namespace {
            Some(namespace) => format!("{policy}.{budget}.{namespace}"),
            None => format!("{policy}.{budget}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_accounts_apart_and_are_short_enough() {
        let spec = |policy: &str, budget: &str, namespace: Option<&str>| EgressBudgetSpec {
            policy: policy.to_owned(),
            policy_uid: "u".to_owned(),
            budget: budget.to_owned(),
            namespace: namespace.map(str::to_owned),
        };
        let shared = spec("research", "daily", None).object_name();
        assert_eq!(shared, "research.daily");
        let own = spec("research", "daily", Some("team-a")).object_name();
        assert_eq!(own, "research.daily.team-a");
        let long = spec(&"p".repeat(63), &"b".repeat(32), Some(&"n".repeat(63)));
        assert!(long.object_name().len() <= 253);
    }

    #[test]
    fn the_largest_status_stays_below_sixteen_kib_where_names_are_ordinary() {
        let status = EgressBudgetStatus {
            limit_bytes: i64::MAX,
            window: "30d".to_owned(),
            as_of: 1_764_201_600,
            settled: vec![
                SettledLine {
                    start: 1_764_201_600,
                    bytes: 10_000_000_000_000,
                };
                MOST_SETTLED
            ],
            outstanding: vec![
                OutstandingLine {
                    node: "ip-10-0-1-23.eu-central-1.compute.internal".to_owned(),
                    incarnation: "0123456789abcdef".to_owned(),
                    seq: 1000,
                    bytes: 8 << 30,
                    duration_seconds: 900,
                    until: 1_764_201_600,
                };
                MOST_OUTSTANDING
            ],
            crowds: vec![
                CrowdLine {
                    id: 1_764_201_600,
                    bytes: 8 << 40,
                    duration_seconds: 900,
                };
                MOST_CROWDS
            ],
            outstanding_bytes: i64::MAX,
            ..EgressBudgetStatus::default()
        };
        let size = serde_json::to_vec(&status).unwrap().len();
        assert!(size < 16 << 10, "{size}");
    }
}

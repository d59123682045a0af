//! What the controller says of an `EgressPolicy`: whether it is in force, what its budgets have left and who used most, what
//! it denied. Bounded: some kilobytes, however many namespaces there are.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::source::SourceCondition;

/// Most namespaces that are named as those that used most of a budget.
pub const MOST_USERS: usize = 5;

/// What the controller knows of a policy.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EgressPolicyStatus {
    /// The generation that all of this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Who made that generation, from the annotation `tonnage.dev/changed-by`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_by: Option<String>,
    /// `Ready`: the policy is in force, or what is wrong with it; then it denies the namespaces that it selects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<SourceCondition>,
    /// The budget with the smallest share left, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scarcest: Option<BudgetWords>,
    /// Each budget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6))]
    pub budgets: Vec<BudgetUse>,
    /// What was denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<Denials>,
    /// The price times what is settled in the policy's budget in which most is, such as `41.20 EUR`: what its pods' bytes cost in
    /// that window, in the month if a budget is monthly; `at most` so much where another policy has a price as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
}

/// A budget in words, for a line of a table.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BudgetWords {
    /// Its name and the namespace, if each has its own: `daily team-a`.
    pub budget: String,
    /// Such as `1.2 TiB of 2.0 TiB`.
    pub used: String,
    /// Such as `0.8 TiB`.
    pub left: String,
    /// When bytes come back: the end of the calendar's period, or when the oldest bytes leave a rolling window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_end: Option<Time>,
}

/// What is used of a budget in the current window; of one that each namespace has for itself, by the one that used most.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BudgetUse {
    /// Its name.
    pub name: String,
    /// How many bytes it allows.
    pub limit_bytes: i64,
    /// How many were used, those granted to nodes included.
    pub used_bytes: i64,
    /// How many are left.
    pub left_bytes: i64,
    /// When bytes come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_end: Option<Time>,
    /// Who used most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub top_users: Vec<NamespaceUse>,
}

/// What a namespace used.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceUse {
    /// The namespace.
    pub namespace: String,
    /// How many bytes.
    pub bytes: i64,
}

/// What a policy denied.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Denials {
    /// How often, since the policy was made.
    #[serde(default)]
    pub count: i64,
    /// The sentence of the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_reason: Option<String>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_namespace: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_time: Option<Time>,
}

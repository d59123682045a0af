//! `EgressPolicy`: who may pull what from where, how many bytes that may take, and what they cost. What several of them
//! mean together is in `docs/governance.md`, and decided in `egress`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::egress_policy_status::EgressPolicyStatus;
use super::quantity::Quantity;
use super::source::NamespaceSelector;

/// Annotation that says who made or last changed a policy; the API server stamps it from the request's user.
pub const CHANGED_BY: &str = "tonnage.dev/changed-by";
/// Most budgets of a policy.
pub const MOST_BUDGETS: usize = 6;

/// Who may pull what from where, and how many bytes that may take.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[kube(
    group = "tonnage.dev",
    version = "v1alpha1",
    kind = "EgressPolicy",
    plural = "egresspolicies",
    shortname = "tegress",
    category = "tonnage",
    status = "EgressPolicyStatus",
    derive = "PartialEq",
    doc = "An EgressPolicy says which pods may load what from where, how many bytes that may take in a window of time, how fast, and what a byte costs. Once a policy in mode Enforce selects a namespace, what no policy allows there is denied. Allow-lists of several policies unite, every budget is charged, and the strictest limit holds.",
    validation = kube::core::Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')").message("the name of an EgressPolicy must be at most 63 lower-case letters, digits and hyphens, without dots: budgets are named after it"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        priority = 1
    ),
    printcolumn(
        name = "Budget",
        type_ = "string",
        json_path = ".status.scarcest.budget"
    ),
    printcolumn(name = "Used", type_ = "string", json_path = ".status.scarcest.used"),
    printcolumn(name = "Left", type_ = "string", json_path = ".status.scarcest.left"),
    printcolumn(
        name = "Window end",
        // A column of dates shows how long ago something was, and nothing of what is to come.
        type_ = "string",
        json_path = ".status.scarcest.windowEnd"
    ),
    printcolumn(
        name = "Used most",
        // Of the first budget: a path finds no largest one, and every budget is charged with the same bytes.
        type_ = "string",
        json_path = ".status.budgets[0].topUsers[0].namespace",
        priority = 1
    ),
    printcolumn(name = "Cost", type_ = "string", json_path = ".status.cost"),
    printcolumn(
        name = "Denied",
        type_ = "integer",
        json_path = ".status.denied.count"
    ),
    printcolumn(
        name = "Denied why",
        type_ = "string",
        json_path = ".status.denied.lastReason",
        priority = 1
    ),
    printcolumn(
        name = "Changed by",
        type_ = "string",
        json_path = ".metadata.annotations.tonnage\\.dev/changed-by"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct EgressPolicySpec {
    /// Which namespaces. An empty selector is all of them.
    pub namespaces: NamespaceSelector,
    /// Names of service accounts in those namespaces that the allow-list, budgets and rates are for; empty: all of them. The
    /// others get nothing from this policy, and their namespace is selected nevertheless: what no policy allows them is
    /// denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub service_accounts: Vec<String>,
    /// What may be loaded. Any entry suffices; without entries nothing may. `[{}]` allows everything, for a policy that
    /// only counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow: Vec<AllowEntry>,
    /// How many bytes may be loaded in a window of time. Every budget is charged with every byte of the pods that the policy
    /// selects, whichever policy allowed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6))]
    #[x_kube(validation = kube::core::Rule::new("self.all(one, self.exists_one(other, other.name == one.name))").message("budgets must have different names"))]
    pub budgets: Vec<Budget>,
    /// How fast, and over how many connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateLimits>,
    /// What a GiB costs. Of several policies the price of the one that allowed the bytes holds.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "pricePerGiB"
    )]
    pub price_per_gib: Option<PricePerGib>,
    /// `Enforce` (default), or `Audit`: records what it would have denied, and charges its budgets without ever refusing.
    /// A policy in mode `Audit` neither opens nor closes anything.
    #[serde(default)]
    pub mode: Mode,
    /// What a node may do with budgets while it cannot get more bytes granted because the controller or the API server is
    /// away. `SpendLease` (default) spends what was granted before, to its end, and then stops; `Deny` stops at once;
    /// `Allow` goes on without a grant and reports the bytes later, so that a budget can be exceeded. Of several policies
    /// the strictest holds.
    #[serde(default)]
    pub when_controller_unreachable: WhenControllerUnreachable,
    /// How long a node goes by the policies as it last read them while it cannot reach the API server; then nothing new is
    /// loaded in namespaces that this policy selects. It is also the longest time until a change takes effect everywhere.
    /// Default 1800. Of several policies the shortest holds.
    #[serde(default = "default_staleness")]
    #[schemars(range(min = 60, max = 604_800))]
    pub max_staleness_seconds: i64,
    /// Whether volumes must name the digest of their content.
    #[serde(default)]
    pub require_digest: bool,
}

const fn default_staleness() -> i64 {
    1800
}

/// One entry of an allow-list: what fits in every list that it has. A list that it does not have fits everything.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowEntry {
    /// Names of Sources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub sources: Vec<String>,
    /// Hosts that may be connected to: a name, an address, or `*.` and a suffix, which stands for every name below it and
    /// not for itself. Without scheme and port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
    #[x_kube(validation = kube::core::Rule::new("self.all(host, host.matches('^([*][.])?[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?$|^[0-9a-fA-F.]*:[0-9a-fA-F.]*:[0-9a-fA-F:.]*$'))").message("hosts must be names such as s3.example.com, *.example.com or addresses, without scheme and port"))]
    pub hosts: Vec<String>,
    /// Buckets or containers, by name; an Azure container as `account/container`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub buckets: Vec<String>,
    /// Paths, and all below each. They begin at the root of the bucket, or of the web server: the base path in a Source's
    /// URL is a part of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub prefixes: Vec<String>,
}

/// A number of bytes in a window of time.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Its name, different from those of the policy's other budgets.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("a budget's name must be lower-case letters, digits and hyphens"))]
    pub name: String,
    /// How many bytes: a quantity such as `500Gi`, or a number. 0 allows none.
    #[x_kube(validation = kube::core::Rule::new("type(self) == int ? self >= 0 : isQuantity(self) && quantity(self).isInteger() && quantity(self).compareTo(quantity('0')) >= 0").message("bytes must be a whole number of bytes such as 500Gi, 1.5T or 1000000"))]
    pub bytes: Quantity,
    /// In which time.
    pub window: BudgetWindow,
    /// `PerNamespace` (default): each namespace has the bytes for itself. `Shared`: all namespaces that the policy selects
    /// have them together.
    #[serde(default)]
    pub scope: Scope,
}

/// A window of time: either `rolling` or `calendar`.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = kube::core::Rule::new("has(self.rolling) != has(self.calendar)").message("window must have either rolling, such as 24h, or calendar, such as Daily"))]
#[x_kube(validation = kube::core::Rule::new("!has(self.timeZone) || has(self.calendar)").message("window.timeZone says where the days of a calendar begin and belongs to no rolling window"))]
pub struct BudgetWindow {
    /// The last stretch of time of this length, at every moment: `1h` to `366d`, with the unit `m`, `h` or `d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 8))]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^[0-9]+[mhd]$')").message("window.rolling must be a number and a unit, such as 90m, 24h or 7d"))]
    pub rolling: Option<String>,
    /// From a full hour, midnight, Monday or the first of the month to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calendar: Option<CalendarPeriod>,
    /// Where the days of the calendar begin: `UTC` (default) or an offset such as `+02:00`. There is no daylight saving: every
    /// day has 24 hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 6))]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^(UTC|[-+](0[0-9]|1[0-4]):[0-5][0-9])$')").message("window.timeZone must be UTC or an offset such as +02:00"))]
    pub time_zone: Option<String>,
}

/// A period of the calendar.
#[derive(
    Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub enum CalendarPeriod {
    /// From a full hour.
    Hourly,
    /// From midnight.
    Daily,
    /// From midnight before Monday.
    Weekly,
    /// From midnight before the first.
    Monthly,
}

/// Who has a budget.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// Each namespace for itself.
    #[default]
    PerNamespace,
    /// All namespaces together.
    Shared,
}

/// How fast; of several policies the lowest value of each holds. What is not set is not limited.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RateLimits {
    /// Bytes per second of one node, for all pods that the policy selects together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("type(self) == int ? self > 0 : isQuantity(self) && quantity(self).isInteger() && quantity(self).compareTo(quantity('0')) > 0").message("rate.bytesPerSecondPerNode must be a whole number of bytes above 0, such as 500M"))]
    pub bytes_per_second_per_node: Option<Quantity>,
    /// Bytes per second of one namespace on one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = kube::core::Rule::new("type(self) == int ? self > 0 : isQuantity(self) && quantity(self).isInteger() && quantity(self).compareTo(quantity('0')) > 0").message("rate.bytesPerSecondPerNamespace must be a whole number of bytes above 0, such as 500M"))]
    pub bytes_per_second_per_namespace: Option<Quantity>,
    /// Connections of one node, for all pods that the policy selects together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub connections_per_node: Option<i64>,
    /// Connections of one namespace on one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub connections_per_namespace: Option<i64>,
}

/// What 2³⁰ bytes cost.
#[derive(Serialize, Deserialize, KubeSchema, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PricePerGib {
    /// A decimal number as a text, such as `"0.09"`: at most nine figures before and nine behind the point. It is never
    /// rounded.
    #[schemars(length(min = 1, max = 19))]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^[0-9]{1,9}([.][0-9]{1,9})?$')").message("pricePerGiB.amount must be a decimal number in quotes, such as \"0.09\""))]
    pub amount: String,
    /// Three letters (ISO 4217), such as `EUR`.
    #[schemars(length(min = 3, max = 3))]
    #[x_kube(validation = kube::core::Rule::new("self.matches('^[A-Z]{3}$')").message("pricePerGiB.currency must be three capital letters, such as EUR"))]
    pub currency: String,
}

/// Whether a policy denies, or records only.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// It denies.
    #[default]
    Enforce,
    /// It records what it would have denied.
    Audit,
}

/// What happens to budgets while the controller cannot be reached.
#[derive(
    Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord,
)]
pub enum WhenControllerUnreachable {
    /// Bytes go on without a grant and are reported later.
    Allow,
    /// What was granted before may be spent.
    #[default]
    SpendLease,
    /// Nothing is loaded.
    Deny,
}

impl EgressPolicy {
    /// Who made or last changed it, as the API server stamped it.
    pub fn changed_by(&self) -> Option<&str> {
        let annotations = self.metadata.annotations.as_ref()?;
        annotations.get(CHANGED_BY).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt as _;
    use serde_json::{Value, json};

    use super::*;

    fn schema() -> Value {
        let definition = serde_json::to_value(EgressPolicy::crd()).unwrap();
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    #[test]
    fn what_is_not_set_is_strict() {
        let policy: EgressPolicy = serde_json::from_value(json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressPolicy",
            "metadata": {"name": "p", "annotations": {CHANGED_BY: "ada@example.com"}},
            "spec": {"namespaces": {}},
        }))
        .unwrap();
        assert_eq!(policy.changed_by(), Some("ada@example.com"));
        let spec = policy.spec;
        assert_eq!(spec.mode, Mode::Enforce);
        assert_eq!(
            spec.when_controller_unreachable,
            WhenControllerUnreachable::SpendLease
        );
        assert_eq!(spec.max_staleness_seconds, 1800);
        assert!(spec.allow.is_empty() && !spec.require_digest);
    }

    #[test]
    fn a_quantity_may_be_a_number_or_a_text_and_is_checked_when_it_is_applied() {
        let schema = schema();
        let spec = &schema["properties"]["spec"]["properties"];
        let bytes = &spec["budgets"]["items"]["properties"]["bytes"];
        assert_eq!(bytes["x-kubernetes-int-or-string"], true, "{bytes:#}");
        assert_eq!(bytes.get("anyOf"), None);
        assert_eq!(bytes.get("type"), None);
        assert_eq!(
            bytes["x-kubernetes-validations"][0]["message"],
            "bytes must be a whole number of bytes such as 500Gi, 1.5T or 1000000"
        );
        let rate = &spec["rate"]["properties"]["bytesPerSecondPerNode"];
        assert_eq!(rate["x-kubernetes-int-or-string"], true, "{rate:#}");
        assert_eq!(rate.get("anyOf"), None);
    }

    #[test]
    fn every_list_and_text_that_a_rule_reads_is_bounded() {
        let schema = schema();
        let spec = &schema["properties"]["spec"]["properties"];
        assert_eq!(spec["budgets"]["maxItems"], MOST_BUDGETS);
        assert_eq!(spec["allow"]["maxItems"], 64);
        let hosts = &spec["allow"]["items"]["properties"]["hosts"];
        assert_eq!(hosts["maxItems"], 32);
        assert_eq!(hosts["items"]["maxLength"], 253);
        let rules = &schema["x-kubernetes-validations"];
        assert!(
            rules[0]["rule"]
                .as_str()
                .unwrap()
                .contains("self.metadata.name"),
            "{rules:#}"
        );
    }
}

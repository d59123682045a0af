//! The custom resources, API group `tonnage.dev/v1alpha1`: what an admin or a controller writes into the API server. Plain
//! data with schemas; nothing here decides or reads the network. `tonnage crds` prints them, and the chart carries that
//! output (a test compares).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

#[expect(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "the macro of the schema makes structs within functions, and its columns have types alike"
)]
mod cache_quota;
#[expect(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "the macro of the schema makes structs within functions, and its columns have types alike"
)]
mod egress_budget;
#[expect(
    unreachable_pub,
    reason = "the macro of the schema makes structs within functions"
)]
mod egress_lease;
#[expect(
    unreachable_pub,
    reason = "the macro of the schema makes structs within functions"
)]
mod egress_policy;
mod egress_policy_status;
#[expect(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "the macro of the schema makes structs within functions, and its columns have types alike"
)]
mod node_cache;
mod quantity;
#[expect(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "the macro of the schema makes structs within functions, and its columns have types alike"
)]
mod source;
#[expect(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "the macro of the schema makes structs within functions, and its columns have types alike"
)]
mod volume;

pub use cache_quota::{
    CacheQuota, CacheQuotaSpec, CacheQuotaStatus, ClusterQuota, MOST_NODES, NodeQuota, NodeUse,
    Reservation,
};
pub use egress_budget::{
    CrowdLine, EgressBudget, EgressBudgetSpec, EgressBudgetStatus, MOST_CROWDS, MOST_OUTSTANDING,
    MOST_SETTLED, OutstandingLine, SettledLine,
};
pub use egress_lease::{
    DemandLine, DenialLine, EgressLease, EgressLeaseSpec, EgressLeaseStatus, GrantLine,
    LONGEST_SENTENCE, MOST_DENIALS, MOST_LINES,
};
pub use egress_policy::{
    AllowEntry, Budget, BudgetWindow, CHANGED_BY, CalendarPeriod, EgressPolicy, EgressPolicySpec,
    MOST_BUDGETS, Mode, PricePerGib, RateLimits, Scope, WhenControllerUnreachable,
};
pub use egress_policy_status::{
    BudgetUse, BudgetWords, Denials, EgressPolicyStatus, MOST_USERS, NamespaceUse,
};
pub use node_cache::{
    CacheLoad, CachedManifest, MOST_NAMESPACES, NamespaceContent, NodeCache, NodeCacheCondition,
    NodeCacheSpec, NodeCacheStatus, ReadableFigures,
};
pub use quantity::Quantity;
pub use source::{
    AddressingStyle, AuthMode, AwsRole, AzureIdentity, Consumer, GcpPool, GrantPolicy,
    ListingLimits, NamespaceSelector, NodeIdentity, RevisionPolicy, Source, SourceAuth,
    SourceCondition, SourceSpec, SourceStatus, WorkloadIdentity,
};
pub use volume::{ClaimReference, Volume, VolumeSpec};

/// The API group.
pub const GROUP: &str = "tonnage.dev";

/// Length as JSON of an object's part, which the API server limits with the whole; 0 of what JSON cannot say, which it would tell.
pub(crate) fn json_bytes(part: &impl serde::Serialize) -> usize {
    serde_json::to_vec(part).map_or(0, |bytes| bytes.len())
}

/// Those that are installed, in that order.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        Source::crd(),
        Volume::crd(),
        NodeCache::crd(),
        EgressPolicy::crd(),
        CacheQuota::crd(),
        EgressBudget::crd(),
        EgressLease::crd(),
    ]
}

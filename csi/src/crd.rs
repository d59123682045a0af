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
mod source;
#[expect(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "the macro of the schema makes structs within functions, and its columns have types alike"
)]
mod volume;

pub use source::{
    AddressingStyle, AuthMode, Consumer, ListingLimits, NamespaceSelector, RevisionPolicy, Source,
    SourceAuth, SourceCondition, SourceSpec, SourceStatus,
};
pub use volume::{ClaimReference, Volume, VolumeSpec};

/// The API group.
pub const GROUP: &str = "tonnage.dev";

/// All of them, in the order in which they are installed.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![Source::crd(), Volume::crd()]
}

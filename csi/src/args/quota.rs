//! Arguments of `tonnage quota`.

use clap::Args as ClapArgs;

use super::egress::{Output, Reach};

/// `tonnage quota`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  tonnage quota                           every namespace that has a CacheQuota
  tonnage quota --namespace team-a -o json

Namespaces that use most come first. Sizes are powers of 1024, and bytes are those that volumes show. A quota that cannot be read lets \
no new volume be published in its namespace; it is named, the others are shown, and the command ends with 65.

Rights: list on cachequotas.")]
pub(crate) struct Quota {
    /// Only this namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) output: Output,
}

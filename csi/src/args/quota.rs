//! Arguments of `tonnage quota`.

use clap::Args as ClapArgs;

use super::egress::Output;

/// `tonnage quota`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  tonnage quota                           every namespace that has a CacheQuota
  tonnage quota --namespace team-a -o json

The cluster is that of the pod's service account or of KUBECONFIG; the verb list for cachequotas is needed.")]
pub(crate) struct Quota {
    /// Only this namespace
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

//! Arguments of `tonnage egress`, and how the commands about governance print.

use clap::{Args as ClapArgs, ValueEnum};

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns or sentences, for people
    Table,
    /// One JSON document, with numbers of bytes
    Json,
}

/// How a command prints.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct Output {
    /// How to print
    #[arg(
        long,
        short = 'o',
        value_name = "FORMAT",
        value_enum,
        default_value = "table"
    )]
    pub(crate) output: Format,
}

/// `tonnage egress`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  tonnage egress                          every policy: used, left, who used most, what it cost, what it denied
  tonnage egress --namespace team-a       what the budgets have left for one namespace
  tonnage egress -o json | jq '.[] | {policy, cost}'

Without --namespace, a budget that each namespace has for itself shows the one that used most. Bytes that are granted to \
nodes count as used. The cluster is that of the pod's service account or of KUBECONFIG; the verb list for egresspolicies \
and egressbudgets is needed.")]
pub(crate) struct Egress {
    /// Only what pods of this namespace are charged to
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

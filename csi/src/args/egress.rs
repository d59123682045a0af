//! Arguments of `tonnage egress`, and how the commands about governance print.

use clap::{Args as ClapArgs, ValueEnum};

use super::policy::Labels;

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

/// Which cluster a command asks.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Reach {
    /// Context of the kubeconfig [default: its current one, or the pod's service account]
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// `tonnage egress`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  tonnage egress                          every policy: used, left, who used most, what it cost, what it denied
  tonnage egress --namespace team-a       what the policies that select a namespace leave it, spent from or not
  tonnage egress -o json | jq '.[] | {policy, cost, costBudget}'

Without --namespace, a budget that each namespace has for itself shows the one that used most, as the controller last said it. Bytes \
that are granted to nodes count as used. Times are UTC, and sizes are powers of 1024. DENIED counts all namespaces.

COST is what is spent in the window of the budget in brackets, the one in which most is spent. A byte has one cost, at the price of the \
policy that allowed it, whoever's budgets it is charged to. Where policies with different prices may have allowed it, nobody can say \
which did: the cost is that of the other bytes, `at least 1.20 EUR`, or `not known`. The metric tonnage_egress_cost_total knows all of it.

Rights: list on egresspolicies; for costs list on egressbudgets and, where several policies have prices, on namespaces; with \
--namespace list on egressbudgets and get on namespaces. Ends with 65 if a ledger cannot be read.")]
pub(crate) struct Egress {
    /// Only policies that select this namespace, and what it has of their budgets
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Labels of the namespace, in place of those that it has
    #[arg(long, value_name = "KEY=VALUE,…", requires = "namespace")]
    pub(crate) labels: Option<Labels>,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) output: Output,
}

//! Arguments of `tonnage policy`: questions to the rules of egress that load nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as ClapArgs, Subcommand};
use tonnage_csi::size::ByteSize;

use super::egress::{Output, Reach};
use crate::config::DefaultEgress;

/// `tonnage policy …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Policy {
    /// Say whether something may be loaded, by which rule, and what is left for it; loads nothing
    Explain(Box<Explain>),
    /// Say what other policies would have denied or allowed of an audit log
    Simulate(Simulate),
}

/// Labels of a namespace: `tier=research,team=a`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels(pub(crate) BTreeMap<String, String>);

impl FromStr for Labels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
        let pair = |pair: &str| match pair.trim().split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            Some(_) | None => Err(format!(
                "\"{}\" is no label: write key=value, several with commas",
                pair.escape_default()
            )),
        };
        pairs.map(pair).collect::<Result<_, _>>().map(Self)
    }
}

/// `tonnage policy explain`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  tonnage policy explain --namespace team-a --source models --path llama-3.1-8b
  tonnage policy explain --namespace team-a --as trainer --source models --file research.yaml
  tonnage policy explain --offline --namespace team-a --labels tier=research --file policies.yaml \\
    --source models --host s3.example.com --bucket weights --path licensed/llama

Asks the policies of the cluster, and its budgets for what is left. Objects of --file (EgressPolicy, Source, Namespace, or \
a List of them, as `kubectl get -o yaml` prints it) take the place of those of the same kind and name, so that a policy can be \
tried before it is applied; other kinds are passed over. With --offline, budgets are taken as unspent.

What holds in a namespace that no policy selects is read from the arguments of the node service's DaemonSet, and the answer says from \
where. Times are UTC, and sizes are powers of 1024.

Ends with 77 if it is denied, and with 65 if nobody knows: a ledger that could refuse cannot be read, or \
defaultEgress decides and is only assumed. Rights: list on \
egresspolicies, egressbudgets and daemonsets, get on sources and namespaces; without those on egressbudgets and daemonsets the answer \
says what is not known.")]
pub(crate) struct Explain {
    /// Namespace of the pod
    #[arg(long, short, value_name = "NAMESPACE")]
    pub(crate) namespace: String,
    /// Service account of the pod
    #[arg(long = "as", value_name = "NAME", default_value = "default")]
    pub(crate) service_account: String,
    /// Name of the Source
    #[arg(long, value_name = "NAME")]
    pub(crate) source: String,
    /// Path below the Source, as in the volume's attribute path; with --host, path from the root of the bucket
    #[arg(long, value_name = "PATH", default_value = "")]
    pub(crate) path: String,
    /// The volume names the digest of its content
    #[arg(long)]
    pub(crate) digest: bool,
    /// Size of the download: whether budgets have enough for it, and what it costs
    #[arg(long, value_name = "SIZE")]
    pub(crate) bytes: Option<ByteSize>,
    /// YAML of policies that are not applied yet, or of a Source or Namespace; repeatable, - reads standard input
    #[arg(long = "file", short, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// What happens in namespaces that no policy selects, in place of what the installation says
    #[arg(long, value_name = "WHAT", value_enum)]
    pub(crate) default_egress: Option<DefaultEgress>,
    /// Labels of the namespace, in place of those that it has
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub(crate) labels: Option<Labels>,
    /// Read nothing of a cluster
    #[arg(long, conflicts_with = "context")]
    pub(crate) offline: bool,
    /// Host that the source connects to, where its YAML is not at hand
    #[arg(long, value_name = "HOST", requires = "offline")]
    pub(crate) host: Option<String>,
    /// Bucket, or account/container, of that host
    #[arg(long, value_name = "BUCKET", requires = "host")]
    pub(crate) bucket: Option<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `tonnage policy simulate`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  kubectl get egresspolicies -o yaml > policies.yaml     and change them
  kubectl -n tonnage logs -l app.kubernetes.io/component=node --tail=-1 | grep '^{\"audit\":' > audit.log
  tonnage policy simulate --audit audit.log --file policies.yaml

Decides everything of the log again, in the order of time, by the policies of the files and no others, and charges what was \
spent to their budgets, which begin unspent. Prints what would be different, by namespace and source: first what would be denied, and \
of each kind the most bytes first. Reads nothing of a cluster.

Lines of other programs are passed over, and so is what `kubectl logs --prefix --timestamps` and container runtimes put before a line; \
a line that stands there twice counts once. Decisions that cannot be read are named by their lines, the rest is decided, and the \
command ends with 65; where there is nothing to replay, with 66.")]
pub(crate) struct Simulate {
    /// The audit log; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) audit: PathBuf,
    /// YAML of all policies that are to be in force; repeatable, - reads standard input
    #[arg(long = "file", short, value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// What happens in namespaces that no policy selects [default: allow]
    #[arg(long, value_name = "WHAT", value_enum)]
    pub(crate) default_egress: Option<DefaultEgress>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs_with_commas() {
        let labels = |pairs: &[(&str, &str)]| {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            Labels(pairs.iter().map(owned).collect())
        };
        assert_eq!("".parse(), Ok(labels(&[])));
        assert_eq!(
            "tier=research, a.b/c=,x=y=z".parse(),
            Ok(labels(&[("tier", "research"), ("a.b/c", ""), ("x", "y=z")]))
        );
        for text in ["tier", "=x", "a=b,c"] {
            let why = text.parse::<Labels>().unwrap_err();
            assert!(why.contains("write key=value"), "{text}: {why}");
        }
    }
}

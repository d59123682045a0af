//! Arguments for a service in a cluster, and what they add up to with what its pod is told: the namespace of its service account,
//! and the address of the API server, which no Source may be at by accident.

use std::net::IpAddr;
use std::path::Path;

use clap::Args as ClapArgs;
use clap::builder::FalseyValueParser;
use tonnage_cache::gate::address::Cidr;
use tonnage_cache::source::config::SourceConfig;
use tonnage_csi::egress::policy;
use tonnage_csi::run;

use crate::config::DefaultEgress;
use crate::exit::{Code, Failure};

/// Where a pod finds the namespace of its service account.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// What kubelet tells every container about where the API server is.
const API_SERVER: &str = "KUBERNETES_SERVICE_HOST";

/// Whether a service works in a cluster.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Kubernetes {
    /// Take sources, and who may use them, from the cluster's API server, in place of files
    #[arg(long = "kubernetes", env = "TONNAGE_KUBERNETES", value_parser = FalseyValueParser::new(), help_heading = "Kubernetes")]
    pub(crate) in_cluster: bool,
    /// Namespace of this service, with the Secrets of its sources [default: that of the pod's service account]
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "TONNAGE_NAMESPACE",
        help_heading = "Kubernetes"
    )]
    pub(crate) namespace: Option<String>,
    /// A service or pod range of the cluster, closed to Sources unless their `spec.allowedCIDRs` names it; repeatable. So is,
    /// without this, the API server's own address
    #[arg(
        long = "cluster-cidr",
        value_name = "CIDR",
        env = "TONNAGE_CLUSTER_CIDRS",
        value_delimiter = ',',
        help_heading = "Kubernetes"
    )]
    pub(crate) cluster_cidrs: Vec<Cidr>,
    /// What namespaces may load, in a cluster, that no `EgressPolicy` selects [default: allow]
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        hide_possible_values = true,
        env = "TONNAGE_DEFAULT_EGRESS",
        help_heading = "Kubernetes"
    )]
    pub(crate) default_egress: Option<DefaultEgress>,
}

impl Kubernetes {
    /// The flag, or else what the file says, or else the default of rules.
    pub(super) fn default_egress(&self, file: Option<DefaultEgress>) -> policy::DefaultEgress {
        let written = self.default_egress.or(file);
        written.map(Into::into).unwrap_or_default()
    }

    /// The flags, and what the file says where they are silent.
    pub(super) fn or(
        self,
        in_cluster: bool,
        namespace: Option<String>,
        cluster_cidrs: Vec<Cidr>,
    ) -> Self {
        Self {
            in_cluster: self.in_cluster || in_cluster,
            namespace: self.namespace.or(namespace),
            cluster_cidrs: if self.cluster_cidrs.is_empty() {
                cluster_cidrs
            } else {
                self.cluster_cidrs
            },
            default_egress: self.default_egress,
        }
    }

    /// `None` outside of a cluster. What nobody says is what the pod is told that this runs in.
    pub(super) fn settings(
        self,
        sources: &[SourceConfig],
    ) -> Result<Option<run::Kubernetes>, Failure> {
        let api_server = std::env::var(API_SERVER).ok();
        self.in_pod(sources, Path::new(NAMESPACE_FILE), api_server.as_deref())
    }

    /// `file` holds the namespace where nobody names one; `api_server` is where the pod finds the API server.
    fn in_pod(
        self,
        sources: &[SourceConfig],
        file: &Path,
        api_server: Option<&str>,
    ) -> Result<Option<run::Kubernetes>, Failure> {
        if !self.in_cluster {
            return Ok(None);
        }
        if let Some(source) = sources.first() {
            return Err(Failure::new(
                Code::Usage,
                "work in a cluster",
                format!(
                    "there sources are objects of the API server, but the source {} is configured in a file",
                    source.name.escape_default()
                ),
            )
            .or_advise("drop it, or --kubernetes"));
        }
        let Self {
            in_cluster: _,
            namespace,
            mut cluster_cidrs,
            default_egress: _,
        } = self;
        cluster_cidrs.extend(api_server.and_then(range_of));
        let namespace = match namespace {
            Some(namespace) => namespace,
            None => std::fs::read_to_string(file).map_err(|error| {
                let what = format!("read the namespace from {}", file.display());
                Failure::io(what, &error).or_advise("name it with --namespace")
            })?,
        };
        let namespace = namespace.trim();
        // RFC 1123 label.
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let sound = !namespace.is_empty()
            && namespace.len() <= 63
            && namespace.bytes().all(inner)
            && !namespace.starts_with('-')
            && !namespace.ends_with('-');
        if sound {
            let namespace = namespace.to_owned();
            return Ok(Some(run::Kubernetes {
                namespace,
                cluster_cidrs,
            }));
        }
        Err(Failure::new(
            Code::Usage,
            format!("use the namespace \"{}\"", namespace.escape_default()),
            "it has characters that a namespace cannot have, or none at all",
        )
        .or_advise("name it with --namespace"))
    }
}

/// The range of one address, as it is connected to. A name is none.
fn range_of(host: &str) -> Option<Cidr> {
    let address: IpAddr = host.parse().ok()?;
    address.to_canonical().to_string().parse().ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        kubernetes: Kubernetes,
    }

    fn ranges(api_server: Option<&str>, words: &[&str]) -> Vec<String> {
        let words = ["service", "--kubernetes", "--namespace=tonnage"]
            .iter()
            .chain(words);
        let Line { kubernetes } = Line::try_parse_from(words).unwrap();
        let found = kubernetes.in_pod(&[], Path::new(NAMESPACE_FILE), api_server);
        let ranges = found.unwrap().unwrap().cluster_cidrs;
        ranges.iter().map(Cidr::to_string).collect()
    }

    #[test]
    fn a_cluster_s_namespace_is_named_or_that_of_the_service_account() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("namespace");
        let flags = |in_cluster, namespace: Option<&str>| Kubernetes {
            in_cluster,
            namespace: namespace.map(str::to_owned),
            cluster_cidrs: Vec::new(),
            default_egress: None,
        };
        let found = |kubernetes: Kubernetes| kubernetes.in_pod(&[], &file, None);
        let none = found(flags(false, Some("elsewhere"))).unwrap();
        assert_eq!(none, None);
        let missing = found(flags(true, None)).unwrap_err();
        assert_eq!(missing.code, Code::Missing);
        assert!(missing.to_string().contains("--namespace"), "{missing}");
        std::fs::write(&file, "tonnage\n").unwrap();
        for (kubernetes, namespace) in [
            (flags(true, None), "tonnage"),
            (flags(true, Some("storage")), "storage"),
            (
                flags(false, None).or(true, Some("file".to_owned()), Vec::new()),
                "file",
            ),
            (
                flags(true, Some("flag")).or(false, Some("file".to_owned()), Vec::new()),
                "flag",
            ),
        ] {
            let found = found(kubernetes).unwrap().unwrap();
            assert_eq!(found.namespace, namespace);
        }
        for bad in ["", "-a", "a-", "A", "a/b", &"a".repeat(64)] {
            let failure = found(flags(true, Some(bad))).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{bad}");
        }
    }

    #[test]
    fn sources_of_files_and_of_a_cluster_exclude_each_other() {
        let kubernetes = Kubernetes {
            in_cluster: true,
            namespace: Some("tonnage".to_owned()),
            cluster_cidrs: Vec::new(),
            default_egress: None,
        };
        let sources = [SourceConfig {
            name: "models".to_owned(),
            ..SourceConfig::default()
        }];
        let failure = kubernetes
            .in_pod(&sources, Path::new(NAMESPACE_FILE), None)
            .unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.to_string().contains("models"), "{failure}");
    }

    #[test]
    fn the_cluster_s_ranges_are_those_that_are_named_and_the_api_server_s_address() {
        assert_eq!(ranges(None, &[]), Vec::<String>::new());
        assert_eq!(ranges(Some("10.96.0.1"), &[]), ["10.96.0.1/32"]);
        assert_eq!(ranges(Some("fd00:10:96::1"), &[]), ["fd00:10:96::1/128"]);
        assert_eq!(ranges(Some("::ffff:10.96.0.1"), &[]), ["10.96.0.1/32"]);
        for name in ["api.example.com", "10.96.0.0/16", ""] {
            assert_eq!(ranges(Some(name), &[]), Vec::<String>::new(), "{name}");
        }
        let named = [
            "--cluster-cidr=10.96.0.0/16,10.244.0.0/16",
            "--cluster-cidr=fd00::/108",
        ];
        assert_eq!(
            ranges(Some("10.96.0.1"), &named),
            [
                "10.96.0.0/16",
                "10.244.0.0/16",
                "fd00::/108",
                "10.96.0.1/32"
            ]
        );
    }

    #[test]
    fn a_range_that_is_none_is_named_with_what_one_looks_like() {
        for bad in ["10.96.0.0/33", "pods", "10.96.0.0/16, 10.244.0.0/16"] {
            let words = ["service", &format!("--cluster-cidr={bad}")];
            let error = Line::try_parse_from(words).unwrap_err().to_string();
            assert!(error.contains("--cluster-cidr <CIDR>"), "{error}");
            assert!(
                error.contains("is not a range of addresses such as 10.0.0.0/8"),
                "{error}"
            );
        }
    }
}

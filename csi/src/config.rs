//! The configuration file: what an admin writes once instead of flags. Flags win over environment variables,
//! which win over the file. Every field is optional and unknown ones are refused by name. The file names
//! credentials' files and never holds credentials.
//!
//! ```toml
//! cache_dir = "/mnt/nvme/tonnage"
//! cache_size = "500GiB"
//!
//! [[source]]
//! name = "models"
//! url = "s3://models/prod"
//! endpoint = "https://s3.example.com"
//! auth = "files"
//! access_key_file = "/etc/tonnage/access-key"
//! secret_key_file = "/etc/tonnage/secret-key"
//!
//! [node]
//! http_address = "0.0.0.0:9808"
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tonnage_cache::gate::address::Cidr;
use tonnage_cache::source::config::SourceConfig;

mod default_egress;

pub(crate) use default_egress::DefaultEgress;

use crate::exit::{Code, Failure};
use tonnage_csi::size::{ByteSize, Span};

/// Where the file is looked for when nobody names one.
pub(crate) const DEFAULT_FILE: &str = "/etc/tonnage/config.toml";

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Directory of the cache.
    pub(crate) cache_dir: Option<PathBuf>,
    /// Most bytes the cache may use; default: what the file system's watermarks allow.
    pub(crate) cache_size: Option<ByteSize>,
    /// Bytes of the file system that are left to others.
    pub(crate) cache_floor: Option<ByteSize>,
    /// Most bytes written to the cache per second.
    pub(crate) write_rate: Option<ByteSize>,
    /// Read-only directories with content to start from.
    pub(crate) seeds: Vec<PathBuf>,
    /// Places to read from.
    pub(crate) source: Vec<SourceConfig>,
    /// Settings of `tonnage node`.
    pub(crate) node: Node,
    /// Settings of `tonnage controller`.
    pub(crate) controller: Controller,
}

/// Settings of the node service; each as its flag.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Node {
    /// `--endpoint`.
    pub(crate) endpoint: Option<String>,
    /// `--node-id`.
    #[expect(clippy::struct_field_names, reason = "CSI's word, and the flag's")]
    pub(crate) node_id: Option<String>,
    /// `--kubelet-dir`.
    pub(crate) kubelet_dir: Option<PathBuf>,
    /// `--registration-dir`.
    pub(crate) registration_dir: Option<PathBuf>,
    /// `--http-address`.
    pub(crate) http_address: Option<SocketAddr>,
    /// `--hold`.
    pub(crate) hold: Option<Span>,
    /// `--hold-max`.
    pub(crate) hold_max: Option<Span>,
    /// `--revision-ttl`.
    pub(crate) revision_ttl: Option<Span>,
    /// `--otlp-endpoint`.
    pub(crate) otlp_endpoint: Option<String>,
    /// `--force-root-filesystem`.
    pub(crate) force_root_filesystem: bool,
    /// `--default-egress`.
    pub(crate) default_egress: Option<DefaultEgress>,
    /// `--kubernetes`.
    pub(crate) kubernetes: bool,
    /// `--namespace`.
    pub(crate) namespace: Option<String>,
    /// `--cluster-cidr`.
    pub(crate) cluster_cidr: Vec<Cidr>,
}

/// Settings of the controller service; each as its flag.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Controller {
    /// `--endpoint`.
    pub(crate) endpoint: Option<String>,
    /// `--volumes-dir`.
    pub(crate) volumes_dir: Option<PathBuf>,
    /// `--http-address`.
    pub(crate) http_address: Option<SocketAddr>,
    /// `--default-egress`.
    pub(crate) default_egress: Option<DefaultEgress>,
    /// `--kubernetes`.
    pub(crate) kubernetes: bool,
    /// `--namespace`.
    pub(crate) namespace: Option<String>,
    /// `--cluster-cidr`.
    pub(crate) cluster_cidr: Vec<Cidr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sources {
    #[serde(default)]
    source: Vec<SourceConfig>,
}

/// Reads `named`, which must exist, or the default file, which need not.
pub(crate) fn load(named: Option<&Path>) -> Result<Config, Failure> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Ok(Config::default())
        }
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Reads a file that holds nothing but `[[source]]` tables.
pub(crate) fn load_sources(path: &Path) -> Result<Vec<SourceConfig>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let sources: Sources = parse(path, &text)?;
    Ok(sources.source)
}

/// Every source has a name of its own.
pub(crate) fn check_names(sources: &[SourceConfig]) -> Result<(), Failure> {
    let wrong = |why: String| Failure::new(Code::Usage, "read the configuration", why);
    for (index, source) in sources.iter().enumerate() {
        if source.name.is_empty() {
            return Err(wrong(format!(
                "the source with the url {} has no name",
                source.url.escape_default()
            )));
        }
        if sources
            .iter()
            .take(index)
            .any(|other| other.name == source.name)
        {
            return Err(wrong(format!(
                "two sources are called {}",
                source.name.escape_default()
            )));
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::io(format!("read the configuration {}", path.display()), error)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, Failure> {
    toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .and_then(|span| text.get(..span.start))
            .map_or(1, |before| before.matches('\n').count() + 1);
        Failure::new(
            Code::Usage,
            format!("read the configuration {}", path.display()),
            format!(
                "line {line}: {}",
                error.message().trim().replace('\n', ", ")
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, Failure> {
        parse(Path::new("test.toml"), text)
    }

    #[test]
    fn a_file_is_read_with_its_sizes_sources_and_services() {
        let config = read(
            "cache_dir = \"/c\"\ncache_size = \"2GiB\"\n[[source]]\nname = \"m\"\nurl = \"s3://b\"\n[node]\nhold = \"5s\"\n",
        )
        .unwrap();
        assert_eq!(config.cache_size, Some(ByteSize(2 << 30)));
        assert_eq!(config.source[0].name, "m");
        assert_eq!(
            config.node.hold,
            Some(Span(std::time::Duration::from_secs(5)))
        );
    }

    #[test]
    fn a_misspelt_field_is_named_with_its_line() {
        let failure = read("cache_dir = \"/c\"\ncache_sise = 1\n").unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        let text = failure.to_string();
        assert!(
            text.contains("line 2") && text.contains("cache_sise"),
            "{text}"
        );
    }

    #[test]
    fn sources_without_a_name_or_with_the_same_are_refused() {
        let named = |name: &str| SourceConfig {
            name: name.to_owned(),
            ..SourceConfig::default()
        };
        assert!(check_names(&[named("a"), named("b")]).is_ok());
        assert!(check_names(&[named("a"), named("a")]).is_err());
        assert!(check_names(&[named("")]).is_err());
    }

    #[test]
    fn the_default_file_may_be_missing_and_a_named_one_may_not() {
        let directory = tempfile::tempdir().unwrap();
        let failure = load(Some(&directory.path().join("none.toml"))).unwrap_err();
        assert_eq!(failure.code, Code::Missing);
    }
}

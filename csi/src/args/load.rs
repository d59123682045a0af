//! Arguments of the commands that read a source: pull, mount, resolve; and unmount.

use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::FalseyValueParser;
use clap::{Args as ClapArgs, ValueEnum};
use tonnage_cache::cache::Reference;
use tonnage_cache::digest::Digest;
use tonnage_cache::error::Kind;
use tonnage_cache::fetch::PageCache;
use tonnage_cache::gate::OpenGate;
use tonnage_cache::path::{Escaped, RelPath};
use tonnage_cache::source::config::{self as source_config, Addressing, Auth, SourceConfig};
use tonnage_cache::source::select::Selection;

use super::place::{Place, Sources};
use crate::config::Config;
use crate::exit::{CODES, Code, Failure};

const SOURCES: &str = "\
Sources, and the variables that hold their keys:
  s3://BUCKET/PREFIX     AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
                         AWS_SESSION_TOKEN, AWS_REGION or AWS_DEFAULT_REGION,
                         AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL
  gs://BUCKET/PREFIX     GOOGLE_OAUTH_ACCESS_TOKEN, STORAGE_EMULATOR_HOST,
                         GOOGLE_APPLICATION_CREDENTIALS
  az://ACCOUNT/CONTAINER/PREFIX
                         AZURE_STORAGE_KEY or AZURE_STORAGE_ACCOUNT_KEY,
                         AZURE_STORAGE_SAS_TOKEN
  https://HOST/FILE      one file
  file:///DIRECTORY      or simply /DIRECTORY
  NAME/PREFIX            a [[source]] of the configuration, which takes
                         none of these variables

Profiles, shared credential files, metadata services and HTTPS_PROXY are never read. Without keys, requests are anonymous.";

fn pull_help() -> String {
    format!(
        "Examples:\n  \
         VIEW=$(tonnage pull s3://models/llama)\n  \
         tonnage pull s3://models/llama --include '*.safetensors' --include '*.json'\n  \
         tonnage pull gs://models/bert --revision $(tonnage resolve gs://models/bert)\n  \
         tonnage pull s3://models/llama --endpoint http://127.0.0.1:9000 --json\n\n\
         Interrupted or not, a pull goes on where the last one stopped.\n\n{SOURCES}\n\n{CODES}"
    )
}

fn mount_help() -> String {
    format!(
        "Examples:\n  \
         sudo tonnage mount s3://models/llama /mnt/llama\n  \
         unshare -Urm sh -c 'tonnage mount /srv/models ./m && exec my-server ./m'\n\n\
         The mount outlives this command and keeps its content from eviction; `tonnage unmount` ends it, also after a \
         reboot has.\n\n{SOURCES}\n\n{CODES}"
    )
}

fn resolve_help() -> String {
    format!(
        "Example:\n  tonnage pull s3://models/llama --revision $(tonnage resolve s3://models/llama)\n\n\
         {SOURCES}\n\n{CODES}"
    )
}

/// Which source, how to reach it, and which files of it.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Wanted {
    /// What to read: a URL, a directory, or the NAME/PATH of a configured source
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// URL of the store's API where it is not the cloud's own
    #[arg(
        long,
        value_name = "URL",
        env = "TONNAGE_ENDPOINT",
        help_heading = "Source"
    )]
    pub(crate) endpoint: Option<String>,
    /// S3 region [default: us-east-1]
    #[arg(long, env = "TONNAGE_REGION", help_heading = "Source")]
    pub(crate) region: Option<String>,
    /// Where S3 requests name the bucket [default: path with an endpoint or a dot in the bucket's name, otherwise virtual]
    #[arg(long, value_enum, env = "TONNAGE_ADDRESSING", help_heading = "Source")]
    pub(crate) addressing: Option<BucketPlace>,
    /// Sign nothing, whatever the environment holds
    #[arg(long, env = "TONNAGE_ANONYMOUS", value_parser = FalseyValueParser::new(), help_heading = "Source")]
    pub(crate) anonymous: bool,
    /// PEM file of the authorities to trust in place of the system's
    #[arg(
        long,
        value_name = "FILE",
        env = "TONNAGE_CA_BUNDLE",
        help_heading = "Source"
    )]
    pub(crate) ca_bundle: Option<PathBuf>,
    /// HTTP proxy that connections are tunnelled through, such as `http://proxy.example.com:3128` [default: none]
    #[arg(
        long,
        value_name = "URL",
        env = "TONNAGE_PROXY",
        help_heading = "Source"
    )]
    pub(crate) proxy: Option<String>,
    /// Only files that match; `*.json` matches at any depth, `a/**` a directory; repeatable
    #[arg(long, value_name = "GLOB", help_heading = "Selection")]
    pub(crate) include: Vec<String>,
    /// No files that match; repeatable, stronger than --include
    #[arg(long, value_name = "GLOB", help_heading = "Selection")]
    pub(crate) exclude: Vec<String>,
}

/// What must be found, or the command fails.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Pins {
    /// Accept only this revision, as `tonnage resolve` prints it
    #[arg(long, value_name = "HEX", help_heading = "Selection")]
    pub(crate) revision: Option<Digest>,
    /// Accept only content with this manifest digest, as `pull --json` prints it
    #[arg(long, value_name = "HEX", help_heading = "Selection")]
    pub(crate) digest: Option<Digest>,
}

/// `tonnage pull`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = pull_help())]
pub(crate) struct Pull {
    #[command(flatten)]
    pub(crate) wanted: Wanted,
    #[command(flatten)]
    pub(crate) pins: Pins,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Whether the written pages stay in memory
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        env = "TONNAGE_PAGE_CACHE",
        help_heading = "Cache"
    )]
    pub(crate) page_cache: Pages,
    /// Keep the content from eviction under this name, as `cache pin` does
    #[arg(long, value_name = "NAME", help_heading = "Cache")]
    pub(crate) pin: Option<String>,
    /// Print view, revision, digest and load report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tonnage mount`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = mount_help())]
pub(crate) struct Mount {
    #[command(flatten)]
    pub(crate) wanted: Wanted,
    /// Directory to mount on; made if its parent exists
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) pins: Pins,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Whether the written pages stay in memory
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        env = "TONNAGE_PAGE_CACHE",
        help_heading = "Cache"
    )]
    pub(crate) page_cache: Pages,
    /// Print target, view, revision, digest and load report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tonnage unmount`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "Example:\n  sudo tonnage unmount /mnt/llama")]
pub(crate) struct Unmount {
    /// Directory that `tonnage mount` mounted on
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// `tonnage resolve`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = resolve_help())]
pub(crate) struct Resolve {
    #[command(flatten)]
    pub(crate) wanted: Wanted,
    /// Print revision, files and bytes as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where S3 requests name the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BucketPlace {
    /// `https://endpoint/bucket/key`
    Path,
    /// `https://bucket.endpoint/key`
    Virtual,
}

/// How pages are treated while content is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pages {
    /// Write around the page cache
    Direct,
    /// Leave what was written in memory for the reader that comes next
    Warm,
    /// Warm where memory is free and quick, otherwise direct
    Auto,
}

impl From<Pages> for PageCache {
    fn from(pages: Pages) -> Self {
        match pages {
            Pages::Direct => Self::Direct,
            Pages::Warm => Self::Warm,
            Pages::Auto => Self::Auto,
        }
    }
}

impl Wanted {
    /// The reference that these words mean, with credentials from the environment where the words are a URL.
    pub(crate) fn reference(
        self,
        pins: Option<Pins>,
        config: &Config,
    ) -> Result<Reference, Failure> {
        let Self {
            source,
            sources,
            endpoint,
            region,
            addressing,
            anonymous,
            ca_bundle,
            proxy,
            include,
            exclude,
        } = self;
        let what = format!("read the source {}", Escaped(&shown(&source)));
        let wrong =
            |error: tonnage_cache::source::Error| Failure::of(what.clone(), error.kind(), &error);
        let (mut place, path, named) = find(&source, sources, config)?;
        if let Some(region) = region {
            place.region = Some(region);
        }
        if let Some(endpoint) = &endpoint {
            place = place.with_endpoint(endpoint);
        }
        if let Some(addressing) = addressing {
            place.addressing = Some(match addressing {
                BucketPlace::Path => Addressing::Path,
                BucketPlace::Virtual => Addressing::Virtual,
            });
        }
        if ca_bundle.is_some() {
            place.ca_bundle = ca_bundle;
        }
        if let Some(proxy) = proxy {
            place = through(place, proxy);
        }
        // A configured source says itself how it is signed; the environment speaks for URLs only.
        if !named && !anonymous {
            place.fill_from_env(|name| std::env::var(name).ok());
        }
        if anonymous {
            place.auth = Auth::Anonymous;
            place.inline = None;
        }
        let source = source_config::build(&place, OpenGate::shared()).map_err(wrong)?;
        let selection = Selection::new(&include, &exclude).map_err(wrong)?;
        let (revision, digest) =
            pins.map_or((None, None), |Pins { revision, digest }| (revision, digest));
        Ok(Reference {
            source: Arc::clone(&source),
            path,
            selection,
            revision,
            digest,
        })
    }
}

/// Sets the proxy as someone at the keyboard gave it: a loopback address is allowed.
fn through(place: SourceConfig, proxy: String) -> SourceConfig {
    SourceConfig {
        proxy: Some(proxy),
        allow_loopback: true,
        ..place
    }
}

/// What may be repeated to the person: a query may carry a signature.
fn shown(source: &str) -> String {
    let text = source.split(['?', '#']).next().unwrap_or_default();
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => text.to_owned(),
    }
}

/// The place that the words name, the path below it, and whether it is a configured one.
fn find(
    text: &str,
    sources: Sources,
    config: &Config,
) -> Result<(SourceConfig, String, bool), Failure> {
    let what = || format!("read the source {}", Escaped(&shown(text)));
    if text.contains("://") || text.starts_with('/') {
        let (place, path) = source_config::parse_url(text)
            .map_err(|error| Failure::of(what(), error.kind(), &error))?;
        return Ok((place, path, false));
    }
    let (name, path) = text.split_once('/').unwrap_or((text, ""));
    let path = path.trim_end_matches('/');
    let all = sources.all(config)?;
    let Some(place) = all.iter().find(|source| source.name == name) else {
        let names: Vec<&str> = all.iter().map(|source| source.name.as_str()).collect();
        let known = if names.is_empty() {
            "none is configured".to_owned()
        } else {
            format!("configured are {}", names.join(", "))
        };
        return Err(Failure::new(
            Code::Missing,
            what(),
            format!("no source is called {} ({known})", Escaped(name)),
        )
        .or_advise(
            "write a URL such as s3://bucket/path, or add a [[source]] to the configuration",
        ));
    };
    if !path.is_empty() {
        RelPath::parse(path).map_err(|error| Failure::of(what(), Kind::Invalid, &error))?;
    }
    Ok((place.clone(), path.to_owned(), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Config {
        let place = SourceConfig {
            name: "models".to_owned(),
            url: "s3://bucket/base".to_owned(),
            ..SourceConfig::default()
        };
        Config {
            source: vec![place],
            ..Config::default()
        }
    }

    fn look_up(text: &str) -> Result<(SourceConfig, String, bool), Failure> {
        find(text, Sources { sources: None }, &sources())
    }

    #[test]
    fn a_name_is_a_configured_source_and_a_url_is_not() {
        let (place, path, named) = look_up("models/llama/8b/").unwrap();
        assert_eq!(
            (place.url.as_str(), path.as_str(), named),
            ("s3://bucket/base", "llama/8b", true)
        );
        let (place, path, named) = look_up("s3://other/llama").unwrap();
        assert_eq!(
            (place.url.as_str(), path.as_str(), named),
            ("s3://other", "llama", false)
        );
    }

    #[test]
    fn a_proxy_may_be_on_this_machine_and_changes_nothing_else() {
        let (place, _, _) = look_up("models/llama").unwrap();
        let proxied = through(place.clone(), "http://127.0.0.1:3128".to_owned());
        assert_eq!(proxied.proxy.as_deref(), Some("http://127.0.0.1:3128"));
        assert!(proxied.allow_loopback && !proxied.allow_http);
        let back = SourceConfig {
            proxy: None,
            allow_loopback: false,
            ..proxied
        };
        assert_eq!(back, place);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let failure = look_up("modles/x").unwrap_err();
        assert_eq!(failure.code, Code::Missing);
        assert!(
            failure.to_string().contains("configured are models"),
            "{failure}"
        );
    }

    #[test]
    fn a_bad_path_below_a_name_is_refused() {
        assert_eq!(look_up("models/../x").unwrap_err().code, Code::Usage);
    }

    #[test]
    fn messages_never_repeat_a_query_or_user_information() {
        let failure = look_up("https://ann:canary@host/x?sig=canary").unwrap_err();
        assert!(!failure.to_string().contains("canary"), "{failure}");
    }
}

//! What a question to the rules is about, from files, a cluster, or both. Objects of files take the place of the cluster's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use serde_json::Value;
use tonnage_cache::path::Escaped;
use tonnage_cache::source::config::{Addressing, SourceConfig};
use tonnage_cache::source::location::Location;
use tonnage_csi::access::consumers;
use tonnage_csi::crd::{AddressingStyle, EgressBudget, EgressPolicy, Source, SourceSpec};
use tonnage_csi::egress::compiled::Compiled;

use super::files::Objects;
use super::installation::{self, Installed};
use crate::command::cluster::{Cluster, missing};
use crate::command::egress::books::Books;
use crate::exit::{Code, Failure};

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) namespace: &'a str,
    pub(super) source: &'a str,
    /// Labels that are given.
    pub(super) labels: Option<&'a BTreeMap<String, String>>,
    /// Where the source is, if that is given.
    pub(super) host: Option<&'a str>,
    pub(super) bucket: Option<&'a str>,
}

/// What is known.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) policies: Vec<Compiled>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) location: Location,
    /// Whose `consumers` decide too; not known where only a host is given.
    pub(super) source: Option<Source>,
    /// Ledgers, also such as cannot be read; nothing where nothing of a cluster is read.
    pub(super) books: Option<Books>,
    /// What holds in namespaces that no policy selects.
    pub(super) installed: Installed,
}

/// What files alone say.
pub(super) fn of_files(objects: Objects, about: &About<'_>) -> Result<Facts, Failure> {
    let Objects {
        policies,
        mut sources,
        namespaces,
        ..
    } = objects;
    let policies: Vec<Compiled> = policies.values().map(Compiled::from_json).collect();
    // A path of a bucket that is given is not one below the source.
    let source = sources.remove(about.source);
    let source = source.filter(|_| about.host.is_none());
    let location = match (&source, about.host) {
        (_, Some(host)) => Location {
            host: host.to_owned(),
            bucket: about.bucket.unwrap_or_default().to_owned(),
            ..Location::default()
        },
        (Some(source), None) => location(about.source, &source.spec)?,
        (None, None) => {
            let why = "nothing of a cluster is read, and no --file has it";
            return Err(Failure::new(
                Code::Usage,
                format!("find source {}", Escaped(about.source)),
                why,
            )
            .or_advise("give its YAML with --file, or name --host and --bucket"));
        }
    };
    let given = about.labels.cloned();
    let labels = given.or_else(|| namespaces.get(about.namespace).map(labels));
    let needs_labels = policies.iter().any(Compiled::needs_labels)
        || source
            .as_ref()
            .is_some_and(|source| consumers::needs_labels(&source.spec));
    if labels.is_none() && needs_labels {
        let what = format!("find the labels of namespace {}", Escaped(about.namespace));
        let why = "nothing of a cluster is read, and rules select by them";
        return Err(Failure::new(Code::Usage, what, why)
            .or_advise("name them with --labels, or give the Namespace's YAML with --file"));
    }
    Ok(Facts {
        policies,
        labels: labels.unwrap_or_default(),
        location,
        source,
        books: None,
        installed: Installed::Untold("nothing of a cluster is read".to_owned()),
    })
}

/// What a cluster says, and files in its place.
pub(super) async fn of_cluster(
    cluster: &Cluster,
    objects: Objects,
    about: &About<'_>,
) -> Result<Facts, Failure> {
    let Objects {
        mut policies,
        mut sources,
        namespaces,
        ..
    } = objects;
    let source = match sources.remove(about.source) {
        Some(source) => source,
        None => cluster
            .find::<Source>(about.source)
            .await?
            .ok_or_else(|| missing("Source", about.source, "`kubectl get sources` lists them"))?,
    };
    let labels = match (about.labels, namespaces.get(about.namespace)) {
        (Some(given), _) => given.clone(),
        (None, Some(namespace)) => labels(namespace),
        (None, None) => cluster.labels(about.namespace).await?,
    };
    let applied = cluster.list::<EgressPolicy>(None).await?;
    for policy in applied {
        let text = |path: &str| policy.pointer(path).and_then(Value::as_str);
        let name = text("/metadata/name").unwrap_or_default().to_owned();
        if let Some(changed) = policies.get_mut(&name) {
            // It has spent what the one in the cluster has.
            set_uid(changed, text("/metadata/uid").unwrap_or_default());
        } else {
            policies.insert(name, policy);
        }
    }
    let books = match cluster.list::<EgressBudget>(None).await {
        Ok(objects) => Books::of(objects),
        Err(failure) if failure.code == Code::Denied => Books::untold(&failure),
        Err(failure) => return Err(failure),
    };
    Ok(Facts {
        policies: policies.values().map(Compiled::from_json).collect(),
        labels,
        location: location(about.source, &source.spec)?,
        source: Some(source),
        books: Some(books),
        installed: installation::default_egress(cluster).await,
    })
}

fn set_uid(policy: &mut Value, uid: &str) {
    let metadata = policy.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        metadata.insert("uid".to_owned(), uid.into());
    }
}

fn labels(namespace: &Namespace) -> BTreeMap<String, String> {
    namespace.metadata.labels.clone().unwrap_or_default()
}

/// Where a source is. How it is signed in at makes no difference.
fn location(name: &str, spec: &SourceSpec) -> Result<Location, Failure> {
    let config = SourceConfig {
        name: name.to_owned(),
        url: spec.url.clone(),
        endpoint: spec.endpoint.clone(),
        region: spec.region.clone(),
        addressing: spec.addressing.map(|style| match style {
            AddressingStyle::Path => Addressing::Path,
            AddressingStyle::Virtual => Addressing::Virtual,
        }),
        allow_http: true,
        ..SourceConfig::default()
    };
    let what = || format!("find out where source {} is", Escaped(name));
    Location::of(&config).map_err(|error| Failure::of(what(), error.kind(), &error))
}

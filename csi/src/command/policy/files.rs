//! Objects in YAML files, as an administrator is about to apply them: policies, and sources and namespaces that they are about. Objects
//! of other kinds that lie beside them are passed over by name; what looks like a policy and would not be one is refused.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Namespace;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tonnage_cache::path::Escaped;
use tonnage_csi::crd::{GROUP, Source};

use crate::exit::{Code, Failure};

/// Kinds of our group that say nothing here.
const OTHERS: [&str; 5] = [
    "CacheQuota",
    "EgressBudget",
    "EgressLease",
    "NodeCache",
    "Volume",
];
/// Most objects that are named as passed over.
const NAMED: usize = 5;

/// What files hold, by name.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// As they are written: what is wrong with one is a matter of the rules.
    pub(super) policies: BTreeMap<String, Value>,
    pub(super) sources: BTreeMap<String, Source>,
    pub(super) namespaces: BTreeMap<String, Namespace>,
    /// Kind and name of what says nothing here.
    pub(super) others: Vec<String>,
}

/// Reads files, in which nothing may be named twice. `-` is standard input.
pub(super) fn read(files: &[PathBuf]) -> Result<Objects, Failure> {
    let mut objects = Objects::default();
    for file in files {
        let text = text(file)?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|error| {
            let error = error.to_string();
            unusable(file, error.lines().next().unwrap_or("it is not YAML"))
        })?;
        let before = objects.count();
        for document in &documents {
            objects.take(document).map_err(|why| unusable(file, &why))?;
        }
        if objects.count() == before {
            let why = match objects.passed_over() {
                Some(others) => format!("it holds no object of use, but {others}"),
                None => "it holds no object".to_owned(),
            };
            return Err(unusable(file, &why));
        }
    }
    Ok(objects)
}

fn text(file: &Path) -> Result<String, Failure> {
    let read = if file == Path::new("-") {
        io::read_to_string(io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|error| {
        if error.kind() == io::ErrorKind::InvalidData {
            unusable(file, "it is not text in UTF-8")
        } else if error.kind() == io::ErrorKind::IsADirectory {
            unusable(file, "it is a directory")
        } else {
            Failure::io(format!("read {}", shown(file)), &error)
        }
    })
}

/// How a file is called in messages.
pub(super) fn shown(file: &Path) -> String {
    if file == Path::new("-") {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    }
}

fn unusable(file: &Path, why: &str) -> Failure {
    Failure::new(Code::Usage, format!("read {}", shown(file)), why).or_advise(
        "give objects of the kinds EgressPolicy, Source and Namespace as kubectl takes them",
    )
}

impl Objects {
    fn count(&self) -> usize {
        self.policies.len() + self.sources.len() + self.namespaces.len()
    }

    /// What says nothing here, in a few words.
    pub(super) fn passed_over(&self) -> Option<String> {
        let named: Vec<&str> = self.others.iter().take(NAMED).map(String::as_str).collect();
        let named = named.join(", ");
        match self.others.len().checked_sub(NAMED) {
            _ if named.is_empty() => None,
            None | Some(0) => Some(named),
            Some(more) => Some(format!("{named} and {more} more")),
        }
    }

    fn take(&mut self, object: &Value) -> Result<(), String> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let kind = text("/kind").ok_or("an object has no kind")?;
        if kind.ends_with("List")
            && let Some(Value::Array(items)) = object.get("items")
        {
            return items.iter().try_for_each(|item| self.take(item));
        }
        let group = text("/apiVersion")
            .and_then(|version| version.split_once('/'))
            .map_or("", |(group, _)| group);
        let name = text("/metadata/name").unwrap_or_default().to_owned();
        let is_new = match (group, kind) {
            (GROUP, "EgressPolicy") => {
                policy(&name, text("/metadata/namespace"))?;
                self.policies.insert(name.clone(), object.clone()).is_none()
            }
            (GROUP, "Source") => add(&mut self.sources, &name, object)?,
            ("", "Namespace") => add(&mut self.namespaces, &name, object)?,
            (_, "EgressPolicy") => {
                return Err(format!(
                    "EgressPolicy {} is of group {}, and not of {GROUP}",
                    Escaped(&name),
                    Escaped(group)
                ));
            }
            (GROUP, other) if !OTHERS.contains(&other) => {
                return Err(format!(
                    "it holds an object of kind {}, which group {GROUP} does not have",
                    Escaped(kind)
                ));
            }
            (_, other) => {
                let (kind, name) = (other.escape_debug(), name.escape_debug());
                self.others.push(format!("{kind} {name}"));
                return Ok(());
            }
        };
        if name.is_empty() {
            return Err(format!("an object of kind {} has no name", Escaped(kind)));
        }
        if is_new {
            Ok(())
        } else {
            Err(format!(
                "two objects of kind {kind} are named {}",
                Escaped(&name)
            ))
        }
    }
}

/// A policy belongs to the cluster: a namespace in its metadata is not one that it is for.
fn policy(name: &str, namespace: Option<&str>) -> Result<(), String> {
    match namespace {
        None | Some("") => Ok(()),
        Some(namespace) => Err(format!(
            "EgressPolicy {} has metadata.namespace {}, but policies belong to the cluster: say in spec.namespaces what it is for",
            Escaped(name),
            Escaped(namespace)
        )),
    }
}

/// Whether there was none of that name.
fn add<T: DeserializeOwned>(
    objects: &mut BTreeMap<String, T>,
    name: &str,
    object: &Value,
) -> Result<bool, String> {
    let read = serde_json::from_value(object.clone()).map_err(|error| {
        format!(
            "{} cannot be read: {}",
            Escaped(name),
            Escaped(&error.to_string())
        )
    })?;
    Ok(objects.insert(name.to_owned(), read).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Objects, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("objects.yaml");
        std::fs::write(&file, text).unwrap();
        read(&[file])
    }

    #[test]
    fn documents_and_lists_of_objects_are_read() {
        let objects = read_text(
            "\
apiVersion: tonnage.dev/v1alpha1
kind: EgressPolicy
metadata: {name: a}
spec: {namespaces: {}, mode: Nap}
---
apiVersion: v1
kind: List
items:
  - {apiVersion: tonnage.dev/v1alpha1, kind: EgressPolicy, metadata: {name: b}, spec: {namespaces: {}}}
  - {apiVersion: tonnage.dev/v1alpha1, kind: Source, metadata: {name: models}, spec: {url: \"s3://b/x\"}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: team-a, labels: {tier: research}}}
",
        )
        .unwrap();
        assert_eq!(objects.policies.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(objects.sources["models"].spec.url, "s3://b/x");
        let labels = objects.namespaces["team-a"].metadata.labels.clone();
        assert_eq!(labels.unwrap()["tier"], "research");
        assert_eq!(objects.passed_over(), None);
    }

    #[test]
    fn what_a_chart_renders_beside_them_is_passed_over_by_name() {
        let policy = "{apiVersion: tonnage.dev/v1alpha1, kind: EgressPolicy, metadata: {name: a}, spec: {namespaces: {}}}";
        let objects = read_text(&format!(
            "---\n# Source: chart/templates/empty.yaml\n---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c}}}}\n---\n{policy}\n---\n\
             {{apiVersion: tonnage.dev/v1alpha1, kind: CacheQuota, metadata: {{name: q}}}}\n---\n"
        ))
        .unwrap();
        assert_eq!(objects.policies.len(), 1);
        assert_eq!(
            objects.passed_over().as_deref(),
            Some("ConfigMap c, CacheQuota q")
        );
        let pod = |it| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p{it}}}}}");
        let mut many: Vec<String> = (0..7).map(pod).collect();
        many.push(policy.to_owned());
        let objects = read_text(&many.join("\n---\n")).unwrap();
        assert_eq!(
            objects.passed_over().as_deref(),
            Some("Pod p0, Pod p1, Pod p2, Pod p3, Pod p4 and 2 more")
        );
    }

    #[test]
    fn what_is_no_object_for_these_questions_is_refused_by_name() {
        for (text, words) in [
            ("", "it holds no object"),
            ("---\n---\n# nothing\n", "it holds no object"),
            ("{", "read "),
            ("x: 1", "an object has no kind"),
            (
                "{apiVersion: v1, kind: Pod, metadata: {name: p}}",
                "it holds no object of use, but Pod p",
            ),
            (
                "{apiVersion: tonnage.dev/v1alpha1, kind: EgressPolicy}",
                "an object of kind \"EgressPolicy\" has no name",
            ),
            (
                "{apiVersion: tonnage.dev/v1alpha1, kind: EgressPolcy, metadata: {name: p}}",
                "it holds an object of kind \"EgressPolcy\", which group tonnage.dev does not have",
            ),
            (
                "{apiVersion: tonnage.io/v1, kind: EgressPolicy, metadata: {name: p}}",
                "EgressPolicy \"p\" is of group \"tonnage.io\", and not of tonnage.dev",
            ),
            (
                "{apiVersion: tonnage.dev/v1alpha1, kind: EgressPolicy, metadata: {name: p, namespace: team-b}}",
                "EgressPolicy \"p\" has metadata.namespace \"team-b\", but policies belong to the cluster: say in spec.namespaces",
            ),
            (
                "{apiVersion: tonnage.dev/v1alpha1, kind: Source, metadata: {name: s}, spec: 7}",
                "\"s\" cannot be read: ",
            ),
            (
                "{apiVersion: tonnage.dev/v1, kind: EgressPolicy, metadata: {name: p}}\n---\n{apiVersion: tonnage.dev/v1, kind: EgressPolicy, metadata: {name: p}}",
                "two objects of kind EgressPolicy are named \"p\"",
            ),
        ] {
            let failure = read_text(text).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{text}");
            let sentence = failure.to_string();
            assert!(sentence.contains(words), "{text}: {sentence}");
            assert_eq!(sentence.lines().count(), 1, "{sentence}");
        }
        let missing = read(&[PathBuf::from("/nonexistent/x.yaml")]).unwrap_err();
        assert_eq!(missing.code, Code::Missing);
    }

    #[test]
    fn what_is_no_text_is_said_to_be_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policies.yaml.gz");
        std::fs::write(&file, [0x1f, 0x8b, 8, 0]).unwrap();
        for (path, words) in [
            (file, "it is not text in UTF-8"),
            (directory.path().to_owned(), "it is a directory"),
        ] {
            let failure = read(&[path]).unwrap_err();
            assert_eq!(failure.code, Code::Usage);
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }
}

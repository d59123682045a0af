//! Objects in YAML files, as an administrator is about to apply them: policies, and sources and namespaces that they are about.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Namespace;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tonnage_cache::path::Escaped;
use tonnage_csi::crd::{GROUP, Source};

use crate::exit::{Code, Failure};

/// What files hold, by name.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// As they are written: what is wrong with one is a matter of the rules.
    pub(super) policies: BTreeMap<String, Value>,
    pub(super) sources: BTreeMap<String, Source>,
    pub(super) namespaces: BTreeMap<String, Namespace>,
}

/// Reads files, in which nothing may be named twice.
pub(super) fn read(files: &[PathBuf]) -> Result<Objects, Failure> {
    let mut objects = Objects::default();
    for file in files {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::io(format!("read {}", file.display()), &error))?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|error| {
            let error = error.to_string();
            unusable(file, error.lines().next().unwrap_or("it is not YAML"))
        })?;
        if documents.is_empty() {
            return Err(unusable(file, "it holds no object"));
        }
        for document in &documents {
            objects.take(document).map_err(|why| unusable(file, &why))?;
        }
    }
    Ok(objects)
}

fn unusable(file: &Path, why: &str) -> Failure {
    Failure::new(Code::Usage, format!("read {}", file.display()), why).or_advise(
        "give objects of the kinds EgressPolicy, Source and Namespace as kubectl takes them",
    )
}

impl Objects {
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
        if name.is_empty() {
            return Err(format!("an object of kind {} has no name", Escaped(kind)));
        }
        let is_new = match (group, kind) {
            (GROUP, "EgressPolicy") => self.policies.insert(name.clone(), object.clone()).is_none(),
            (GROUP, "Source") => add(&mut self.sources, &name, object)?,
            ("", "Namespace") => add(&mut self.namespaces, &name, object)?,
            _ => {
                return Err(format!(
                    "it holds an object of kind {} of group {}",
                    Escaped(kind),
                    Escaped(group)
                ));
            }
        };
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
    }

    #[test]
    fn what_is_no_object_for_these_questions_is_refused_by_name() {
        for (text, words) in [
            ("", "it holds no object"),
            ("{", "read "),
            ("x: 1", "an object has no kind"),
            (
                "{apiVersion: v1, kind: Pod, metadata: {name: p}}",
                "it holds an object of kind \"Pod\"",
            ),
            (
                "{apiVersion: tonnage.dev/v1alpha1, kind: EgressPolicy}",
                "an object of kind \"EgressPolicy\" has no name",
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
}

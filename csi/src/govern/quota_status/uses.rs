//! What namespaces have on nodes, as nodes tell it. What cannot be understood is no zero: of such a node counts what it said before, or
//! what a quota said of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::Value;
use tokio::time::Instant;
use tonnage_cache::path::Escaped;

use super::MISSING;
use crate::crd::{NamespaceContent, NodeUse};
use crate::egress::quota::Usage;
use crate::egress::reservation::Report;

/// What namespaces have, by namespace and node.
#[derive(Debug, Default)]
pub(super) struct Uses {
    namespaces: BTreeMap<String, BTreeMap<String, NamespaceContent>>,
    /// Nodes of which the newest cannot be understood.
    unclear: BTreeSet<String>,
    /// Nodes that there are.
    nodes: BTreeSet<String>,
    /// Nodes that there are not, for which something is set aside, and since when that is known.
    missing: BTreeMap<String, Instant>,
    /// Those that are missing for long enough.
    gone: BTreeSet<String>,
}

impl Uses {
    /// Takes the newest of a `NodeCache`. What was known before is `known`, or else here.
    pub(super) fn read(&mut self, object: &DynamicObject, known: Option<&Self>) {
        let node = object.name_any();
        match lines(&object.data) {
            Ok(lines) => self.set(&node, lines),
            Err(why) => {
                if let Some(known) = known {
                    self.set(&node, known.lines_of(&node));
                }
                let is_told = known.map_or(&self.unclear, |known| &known.unclear);
                if !is_told.contains(&node) {
                    tracing::warn!(
                        node,
                        why,
                        "a NodeCache cannot be understood; what was known of it before counts"
                    );
                }
                self.nodes.insert(node.clone());
                self.unclear.insert(node);
            }
        }
    }

    /// What a node has now.
    pub(super) fn set(&mut self, node: &str, lines: Vec<NamespaceContent>) {
        self.forget(node);
        self.nodes.insert(node.to_owned());
        for line in lines {
            let nodes = self.namespaces.entry(line.namespace.clone()).or_default();
            nodes.insert(node.to_owned(), line);
        }
    }

    /// A node is gone.
    pub(super) fn forget(&mut self, node: &str) {
        self.unclear.remove(node);
        self.nodes.remove(node);
        self.namespaces.retain(|_, nodes| {
            nodes.remove(node);
            !nodes.is_empty()
        });
    }

    fn lines_of(&self, node: &str) -> Vec<NamespaceContent> {
        let lines = self.namespaces.values();
        lines.filter_map(|nodes| nodes.get(node)).cloned().collect()
    }

    /// The first node that cannot be understood, and how many others there are.
    pub(super) fn unclear(&self) -> Option<(&str, usize)> {
        let first = self.unclear.first()?;
        Some((first, self.unclear.len().saturating_sub(1)))
    }

    /// Everything is as it was listed just now. Since when nodes are missing stays.
    pub(super) fn replace(&mut self, listed: Self) {
        let missing = std::mem::take(&mut self.missing);
        *self = Self { missing, ..listed };
    }

    /// Looks which of those for whom something is set aside are missing.
    pub(super) fn look_for<'a>(&mut self, nodes: impl Iterator<Item = &'a str>, now: Instant) {
        let before = std::mem::take(&mut self.missing);
        for node in nodes.filter(|node| !self.nodes.contains(*node)) {
            let since = before.get(node).copied().unwrap_or(now);
            self.missing.insert(node.to_owned(), since);
        }
        let is_over = |(_, since): &(&String, &Instant)| now.duration_since(**since) >= MISSING;
        let gone = self.missing.iter().filter(is_over);
        self.gone = gone.map(|(node, _)| node.clone()).collect();
    }

    /// Whether there is no such node any more.
    pub(super) fn is_gone(&self, node: &str) -> bool {
        self.gone.contains(node)
    }

    /// What nodes say of a namespace to quotas of the cluster.
    pub(super) fn reports(&self, namespace: &str) -> BTreeMap<String, Report> {
        let number = |number: i64| u64::try_from(number).unwrap_or(0);
        let nodes = self.namespaces.get(namespace).into_iter().flatten();
        let reports = nodes.map(|(node, line)| {
            let has = Usage {
                logical_bytes: number(line.logical_bytes),
                volumes: number(line.volumes),
            };
            let wants = Usage {
                logical_bytes: line.wanted_bytes.map_or(0, number),
                volumes: line.wanted_volumes.map_or(0, number),
            };
            let report = Report {
                has,
                wants: wants.at_least(has),
                seq: line.seq.map(number),
            };
            (node.clone(), report)
        });
        reports.collect()
    }

    /// The nodes of a namespace, those that use most first. Of a node of which nothing was ever understood counts what was `said`.
    pub(super) fn of(&self, namespace: &str, said: &[NodeUse]) -> Vec<NodeUse> {
        let known = self.namespaces.get(namespace);
        let is_known = |node: &str| known.is_some_and(|nodes| nodes.contains_key(node));
        let old = said
            .iter()
            .filter(|old| self.unclear.contains(&old.node) && !is_known(&old.node));
        let lines = known.into_iter().flatten().map(|(node, line)| NodeUse {
            node: node.clone(),
            logical_bytes: line.logical_bytes.max(0),
            volumes: line.volumes.max(0),
            physical_bytes: line.physical_bytes,
            shared_bytes: line.shared_bytes,
        });
        let mut nodes: Vec<NodeUse> = lines.chain(old.cloned()).collect();
        nodes.sort_by(|one, other| {
            let key = |it: &NodeUse| (Reverse(it.logical_bytes), Reverse(it.volumes));
            key(one)
                .cmp(&key(other))
                .then_with(|| one.node.cmp(&other.node))
        });
        nodes
    }
}

/// What a node says that namespaces have there; or why that cannot be understood.
fn lines(object: &Value) -> Result<Vec<NamespaceContent>, String> {
    let nothing = || Ok(Vec::new());
    let status = match object.get("status") {
        None | Some(Value::Null) => return nothing(),
        Some(Value::Object(status)) => status,
        Some(_) => return Err("its status is no object".to_owned()),
    };
    match status.get("namespaces") {
        None | Some(Value::Null) => nothing(),
        Some(lines) => serde_json::from_value(lines.clone())
            .map_err(|error| Escaped(&error.to_string()).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cache(node: &str, status: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "NodeCache",
            "metadata": {"name": node},
            "status": status,
        }))
        .unwrap()
    }

    fn has(bytes: i64) -> Value {
        json!({"namespaces": [{"namespace": "team-a", "logicalBytes": bytes, "volumes": 1}]})
    }

    fn figures(uses: &Uses, said: &[NodeUse]) -> Vec<(String, i64)> {
        let nodes = uses.of("team-a", said).into_iter();
        nodes.map(|it| (it.node, it.logical_bytes)).collect()
    }

    fn of(node: &str, bytes: i64) -> (String, i64) {
        (node.to_owned(), bytes)
    }

    #[test]
    fn what_cannot_be_understood_leaves_what_was_known() {
        for rubbish in [
            json!("full"),
            json!([]),
            json!({"namespaces": "many"}),
            json!({"namespaces": [{"namespace": "team-a", "logicalBytes": "5Gi", "volumes": 1}]}),
        ] {
            let mut uses = Uses::default();
            uses.read(&cache("gpu-1", &has(7)), None);
            uses.read(&cache("gpu-1", &rubbish), None);
            assert_eq!(figures(&uses, &[]), [of("gpu-1", 7)], "{rubbish}");
            assert_eq!(uses.unclear(), Some(("gpu-1", 0)));
            // Also in a list that is read anew.
            let mut again = Uses::default();
            again.read(&cache("gpu-1", &rubbish), Some(&uses));
            assert_eq!(figures(&again, &[]), [of("gpu-1", 7)], "{rubbish}");
            again.read(&cache("gpu-1", &has(3)), None);
            assert_eq!(figures(&again, &[]), [of("gpu-1", 3)]);
            assert_eq!(again.unclear(), None);
        }
    }

    #[test]
    fn a_leader_that_has_just_begun_goes_by_what_the_quota_says() {
        let mut before = Uses::default();
        before.read(&cache("gpu-1", &has(7)), None);
        before.read(&cache("gpu-2", &has(9)), None);
        let said = before.of("team-a", &[]);
        let mut uses = Uses::default();
        uses.read(&cache("gpu-1", &has(5)), Some(&Uses::default()));
        uses.read(&cache("gpu-2", &json!(1)), Some(&Uses::default()));
        uses.read(&cache("gpu-3", &json!(1)), Some(&Uses::default()));
        assert_eq!(figures(&uses, &said), [of("gpu-2", 9), of("gpu-1", 5)]);
        assert_eq!(uses.unclear(), Some(("gpu-2", 1)));
        uses.forget("gpu-2");
        assert_eq!(figures(&uses, &said), [of("gpu-1", 5)]);
    }

    #[test]
    fn what_is_not_about_namespaces_may_be_anything() {
        let mut uses = Uses::default();
        let status = json!({
            "usedBytes": "much",
            "namespaces": [{"namespace": "team-a", "logicalBytes": 7, "volumes": 1, "newer": true}],
        });
        uses.read(&cache("gpu-1", &status), None);
        assert_eq!(figures(&uses, &[]), [of("gpu-1", 7)]);
        uses.read(&cache("gpu-1", &Value::Null), None);
        assert_eq!((figures(&uses, &[]), uses.unclear()), (Vec::new(), None));
    }
}

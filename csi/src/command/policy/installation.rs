//! What holds in namespaces that no policy selects: a setting of the installation, `defaultEgress` of the chart. It is no object of the
//! API server. Where the chart's `DaemonSet`s can be read, it is read from the arguments that they start the node service with.

use std::fmt;

use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::Value;
use tonnage_csi::egress::policy::DefaultEgress;

use crate::command::cluster::Cluster;

/// The labels of the chart's `DaemonSet`s.
const NODES: &str = "app.kubernetes.io/name=tonnage,app.kubernetes.io/component=node";
/// The flag of the node service, and the variable that says the same.
const FLAG: &str = "--default-egress";
const VARIABLE: &str = "TONNAGE_DEFAULT_EGRESS";

/// What an installation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Installed {
    /// This, and who says it.
    Says(DefaultEgress, String),
    /// Nothing that could be read, and why.
    Untold(String),
}

/// What was taken for the default of an answer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) value: DefaultEgress,
    pub(super) from: String,
    /// Whether nobody says so: neither who asks nor the installation.
    pub(super) is_assumed: bool,
}

impl Taken {
    /// What is given holds; else what the installation says; else `Allow`, which is the chart's.
    pub(super) fn of(given: Option<DefaultEgress>, installed: &Installed) -> Self {
        match (given, installed) {
            (Some(value), Installed::Says(says, who)) if *says != value => Self {
                value,
                from: format!("by {FLAG}; {who} says {}", word(*says)),
                is_assumed: false,
            },
            (Some(value), Installed::Says(..) | Installed::Untold(_)) => Self {
                value,
                from: format!("by {FLAG}"),
                is_assumed: false,
            },
            (None, Installed::Says(value, who)) => Self {
                value: *value,
                from: format!("says {who}"),
                is_assumed: false,
            },
            (None, Installed::Untold(why)) => Self {
                value: DefaultEgress::Allow,
                from: format!("which is assumed: {why}; name the installation's with {FLAG}"),
                is_assumed: true,
            },
        }
    }
}

/// As the chart writes it.
pub(super) const fn word(value: DefaultEgress) -> &'static str {
    match value {
        DefaultEgress::Allow => "Allow",
        DefaultEgress::Deny => "Deny",
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", word(self.value), self.from)
    }
}

/// Asks a cluster. That it does not tell is an answer.
pub(super) async fn default_egress(cluster: &Cluster) -> Installed {
    match cluster.list_labelled::<DaemonSet>(NODES).await {
        Ok(objects) => judged(&objects),
        Err(failure) => Installed::Untold(failure.sentence()),
    }
}

/// The strictest of what they say, as nodes differ while the setting is changed.
fn judged(daemon_sets: &[Value]) -> Installed {
    let mut found: Vec<(DefaultEgress, String)> = Vec::new();
    for object in daemon_sets {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let name = text("/metadata/name").unwrap_or_default().escape_debug();
        let namespace = text("/metadata/namespace").unwrap_or_default();
        let who = format!("DaemonSet {}/{name}", namespace.escape_debug());
        match said(object) {
            Some(Ok(value)) => found.push((value, who)),
            Some(Err(other)) => {
                let other = other.escape_debug();
                return Installed::Untold(format!("{who} has {FLAG}={other}, which is neither"));
            }
            None => {}
        }
    }
    let strictest = found
        .iter()
        .find(|(value, _)| *value == DefaultEgress::Deny)
        .or(found.first());
    match strictest {
        Some((value, who)) => Installed::Says(*value, who.clone()),
        None => Installed::Untold("no DaemonSet of the chart was found".to_owned()),
    }
}

/// What the node service of a `DaemonSet` is told; nothing if it has none.
fn said(daemon_set: &Value) -> Option<Result<DefaultEgress, String>> {
    let containers = daemon_set.pointer("/spec/template/spec/containers")?;
    let mut containers = containers.as_array()?.iter();
    let node = containers.find(|container| words(container).contains(&"node"))?;
    let words = words(node);
    let flag = words.iter().enumerate().find_map(|(index, word)| {
        let value = word.strip_prefix(FLAG)?;
        match value.strip_prefix('=') {
            Some(value) => Some(value),
            None if value.is_empty() => words.get(index + 1).copied(),
            None => None,
        }
    });
    let value = flag.or_else(|| variable(node));
    Some(match value {
        // As the node service has it.
        None => Ok(DefaultEgress::Allow),
        Some(value) if value.eq_ignore_ascii_case("allow") => Ok(DefaultEgress::Allow),
        Some(value) if value.eq_ignore_ascii_case("deny") => Ok(DefaultEgress::Deny),
        Some(other) => Err(other.to_owned()),
    })
}

/// Command and arguments of a container.
fn words(container: &Value) -> Vec<&str> {
    let lists = ["command", "args"].into_iter();
    let lists = lists.filter_map(|list| container.get(list)?.as_array());
    lists.flatten().filter_map(Value::as_str).collect()
}

fn variable(container: &Value) -> Option<&str> {
    let mut variables = container.get("env")?.as_array()?.iter();
    let is_it = |variable: &&Value| variable.get("name").and_then(Value::as_str) == Some(VARIABLE);
    variables.find(is_it)?.get("value")?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::command::cluster::scripted::{beside, list, refusal};

    fn daemon_set(name: &str, container: &Value) -> Value {
        json!({
            "metadata": {"namespace": "tonnage", "name": name},
            "spec": {"template": {"spec": {"containers": [{"name": "sidecar"}, container]}}},
        })
    }

    fn says(value: DefaultEgress, name: &str) -> Installed {
        Installed::Says(value, format!("DaemonSet tonnage/{name}"))
    }

    #[tokio::test(start_paused = true)]
    async fn the_chart_s_daemon_sets_say_what_holds() {
        let node = daemon_set("cpu", &json!({"args": ["node", "--default-egress=deny"]}));
        let (told, questions) = beside(vec![list(&json!([node]))], async |cluster| {
            default_egress(&cluster).await
        })
        .await;
        assert_eq!(told, says(DefaultEgress::Deny, "cpu"));
        assert_eq!(questions.len(), 1);
        assert!(
            questions[0].starts_with("GET /apis/apps/v1/daemonsets?")
                && questions[0].contains("labelSelector=app.kubernetes.io"),
            "{questions:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_does_not_tell_is_an_answer() {
        let (told, _) = beside(vec![refusal(403, "Forbidden")], async |cluster| {
            default_egress(&cluster).await
        })
        .await;
        assert_eq!(
            Taken::of(None, &told).to_string(),
            "Allow, which is assumed: list daemonsets of the cluster: so it is; ask an administrator for the verb list on daemonsets; \
             name the installation's with --default-egress"
        );
        assert_eq!(
            judged(&[]),
            Installed::Untold("no DaemonSet of the chart was found".to_owned())
        );
    }

    #[test]
    fn flag_and_variable_are_read_and_the_strictest_holds() {
        for (container, value) in [
            (
                json!({"args": ["node", "--default-egress=allow"]}),
                DefaultEgress::Allow,
            ),
            (
                json!({"args": ["node", "--default-egress", "deny"]}),
                DefaultEgress::Deny,
            ),
            (
                json!({"args": ["node"], "env": [{"name": "TONNAGE_DEFAULT_EGRESS", "value": "deny"}]}),
                DefaultEgress::Deny,
            ),
            (
                json!({"command": ["tonnage", "node"]}),
                DefaultEgress::Allow,
            ),
        ] {
            assert_eq!(
                judged(&[daemon_set("d", &container)]),
                says(value, "d"),
                "{container}"
            );
        }
        let allow = daemon_set("a", &json!({"args": ["node", "--default-egress=allow"]}));
        let deny = daemon_set("b", &json!({"args": ["node", "--default-egress=deny"]}));
        assert_eq!(judged(&[allow, deny]), says(DefaultEgress::Deny, "b"));
        let odd = daemon_set("c", &json!({"args": ["node", "--default-egress=$(WORD)"]}));
        assert_eq!(
            judged(&[odd]),
            Installed::Untold(
                "DaemonSet tonnage/c has --default-egress=$(WORD), which is neither".to_owned()
            )
        );
    }

    #[test]
    fn what_is_given_holds_and_the_installation_s_word_is_told_beside() {
        let installed = says(DefaultEgress::Deny, "cpu");
        let taken = |given, installed: &Installed| Taken::of(given, installed).to_string();
        assert_eq!(taken(None, &installed), "Deny, says DaemonSet tonnage/cpu");
        assert_eq!(
            taken(Some(DefaultEgress::Allow), &installed),
            "Allow, by --default-egress; DaemonSet tonnage/cpu says Deny"
        );
        assert_eq!(
            taken(Some(DefaultEgress::Deny), &installed),
            "Deny, by --default-egress"
        );
    }
}

//! `tonnage quota`: how much cached content namespaces have and may have, as the controller wrote it into their quotas. A quota that
//! cannot be read hides no other: nodes take it for one that lets nothing new in, so it has a line of its own that says why.

use std::cmp::Reverse;

use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tonnage_csi::crd::{CacheQuota, CacheQuotaSpec, CacheQuotaStatus, Quantity};
use tonnage_csi::size::ByteSize;

use super::cluster::Cluster;
use crate::args::egress::{Format, Output, Reach};
use crate::args::quota::Quota;
use crate::console::Console;
use crate::exit::{Code, Failure};

/// A quota.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    quota: String,
    /// Absent if the object cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<CacheQuotaSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<CacheQuotaStatus>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

pub(super) async fn run(
    args: Quota,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Quota {
        namespace,
        reach: Reach { context },
        output: Output { output },
    } = args;
    let cluster = Cluster::connect(context.as_deref()).await?;
    let rows = tokio::select! {
        rows = gathered(&cluster, namespace.as_deref()) => rows?,
        () = stop.cancelled() => return Err(Failure::stopped(Code::Interrupted)),
    };
    match output {
        Format::Json => console.json(&rows)?,
        Format::Table => console.table(&table(&rows))?,
    }
    if rows.is_empty() {
        console.remark(none(namespace.as_deref()));
    }
    let problems: Vec<Failure> = rows.iter().filter_map(Row::failure).collect();
    for problem in &problems {
        console.say(problem);
    }
    Ok(if problems.is_empty() {
        Code::Done
    } else {
        Code::Data
    })
}

fn none(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => {
            let namespace = namespace.escape_debug();
            format!("namespace {namespace} has no CacheQuota, or does not exist")
        }
        None => "no namespace has a CacheQuota".to_owned(),
    }
}

/// Those whose namespaces use most come first; where nothing is known yet, by name.
async fn gathered(cluster: &Cluster, namespace: Option<&str>) -> Result<Vec<Row>, Failure> {
    let objects = cluster.list::<CacheQuota>(namespace).await?;
    let mut rows: Vec<Row> = objects.into_iter().map(row).collect();
    rows.sort_by_cached_key(|row| {
        let used = row.status.as_ref().map_or(0, |status| status.logical_bytes);
        (Reverse(used), row.namespace.clone(), row.quota.clone())
    });
    Ok(rows)
}

fn row(object: Value) -> Row {
    let name = |path: &str| {
        let name = object.pointer(path).and_then(Value::as_str);
        name.unwrap_or_default().to_owned()
    };
    let (namespace, quota) = (name("/metadata/namespace"), name("/metadata/name"));
    let (spec, status, problem) = match serde_json::from_value::<CacheQuota>(object) {
        Ok(CacheQuota { spec, status, .. }) => (Some(spec), status, None),
        Err(error) => (
            None,
            None,
            Some(error.to_string().escape_debug().to_string()),
        ),
    };
    Row {
        namespace,
        quota,
        spec,
        status,
        problem,
    }
}

impl Row {
    /// What is wrong with the object, and what that means.
    fn failure(&self) -> Option<Failure> {
        let Self {
            namespace, quota, ..
        } = self;
        let what = format!(
            "read CacheQuota {}/{}",
            namespace.escape_debug(),
            quota.escape_debug()
        );
        let why = self.problem.as_ref()?;
        let why = format!("{why}, so that no new volume is published in the namespace");
        Some(
            Failure::new(Code::Data, what, why)
                .or_advise("mend it, or use a program as new as what wrote it"),
        )
    }
}

fn table(rows: &[Row]) -> Vec<Vec<String>> {
    let head = [
        "NAMESPACE",
        "QUOTA",
        "PER NODE",
        "VOLUMES",
        "CLUSTER",
        "CLUSTER VOLUMES",
        "USED",
        "FULLEST NODE",
        "READY",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(cells));
    lines
}

fn cells(row: &Row) -> Vec<String> {
    let Row {
        namespace,
        quota,
        spec,
        status,
        problem,
    } = row;
    let spec = spec.as_ref();
    let per_node = spec.and_then(|spec| spec.per_node.as_ref());
    let cluster = spec.and_then(|spec| spec.cluster.as_ref());
    let volumes = per_node.and_then(|quota| quota.volumes);
    let status = status.as_ref();
    let words = |words: Option<&String>| words.cloned().unwrap_or_else(|| "-".to_owned());
    vec![
        namespace.clone(),
        quota.clone(),
        limit(per_node.and_then(|quota| quota.logical_bytes.as_ref())),
        number(volumes),
        limit(cluster.and_then(|quota| quota.logical_bytes.as_ref())),
        number(cluster.and_then(|quota| quota.volumes)),
        words(status.and_then(|status| status.used.as_ref())),
        words(status.and_then(|status| status.fullest.as_ref())),
        match problem {
            Some(_) => "unreadable".to_owned(),
            None => ready(status),
        },
    ]
}

fn number(limit: Option<i64>) -> String {
    limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string())
}

fn limit(quantity: Option<&Quantity>) -> String {
    match quantity.map(Quantity::bytes) {
        None => "-".to_owned(),
        Some(Ok(bytes)) => ByteSize(bytes).to_string(),
        Some(Err(_)) => "malformed".to_owned(),
    }
}

/// `True`, or `False` and why.
fn ready(status: Option<&CacheQuotaStatus>) -> String {
    let mut conditions = status.into_iter().flat_map(|status| &status.conditions);
    match conditions.find(|condition| condition.kind == "Ready") {
        None => "-".to_owned(),
        Some(condition) if condition.status == "True" => condition.status.clone(),
        Some(condition) => format!("{} ({})", condition.status, condition.reason),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::cluster::scripted::{beside, list};
    use super::*;

    fn quotas() -> Value {
        let condition = |status: &str| json!({"type": "Ready", "status": status, "reason": "Malformed", "message": "m", "lastTransitionTime": "2026-11-27T00:00:00Z"});
        json!([
            {
                "apiVersion": "tonnage.dev/v1alpha1", "kind": "CacheQuota",
                "metadata": {"namespace": "team-b", "name": "default"},
                "spec": {"cluster": {"logicalBytes": "500GB"}},
                "status": {"conditions": [condition("False")]},
            },
            {
                "apiVersion": "tonnage.dev/v1alpha1", "kind": "CacheQuota",
                "metadata": {"namespace": "team-a", "name": "default"},
                "spec": {"perNode": {"logicalBytes": "50Gi", "volumes": 4}, "cluster": {"logicalBytes": "1Ti", "volumes": 40}},
                "status": {
                    "conditions": [condition("True")],
                    "used": "1.2 TiB on 8 nodes", "fullest": "gpu-1 46.1 GiB of 50.0 GiB",
                    "logicalBytes": 7, "volumes": 9,
                },
            },
            {
                "apiVersion": "tonnage.dev/v1alpha1", "kind": "CacheQuota",
                "metadata": {"namespace": "team-a", "name": "all"},
                "spec": {"perNode": {"volumes": 0}},
            },
        ])
    }

    #[tokio::test(start_paused = true)]
    async fn quotas_are_a_table_with_the_fullest_first_and_json_with_numbers() {
        let (told, _) = beside(vec![list(&quotas())], async |cluster| {
            gathered(&cluster, None).await
        })
        .await;
        let rows = told.unwrap();
        let lines: Vec<String> = table(&rows).iter().map(|line| line.join("|")).collect();
        assert_eq!(
            lines,
            [
                "NAMESPACE|QUOTA|PER NODE|VOLUMES|CLUSTER|CLUSTER VOLUMES|USED|FULLEST NODE|READY",
                "team-a|default|50.0 GiB|4|1.0 TiB|40|1.2 TiB on 8 nodes|gpu-1 46.1 GiB of 50.0 GiB|True",
                "team-a|all|-|0|-|-|-|-|-",
                "team-b|default|-|-|malformed|-|-|-|False (Malformed)",
            ]
        );
        let json = serde_json::to_value(&rows).unwrap();
        assert_eq!(json[0]["spec"]["perNode"]["logicalBytes"], "50Gi");
        assert_eq!(json[0]["status"]["volumes"], 9);
        assert_eq!(json[0].get("problem"), None);
        assert_eq!(json[1].get("status"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_cannot_be_read_is_named_and_hides_no_other() {
        let mut some = quotas();
        some.as_array_mut().unwrap().push(
            json!({"metadata": {"namespace": "team-a", "name": "odd"}, "spec": {"perNode": 7}}),
        );
        let (told, _) = beside(vec![list(&some)], async |cluster| {
            gathered(&cluster, None).await
        })
        .await;
        let rows = told.unwrap();
        let lines: Vec<String> = table(&rows).iter().map(|line| line.join("|")).collect();
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[3], "team-a|odd|-|-|-|-|-|-|unreadable");
        let problems: Vec<Failure> = rows.iter().filter_map(Row::failure).collect();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].code, Code::Data);
        let sentence = problems[0].to_string();
        assert!(
            sentence.starts_with("tonnage: read CacheQuota team-a/odd: invalid type"),
            "{sentence}"
        );
        assert!(
            sentence.contains("no new volume is published in the namespace"),
            "{sentence}"
        );
        let json = serde_json::to_value(&rows).unwrap();
        assert_eq!(json[2]["quota"], "odd");
        assert!(json[2]["problem"].is_string());
        assert_eq!(json[2].get("spec"), None);
    }

    #[test]
    fn that_there_is_none_is_said() {
        assert_eq!(none(None), "no namespace has a CacheQuota");
        assert_eq!(
            none(Some("team-z")),
            "namespace team-z has no CacheQuota, or does not exist"
        );
    }
}

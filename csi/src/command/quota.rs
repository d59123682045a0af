//! `tonnage quota`: how much cached content namespaces have and may have, as the controller wrote it into their quotas.

use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tonnage_csi::crd::{CacheQuota, CacheQuotaSpec, CacheQuotaStatus, Quantity};
use tonnage_csi::size::ByteSize;

use super::cluster::Cluster;
use crate::args::egress::{Format, Output};
use crate::args::quota::Quota;
use crate::console::Console;
use crate::exit::{Code, Failure};

/// A quota.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    quota: String,
    spec: CacheQuotaSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<CacheQuotaStatus>,
}

pub(super) async fn run(
    args: Quota,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Quota {
        namespace,
        output: Output { output },
    } = args;
    let cluster = Cluster::connect().await?;
    let rows = tokio::select! {
        rows = gathered(&cluster, namespace.as_deref()) => rows?,
        () = stop.cancelled() => return Err(Failure::stopped(Code::Interrupted)),
    };
    match output {
        Format::Json => console.json(&rows)?,
        Format::Table => console.table(&table(&rows))?,
    }
    Ok(Code::Done)
}

async fn gathered(cluster: &Cluster, namespace: Option<&str>) -> Result<Vec<Row>, Failure> {
    let objects = cluster.list::<CacheQuota>(namespace).await?;
    let rows = objects.into_iter().map(row);
    let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
    rows.sort_by(|a, b| (&a.namespace, &a.quota).cmp(&(&b.namespace, &b.quota)));
    Ok(rows)
}

fn row(object: Value) -> Result<Row, Failure> {
    let name = |path: &str| {
        let name = object.pointer(path).and_then(Value::as_str);
        name.unwrap_or_default().to_owned()
    };
    let (namespace, quota) = (name("/metadata/namespace"), name("/metadata/name"));
    let read = serde_json::from_value(object).map_err(|error| {
        Failure::new(
            Code::Data,
            format!("read CacheQuota {namespace}/{quota}"),
            error.to_string(),
        )
        .or_advise("it may be of a newer version than this program")
    });
    let CacheQuota { spec, status, .. } = read?;
    Ok(Row {
        namespace,
        quota,
        spec,
        status,
    })
}

fn table(rows: &[Row]) -> Vec<Vec<String>> {
    let head = [
        "NAMESPACE",
        "QUOTA",
        "PER NODE",
        "VOLUMES",
        "CLUSTER",
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
    } = row;
    let per_node = spec.per_node.as_ref();
    let cluster = spec.cluster.as_ref();
    let volumes = per_node.and_then(|quota| quota.volumes);
    let status = status.as_ref();
    let words = |words: Option<&String>| words.cloned().unwrap_or_else(|| "-".to_owned());
    vec![
        namespace.clone(),
        quota.clone(),
        limit(per_node.and_then(|quota| quota.logical_bytes.as_ref())),
        volumes.map_or_else(|| "-".to_owned(), |volumes| volumes.to_string()),
        limit(cluster.and_then(|quota| quota.logical_bytes.as_ref())),
        words(status.and_then(|status| status.used.as_ref())),
        words(status.and_then(|status| status.fullest.as_ref())),
        ready(status),
    ]
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
                "spec": {"perNode": {"logicalBytes": "50Gi", "volumes": 4}, "cluster": {"logicalBytes": "1Ti"}},
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
    async fn quotas_are_a_table_by_namespace_and_json_with_numbers() {
        let (told, _) = beside(vec![list(&quotas())], async |cluster| {
            gathered(&cluster, None).await
        })
        .await;
        let rows = told.unwrap();
        let lines: Vec<String> = table(&rows).iter().map(|line| line.join("|")).collect();
        assert_eq!(
            lines,
            [
                "NAMESPACE|QUOTA|PER NODE|VOLUMES|CLUSTER|USED|FULLEST NODE|READY",
                "team-a|all|-|0|-|-|-|-",
                "team-a|default|50.0 GiB|4|1.0 TiB|1.2 TiB on 8 nodes|gpu-1 46.1 GiB of 50.0 GiB|True",
                "team-b|default|-|-|malformed|-|-|False (Malformed)",
            ]
        );
        let json = serde_json::to_value(&rows).unwrap();
        assert_eq!(json[1]["spec"]["perNode"]["logicalBytes"], "50Gi");
        assert_eq!(json[1]["status"]["volumes"], 9);
        assert_eq!(json[0].get("status"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_cannot_be_read_is_named() {
        let odd =
            json!([{"metadata": {"namespace": "team-a", "name": "odd"}, "spec": {"perNode": 7}}]);
        let (told, _) = beside(vec![list(&odd)], async |cluster| {
            gathered(&cluster, Some("team-a")).await
        })
        .await;
        let failure = told.unwrap_err();
        assert_eq!(failure.code, Code::Data);
        let sentence = failure.to_string();
        assert!(
            sentence.starts_with("tonnage: read CacheQuota team-a/odd: invalid type"),
            "{sentence}"
        );
    }
}

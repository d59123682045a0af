//! `tonnage egress`: what byte budgets have left, who used most, what it cost and what was denied. Without a namespace it is what
//! the controller wrote into the policies' statuses; for a namespace it is read from the ledgers it is charged to.

use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::{Clock as _, SystemClock, unix_millis};
use tonnage_csi::crd::{EgressBudget, EgressPolicy, Mode, NamespaceUse};
use tonnage_csi::egress::compiled::Compiled;
use tonnage_csi::size::ByteSize;

use super::cluster::Cluster;
use crate::args::egress::{Egress, Format, Output};
use crate::console::Console;
use crate::exit::{Code, Failure};

mod rows;

/// A policy with its budgets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    policy: String,
    /// `Enforce`, `Audit`, `Overruled` or `Malformed`.
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    budgets: Vec<BudgetRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<String>,
    denied: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_denied: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_by: Option<String>,
}

/// A budget; what is used is absent until the controller has said it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BudgetRow {
    budget: String,
    shared: bool,
    window: String,
    limit_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_bytes: Option<u64>,
    /// When bytes come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    window_end: Option<String>,
    used_most: Vec<NamespaceUse>,
}

pub(super) async fn run(
    args: Egress,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Egress {
        namespace,
        output: Output { output },
    } = args;
    let cluster = Cluster::connect().await?;
    let now_unix = now_unix();
    let rows = tokio::select! {
        rows = gathered(&cluster, namespace.as_deref(), now_unix) => rows?,
        () = stop.cancelled() => return Err(Failure::stopped(Code::Interrupted)),
    };
    match output {
        Format::Json => console.json(&rows)?,
        Format::Table => console.table(&table(&rows))?,
    }
    Ok(Code::Done)
}

/// Wall time in seconds since 1970 (UTC).
pub(super) fn now_unix() -> i64 {
    let seconds = unix_millis(SystemClock::new().now()) / 1000;
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

async fn gathered(
    cluster: &Cluster,
    namespace: Option<&str>,
    now_unix: i64,
) -> Result<Vec<Row>, Failure> {
    let mut policies = cluster.list::<EgressPolicy>(None).await?;
    policies.sort_by_key(name);
    let Some(namespace) = namespace else {
        let row = |policy: &Value| rows::of_status(policy, &compiled(policy, now_unix));
        return Ok(policies.iter().map(row).collect());
    };
    let budgets = cluster.list::<EgressBudget>(None).await?;
    let charged = rows::Charged {
        namespace,
        budgets: budgets.iter().filter_map(rows::ledger).collect(),
        now_unix,
    };
    let row = |policy: &Value| charged.of(policy, &compiled(policy, now_unix));
    Ok(policies.iter().filter_map(row).collect())
}

fn name(object: &Value) -> String {
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    name.unwrap_or_default().to_owned()
}

/// A policy, and in a word whether it is in force.
struct Judged {
    compiled: Compiled,
    mode: &'static str,
}

fn compiled(policy: &Value, now_unix: i64) -> Judged {
    let compiled = Compiled::from_json(policy);
    let mode = match (compiled.rules(), compiled.mode(now_unix)) {
        _ if compiled.overruled(now_unix).is_some() => "Overruled",
        (Err(_), _) => "Malformed",
        (Ok(_), Mode::Enforce) => "Enforce",
        (Ok(_), Mode::Audit) => "Audit",
    };
    Judged { compiled, mode }
}

/// The first budget of a policy stands in the policy's line.
fn table(rows: &[Row]) -> Vec<Vec<String>> {
    let mut lines = vec![words([
        "POLICY",
        "MODE",
        "COST",
        "DENIED",
        "BUDGET",
        "USED",
        "LEFT",
        "WINDOW",
        "BYTES BACK",
        "USED MOST",
    ])];
    for row in rows {
        let mut head = words([
            row.policy.as_str(),
            row.mode,
            row.cost.as_deref().unwrap_or("-"),
            &row.denied.to_string(),
        ]);
        if row.budgets.is_empty() {
            head.push("-".to_owned());
            lines.push(std::mem::take(&mut head));
        }
        for budget in &row.budgets {
            let mut line = std::mem::take(&mut head);
            line.resize(4, String::new());
            line.extend(cells(budget));
            lines.push(line);
        }
    }
    lines
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

fn cells(budget: &BudgetRow) -> [String; 6] {
    let bytes = |bytes: Option<u64>| {
        bytes.map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string())
    };
    let limit = ByteSize(budget.limit_bytes);
    let most: Vec<String> = budget
        .used_most
        .iter()
        .take(3)
        .map(|used| {
            let bytes = u64::try_from(used.bytes).unwrap_or_default();
            format!("{} {}", used.namespace, ByteSize(bytes))
        })
        .collect();
    [
        if budget.shared {
            format!("{} (shared)", budget.budget)
        } else {
            budget.budget.clone()
        },
        format!("{} of {limit}", bytes(budget.used_bytes)),
        bytes(budget.left_bytes),
        budget.window.clone(),
        budget.window_end.clone().unwrap_or_else(|| "-".to_owned()),
        if most.is_empty() {
            "-".to_owned()
        } else {
            most.join(", ")
        },
    ]
}

#[cfg(test)]
mod tests;

//! `tonnage egress`: what byte budgets have left, who used most, what it cost and what was denied. Without a namespace it is what
//! the controller wrote into the policies' statuses; for a namespace it is what the policies that select it say, and what the ledgers
//! that it is charged to have at this moment.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tonnage_cache::clock::{Clock as _, SystemClock, unix_millis};
use tonnage_csi::crd::{EgressBudget, EgressPolicy, Mode, NamespaceUse};
use tonnage_csi::egress::compiled::Compiled;

use self::books::Books;
use self::cost::{Market, Namespaces};
use super::cluster::Cluster;
use crate::args::egress::{Egress, Format, Output, Reach};
use crate::args::policy::Labels;
use crate::console::Console;
use crate::exit::{Code, Failure};

pub(super) mod books;
mod cost;
mod rows;
mod table;

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
    /// Such as `41.20 EUR`; absent if nothing is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<String>,
    /// The budget in whose window that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_budget: Option<String>,
    /// Whether more bytes may cost something.
    cost_is_partial: bool,
    /// In all namespaces.
    denied: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_denied: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_by: Option<String>,
}

/// A budget; what is used is absent until the controller has said it, and where the ledger cannot be read.
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
    /// Why the ledger cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<String>,
    /// When bytes come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    window_end: Option<String>,
    used_most: Vec<NamespaceUse>,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
struct Question<'a> {
    namespace: Option<&'a str>,
    /// Labels of the namespace that are given.
    labels: Option<&'a BTreeMap<String, String>>,
    now_unix: i64,
}

/// What was found out, and what was not.
#[derive(Debug)]
struct Told {
    rows: Vec<Row>,
    /// Of each ledger that cannot be read.
    problems: Vec<String>,
    /// What a reader of the table should know.
    remarks: Vec<String>,
}

pub(super) async fn run(
    args: Egress,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Egress {
        namespace,
        labels,
        reach: Reach { context },
        output: Output { output },
    } = args;
    let question = Question {
        namespace: namespace.as_deref(),
        labels: labels.as_ref().map(|Labels(labels)| labels),
        now_unix: now_unix(),
    };
    let cluster = Cluster::connect(context.as_deref()).await?;
    let Told {
        rows,
        problems,
        remarks,
    } = tokio::select! {
        told = gathered(&cluster, &question) => told?,
        () = stop.cancelled() => return Err(Failure::stopped(Code::Interrupted)),
    };
    match output {
        Format::Json => console.json(&rows)?,
        Format::Table => console.table(&table::of(&rows))?,
    }
    for remark in remarks {
        console.remark(remark);
    }
    for problem in &problems {
        console.say(books::unreadable(problem));
    }
    Ok(if problems.is_empty() {
        Code::Done
    } else {
        Code::Data
    })
}

/// Wall time in seconds since 1970 (UTC).
pub(super) fn now_unix() -> i64 {
    let seconds = unix_millis(SystemClock::new().now()) / 1000;
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

async fn gathered(cluster: &Cluster, question: &Question<'_>) -> Result<Told, Failure> {
    let mut policies = cluster.list::<EgressPolicy>(None).await?;
    policies.sort_by_key(name);
    let compiled: Vec<Compiled> = policies.iter().map(Compiled::from_json).collect();
    let both = (policies.as_slice(), compiled.as_slice());
    let mut told = match question.namespace {
        Some(namespace) => of_namespace(cluster, both, (namespace, question)).await?,
        None => of_all(cluster, both, question.now_unix).await?,
    };
    let malformed = told.rows.iter().filter_map(|row| {
        let Row {
            policy, problem, ..
        } = row;
        let problem = problem.as_ref()?;
        Some(format!("EgressPolicy {policy} is malformed: {problem}"))
    });
    let malformed: Vec<String> = malformed.collect();
    told.remarks.extend(malformed);
    Ok(told)
}

/// Policies as they are written, and as they are read.
type Policies<'a> = (&'a [Value], &'a [Compiled]);

async fn of_all(
    cluster: &Cluster,
    (policies, compiled): Policies<'_>,
    now_unix: i64,
) -> Result<Told, Failure> {
    let mut remarks = Vec::new();
    let may_price = |policy: &&Compiled| {
        let rules = policy.rules();
        rules.map_or(true, |rules| rules.price.is_some())
    };
    let priced = compiled.iter().filter(may_price).count();
    let books = if priced == 0 {
        Books::default()
    } else {
        let objects = cluster.list::<EgressBudget>(None).await;
        match readable(objects, &mut remarks)? {
            Ok(objects) => Books::of(objects),
            Err(denied) => Books::untold(&denied),
        }
    };
    // With one price it holds everywhere.
    let namespaces = if priced < 2 {
        Namespaces::new()
    } else {
        let objects = cluster.list::<Namespace>(None).await;
        readable(objects, &mut remarks)?.map_or_else(|_| Namespaces::new(), |it| labelled(&it))
    };
    let market = Market {
        policies: compiled,
        namespaces,
        books: &books,
        now_unix,
    };
    if policies.is_empty() {
        remarks.push("the cluster has no EgressPolicy".to_owned());
    }
    let rows = policies.iter().zip(compiled);
    let rows = rows.map(|(policy, compiled)| rows::of_status(policy, compiled, &market));
    Ok(Told {
        rows: rows.collect(),
        problems: books.problems(),
        remarks,
    })
}

/// What one may not read makes costs less known, and nothing else.
fn readable(
    told: Result<Vec<Value>, Failure>,
    remarks: &mut Vec<String>,
) -> Result<Result<Vec<Value>, Failure>, Failure> {
    match told {
        Err(failure) if failure.code == Code::Denied => {
            let why = failure.sentence();
            remarks.push(format!("not all of what was spent has a cost here: {why}"));
            Ok(Err(failure))
        }
        Err(failure) => Err(failure),
        Ok(objects) => Ok(Ok(objects)),
    }
}

fn labelled(namespaces: &[Value]) -> Namespaces {
    let labels = |namespace: &Value| {
        let labels = namespace.pointer("/metadata/labels").cloned();
        let labels = labels.and_then(|labels| serde_json::from_value(labels).ok());
        (name(namespace), labels.unwrap_or_default())
    };
    namespaces.iter().map(labels).collect()
}

async fn of_namespace(
    cluster: &Cluster,
    (policies, compiled): Policies<'_>,
    (namespace, question): (&str, &Question<'_>),
) -> Result<Told, Failure> {
    let labels = match question.labels {
        Some(given) => given.clone(),
        None => match cluster.labels(namespace).await {
            Err(failure)
                if failure.code == Code::Denied && !compiled.iter().any(Compiled::needs_labels) =>
            {
                BTreeMap::new()
            }
            found => found?,
        },
    };
    let books = Books::of(cluster.list::<EgressBudget>(None).await?);
    let market = Market {
        policies: compiled,
        namespaces: [(namespace.to_owned(), labels.clone())].into(),
        books: &books,
        now_unix: question.now_unix,
    };
    let selecting = policies.iter().zip(compiled);
    let selecting = selecting.filter(|(_, compiled)| compiled.selects(namespace, &labels));
    let rows: Vec<Row> = selecting
        .map(|(policy, compiled)| rows::of_namespace(policy, compiled, &market, namespace))
        .collect();
    let budgets = rows.iter().flat_map(|row| &row.budgets);
    let mut remarks = Vec::new();
    if rows.is_empty() {
        remarks.push(format!(
            "no EgressPolicy selects namespace {}: it follows defaultEgress, and is charged nothing",
            namespace.escape_debug()
        ));
    }
    Ok(Told {
        problems: budgets.filter_map(|budget| budget.unread.clone()).collect(),
        rows,
        remarks,
    })
}

fn name(object: &Value) -> String {
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    name.unwrap_or_default().to_owned()
}

/// In a word whether a policy is in force.
fn mode(compiled: &Compiled, now_unix: i64) -> &'static str {
    match (compiled.rules(), compiled.mode(now_unix)) {
        _ if compiled.overruled(now_unix).is_some() => "Overruled",
        (Err(_), _) => "Malformed",
        (Ok(_), Mode::Enforce) => "Enforce",
        (Ok(_), Mode::Audit) => "Audit",
    }
}

#[cfg(test)]
mod tests;

//! `tonnage policy explain`: whether something may be loaded, by which rule, and what is left for it. The answer is the one that a
//! node would give now, were its rules as new; nothing is loaded and nothing is charged.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tonnage_cache::path::{Escaped, RelPath};
use tonnage_csi::access::consumers;
use tonnage_csi::crd::EgressBudget;
use tonnage_csi::egress::explain::{Explanation, Known, explain};
use tonnage_csi::egress::ledger::objects::read_ledger;
use tonnage_csi::egress::policy::{Charge, Decision, Setting, What, Who, decide};
use tonnage_csi::egress::terms::Account;
use tonnage_csi::size::ByteSize;

use super::facts::{self, About, Facts};
use super::files;
use crate::args::egress::{Format, Output};
use crate::args::policy::{Explain, Labels};
use crate::command::cluster::Cluster;
use crate::command::egress::now_unix;
use crate::console::Console;
use crate::exit::{Code, Failure};

/// An answer, and what was asked.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    source: String,
    host: String,
    bucket: String,
    /// From the root of the bucket.
    path: String,
    #[serde(flatten)]
    explanation: Explanation,
    /// Why the Source's `consumers` refuse it, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_a_consumer: Option<String>,
}

/// A question, without where its answer comes from.
#[derive(Debug, Clone, Copy)]
struct Question<'a> {
    namespace: &'a str,
    service_account: &'a str,
    source: &'a str,
    /// Below the source.
    path: &'a str,
    has_digest: bool,
    bytes: Option<u64>,
}

pub(super) async fn run(
    args: Explain,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Explain {
        namespace,
        service_account,
        source,
        path,
        digest,
        bytes,
        files,
        default_egress,
        labels,
        offline,
        host,
        bucket,
        output: Output { output },
    } = args;
    let path = path.trim_end_matches('/');
    if !path.is_empty() {
        RelPath::parse(path)
            .map_err(|error| Failure::new(Code::Usage, "ask about a path", error.to_string()))?;
    }
    let about = About {
        namespace: &namespace,
        source: &source,
        labels: labels.as_ref().map(|Labels(labels)| labels),
        host: host.as_deref(),
        bucket: bucket.as_deref(),
    };
    let objects = files::read(&files)?;
    let facts = if offline {
        facts::of_files(objects, &about)?
    } else {
        let cluster = Cluster::connect().await?;
        tokio::select! {
            facts = facts::of_cluster(&cluster, objects, &about) => facts?,
            () = stop.cancelled() => return Err(Failure::stopped(Code::Interrupted)),
        }
    };
    let question = Question {
        namespace: &namespace,
        service_account: &service_account,
        source: &source,
        path,
        has_digest: digest,
        bytes: bytes.map(|ByteSize(bytes)| bytes),
    };
    let setting = Setting {
        default_egress: default_egress.into(),
        now_unix: now_unix(),
    };
    let answer = answered(&question, &facts, &setting);
    match output {
        Format::Json => console.json(&answer)?,
        Format::Table => console.result(&answer)?,
    }
    Ok(if answer.explanation.allowed {
        Code::Done
    } else {
        Code::Denied
    })
}

fn answered(question: &Question<'_>, facts: &Facts, setting: &Setting) -> Answer {
    let Facts {
        policies,
        labels,
        location,
        source,
        budgets,
    } = facts;
    let who = Who {
        namespace: question.namespace,
        labels,
        service_account: question.service_account,
    };
    let path = location.path(question.path);
    let what = What {
        source: question.source,
        host: &location.host,
        bucket: &location.bucket,
        path: &path,
        has_digest: question.has_digest,
    };
    let decision = decide(policies, setting, &who, &what);
    let known = Known {
        used: &used(&decision, budgets, setting.now_unix),
        bytes: question.bytes,
        now_unix: setting.now_unix,
    };
    let mut explanation = explain(&decision, &known);
    let not_a_consumer = source.as_ref().and_then(|source| {
        let who = consumers::Who {
            namespace: question.namespace,
            labels,
            service_account: question.service_account,
        };
        consumers::decide(source, &who, question.path).err()
    });
    if let Some(refusal) = not_a_consumer.as_ref().filter(|_| explanation.allowed) {
        explanation.allowed = false;
        explanation.reason.clone_from(refusal);
    }
    Answer {
        source: question.source.to_owned(),
        host: location.host.clone(),
        bucket: location.bucket.clone(),
        path,
        explanation,
        not_a_consumer,
    }
}

/// What the ledgers say is used of the accounts that are charged, what is granted included.
fn used(decision: &Decision, budgets: &[EgressBudget], now_unix: i64) -> BTreeMap<Account, u64> {
    let used = |charge: &Charge| {
        let Account {
            policy,
            budget,
            namespace,
        } = &charge.account;
        let is_its = |object: &&EgressBudget| {
            let spec = &object.spec;
            spec.policy_uid == policy.0
                && spec.budget == *budget
                && spec.namespace.as_ref() == namespace.as_ref().map(|it| &it.0)
        };
        let status = budgets.iter().find(is_its)?.status.as_ref()?;
        let ledger = read_ledger(status);
        let used = ledger.used(&charge.window, ledger.time(now_unix));
        Some((charge.account.clone(), used))
    };
    decision.charges.iter().filter_map(used).collect()
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            host,
            bucket,
            path,
            explanation,
            not_a_consumer,
        } = self;
        write!(f, "{explanation}")?;
        if let Some(refusal) = not_a_consumer
            && *refusal != explanation.reason
        {
            write!(f, "\n{:<9}{refusal}", "source")?;
        }
        let parts = [host, bucket, path].into_iter();
        let parts: Vec<&str> = parts
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        write!(
            f,
            "\n{:<9}{}: {}",
            "asked",
            source.escape_debug(),
            Escaped(&parts.join("/"))
        )
    }
}

#[cfg(test)]
mod tests;

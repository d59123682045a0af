//! `tonnage policy explain`: whether something may be loaded, by which rule, and what is left for it. The answer is the one that a
//! node would give now, were its rules as new; nothing is loaded and nothing is charged. What could not be found out is part of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tonnage_cache::path::{Escaped, RelPath};
use tonnage_csi::access::consumers;
use tonnage_csi::crd::EgressBudgetSpec;
use tonnage_csi::egress::explain::{Explanation, Known, explain};
use tonnage_csi::egress::ledger::objects::read_ledger;
use tonnage_csi::egress::policy::{
    Cause, Charge, Decision, DefaultEgress, Rule, Setting, What, Who, decide,
};
use tonnage_csi::egress::terms::Account;
use tonnage_csi::size::ByteSize;

use super::facts::{self, About, Facts};
use super::files;
use super::installation::{Taken, word};
use super::malformed::effect;
use crate::args::egress::{Format, Output, Reach};
use crate::args::policy::{Explain, Labels};
use crate::command::cluster::Cluster;
use crate::command::egress::books::Books;
use crate::command::egress::now_unix;
use crate::console::Console;
use crate::exit::{Code, Failure};

/// By which rule something is allowed that is so only if the installation is as most are.
const ASSUMED: &str =
    "no EgressPolicy decides on the namespace, if defaultEgress is Allow, which could not be read";

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
    /// What holds in namespaces that no policy selects, as it was taken.
    default_egress: &'static str,
    /// Where that is from.
    default_egress_from: String,
    /// Whether nobody says so, so that it may be another.
    default_assumed: bool,
    /// Whether it decided.
    by_default: bool,
    /// Whether ledgers were asked; otherwise budgets are shown as unspent.
    ledgers_asked: bool,
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
        reach: Reach { context },
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
    let others = objects.passed_over();
    let tried: Vec<String> = objects.policies.keys().cloned().collect();
    let facts = if offline {
        facts::of_files(objects, &about)?
    } else {
        let cluster = Cluster::connect(context.as_deref()).await?;
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
    let given = default_egress.map(DefaultEgress::from);
    let now_unix = now_unix();
    let answer = answered(&question, &facts, (given, now_unix));
    match output {
        Format::Json => console.json(&answer)?,
        Format::Table => console.result(&answer)?,
    }
    if let Some(others) = others {
        console.remark(format!("passed over: {others}"));
    }
    for remark in silent(&tried, &facts, (&namespace, now_unix)) {
        console.remark(remark);
    }
    Ok(answer.code())
}

/// Policies of files that say nothing of the namespace: who tries one wants to know.
fn silent(tried: &[String], facts: &Facts, (namespace, now_unix): (&str, i64)) -> Vec<String> {
    let tried = facts
        .policies
        .iter()
        .filter(|policy| tried.contains(&policy.name));
    let silent = tried.filter(|policy| !policy.selects(namespace, &facts.labels));
    silent
        .map(|policy| {
            let (name, namespace) = (policy.name.escape_debug(), namespace.escape_debug());
            let malformed = policy.rules().err().map_or_else(String::new, |why| {
                let effect = effect(policy, [now_unix]);
                format!("; it is malformed, and {effect}: {why}")
            });
            format!("EgressPolicy {name} does not select namespace {namespace}, and says nothing here{malformed}")
        })
        .collect()
}

fn answered(
    question: &Question<'_>,
    facts: &Facts,
    (given, now_unix): (Option<DefaultEgress>, i64),
) -> Answer {
    let Facts {
        policies,
        labels,
        location,
        source,
        books,
        installed,
    } = facts;
    let taken = Taken::of(given, installed);
    let setting = Setting {
        default_egress: taken.value,
        now_unix,
    };
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
    let decision = decide(policies, &setting, &who, &what);
    let none = Books::default();
    let known = Known {
        used: &used(&decision, books.as_ref().unwrap_or(&none), now_unix),
        bytes: question.bytes,
        now_unix,
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
    let by_default = match &decision.verdict {
        Ok(rule) => *rule == Rule::Default,
        Err(denial) => denial.cause == Cause::Unselected,
    };
    if explanation.allowed && by_default && taken.is_assumed {
        ASSUMED.clone_into(&mut explanation.reason);
    }
    Answer {
        source: question.source.to_owned(),
        host: location.host.clone(),
        bucket: location.bucket.clone(),
        path,
        explanation,
        not_a_consumer,
        default_egress: word(taken.value),
        default_egress_from: taken.from,
        default_assumed: taken.is_assumed,
        by_default,
        ledgers_asked: books.is_some(),
    }
}

impl Answer {
    /// How the program ends. What is allowed unless a budget is used up that nobody could look into, or by a default that is only
    /// assumed, is no yes for a script.
    fn code(&self) -> Code {
        let is_guessed = self.by_default && self.default_assumed;
        if !self.explanation.allowed {
            Code::Denied
        } else if self.explanation.is_sure() && !is_guessed {
            Code::Done
        } else {
            Code::Data
        }
    }
}

/// What the ledgers say is used of the accounts that are charged, what is granted included, or why they cannot be read.
fn used(
    decision: &Decision,
    books: &Books,
    now_unix: i64,
) -> BTreeMap<Account, Result<u64, String>> {
    let used = |charge: &Charge| {
        let Account {
            policy,
            budget,
            namespace,
        } = &charge.account;
        let account = EgressBudgetSpec {
            policy: charge.policy.clone(),
            policy_uid: policy.0.clone(),
            budget: budget.clone(),
            namespace: namespace.as_ref().map(|namespace| namespace.0.clone()),
        };
        let book = books.find(&account).transpose()?;
        let used = book.map(|book| {
            let ledger = read_ledger(&book.status);
            ledger.used(&charge.window, ledger.time(now_unix))
        });
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
            default_egress,
            default_egress_from,
            // Where that is from says so.
            default_assumed: _,
            by_default,
            ledgers_asked,
        } = self;
        write!(f, "{explanation}")?;
        if *by_default {
            write!(
                f,
                "\n{:<9}{default_egress}, {default_egress_from}",
                "default"
            )?;
        }
        if !ledgers_asked && !explanation.budgets.is_empty() {
            let why = "none is asked, so that budgets are shown as unspent";
            write!(f, "\n{:<9}{why}", "ledgers")?;
        }
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

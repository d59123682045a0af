//! `tonnage policy simulate`: reads an audit log, has its decisions made again by other policies, and shows what is different.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use serde::Serialize;
use tonnage_csi::egress::compiled::Compiled;
use tonnage_csi::egress::policy::DefaultEgress;
use tonnage_csi::egress::simulate::{Change, Difference, Outcome, Record, simulate};
use tonnage_csi::size::ByteSize;

use self::log::Log;
use super::files;
use super::installation::word;
use super::malformed::effect;
use crate::args::egress::{Format, Output};
use crate::args::policy::Simulate;
use crate::command::egress::now_unix;
use crate::console::Console;
use crate::exit::{Code, Failure};

mod log;

/// What came of it, and what it was made of.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(flatten)]
    outcome: &'a Outcome,
    default_egress: &'static str,
    /// Decisions that were made again, and what was spent.
    replayed: usize,
    /// Decisions that were never written.
    dropped: u64,
    /// Decisions that do not say all of who asked for what.
    unclear: u64,
    /// Lines that stand there before.
    repeated: u64,
    /// Lines of other programs that are no JSON.
    foreign: u64,
    /// Decisions that cannot be read.
    malformed: u64,
}

impl<'a> Answer<'a> {
    fn of(outcome: &'a Outcome, log: &Log, (default, replayed): (DefaultEgress, usize)) -> Self {
        Self {
            outcome,
            default_egress: word(default),
            replayed,
            dropped: log.dropped,
            unclear: log.unclear,
            repeated: log.repeated,
            foreign: log.foreign.0,
            malformed: log.malformed,
        }
    }
}

pub(super) fn run(args: &Simulate, console: &Console) -> Result<Code, Failure> {
    let Simulate {
        audit,
        files,
        default_egress,
        output: Output { output },
    } = args;
    let is_input = |file: &Path| file == Path::new("-");
    if is_input(audit) && files.iter().any(|file| is_input(file)) {
        let why = "it cannot be both the audit log and the policies";
        return Err(Failure::new(Code::Usage, "read standard input", why)
            .or_advise("write one of them to a file"));
    }
    let objects = files::read(files)?;
    let policies: Vec<Compiled> = objects.policies.values().map(Compiled::from_json).collect();
    let name = files::shown(audit);
    let mut log = if is_input(audit) {
        Log::read(io::stdin().lock(), &name)?
    } else {
        let file = File::open(audit)
            .map_err(|error| Failure::io(format!("open the audit log {name}"), &error))?;
        Log::read(BufReader::new(file), &name)?
    };
    for failure in malformed(&log, &name) {
        console.say(failure);
    }
    if let Some(nothing) = log.nothing(&name) {
        return Err(nothing);
    }
    let records = std::mem::take(&mut log.records);
    let mut remarks = about_log(&log);
    if let Some(others) = objects.passed_over() {
        remarks.push(format!("passed over: {others}"));
    }
    let now_unix = now_unix();
    let about_policies = policies.iter();
    remarks.extend(about_policies.filter_map(|policy| about_policy(policy, &records, now_unix)));
    if policies.is_empty() {
        remarks.push("the files have no EgressPolicy, so that the default decides all".to_owned());
    }
    let default = default_egress.map_or(DefaultEgress::Allow, DefaultEgress::from);
    let replayed = records.len();
    let outcome = simulate(&policies, default, records);
    if outcome.by_default > 0 && default_egress.is_none() {
        remarks.push(format!(
            "no policy selects the namespace of {} decisions, and defaultEgress is taken to be Allow; name the installation's with --default-egress",
            outcome.by_default
        ));
    }
    for remark in remarks {
        console.remark(remark);
    }
    match output {
        Format::Json => console.json(&Answer::of(&outcome, &log, (default, replayed)))?,
        Format::Table => {
            if !outcome.changes.is_empty() {
                console.table(&table(&outcome.changes))?;
            }
            console.result(summary(&outcome))?;
        }
    }
    Ok(if log.malformed > 0 {
        Code::Data
    } else {
        Code::Done
    })
}

/// Decisions that cannot be read, the first few by their lines.
fn malformed(log: &Log, name: &str) -> Vec<Failure> {
    let what = format!("read the audit log {name}");
    let failure = |why: String| Failure::new(Code::Data, what.clone(), why);
    let named = log.named.iter();
    let named = named.map(|(number, why)| failure(format!("line {number} is malformed: {why}")));
    let mut failures: Vec<Failure> = named.collect();
    let named = u64::try_from(failures.len()).unwrap_or(u64::MAX);
    let more = log.malformed.saturating_sub(named);
    if more > 0 {
        failures.push(failure(format!("{more} more lines are malformed")));
    }
    failures
}

/// What somebody should know of a log before they believe what came of it.
fn about_log(log: &Log) -> Vec<String> {
    let Log {
        dropped,
        unclear,
        repeated,
        foreign: (foreign, first),
        is_cut,
        ..
    } = log;
    let mut told = Vec::new();
    if *dropped > 0 {
        told.push(format!(
            "{dropped} decisions are missing in the log, because they were more than could be written"
        ));
    }
    if *unclear > 0 {
        told.push(format!(
            "{unclear} decisions are passed over, because their lines do not say all of who asked for what"
        ));
    }
    if *repeated > 0 {
        told.push(format!(
            "counted once, although they stand in the log again: {repeated} lines"
        ));
    }
    if *foreign > 0 {
        told.push(format!(
            "passed over, because they are none of an audit log: {foreign} lines, of which line {first} is the first"
        ));
    }
    if *is_cut {
        told.push("passed over, because the log is cut there: the last line".to_owned());
    }
    told
}

/// What somebody may not have meant. What a malformed policy does is told of the times at which it is asked, or of now.
fn about_policy(policy: &Compiled, records: &[Record], now_unix: i64) -> Option<String> {
    let name = policy.name.escape_debug();
    let asked = records.iter();
    let asked = asked.filter(|record| policy.selects(&record.namespace, &record.labels));
    let mut times: Vec<i64> = asked.map(Record::unix).collect();
    let is_asked = !times.is_empty();
    match policy.rules() {
        Err(why) => {
            if !is_asked {
                times.push(now_unix);
            }
            let effect = effect(policy, times);
            Some(format!(
                "EgressPolicy {name} is malformed, and {effect}: {why}"
            ))
        }
        Ok(_) if is_asked => None,
        Ok(_) => Some(format!(
            "EgressPolicy {name} selects no namespace of the log, and changes nothing"
        )),
    }
}

fn table(changes: &[Change]) -> Vec<Vec<String>> {
    let head = [
        "CHANGE",
        "NAMESPACE",
        "SOURCE",
        "BY",
        "DECISIONS",
        "PODS",
        "BYTES",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(changes.iter().map(|change| {
        vec![
            match change.change {
                Difference::WouldDeny => "would deny",
                Difference::WouldAllow => "would allow",
            }
            .to_owned(),
            change.namespace.escape_debug().to_string(),
            change.source.escape_debug().to_string(),
            change.by.clone(),
            change.decisions.to_string(),
            change.pods.to_string(),
            ByteSize(change.bytes).to_string(),
        ]
    }));
    lines
}

fn summary(outcome: &Outcome) -> String {
    let Outcome {
        allowed,
        denied,
        spent_bytes,
        by_default: _,
        changes,
    } = outcome;
    let of = |difference: Difference| {
        let changes = changes.iter().filter(|it| it.change == difference);
        changes.fold((0_u64, 0_u64), |(decisions, bytes), it| {
            (
                decisions.saturating_add(it.decisions),
                bytes.saturating_add(it.bytes),
            )
        })
    };
    let (fewer, less) = of(Difference::WouldDeny);
    let (more, _) = of(Difference::WouldAllow);
    format!(
        "of {allowed} allowed, {denied} denied and {} spent: {fewer} would be denied ({}), {more} would be allowed",
        ByteSize(*spent_bytes),
        ByteSize(less)
    )
}

#[cfg(test)]
mod tests;

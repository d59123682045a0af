//! `tonnage policy simulate`: reads an audit log, has its decisions made again by other policies, and shows what is different.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use tonnage_csi::egress::compiled::Compiled;
use tonnage_csi::egress::simulate::{self, Change, Difference, Outcome, Record, simulate};
use tonnage_csi::govern::audit::{Entry, Event, Line, Read, WhatLine, WhoLine, read};
use tonnage_csi::size::ByteSize;

use super::files;
use crate::args::egress::{Format, Output};
use crate::args::policy::Simulate;
use crate::console::Console;
use crate::exit::{Code, Failure};

/// Longest line of a log, which may have other lines than those of decisions.
const LONGEST: u64 = 1 << 20;

/// What a log holds.
#[derive(Debug, Default)]
struct Log {
    records: Vec<Record>,
    /// Decisions that were not written, because there were too many at once.
    dropped: u64,
    /// Decisions whose line is cut, or that do not say who asked for what.
    unclear: u64,
}

pub(super) fn run(args: &Simulate, console: &Console) -> Result<Code, Failure> {
    let Simulate {
        audit,
        files,
        default_egress,
        output: Output { output },
    } = args;
    let objects = files::read(files)?;
    let policies: Vec<Compiled> = objects.policies.values().map(Compiled::from_json).collect();
    let log = if audit == Path::new("-") {
        log(io::stdin().lock(), "standard input")?
    } else {
        let name = audit.display().to_string();
        let file = File::open(audit)
            .map_err(|error| Failure::io(format!("open the audit log {name}"), &error))?;
        log(BufReader::new(file), &name)?
    };
    let Log {
        records,
        dropped,
        unclear,
    } = log;
    if dropped > 0 {
        console.remark(format!(
            "{dropped} decisions are missing in the log, because they were more than could be written"
        ));
    }
    if unclear > 0 {
        console.remark(format!(
            "{unclear} decisions are passed over, because their lines do not say all of who asked for what"
        ));
    }
    let outcome = simulate(&policies, (*default_egress).into(), records);
    match output {
        Format::Json => console.json(&outcome)?,
        Format::Table => {
            if !outcome.changes.is_empty() {
                console.table(&table(&outcome.changes))?;
            }
            console.result(summary(&outcome))?;
        }
    }
    Ok(Code::Done)
}

/// Reads a log to its end. `name` is for messages.
fn log(mut text: impl BufRead, name: &str) -> Result<Log, Failure> {
    let mut log = Log::default();
    let mut bytes = Vec::new();
    let what = || format!("read the audit log {name}");
    for number in 1_u64.. {
        bytes.clear();
        text.by_ref()
            .take(LONGEST)
            .read_until(b'\n', &mut bytes)
            .map_err(|error| Failure::io(what(), &error))?;
        if bytes.is_empty() {
            break;
        }
        let malformed = |why: String| {
            Failure::new(Code::Data, what(), format!("line {number} is malformed: {why}"))
                .or_advise("give the lines as they were written, such as those that `grep '^{\"audit\":'` finds")
        };
        let is_whole = bytes.ends_with(b"\n") || u64::try_from(bytes.len()) != Ok(LONGEST);
        if !is_whole {
            return Err(malformed("it is longer than 1 MiB".to_owned()));
        }
        let line =
            std::str::from_utf8(&bytes).map_err(|_| malformed("it is not UTF-8".to_owned()))?;
        match read(line).map_err(malformed)? {
            Line::Entry(read) => log.take(*read),
            Line::Dropped(lines) => log.dropped = log.dropped.saturating_add(lines),
            Line::Other => {}
        }
    }
    Ok(log)
}

impl Log {
    fn take(&mut self, read: Read) {
        let Read { entry, is_whole } = read;
        let event = match entry.event {
            Event::Allow => simulate::Event::Allowed,
            Event::Deny => simulate::Event::Denied,
            // The controller's word on a grant, whose bytes nodes tell of load by load.
            Event::Settle if entry.who.is_none() && entry.account.is_some() => return,
            Event::Settle => simulate::Event::Spent,
            // What follows from these stands in lines of its own.
            Event::Reserve | Event::Grant | Event::Override | Event::WouldDeny => return,
        };
        match record(event, entry).filter(|_| is_whole) {
            Some(record) => self.records.push(record),
            None => self.unclear = self.unclear.saturating_add(1),
        }
    }
}

fn record(event: simulate::Event, entry: Entry) -> Option<Record> {
    let WhoLine {
        namespace,
        labels,
        service_account,
        pod_uid,
    } = entry.who?;
    let WhatLine {
        source,
        host,
        bucket,
        path,
        has_digest,
        revision: _,
    } = entry.what?;
    Some(Record {
        unix_millis: entry.time_unix_millis,
        event,
        namespace,
        labels,
        service_account,
        pod: pod_uid,
        source,
        host,
        bucket,
        path,
        has_digest,
        bytes: entry.bytes,
    })
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
mod tests {
    use super::*;

    fn line(event: &str, more: &str) -> String {
        format!(
            "{{\"audit\":\"v1\",\"event\":\"{event}\",\"timeUnixMillis\":1,\"bytes\":7,\
             \"who\":{{\"namespace\":\"team-a\",\"serviceAccount\":\"default\"}},\"what\":{{\"source\":\"models\"}}{more}}}\n"
        )
    }

    #[test]
    fn a_log_is_read_among_other_lines_and_what_cannot_be_decided_is_counted() {
        let text = [
            "{\"level\":\"INFO\"}\n".to_owned(),
            line("Allow", ""),
            line("Deny", ",\"cut\":[\"reason\"]"),
            line("Settle", ",\"cut\":[\"path\"]"),
            line("Grant", ""),
            "{\"audit\":\"v1\",\"event\":\"Settle\",\"timeUnixMillis\":1,\"account\":{\"policy\":\"u\",\"budget\":\"b\"}}\n".to_owned(),
            "{\"audit\":\"v1\",\"event\":\"Settle\",\"timeUnixMillis\":1}\n".to_owned(),
            "\n{\"audit\":\"v1\",\"dropped\":4}\n".to_owned(),
            line("Settle", "").trim_end().to_owned(),
        ]
        .concat();
        let log = log(text.as_bytes(), "x").unwrap();
        let events: Vec<_> = log.records.iter().map(|record| record.event).collect();
        assert_eq!(
            events,
            [
                simulate::Event::Allowed,
                simulate::Event::Denied,
                simulate::Event::Spent
            ]
        );
        assert_eq!((log.dropped, log.unclear), (4, 2));
        assert_eq!(log.records[2].bytes, 7);
    }

    #[test]
    fn a_malformed_line_is_named_by_its_number() {
        let good = line("Allow", "");
        for (bad, words) in [
            (&b"oops\n"[..], "line 2 is malformed: it is not JSON"),
            (&b"\xff\n"[..], "line 2 is malformed: it is not UTF-8"),
            (
                &b"{\"audit\":\"v1\",\"event\":\"Sing\"}"[..],
                "line 2 is malformed: it is no decision",
            ),
        ] {
            let text = [good.as_bytes(), bad].concat();
            let failure = log(text.as_slice(), "audit.log").unwrap_err();
            assert_eq!(failure.code, Code::Data);
            let sentence = failure.to_string();
            assert!(
                sentence.starts_with(&format!("tonnage: read the audit log audit.log: {words}")),
                "{sentence}"
            );
        }
        let long = vec![b' '; (1 << 20) + 1];
        let failure = log(long.as_slice(), "x").unwrap_err();
        assert!(
            failure
                .to_string()
                .contains("line 1 is malformed: it is longer than 1 MiB")
        );
    }
}

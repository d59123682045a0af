//! Reads an audit log as people have it: with lines of other programs between, with what log tools put before a line, twice, cut at its
//! ends. What is no decision is passed over and counted; a decision that cannot be read is named by its line, and the others are read.

use std::collections::HashSet;
use std::io::{BufRead, Read as _};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonnage_csi::egress::simulate::{self, Record};
use tonnage_csi::govern::audit::{Entry, Event, Line, Read, WhatLine, WhoLine, read};

use crate::exit::{Code, Failure};

/// Longest line of a log, which may have other lines than those of decisions.
const LONGEST: u64 = 1 << 20;
/// How the line of a decision begins.
const BEGINNING: &str = "{\"audit\":";
/// Most lines that are named as malformed.
const NAMED: usize = 3;
/// First bytes of what is no text, and what to do with it.
const NO_TEXT: [(&[u8], &str, &str); 5] = [
    (
        b"\x1f\x8b",
        "it is compressed",
        "give it as `zcat FILE | tonnage policy simulate --audit - …`",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "it is compressed",
        "give it as `zstdcat FILE | tonnage policy simulate --audit - …`",
    ),
    (
        b"\xfd7zXZ",
        "it is compressed",
        "give it as `xzcat FILE | tonnage policy simulate --audit - …`",
    ),
    (b"\xff\xfe", "it is text in UTF-16", "write it in UTF-8"),
    (b"\xfe\xff", "it is text in UTF-16", "write it in UTF-8"),
];

/// What a log holds.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Decisions that can be made again, and what was spent.
    pub(super) records: Vec<Record>,
    /// Decisions that were not written, because there were too many at once.
    pub(super) dropped: u64,
    /// Decisions whose line does not say all of who asked for what.
    pub(super) unclear: u64,
    /// Lines that stand there before.
    pub(super) repeated: u64,
    /// Lines that are no JSON, and the first of them.
    pub(super) foreign: (u64, u64),
    /// Decisions that cannot be read.
    pub(super) malformed: u64,
    /// The first of those: the number of the line, and why.
    pub(super) named: Vec<(u64, String)>,
    /// Whether the last line has no end and cannot be read.
    pub(super) is_cut: bool,
    /// Decisions of other kinds, which follow from those that are made again.
    pub(super) others: u64,
    /// Digests of the lines that were read.
    pub(super) seen: HashSet<[u8; 32]>,
}

/// A line, where it is and whether it has an end.
struct Place {
    number: u64,
    has_end: bool,
}

impl Log {
    /// Reads a log to its end. `name` is for messages.
    pub(super) fn read(mut text: impl BufRead, name: &str) -> Result<Self, Failure> {
        let mut log = Self::default();
        let mut bytes = Vec::new();
        let what = || format!("read the audit log {name}");
        let unread = |error: std::io::Error| Failure::io(what(), &error);
        for number in 1_u64.. {
            bytes.clear();
            text.by_ref()
                .take(LONGEST)
                .read_until(b'\n', &mut bytes)
                .map_err(unread)?;
            if bytes.is_empty() {
                break;
            }
            if number == 1
                && let Some((_, why, remedy)) = NO_TEXT.iter().find(|it| bytes.starts_with(it.0))
            {
                return Err(Failure::new(Code::Usage, what(), *why).or_advise(*remedy));
            }
            let has_end = bytes.ends_with(b"\n");
            let place = Place { number, has_end };
            if !has_end && u64::try_from(bytes.len()) == Ok(LONGEST) {
                text.skip_until(b'\n').map_err(unread)?;
                log.pass(&bytes, &place, "it is longer than 1 MiB");
                continue;
            }
            match std::str::from_utf8(&bytes) {
                Ok(line) => log.line(bare(line), &place),
                Err(_) => log.pass(&bytes, &place, "it is not UTF-8"),
            }
        }
        Ok(log)
    }

    /// Whether there is nothing to replay, and what to do about it.
    pub(super) fn nothing(&self, name: &str) -> Option<Failure> {
        if !self.records.is_empty() {
            return None;
        }
        let advice =
            "give the lines that `grep '^{\"audit\":'` finds in the log of the node service";
        let nothing = |code: Code, why: String| {
            Some(Failure::new(code, "nothing to replay", why).or_advise(advice))
        };
        if self.malformed > 0 {
            nothing(
                Code::Data,
                format!("no decision of {name} can be read ({})", self.malformed),
            )
        } else if self.unclear > 0 {
            nothing(
                Code::Missing,
                format!("no decision of {name} says all of who asked for what"),
            )
        } else if self.others > 0 {
            nothing(
                Code::Missing,
                format!(
                    "{name} has what was reserved and granted, and nothing that was allowed, denied or spent"
                ),
            )
        } else {
            nothing(Code::Missing, format!("{name} has no decision"))
        }
    }

    /// What is no text.
    fn pass(&mut self, bytes: &[u8], place: &Place, why: &str) {
        if bytes.starts_with(BEGINNING.as_bytes()) {
            self.fail(place, why.to_owned());
        } else {
            self.strange(place);
        }
    }

    fn strange(&mut self, place: &Place) {
        let (lines, first) = self.foreign;
        let first = if lines == 0 { place.number } else { first };
        self.foreign = (lines.saturating_add(1), first);
    }

    fn fail(&mut self, place: &Place, why: String) {
        if !place.has_end {
            self.is_cut = true;
            return;
        }
        self.malformed = self.malformed.saturating_add(1);
        if self.named.len() < NAMED {
            self.named.push((place.number, why));
        }
    }

    fn line(&mut self, text: &str, place: &Place) {
        match read(text) {
            Ok(Line::Other) => {
                if let Some(wrapped) = wrapped(text) {
                    self.line(bare(&wrapped), place);
                }
            }
            Ok(Line::Dropped(lines)) => {
                if self.is_new(text) {
                    self.dropped = self.dropped.saturating_add(lines);
                }
            }
            Ok(Line::Entry(entry)) => {
                if self.is_new(text) {
                    self.take(*entry);
                }
            }
            Err(why) if text.starts_with(BEGINNING) => self.fail(place, why),
            Err(_) => self.strange(place),
        }
    }

    /// A log that is collected twice has lines that are the same to the millisecond.
    fn is_new(&mut self, text: &str) -> bool {
        let is_new = self.seen.insert(*blake3::hash(text.as_bytes()).as_bytes());
        if !is_new {
            self.repeated = self.repeated.saturating_add(1);
        }
        is_new
    }

    fn take(&mut self, read: Read) {
        let Read { entry, is_whole } = read;
        let event = match entry.event {
            Event::Allow => Some(simulate::Event::Allowed),
            // Not what a rule or a budget says: nobody answered, the rules were too old, or there was no room.
            Event::Deny
                if matches!(
                    entry.rule.as_deref(),
                    Some("stale" | "unanswered" | "quota")
                ) =>
            {
                None
            }
            Event::Deny => Some(simulate::Event::Denied),
            // The controller's word on a grant, whose bytes nodes tell of load by load.
            Event::Settle if entry.who.is_none() && entry.account.is_some() => None,
            Event::Settle => Some(simulate::Event::Spent),
            // What follows from these stands in lines of its own.
            Event::Reserve | Event::Grant | Event::Override | Event::WouldDeny => None,
        };
        let Some(event) = event else {
            self.others = self.others.saturating_add(1);
            return;
        };
        match record(event, entry).filter(|_| is_whole) {
            Some(record) => self.records.push(record),
            None => self.unclear = self.unclear.saturating_add(1),
        }
    }
}

/// A line without what `kubectl logs --prefix --timestamps` and container runtimes put before it.
fn bare(line: &str) -> &str {
    let mut rest = line.trim_start_matches('\u{feff}').trim();
    while let Some((word, after)) = rest.split_once(' ')
        && is_prefix(word)
    {
        rest = after.trim_start();
    }
    rest
}

fn is_prefix(word: &str) -> bool {
    let is_pod = word.starts_with('[') && word.ends_with(']');
    // A line of the runtime's log: its time, its stream, and F where it is whole.
    let is_stream = matches!(word, "stdout" | "F");
    is_pod || is_stream || OffsetDateTime::parse(word, &Rfc3339).is_ok()
}

/// The line that a log tool has put into JSON of its own: `{"log":"…","stream":"stdout"}`.
fn wrapped(text: &str) -> Option<String> {
    let object: Value = serde_json::from_str(text).ok()?;
    let line = object.get("log")?.as_str()?;
    bare(line).starts_with(BEGINNING).then(|| line.to_owned())
}

fn record(event: simulate::Event, entry: Entry) -> Option<Record> {
    let WhoLine {
        namespace,
        labels,
        service_account,
        pod_uid,
    } = entry.who?;
    // A claim that the controller refused for all service accounts of its namespace.
    if service_account.is_empty() {
        return None;
    }
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

#[cfg(test)]
mod tests;

//! A decision as a line of text, and back.
//!
//! What does not fit into a line is cut in this order, until it fits: the sentence, the policies, the path, the labels, and at
//! last every text. A line says what was cut, because a decision on half a path is none.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonnage_cache::path::Escaped;

use super::{Entry, WhatLine, WhoLine};

/// Most bytes of a line, its end included.
pub const LONGEST: usize = 4096;
/// The format, in the first field of each line.
const FORMAT: &str = "v1";
/// Most bytes of a sentence and of a path, once they must be cut.
const LONG: usize = 1024;
/// Most bytes of every other text, once they must be cut.
const SHORT: usize = 160;
/// Most policies, once they must be cut.
const SOME: usize = 8;
/// Most policies at last.
const FEW: usize = 2;

/// Names of what is cut without which a decision cannot be made again.
const NEEDED: [&str; 3] = ["path", "labels", "texts"];

/// What a line of a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A decision.
    Entry(Box<Read>),
    /// So many decisions are missing here.
    Dropped(u64),
    /// Another line of the service's log, or nothing.
    Other,
}

/// A decision that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The decision.
    pub entry: Entry,
    /// Whether all is there that the decision was made of; a sentence may be cut.
    pub is_whole: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    audit: &'static str,
    /// For people; `timeUnixMillis` is what is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(flatten)]
    entry: &'a Entry,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    cut: &'a [&'static str],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Missing {
    audit: &'static str,
    dropped: u64,
    time_unix_millis: u64,
}

/// Makes an entry shorter.
type Shorten = fn(&mut Entry);

/// The line of a decision, without its end.
pub(super) fn written(entry: &Entry) -> String {
    const STEPS: [(&str, Shorten); 5] = [
        ("reason", short_reason),
        ("policies", some_policies),
        ("path", short_path),
        ("labels", no_labels),
        ("texts", short_texts),
    ];
    let whole = encoded(entry, &[]);
    if whole.len() < LONGEST {
        return whole;
    }
    let (mut entry, mut cut, mut text) = (entry.clone(), Vec::new(), whole);
    for (name, shorten) in STEPS {
        let before = entry.clone();
        shorten(&mut entry);
        if entry == before {
            continue;
        }
        cut.push(name);
        text = encoded(&entry, &cut);
        if text.len() < LONGEST {
            break;
        }
    }
    text
}

/// The line that says how many are missing.
pub(super) fn dropped(dropped: u64, time_unix_millis: u64) -> String {
    json(&Missing {
        audit: FORMAT,
        dropped,
        time_unix_millis,
    })
}

/// Reads a line of a log, or says in a sentence why it cannot be one.
pub fn read(line: &str) -> Result<Line, String> {
    if line.trim().is_empty() {
        return Ok(Line::Other);
    }
    let value: Value = serde_json::from_str(line)
        .map_err(|error| format!("it is not JSON: {}", Plain(&error.to_string())))?;
    let Some(format) = value.get("audit") else {
        return if value.is_object() {
            Ok(Line::Other)
        } else {
            Err("it is not a JSON object".to_owned())
        };
    };
    if format != FORMAT {
        return Err(format!(
            "it has the format {}, and this program reads \"{FORMAT}\"",
            Escaped(&format.to_string())
        ));
    }
    if let Some(dropped) = value.get("dropped") {
        let dropped = dropped.as_u64();
        return dropped
            .map(Line::Dropped)
            .ok_or_else(|| "its field dropped is not a number of lines".to_owned());
    }
    let is_whole = match value.get("cut") {
        None => true,
        Some(Value::Array(names)) => !names
            .iter()
            .any(|name| NEEDED.iter().any(|needed| name == needed)),
        Some(_) => return Err("its field cut is not a list".to_owned()),
    };
    let entry = serde_json::from_value(value)
        .map_err(|error| format!("it is no decision: {}", Plain(&error.to_string())))?;
    Ok(Line::Entry(Box::new(Read { entry, is_whole })))
}

/// Words of a parser, which may repeat what was read.
struct Plain<'a>(&'a str);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars().take(200) {
            if character.is_control() || !character.is_ascii() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

fn encoded(entry: &Entry, cut: &[&'static str]) -> String {
    json(&Written {
        audit: FORMAT,
        time: moment(entry.time_unix_millis),
        entry,
        cut,
    })
}

fn moment(unix_millis: u64) -> Option<String> {
    let nanos = i128::from(unix_millis) * 1_000_000;
    let moment = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
    moment.format(&Rfc3339).ok()
}

/// JSON of printable ASCII. What is neither stands only within texts, where `\u` is the same.
fn json(value: &impl Serialize) -> String {
    // Texts and numbers can always be written.
    let text = serde_json::to_string(value).unwrap_or_default();
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text;
    }
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, ' '..='~') {
            plain.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a text does not fail.
            let _written = write!(plain, "\\u{unit:04x}");
        }
    }
    plain
}

/// How many bytes a character takes in a line, at most.
fn cost(character: char) -> usize {
    match character {
        '"' | '\\' => 2,
        ' '..='~' => 1,
        other => 6 * other.len_utf16(),
    }
}

/// Keeps the beginning of a text, so that it takes at most so many bytes and a mark.
fn clip(text: &mut String, most: usize) {
    let mut sum = 0_usize;
    let end = text.char_indices().find(|(_, character)| {
        sum = sum.saturating_add(cost(*character));
        sum > most
    });
    if let Some((end, _)) = end {
        text.truncate(end);
        text.push('…');
    }
}

fn short_reason(entry: &mut Entry) {
    if let Some(reason) = &mut entry.reason {
        clip(reason, LONG);
    }
}

fn some_policies(entry: &mut Entry) {
    entry.policies.truncate(SOME);
}

fn short_path(entry: &mut Entry) {
    if let Some(what) = &mut entry.what {
        clip(&mut what.path, LONG);
    }
}

fn no_labels(entry: &mut Entry) {
    if let Some(who) = &mut entry.who {
        who.labels.clear();
    }
}

fn short_texts(entry: &mut Entry) {
    let Entry {
        event: _,
        time_unix_millis: _,
        who,
        what,
        policies,
        rule,
        account,
        quota,
        node,
        bytes: _,
        reason,
    } = entry;
    policies.truncate(FEW);
    let mut texts: Vec<&mut String> = Vec::new();
    if let Some(WhoLine {
        namespace,
        labels: _,
        service_account,
        pod_uid,
    }) = who
    {
        texts.extend([namespace, service_account]);
        texts.extend(pod_uid);
    }
    if let Some(WhatLine {
        source,
        host,
        bucket,
        path,
        has_digest: _,
        revision,
    }) = what
    {
        texts.extend([source, host, bucket, path]);
        texts.extend(revision);
    }
    for policy in policies {
        texts.extend([&mut policy.name, &mut policy.uid.0]);
    }
    if let Some(account) = account {
        texts.extend([&mut account.policy.0, &mut account.budget]);
        texts.extend(account.namespace.as_mut().map(|namespace| &mut namespace.0));
    }
    texts.extend(rule);
    texts.extend(quota);
    texts.extend(node);
    texts.extend(reason);
    for text in texts {
        clip(text, SHORT);
    }
}

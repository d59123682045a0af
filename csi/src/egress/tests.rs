//! `docs/governance.md` says what this code does: its YAML is read, each row of its tables is asked, and the answers must be
//! the document's, word for word.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::compiled::Compiled;
use super::explain::{Known, explain};
use super::policy::{Decision, DefaultEgress, Rule, Setting, What, Who, decide};
use super::price::Price;
use super::quota::{self, Place, Quota, Usage};
use super::window::Window;
use crate::crd::{CacheQuota, EgressPolicy, Quantity};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/governance.md");
const NOTHING: &str = "–";

/// A piece of the document.
#[derive(Debug)]
enum Piece {
    /// The documents of a fenced block of YAML.
    Yaml(Vec<Value>),
    /// The rows of a table, each by its columns' names.
    Table(Vec<BTreeMap<String, String>>),
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner
        .split('|')
        .map(|cell| cell.trim().to_owned())
        .collect()
}

fn pieces() -> Vec<Piece> {
    let text = std::fs::read_to_string(DOCUMENT).unwrap();
    let mut pieces = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "```yaml" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let documents = serde_saphyr::from_multiple(&block.join("\n")).unwrap();
            pieces.push(Piece::Yaml(documents));
        } else if line.starts_with('|') {
            let names = cells(line);
            lines.next_if(|line| line.starts_with("|---")).unwrap();
            let mut rows = Vec::new();
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                let row = cells(row);
                assert_eq!(row.len(), names.len(), "{row:?}");
                rows.push(names.iter().cloned().zip(row).collect());
            }
            pieces.push(Piece::Table(rows));
        }
    }
    pieces
}

/// What stands between backquotes.
fn spans(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap()
}

fn bytes(text: &str) -> u64 {
    Quantity::Text(text.to_owned()).bytes().unwrap()
}

fn unix(text: &str) -> i64 {
    OffsetDateTime::parse(text, &Rfc3339)
        .unwrap()
        .unix_timestamp()
}

/// The decision on a row.
fn ask(policies: &[Compiled], row: &BTreeMap<String, String>) -> Decision {
    let pod = spans(&row["pod"]);
    let (namespace, service_account) = pod[0].split_once('/').unwrap();
    let labels = pod[1..].iter().map(|label| {
        let (key, value) = label.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    });
    let labels = labels.collect();
    let asked = spans(&row["asks for"]);
    let (source, rest) = asked[0].split_once(": ").unwrap();
    let mut parts = rest.splitn(3, '/');
    let what = What {
        source,
        host: parts.next().unwrap(),
        bucket: parts.next().unwrap_or_default(),
        path: parts.next().unwrap_or_default(),
        has_digest: asked.get(1) == Some(&"digest"),
    };
    let who = Who {
        namespace,
        labels: &labels,
        service_account,
    };
    let default_egress = match row.get("defaultEgress").map(String::as_str) {
        None | Some("`Allow`") => DefaultEgress::Allow,
        Some("`Deny`") => DefaultEgress::Deny,
        Some(other) => panic!("{other}"),
    };
    let setting = Setting {
        default_egress,
        now_unix: 0,
    };
    decide(policies, &setting, &who, &what)
}

/// What the document should say in a column.
fn answer(column: &str, decision: &Decision) -> String {
    let quoted = |words: Vec<String>| {
        let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        if quoted.is_empty() {
            NOTHING.to_owned()
        } else {
            quoted.join(" ")
        }
    };
    match column {
        "answer" => match &decision.verdict {
            Ok(Rule::Default) => "allowed by default".to_owned(),
            Ok(Rule::Entry { policy, index }) => format!("allowed by `{policy}` `allow[{index}]`"),
            Err(denial) => format!("denied: {denial}"),
        },
        "charged" => quoted(
            decision
                .charges
                .iter()
                .map(|charge| {
                    let namespace = charge.account.namespace.as_ref();
                    let whose = namespace.map_or("shared", |namespace| namespace.0.as_str());
                    format!("{}/{} {whose}", charge.policy, charge.account.budget)
                })
                .collect(),
        ),
        "at most" => {
            let known = Known {
                used: &BTreeMap::new(),
                bytes: None,
                now_unix: 0,
            };
            quoted(explain(decision, &known).limits)
        }
        "recorded" => decision
            .audited
            .as_ref()
            .map_or(NOTHING.to_owned(), |denial| denial.message.clone()),
        other => panic!("a column is called {other}"),
    }
}

/// Whether everything that was written was understood: no key may be lost.
fn is_kept(written: &Value, read: &Value) -> bool {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().all(|(key, value)| {
            let empty = json!([]);
            let none = value == &empty || value == &json!({});
            none || read.get(key).is_some_and(|read| is_kept(value, read))
        }),
        (Value::Array(written), Value::Array(read)) => {
            written.len() == read.len()
                && written
                    .iter()
                    .zip(read)
                    .all(|(written, read)| is_kept(written, read))
        }
        (written, read) => written == read,
    }
}

#[test]
fn every_example_of_the_document_is_what_the_rules_decide() {
    let mut policies = Vec::new();
    let mut rows_asked = 0;
    for piece in pieces() {
        match piece {
            Piece::Yaml(documents) if documents[0]["kind"] == "EgressPolicy" => {
                policies = documents.iter().map(Compiled::from_json).collect();
            }
            Piece::Yaml(_) => {}
            Piece::Table(rows) => {
                for row in rows.iter().filter(|row| row.contains_key("pod")) {
                    let decision = ask(&policies, row);
                    for (column, said) in row {
                        if !["pod", "asks for", "defaultEgress"].contains(&column.as_str()) {
                            assert_eq!(&answer(column, &decision), said, "{row:#?}");
                        }
                    }
                    rows_asked += 1;
                }
            }
        }
    }
    assert!(rows_asked >= 28, "{rows_asked}");
}

#[test]
fn every_resource_of_the_document_is_read_whole() {
    let mut kinds = BTreeMap::new();
    for piece in pieces() {
        let Piece::Yaml(documents) = piece else {
            continue;
        };
        for document in documents {
            let kind = document["kind"].as_str().unwrap().to_owned();
            let read = match kind.as_str() {
                "EgressPolicy" => {
                    let read: EgressPolicy = serde_json::from_value(document.clone()).unwrap();
                    let name = document["metadata"]["name"].as_str().unwrap();
                    assert_eq!(
                        Compiled::of(&read).rules().is_err(),
                        name == "typo",
                        "{name}"
                    );
                    serde_json::to_value(read).unwrap()
                }
                "CacheQuota" => {
                    let read: CacheQuota = serde_json::from_value(document.clone()).unwrap();
                    serde_json::to_value(read).unwrap()
                }
                other => panic!("{other}"),
            };
            assert!(is_kept(&document, &read), "{document:#}\n{read:#}");
            *kinds.entry(kind).or_insert(0) += 1;
        }
    }
    assert!(
        kinds["EgressPolicy"] >= 10 && kinds["CacheQuota"] == 1,
        "{kinds:?}"
    );
}

#[test]
fn windows_prices_and_quotas_of_the_document_are_what_is_worked_out() {
    let mut quotas = Vec::new();
    let mut asked = [0; 3];
    for piece in pieces() {
        let rows = match piece {
            Piece::Table(rows) => rows,
            Piece::Yaml(documents) => {
                if documents[0]["kind"] == "CacheQuota" {
                    let read = |document| Quota::of(&serde_json::from_value(document).unwrap());
                    quotas = documents.into_iter().map(read).collect();
                }
                continue;
            }
        };
        for row in rows {
            let span = |column: &str| spans(&row[column])[0];
            if row.contains_key("loaded at") {
                let window = Window::parse(&yaml(span("window"))).unwrap();
                let ends = window.ends(window.key(unix(span("loaded at"))));
                assert_eq!(ends, unix(span("counts until")), "{row:?}");
                asked[0] += 1;
            } else if row.contains_key("price") {
                let price = Price::parse(&yaml(span("price"))).unwrap();
                assert_eq!(
                    price.cost(bytes(span("bytes"))).to_string(),
                    row["cost"],
                    "{row:?}"
                );
                asked[1] += 1;
            } else if row.contains_key("used on the node") {
                let used = Usage {
                    logical_bytes: bytes(span("used on the node")),
                    volumes: span("volumes").parse().unwrap(),
                };
                let answer = quota::decide(&quotas, Place::Node, used, bytes(span("new volume")));
                let said = match answer {
                    Ok(()) => "published".to_owned(),
                    Err(exceeded) => format!("refused: {}", exceeded.message),
                };
                assert_eq!(said, row["answer"], "{row:?}");
                asked[2] += 1;
            }
        }
    }
    assert_eq!(asked, [8, 5, 4]);
}

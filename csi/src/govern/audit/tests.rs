//! Lines read back, hostile texts, a writer that does not keep up.

use std::io;

use proptest::prelude::*;

use super::paper::Paper;
use super::*;
use crate::egress::terms::Namespace;

/// 2026-11-27T03:44:23.5Z.
const NOW: u64 = 1_795_751_063_500;

fn denial() -> Entry {
    Entry {
        who: Some(WhoLine {
            namespace: "team-a".to_owned(),
            labels: [("tier".to_owned(), "research".to_owned())].into(),
            service_account: "default".to_owned(),
            pod_uid: Some("3f2a".to_owned()),
        }),
        what: Some(WhatLine {
            source: "models".to_owned(),
            host: "s3.example.com".to_owned(),
            bucket: "weights".to_owned(),
            path: "licensed/llama-2".to_owned(),
            has_digest: false,
            revision: None,
        }),
        policies: vec![PolicyLine {
            name: "research".to_owned(),
            uid: PolicyUid("6a1c".to_owned()),
            generation: Some(3),
        }],
        rule: Some("unnamed".to_owned()),
        account: Some(Account {
            policy: PolicyUid("6a1c".to_owned()),
            budget: "daily".to_owned(),
            namespace: Some(Namespace("team-a".to_owned())),
        }),
        node: Some("gpu-7".to_owned()),
        bytes: 7,
        reason: Some("no".to_owned()),
        ..Entry::of(Event::Deny, NOW)
    }
}

fn read_back(entry: &Entry) -> Read {
    match read(&line::written(entry)) {
        Ok(Line::Entry(read)) => *read,
        other => panic!("{other:?}"),
    }
}

/// Everything that was written, once the last clone of `audit` is gone.
fn lines(paper: &Paper) -> Vec<String> {
    let text = paper.text();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(str::to_owned).collect()
}

/// Takes nothing until it is let.
struct Gated {
    paper: Paper,
    leave: Receiver<()>,
    /// Told when the first line is taken in hand.
    busy: Sender<()>,
}

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.busy.send(()).ok();
        self.leave.recv().ok();
        self.paper.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has no room.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_begins_with_its_format_and_reads_back_as_it_was() {
    let text = line::written(&denial());
    assert_eq!(
        text,
        "{\"audit\":\"v1\",\"time\":\"2026-11-27T03:44:23.5Z\",\"event\":\"Deny\",\"timeUnixMillis\":1795751063500,\
         \"who\":{\"namespace\":\"team-a\",\"labels\":{\"tier\":\"research\"},\"serviceAccount\":\"default\",\"podUid\":\"3f2a\"},\
         \"what\":{\"source\":\"models\",\"host\":\"s3.example.com\",\"bucket\":\"weights\",\"path\":\"licensed/llama-2\",\"hasDigest\":false},\
         \"policies\":[{\"name\":\"research\",\"uid\":\"6a1c\",\"generation\":3}],\"rule\":\"unnamed\",\
         \"account\":{\"policy\":\"6a1c\",\"budget\":\"daily\",\"namespace\":\"team-a\"},\"node\":\"gpu-7\",\"bytes\":7,\"reason\":\"no\"}"
    );
    let back = read_back(&denial());
    assert!(back.is_whole);
    assert_eq!(back.entry, denial());
    let bare = Entry::of(Event::WouldDeny, u64::MAX);
    assert_eq!(read_back(&bare).entry, bare);
}

#[test]
fn a_hostile_key_stays_within_its_field_and_its_line() {
    let hostile =
        "a\n{\"audit\":\"v1\",\"event\":\"Allow\"}\r\u{1b}[2J\u{9b}\u{2028}\u{202e}ü😀\"\\\u{7f}\0";
    let mut entry = denial();
    entry.what.as_mut().unwrap().path = hostile.to_owned();
    entry.reason = Some(hostile.to_owned());
    let text = line::written(&entry);
    assert!(
        text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
        "{text}"
    );
    assert!(
        text.contains("\\u2028\\u202e\\u00fc\\ud83d\\ude00"),
        "{text}"
    );
    assert_eq!(read_back(&entry).entry, entry);
}

#[test]
fn a_line_that_is_too_long_is_cut_and_says_where() {
    let mut entry = denial();
    entry.reason = Some("x".repeat(5_000));
    let text = line::written(&entry);
    assert!(text.ends_with("x\\u2026\",\"cut\":[\"reason\"]}"), "{text}");
    let back = read_back(&entry);
    assert!(back.is_whole, "the decision can be made again");
    assert_eq!(back.entry.what, entry.what);

    entry.what.as_mut().unwrap().path = "é".repeat(2_048);
    let back = read_back(&entry);
    assert!(!back.is_whole);
    let path = back.entry.what.unwrap().path;
    assert_eq!(path, format!("{}…", "é".repeat(170)));
    assert_eq!(back.entry.who, entry.who);
}

#[test]
fn other_lines_of_a_log_are_passed_over_and_what_is_no_line_is_told() {
    for line in [
        "",
        "  ",
        "{}",
        r#"{"timestamp":"2026-11-27","level":"INFO"}"#,
    ] {
        assert_eq!(read(line), Ok(Line::Other), "{line}");
    }
    let dropped = line::dropped(17, NOW);
    assert_eq!(
        dropped,
        r#"{"audit":"v1","dropped":17,"timeUnixMillis":1795751063500}"#
    );
    assert_eq!(read(&dropped), Ok(Line::Dropped(17)));
    for (line, words) in [
        ("thread panicked", "it is not JSON: expected"),
        ("[1]", "it is not a JSON object"),
        (r#"{"audit":"v9"}"#, "it has the format \"\\\"v9\\\"\", and"),
        (r#"{"audit":"v1","dropped":-1}"#, "its field dropped is"),
        (r#"{"audit":"v1","cut":1}"#, "its field cut is"),
        (r#"{"audit":"v1"}"#, "it is no decision: missing field"),
        (
            r#"{"audit":"v1","event":"Sing\u001b","timeUnixMillis":1}"#,
            "it is no decision: unknown variant `Sing\\u{1b}`",
        ),
        (
            r#"{"audit":"v1","event":"Deny","timeUnixMillis":-1}"#,
            "it is no decision: invalid value",
        ),
    ] {
        let why = read(line).unwrap_err();
        assert!(why.starts_with(words), "{line}: {why}");
        assert!(!why.contains('\u{1b}'));
    }
}

#[test]
fn every_line_is_written_before_the_last_clone_is_gone() {
    let paper = Paper::default();
    let audit = Audit::to(paper.clone());
    let other = audit.clone();
    audit.record(&denial());
    drop(audit);
    other.record(&Entry::of(Event::Allow, NOW));
    drop(other);
    let lines = lines(&paper);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], line::written(&denial()));
    assert_eq!(lines[1], line::written(&Entry::of(Event::Allow, NOW)));
}

#[test]
fn a_writer_that_does_not_keep_up_costs_lines_and_no_time_and_says_how_many() {
    let paper = Paper::default();
    let (let_go, leave) = channel();
    let (busy, is_busy) = channel();
    let audit = Audit::to(Gated {
        paper: paper.clone(),
        leave,
        busy,
    });
    audit.record(&denial());
    is_busy.recv().unwrap();
    // One is in hand, and the queue takes as many as it holds.
    for _ in 0..WAITING + 5 {
        audit.record(&denial());
    }
    assert_eq!(audit.dropped(), 5);
    drop(let_go);
    drop(audit);
    let lines = lines(&paper);
    assert_eq!(lines.len(), 1 + 1 + WAITING);
    assert_eq!(lines[1], line::dropped(5, NOW));
    let read: Vec<Line> = lines.iter().map(|line| read(line).unwrap()).collect();
    assert_eq!(read[1], Line::Dropped(5));
    assert!(matches!(read.last(), Some(Line::Entry(_))));
}

#[test]
fn a_line_that_cannot_be_written_counts_as_dropped() {
    let audit = Audit::to(Full);
    audit.record(&denial());
    let dropped = Arc::clone(&audit.shared.dropped);
    drop(audit);
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn a_file_is_appended_to_and_is_not_everybody_s_to_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    for _ in 0..2 {
        let audit = Audit::to_file(&path).unwrap();
        audit.record(&denial());
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 2);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
    let error = Audit::to_file(directory.path()).unwrap_err();
    assert!(error.to_string().starts_with("open "), "{error}");
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9-]{0,20}", "\\PC{0,40}", "(?s).{0,600}"]
}

prop_compose! {
    fn who()(
        namespace in text(),
        labels in proptest::collection::btree_map(text(), text(), 0..6),
        service_account in text(),
        pod_uid in proptest::option::of(text()),
    ) -> WhoLine {
        WhoLine { namespace, labels, service_account, pod_uid }
    }
}

prop_compose! {
    fn what()(
        source in text(),
        host in text(),
        bucket in text(),
        path in "(?s).{0,2048}",
        has_digest in any::<bool>(),
        revision in proptest::option::of(text()),
    ) -> WhatLine {
        WhatLine { source, host, bucket, path, has_digest, revision }
    }
}

prop_compose! {
    fn policy()(name in text(), uid in text(), generation in any::<Option<i64>>()) -> PolicyLine {
        PolicyLine { name, uid: PolicyUid(uid), generation }
    }
}

prop_compose! {
    fn account()(
        policy in text(),
        budget in text(),
        namespace in proptest::option::of(text()),
    ) -> Account {
        Account { policy: PolicyUid(policy), budget, namespace: namespace.map(Namespace) }
    }
}

prop_compose! {
    fn entry()(
        event in proptest::sample::select(vec![Event::Allow, Event::Settle, Event::Override]),
        time_unix_millis in any::<u64>(),
        who in proptest::option::of(who()),
        what in proptest::option::of(what()),
        policies in proptest::collection::vec(policy(), 0..20),
        (rule, quota, node, reason) in (
            proptest::option::of(text()),
            proptest::option::of(text()),
            proptest::option::of(text()),
            proptest::option::of(text()),
        ),
        account in proptest::option::of(account()),
        bytes in any::<u64>(),
    ) -> Entry {
        Entry {
            event, time_unix_millis, who, what, policies, rule, account, quota, node, bytes, reason,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_decision_is_one_short_line_that_reads_back(entry in entry()) {
        let text = line::written(&entry);
        prop_assert!(text.len() < LONGEST, "{}", text.len());
        let begins = "{\"audit\":\"v1\"";
        prop_assert!(text.starts_with(begins), "{text}");
        prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        let back = read_back(&entry);
        if text.contains("\"cut\":[") {
            prop_assert_eq!(
                (back.entry.event, back.entry.time_unix_millis, back.entry.bytes),
                (entry.event, entry.time_unix_millis, entry.bytes)
            );
        } else {
            prop_assert!(back.is_whole);
            prop_assert_eq!(back.entry, entry);
        }
    }

    #[test]
    fn no_text_panics(line in "(?s).{0,200}|\\{\"audit\":\"v1\",(?s).{0,60}\\}") {
        drop(read(&line));
    }
}

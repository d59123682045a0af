//! Logs as people have them.

use super::*;

fn line(event: &str, more: &str) -> String {
    format!(
        "{{\"audit\":\"v1\",\"event\":\"{event}\",\"timeUnixMillis\":1,\"bytes\":7,\
         \"who\":{{\"namespace\":\"team-a\",\"serviceAccount\":\"default\"}},\"what\":{{\"source\":\"models\"}}{more}}}\n"
    )
}

fn events(log: &Log) -> Vec<simulate::Event> {
    log.records.iter().map(|record| record.event).collect()
}

fn read_text(text: &str) -> Log {
    Log::read(text.as_bytes(), "x").unwrap()
}

#[test]
fn a_log_is_read_among_other_lines_and_what_cannot_be_decided_is_counted() {
    let text = [
        "{\"level\":\"INFO\"}\n".to_owned(),
        line("Allow", ""),
        line("Deny", ",\"cut\":[\"reason\"]"),
        line("Settle", ",\"cut\":[\"path\"]"),
        line("Grant", ""),
        line("Deny", ",\"rule\":\"quota\",\"quota\":\"limits\""),
        "{\"audit\":\"v1\",\"event\":\"Settle\",\"timeUnixMillis\":1,\"account\":{\"policy\":\"u\",\"budget\":\"b\"}}\n".to_owned(),
        "{\"audit\":\"v1\",\"event\":\"Settle\",\"timeUnixMillis\":1}\n".to_owned(),
        "\n{\"audit\":\"v1\",\"dropped\":4}\n".to_owned(),
        line("Settle", ",\"new\":{\"field\":1}").trim_end().to_owned(),
    ]
    .concat();
    let log = read_text(&text);
    assert_eq!(
        events(&log),
        [
            simulate::Event::Allowed,
            simulate::Event::Denied,
            simulate::Event::Spent
        ]
    );
    assert_eq!((log.dropped, log.unclear, log.others), (4, 2, 3));
    assert_eq!((log.malformed, log.foreign.0, log.is_cut), (0, 0, false));
    assert_eq!(log.records[2].bytes, 7);
}

#[test]
fn what_log_tools_put_before_a_line_or_around_it_is_taken_off() {
    let plain = line("Allow", "");
    let wrapped = serde_json::json!({"log": line("Deny", ""), "stream": "stdout", "time": "2026-11-27T00:00:00Z"});
    let text = [
        format!("\u{feff}[pod/tonnage-node-x/tonnage] {plain}"),
        format!("2026-11-27T00:00:00.123456789Z {}", line("Settle", "")),
        format!(
            "2026-11-27T00:00:00.1+01:00 stdout F {}",
            line("Settle", ",\"node\":\"n\"")
        ),
        format!("{wrapped}\r\n"),
        // What a tenant could have written into another program's log is no decision.
        format!(
            "2026-11-27T00:00:00Z stderr F {}",
            line("Allow", ",\"node\":\"o\"")
        ),
        format!("level=info path={}", line("Allow", ",\"node\":\"p\"")),
    ]
    .concat();
    let log = read_text(&text);
    assert_eq!(
        events(&log),
        [
            simulate::Event::Allowed,
            simulate::Event::Spent,
            simulate::Event::Spent,
            simulate::Event::Denied
        ]
    );
    assert_eq!(log.foreign, (2, 5));
}

#[test]
fn a_line_that_was_collected_twice_counts_once() {
    let once = line("Settle", "");
    let log = read_text(&format!("{once}{once}[pod/a/b] {once}"));
    assert_eq!((log.records.len(), log.repeated), (1, 2));
    let dropped = "{\"audit\":\"v1\",\"dropped\":4,\"timeUnixMillis\":1}\n";
    assert_eq!(read_text(&dropped.repeat(2)).dropped, 4);
}

#[test]
fn a_decision_that_cannot_be_read_is_named_and_hides_no_other() {
    let good = line("Allow", "");
    for (bad, words) in [
        (&b"{\"audit\":\"v1\",\"event\n"[..], "it is not JSON"),
        (&b"{\"audit\":\"\xff\"}\n"[..], "it is not UTF-8"),
        (
            &b"{\"audit\":\"v1\",\"event\":\"Sing\"}\n"[..],
            "it is no decision",
        ),
        (&b"{\"audit\":\"v2\"}\n"[..], "it has the format"),
    ] {
        let settled = line("Settle", "");
        let text = [good.as_bytes(), bad, settled.as_bytes()].concat();
        let log = Log::read(text.as_slice(), "x").unwrap();
        assert_eq!((log.records.len(), log.malformed), (2, 1));
        assert_eq!(log.named[0].0, 2);
        assert!(log.named[0].1.starts_with(words), "{:?}", log.named);
    }
    let many = "{\"audit\":\"v2\"}\n".repeat(9);
    let log = read_text(&many);
    assert_eq!((log.malformed, log.named.len()), (9, 3));
}

#[test]
fn a_log_that_is_cut_at_its_ends_is_read_but_for_those() {
    let whole = line("Allow", "");
    let text = format!("{}{}{}", &whole[20..], whole, &line("Settle", "")[..40]);
    let log = read_text(&text);
    assert_eq!(log.records.len(), 1);
    assert_eq!(log.foreign, (1, 1));
    assert!(log.is_cut);
    assert_eq!(log.malformed, 0);
}

#[test]
fn a_line_without_end_is_not_held_in_memory() {
    let mut text = vec![b'x'; 3 << 20];
    text.push(b'\n');
    text.extend(line("Allow", "").into_bytes());
    let log = Log::read(text.as_slice(), "x").unwrap();
    assert_eq!((log.records.len(), log.foreign), (1, (1, 1)));
}

#[test]
fn what_is_no_text_says_what_it_is() {
    for (bytes, words) in [
        (
            &b"\x1f\x8b\x08\x00"[..],
            "it is compressed; give it as `zcat",
        ),
        (
            &b"\xff\xfe{\x00"[..],
            "it is text in UTF-16; write it in UTF-8",
        ),
    ] {
        let failure = Log::read(bytes, "audit.log.gz").unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        let sentence = failure.to_string();
        assert!(
            sentence.starts_with(&format!(
                "tonnage: read the audit log audit.log.gz: {words}"
            )),
            "{sentence}"
        );
    }
}

#[test]
fn that_there_is_nothing_to_replay_is_said_with_the_reason() {
    let cut = line("Settle", ",\"cut\":[\"path\"]");
    for (text, code, words) in [
        ("", 66, "x has no decision; give the lines that"),
        ("{\"level\":\"INFO\"}\n", 66, "x has no decision"),
        (cut.as_str(), 66, "no decision of x says all"),
        (
            &line("Grant", ""),
            66,
            "x has what was reserved and granted",
        ),
        (
            "{\"audit\":\"v2\"}\n",
            65,
            "no decision of x can be read (1)",
        ),
    ] {
        let failure = read_text(text).nothing("x").unwrap();
        assert_eq!(failure.code.number(), code, "{text}");
        let sentence = failure.to_string();
        assert!(
            sentence.starts_with(&format!("tonnage: nothing to replay: {words}")),
            "{sentence}"
        );
    }
    assert_eq!(read_text(&line("Deny", "")).nothing("x"), None);
}

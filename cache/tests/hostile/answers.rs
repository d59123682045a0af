//! Answers to ranged reads: bytes are taken only from an answer that is exactly the range of exactly the version.

use proptest::prelude::*;
use proptest::sample::select;
use tonnage_cache::path::RelPath;
use tonnage_cache::source::{Entry, Version, read_to_end};

use super::play::Play;
use super::responder::{After, Answer, raw};
use super::words::{hold, is_sentence, text};

const CONTENT: &[u8] = b"0123456789";
const STATUSES: &[&str] = &[
    "200 OK",
    "204 No Content",
    "206 Partial Content",
    "206 Partial Content",
    "206 Partial Content",
    "301 Moved Permanently",
    "304 Not Modified",
    "403 Forbidden",
    "416 Range Not Satisfiable",
    "500 Oops",
];
const RANGES: &[&str] = &[
    "bytes 2-4/10",
    "bytes 2-4/10",
    "bytes 2-4/11",
    "bytes 2-4/*",
    "bytes 1-3/10",
    "bytes 2-5/10",
    "bytes 4-2/10",
    "bytes */10",
    "bytes=2-4/10",
    "bytes 2-4",
    "bytes 2-18446744073709551615/10",
    "bytes 2-18446744073709551616/10",
    "bytes -4/10",
    "items 2-4/10",
];
const ETAGS: &[&str] = &["\"e\"", "\"e\"", "e", "W/\"e\"", "\"f\"", "\"", "\"\""];
const ENCODINGS: &[&str] = &["identity", "aws-chunked", "gzip", "br", ""];

#[derive(Debug, Clone)]
struct Said {
    status: &'static str,
    range: Option<String>,
    etag: Option<&'static str>,
    encoding: Option<&'static str>,
    length: Option<usize>,
    body: Vec<u8>,
}

fn said() -> impl Strategy<Value = Said> {
    let range = prop_oneof![
        8 => select(RANGES).prop_map(|range| Some(range.to_owned())),
        1 => "[ -~]{0,30}".prop_map(Some),
        1 => Just(None),
    ];
    let etag = proptest::option::weighted(0.9, select(ETAGS));
    let encoding = proptest::option::weighted(0.2, select(ENCODINGS));
    let length = prop_oneof![3 => Just(None), 1 => (0usize..12).prop_map(Some)];
    let body = prop_oneof![
        4 => Just(CONTENT[2..5].to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..12),
    ];
    (select(STATUSES), range, etag, encoding, length, body).prop_map(
        |(status, range, etag, encoding, length, body)| Said {
            status,
            range,
            etag,
            encoding,
            length,
            body,
        },
    )
}

impl Said {
    fn answer(&self) -> Answer {
        let length = self.length.unwrap_or(self.body.len()).to_string();
        let mut fields = vec![("Content-Length", length.as_str())];
        fields.extend(self.range.as_deref().map(|it| ("Content-Range", it)));
        fields.extend(self.etag.map(|it| ("ETag", it)));
        fields.extend(self.encoding.map(|it| ("Content-Encoding", it)));
        let mut answer = raw(self.status, &fields, &self.body);
        answer.after = After::Close;
        answer
    }

    /// Whether it is the answer that an honest server gives.
    fn is_right(&self) -> bool {
        let range = self.range.as_deref().map(str::trim);
        self.status.starts_with("206")
            && range == Some("bytes 2-4/10")
            && matches!(self.etag, Some("\"e\"" | "e"))
            && matches!(self.encoding, None | Some("identity" | "aws-chunked" | ""))
            && self.length.is_none_or(|length| length == 3)
            && self.body.len() >= 3
    }
}

fn entry() -> Entry {
    Entry {
        path: RelPath::parse("a").unwrap(),
        key: "p/a".to_owned(),
        size: 10,
        version: Version {
            etag: Some("\"e\"".to_owned()),
            ..Version::default()
        },
    }
}

#[test]
fn bytes_are_taken_from_the_right_answer_alone() {
    let play = Play::new();
    let entry = entry();
    hold(512, &said(), |said| {
        play.say(said.answer());
        // A connection that was closed may be noticed by its next request alone.
        let source = play.source("s3://b/p");
        let read = play.run(async {
            let body = source.open(&entry, 2..5).await?;
            read_to_end(body).await
        });
        match read {
            Ok(bytes) => {
                prop_assert!(said.is_right(), "{:?}", said);
                prop_assert_eq!(bytes.as_slice(), &said.body[..3]);
            }
            Err(error) => {
                prop_assert!(is_sentence(&error.to_string()), "{}", error);
                let is_plain = said.is_right() && said.body.len() == 3;
                prop_assert!(!is_plain, "{:?}: {}", said, error);
            }
        }
        Ok(())
    });
}

#[test]
fn of_an_error_only_its_code_is_shown() {
    let play = Play::new();
    let source = play.source("s3://b/p");
    let entry = entry();
    let code = prop_oneof![
        "[A-Za-z.]{1,12}",
        "[A-Za-z]{1,8}~[ -~]{0,8}",
        text().prop_map(|text| format!("{text}~")),
    ];
    let region = "[a-z0-9-]{0,12}~?";
    let status = select(vec![
        301u16, 307, 400, 401, 403, 404, 409, 412, 429, 500, 503,
    ]);
    hold(256, &(status, code, region), |(status, code, region)| {
        let body = format!("<Error><Code>{code}</Code><Message>~{code}</Message></Error>");
        let length = body.len().to_string();
        let fields = [
            ("Content-Length", length.as_str()),
            ("x-amz-bucket-region", &region),
            ("Location", "http://~.example/"),
        ];
        play.say(raw(&format!("{status} Said"), &fields, body.as_bytes()));
        let opened = play.run(source.open(&entry, 2..5));
        let sentence = opened.map(drop).unwrap_err().to_string();
        prop_assert!(
            is_sentence(&sentence) && !sentence.contains('~'),
            "{}",
            sentence
        );
        Ok(())
    });
}

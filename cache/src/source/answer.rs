//! Checks on the response to a ranged read: the head against what was listed, then every byte counted. A
//! response that differs in anything is an error, never a shorter or other read. Servers exist that ignore
//! `If-Match` and `Range`; these checks do not depend on them.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use object_store::client::HttpRequest;

use super::body::{Body, Read};
use super::connector::{Reply, ReplyBody};
use super::{Entry, Error};
use crate::path::Escaped;

/// Adds range and pin to a request: `If-Match` for a strong `ETag`, otherwise `If-Unmodified-Since`.
pub(super) fn pin(request: &mut HttpRequest, entry: &Entry, range: &Range<u64>) {
    let headers = request.headers_mut();
    // An empty object has no range; one that covers all is still asked for as a range.
    if let Some(last) = range.end.checked_sub(1).filter(|_| !range.is_empty()) {
        let text = format!("bytes={}-{last}", range.start);
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(header::RANGE, value);
        }
    }
    let (name, text) = match (strong(entry), entry.version.modified_millis) {
        (Some(etag), _) => (header::IF_MATCH, Some(format!("\"{etag}\""))),
        (None, Some(modified)) => (
            header::IF_UNMODIFIED_SINCE,
            super::date::format_http(modified),
        ),
        (None, None) => return,
    };
    if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(name, value);
    }
}

/// The opaque part of a strong `ETag`; listings write it with and without quotes.
fn strong(entry: &Entry) -> Option<&str> {
    let etag = entry.version.etag.as_deref()?;
    (!etag.starts_with("W/")).then(|| bare(etag))
}

fn bare(etag: &str) -> &str {
    etag.strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(etag)
}

/// Checks the head and gives the body, which yields exactly `range`.
pub(super) fn body(reply: Reply, entry: &Entry, range: &Range<u64>) -> Result<Body, Error> {
    check(reply.status, &reply.headers, entry, range)?;
    Ok(Box::pin(Exact {
        inner: reply.body,
        key: entry.key.clone(),
        remaining: range.end.saturating_sub(range.start),
    }))
}

/// Whether the head is that of exactly `range` of exactly the entry's version.
fn check(
    status: StatusCode,
    headers: &HeaderMap,
    entry: &Entry,
    range: &Range<u64>,
) -> Result<(), Error> {
    let text =
        |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let wrong = |what: String| {
        Err(Error::Protocol {
            key: Escaped(&entry.key).to_string(),
            what,
        })
    };
    let length = range.end.saturating_sub(range.start);
    // A changed object explains whatever else differs.
    check_version(headers, entry)?;
    match text(header::CONTENT_RANGE).filter(|_| status == StatusCode::PARTIAL_CONTENT) {
        Some(value) => match parse_content_range(value) {
            None => return wrong("a malformed Content-Range".to_owned()),
            Some((_, total)) if total != entry.size => return Err(changed(entry)),
            Some((sent, _)) if sent != *range => {
                return wrong(format!("bytes {sent:?} instead of {range:?}"));
            }
            Some(_) => {}
        },
        None if status == StatusCode::OK && *range == (0..entry.size) => {
            if text(header::CONTENT_LENGTH).is_none() {
                return wrong("the whole object without its length".to_owned());
            }
        }
        None if status == StatusCode::OK => {
            return wrong(
                "the whole object instead of a range: it does not serve ranges".to_owned(),
            );
        }
        None => return wrong(format!("status {status} without Content-Range")),
    }
    match text(header::CONTENT_LENGTH).map(digits) {
        None => {}
        Some(Some(sent)) if sent == length => {}
        Some(Some(_)) if status == StatusCode::OK => return Err(changed(entry)),
        Some(_) => return wrong("Content-Length differs from the range".to_owned()),
    }
    // `aws-chunked` names the framing of some upload and leaks into stored metadata: the bytes are plain.
    match text(header::CONTENT_ENCODING) {
        None | Some("" | "identity" | "aws-chunked") => Ok(()),
        Some(_) => wrong("an encoded body".to_owned()),
    }
}

fn check_version(headers: &HeaderMap, entry: &Entry) -> Result<(), Error> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let version = &entry.version;
    if let Some(listed) = &version.etag {
        match text("etag") {
            Some(sent) if bare(sent) == bare(listed) => {}
            Some(_) => return Err(changed(entry)),
            None => {
                return Err(Error::Protocol {
                    key: Escaped(&entry.key).to_string(),
                    what: "no ETag, but the listing has one".to_owned(),
                });
            }
        }
    }
    let sent = ["x-amz-version-id", "x-goog-generation", "x-ms-version-id"]
        .into_iter()
        .find_map(text);
    if let (Some(listed), Some(sent)) = (version.version.as_deref(), sent)
        && listed != sent
    {
        return Err(changed(entry));
    }
    let modified = text("last-modified").and_then(super::date::parse_http);
    match (&version.etag, version.modified_millis, modified) {
        // Header fields have whole seconds.
        (None, Some(listed), Some(sent)) if listed / 1000 != sent / 1000 => Err(changed(entry)),
        _ => Ok(()),
    }
}

/// The object is no longer the listed one.
pub(super) fn changed(entry: &Entry) -> Error {
    Error::Changed {
        key: Escaped(&entry.key).to_string(),
    }
}

/// `bytes 0-9/20` as a half-open range and the total.
pub(super) fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let end = digits(last)?.checked_add(1)?;
    Some((digits(first)?..end, digits(total)?))
}

/// A number as HTTP writes it: digits, and no sign.
fn digits(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

/// A body whose length is exactly what was asked for.
struct Exact {
    inner: ReplyBody,
    key: String,
    remaining: u64,
}

impl Exact {
    fn count(&mut self, read: usize) -> Result<usize, Error> {
        if read == 0 && self.remaining > 0 {
            return Err(Error::Unavailable {
                subject: Escaped(&self.key).to_string(),
                what: format!("the body ended {} bytes early", self.remaining),
            });
        }
        self.remaining =
            self.remaining
                .checked_sub(read as u64)
                .ok_or_else(|| Error::Protocol {
                    key: Escaped(&self.key).to_string(),
                    what: "more bytes than asked for".to_owned(),
                })?;
        Ok(read)
    }
}

impl Read for Exact {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<Result<usize, Error>> {
        let this = self.get_mut();
        let read = std::task::ready!(this.inner.poll_read(cx, into))?;
        Poll::Ready(this.count(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::RelPath;
    use crate::source::Version;

    fn entry(size: u64) -> Entry {
        Entry {
            path: RelPath::parse("a").unwrap(),
            key: "a".to_owned(),
            size,
            version: Version {
                etag: Some("\"e\"".to_owned()),
                ..Version::default()
            },
        }
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn only_the_exact_range_of_the_listed_version_passes() {
        let good = [
            ("content-range", "bytes 2-4/10"),
            ("etag", "\"e\""),
            ("content-length", "3"),
        ];
        let with = |name: &'static str, value: &str| {
            let mut map = headers(&good);
            map.insert(name, HeaderValue::from_str(value).unwrap());
            check(StatusCode::PARTIAL_CONTENT, &map, &entry(10), &(2..5))
        };
        assert!(with("x-other", "1").is_ok());
        assert!(with("etag", "e").is_ok());
        assert!(with("content-encoding", "identity").is_ok());
        for (name, value) in [("etag", "\"f\""), ("content-range", "bytes 2-4/11")] {
            assert!(
                matches!(with(name, value), Err(Error::Changed { .. })),
                "{name}: {value}"
            );
        }
        for (name, value) in [
            ("content-range", "bytes 2-5/10"),
            ("content-range", "bytes 1-3/10"),
            ("content-range", "bytes 2-4/*"),
            ("content-range", "bytes 2-18446744073709551615/10"),
            ("content-range", "bytes +2-4/10"),
            ("content-range", "bytes 2-+4/10"),
            ("content-range", "bytes 2-4/+10"),
            ("content-length", "+3"),
            ("content-length", "4"),
            ("content-length", "x"),
            ("content-encoding", "gzip"),
        ] {
            assert!(
                matches!(with(name, value), Err(Error::Protocol { .. })),
                "{name}: {value}"
            );
        }
        let mut bare = headers(&good);
        bare.remove("etag");
        let result = check(StatusCode::PARTIAL_CONTENT, &bare, &entry(10), &(2..5));
        assert!(matches!(result, Err(Error::Protocol { .. })));
    }

    #[test]
    fn a_200_passes_only_for_the_whole_object() {
        let head = headers(&[("etag", "\"e\""), ("content-length", "10")]);
        assert!(check(StatusCode::OK, &head, &entry(10), &(0..10)).is_ok());
        assert!(check(StatusCode::OK, &head, &entry(10), &(0..5)).is_err());
        assert!(check(StatusCode::OK, &head, &entry(12), &(0..12)).is_err());
        assert!(
            check(
                StatusCode::OK,
                &headers(&[("etag", "\"e\"")]),
                &entry(10),
                &(0..10)
            )
            .is_err()
        );
        assert!(check(StatusCode::NO_CONTENT, &head, &entry(10), &(0..10)).is_err());
    }

    #[test]
    fn a_strong_etag_pins_by_if_match_and_a_weak_one_by_date() {
        let mut request = HttpRequest::new(Vec::new().into());
        pin(&mut request, &entry(10), &(2..5));
        assert_eq!(request.headers()["range"], "bytes=2-4");
        assert_eq!(request.headers()["if-match"], "\"e\"");
        let mut weak = entry(10);
        weak.version.etag = Some("W/\"e\"".to_owned());
        weak.version.modified_millis = Some(784_111_777_000);
        let mut request = HttpRequest::new(Vec::new().into());
        pin(&mut request, &weak, &(0..10));
        assert_eq!(
            request.headers()["if-unmodified-since"],
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
        assert!(!request.headers().contains_key("if-match"));
    }
}

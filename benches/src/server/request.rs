//! Reads the head of one request.

use std::io::{self, Read};
use std::ops::RangeInclusive;

use percent_encoding::percent_decode_str;

const HEAD_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 64;

/// One request without its body; bodies are neither expected nor read.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Decoded, without the leading slash.
    pub(super) path: String,
    /// Decoded pairs.
    pub(super) query: Vec<(String, String)>,
    /// First and last byte of the `Range` field; no last byte where it is open.
    pub(super) range: Option<(u64, Option<u64>)>,
    pub(super) if_match: Option<String>,
    pub(super) keep_alive: bool,
}

impl Request {
    /// The next request; `None` where the client has closed. `input` keeps what was read beyond it.
    pub(super) fn read(stream: &mut impl Read, input: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let mut chunk = [0u8; 8192];
        loop {
            if let Some((request, length)) = Self::parse(input)? {
                input.drain(..length);
                return Ok(Some(request));
            }
            if input.len() > HEAD_MAX {
                return Err(io::Error::other("a head that does not end"));
            }
            match stream.read(&mut chunk)? {
                0 if input.is_empty() => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => input.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            }
        }
    }

    fn parse(input: &[u8]) -> io::Result<Option<(Self, usize)>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(length) = parsed.parse(input).map_err(io::Error::other)?
        else {
            return Ok(None);
        };
        let field = |name: &str| {
            parsed
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name))
                .and_then(|header| std::str::from_utf8(header.value).ok())
        };
        // Some clients name the whole URL, as they would to a proxy.
        let target = parsed.path.unwrap_or("/");
        let target = match target.split_once("://") {
            Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
            None => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let closes = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let request = Self {
            method: parsed.method.unwrap_or_default().to_owned(),
            path: decode(path.trim_start_matches('/'), false),
            query: pairs(query),
            range: field("range").and_then(byte_range),
            if_match: field("if-match").map(str::to_owned),
            keep_alive: !closes && parsed.version == Some(1),
        };
        Ok(Some((request, length)))
    }

    /// A query parameter.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The bytes of an object of `size` bytes that are asked for, or nothing if there are none.
    pub(super) fn bytes_of(&self, size: u64) -> Option<RangeInclusive<u64>> {
        let last = size.checked_sub(1)?;
        let (first, until) = self.range.unwrap_or((0, None));
        (first <= last).then(|| first..=until.unwrap_or(last).min(last))
    }
}

fn decode(text: &str, plus_is_space: bool) -> String {
    let text = if plus_is_space {
        text.replace('+', " ")
    } else {
        text.to_owned()
    };
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        })
        .collect()
}

fn byte_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
    let last = last.trim();
    let last = if last.is_empty() {
        None
    } else {
        Some(last.parse().ok()?)
    };
    Some((first.trim().parse().ok()?, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_and_what_follows_it_stays() {
        let mut input = Vec::new();
        let text = b"GET /b/a%20b?list-type=2&prefix=x%2Fy HTTP/1.1\r\nRange: bytes=5-9\r\n\r\nGET";
        let request = Request::read(&mut &text[..], &mut input).unwrap().unwrap();
        assert_eq!(request.path, "b/a b");
        assert_eq!(request.param("prefix"), Some("x/y"));
        assert_eq!(request.bytes_of(8), Some(5..=7));
        assert_eq!(request.bytes_of(5), None);
        assert_eq!(input, b"GET");
    }

    #[test]
    fn an_open_range_ends_with_the_object() {
        assert_eq!(byte_range("bytes=7-"), Some((7, None)));
        assert_eq!(byte_range("bytes=-7"), None);
    }
}

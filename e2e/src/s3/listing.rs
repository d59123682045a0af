//! `ListObjectsV2`: prefix, delimiter, start-after, max-keys, continuation, `encoding-type=url`; and its lies.

use super::answer::{Answer, Refusal, escape};
use super::fault::{ListLie, Plan};
use super::object::{Buckets, hex};
use super::request::Request;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use std::fmt::Write;
use std::ops::Bound;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const PAGE: usize = 1000;
/// What S3 leaves as it is; a space becomes `+`.
const KEY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'*')
    .remove(b'/')
    .remove(b' ');

#[derive(Clone)]
struct Entry {
    key: Vec<u8>,
    size: u64,
    etag: String,
    modified: i64,
}

#[derive(Default)]
struct Page {
    entries: Vec<Entry>,
    common: Vec<Vec<u8>>,
    next: Option<String>,
}

/// Answers one page.
pub(super) fn answer(buckets: &Buckets, request: &Request, plan: &Plan) -> Result<Answer, Refusal> {
    let mut page = true_page(buckets, request)?;
    for lie in &plan.lies {
        if let ListLie::Raw(body) = lie {
            return Ok(Answer::bytes(200, "application/xml", body.clone()));
        }
        apply(lie, &mut page, request);
    }
    if let Some(size) = plan.claim_size {
        page.entries.iter_mut().for_each(|entry| entry.size = size);
    }
    Ok(Answer::bytes(200, "application/xml", xml(&page, request)))
}

fn true_page(buckets: &Buckets, request: &Request) -> Result<Page, Refusal> {
    let missing = || Refusal::new(404, "NoSuchBucket", "The specified bucket does not exist");
    let objects = buckets.find_bucket(&request.bucket).ok_or_else(missing)?;
    let prefix = request.param("prefix").unwrap_or_default();
    let delimiter = request.param("delimiter").filter(|d| !d.is_empty());
    let limit = max_keys(request)?;
    let mut after = start(request)?;
    let mut page = Page::default();
    loop {
        let from = match &after {
            Some(key) if key.as_slice() >= prefix => Bound::Excluded(key.as_slice()),
            Some(_) | None => Bound::Included(prefix),
        };
        let mut rest = objects.range::<[u8], _>((from, Bound::Unbounded));
        let Some((key, object)) = rest.next().filter(|(key, _)| key.starts_with(prefix)) else {
            return Ok(page);
        };
        if page.entries.len() + page.common.len() == limit {
            page.next = after.map(|key| token(&key));
            return Ok(page);
        }
        if let Some(common) = delimiter.and_then(|d| common_prefix(key, prefix, d)) {
            after = Some([common, &[0xff; 1024]].concat());
            page.common.push(common.to_vec());
            continue;
        }
        page.entries.push(Entry {
            key: key.clone(),
            size: object.content.size(),
            etag: object.etag.clone(),
            modified: object.modified,
        });
        after = Some(key.clone());
    }
}

fn common_prefix<'a>(key: &'a [u8], prefix: &[u8], delimiter: &[u8]) -> Option<&'a [u8]> {
    let rest = &key[prefix.len()..];
    let at = rest
        .windows(delimiter.len())
        .position(|window| window == delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

fn max_keys(request: &Request) -> Result<usize, Refusal> {
    let Some(text) = request.param("max-keys") else {
        return Ok(PAGE);
    };
    let parsed = std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse::<usize>().ok());
    let limit =
        parsed.ok_or_else(|| Refusal::new(400, "InvalidArgument", "max-keys is not a number"))?;
    Ok(limit.min(PAGE))
}

/// The key after which the page begins.
fn start(request: &Request) -> Result<Option<Vec<u8>>, Refusal> {
    let Some(token) = request.param("continuation-token") else {
        return Ok(request.param("start-after").map(<[u8]>::to_vec));
    };
    let wrong = || {
        Refusal::new(
            400,
            "InvalidArgument",
            "The continuation token provided is incorrect",
        )
    };
    let pairs = token.strip_prefix(b"t-").ok_or_else(wrong)?.chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let key: Option<Vec<u8>> = pairs.map(byte).collect();
    key.map(Some).ok_or_else(wrong)
}

fn token(key: &[u8]) -> String {
    format!("t-{}", hex(key))
}

fn apply(lie: &ListLie, page: &mut Page, request: &Request) {
    match lie {
        ListLie::SamePage => page.next = Some(token(b"")),
        ListLie::EndlessKeys => {
            let prefix = request.param("prefix").unwrap_or_default();
            let last = start(request).ok().flatten().unwrap_or_default();
            let number = last
                .strip_prefix(prefix)
                .and_then(|n| std::str::from_utf8(n).ok()?.parse::<u64>().ok());
            let first = number.map_or(0, |n| n + 1);
            page.entries = (first..first + PAGE as u64)
                .map(|n| invented([prefix, format!("{n:020}").as_bytes()].concat(), 1))
                .collect();
            page.next = page.entries.last().map(|entry| token(&entry.key));
        }
        ListLie::Also(keys) => {
            let also = keys.iter().map(|(key, size)| invented(key.clone(), *size));
            page.entries.extend(also);
        }
        ListLie::Duplicates => {
            page.entries = page
                .entries
                .iter()
                .flat_map(|e| [e.clone(), e.clone()])
                .collect();
        }
        ListLie::Raw(_) => {}
    }
}

fn invented(key: Vec<u8>, size: u64) -> Entry {
    Entry {
        key,
        size,
        etag: "\"00000000000000000000000000000000\"".to_owned(),
        modified: 1_700_000_000,
    }
}

fn xml(page: &Page, request: &Request) -> Vec<u8> {
    let encode = request.param("encoding-type") == Some(b"url");
    let mut out = Vec::with_capacity(300 * (page.entries.len() + 2));
    let mut text = |text: String| out.extend_from_slice(text.as_bytes());
    text("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".to_owned());
    text(format!(
        "<Name>{}</Name>",
        escape(request.bucket.as_bytes())
    ));
    text(format!(
        "<KeyCount>{}</KeyCount>",
        page.entries.len() + page.common.len()
    ));
    text(format!(
        "<IsTruncated>{}</IsTruncated>",
        page.next.is_some()
    ));
    if encode {
        text("<EncodingType>url</EncodingType>".to_owned());
    }
    if let Some(next) = &page.next {
        text(format!(
            "<NextContinuationToken>{next}</NextContinuationToken>"
        ));
    }
    write_key(
        &mut out,
        "Prefix",
        request.param("prefix").unwrap_or_default(),
        encode,
    );
    for entry in &page.entries {
        out.extend_from_slice(b"<Contents>");
        write_key(&mut out, "Key", &entry.key, encode);
        let mut rest = String::new();
        let _ = write!(
            rest,
            "<LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
            rfc3339(entry.modified),
            escape(entry.etag.as_bytes()),
            entry.size,
        );
        out.extend_from_slice(rest.as_bytes());
    }
    for common in &page.common {
        out.extend_from_slice(b"<CommonPrefixes>");
        write_key(&mut out, "Prefix", common, encode);
        out.extend_from_slice(b"</CommonPrefixes>");
    }
    out.extend_from_slice(b"</ListBucketResult>");
    out
}

/// A key as S3 writes it: URL-encoded if asked, else escaped, with bytes that are not UTF-8 as they are.
fn write_key(out: &mut Vec<u8>, tag: &str, key: &[u8], encode: bool) {
    out.extend_from_slice(format!("<{tag}>").as_bytes());
    if encode {
        out.extend_from_slice(
            percent_encode(key, KEY)
                .to_string()
                .replace(' ', "+")
                .as_bytes(),
        );
    } else {
        for chunk in key.utf8_chunks() {
            out.extend_from_slice(escape(chunk.valid().as_bytes()).as_bytes());
            out.extend_from_slice(chunk.invalid());
        }
    }
    out.extend_from_slice(format!("</{tag}>").as_bytes());
}

fn rfc3339(seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(&Rfc3339).unwrap_or_default()
}

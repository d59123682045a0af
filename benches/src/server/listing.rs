//! `ListObjectsV2`: prefix, delimiter, pages.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::objects::Row;
use super::request::Request;

const KEY: AsciiSet = NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Most rows of a page.
const PAGE: usize = 1000;

/// One page as XML.
pub(super) fn page(bucket: &str, rows: &[Row], request: &Request) -> String {
    let param = |name| request.param(name).unwrap_or_default();
    let (prefix, delimiter) = (param("prefix"), param("delimiter"));
    let encoded = param("encoding-type") == "url";
    let most = request
        .param("max-keys")
        .and_then(|most| most.parse().ok())
        .unwrap_or(PAGE)
        .min(PAGE);
    let after = [
        param("continuation-token"),
        param("start-after"),
        param("marker"),
    ]
    .into_iter()
    .max()
    .unwrap_or_default();
    let first = rows.partition_point(|row| row.key.as_str() < prefix || row.key.as_str() <= after);
    let mut contents = String::new();
    let mut folders = BTreeSet::new();
    let mut count = 0;
    let mut last = None;
    let mut truncated = false;
    let below = rows
        .iter()
        .skip(if after.is_empty() && prefix.is_empty() {
            0
        } else {
            first
        })
        .take_while(|row| row.key.starts_with(prefix));
    for row in below {
        let rest = row.key.get(prefix.len()..).unwrap_or_default();
        let folder = (!delimiter.is_empty())
            .then(|| rest.find(delimiter))
            .flatten()
            .and_then(|at| row.key.get(..prefix.len() + at + delimiter.len()));
        if folder.is_some_and(|folder| folders.contains(folder) || after.starts_with(folder)) {
            last = Some(row.key.as_str());
            continue;
        }
        if count == most {
            truncated = true;
            break;
        }
        count += 1;
        last = Some(row.key.as_str());
        match folder {
            Some(folder) => {
                folders.insert(folder);
            }
            None => contents.push_str(&content(row, encoded)),
        }
    }
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{bucket}</Name>\
         <Prefix>{}</Prefix><MaxKeys>{most}</MaxKeys><KeyCount>{count}</KeyCount><IsTruncated>{truncated}</IsTruncated>",
        text(prefix, encoded)
    );
    if encoded {
        xml.push_str("<EncodingType>url</EncodingType>");
    }
    if let Some(last) = last.filter(|_| truncated) {
        // Writing to a String cannot fail.
        let _infallible = write!(
            xml,
            "<NextContinuationToken>{0}</NextContinuationToken><NextMarker>{0}</NextMarker>",
            text(last, encoded)
        );
    }
    xml.push_str(&contents);
    for folder in folders {
        let _infallible = write!(
            xml,
            "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
            text(folder, encoded)
        );
    }
    xml.push_str("</ListBucketResult>");
    xml
}

fn content(row: &Row, encoded: bool) -> String {
    format!(
        "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{}</ETag>\
         <Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
        text(&row.key, encoded),
        row.etag.replace('"', "&quot;"),
        row.size
    )
}

fn text(value: &str, encoded: bool) -> String {
    if encoded {
        return utf8_percent_encode(value, &KEY).to_string();
    }
    value
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

//! The XML of `ListObjectsV2`, as Amazon, Google and the servers that follow them write it. Keys are taken
//! exactly: with `encoding-type=url` they are decoded (`+` is a space), without they are the element's text.

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::path::RelPath;
use crate::source::collect::Item;
use crate::source::remote::Page;
use crate::source::{Error, Version, date};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    is_truncated: Option<bool>,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
    #[serde(default)]
    contents: Vec<Object>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    key: String,
    size: u64,
    #[serde(rename = "ETag")]
    etag: Option<String>,
    last_modified: Option<String>,
    generation: Option<String>,
}

/// The page, or nothing if the text is not a listing or is cut off without a token. A key that is not UTF-8 is
/// an error by name.
pub(in crate::source) fn parse(text: &str) -> Result<Option<Page>, Error> {
    if !text.contains("<ListBucketResult") {
        return Ok(None);
    }
    let Ok(response) = quick_xml::de::from_str::<Response>(text) else {
        return Ok(None);
    };
    let next = response
        .next_continuation_token
        .filter(|token| !token.is_empty());
    let next = match (response.is_truncated, next) {
        (Some(true), None) => return Ok(None),
        (Some(false), _) => None,
        // A server that only names a next page has one.
        (Some(true) | None, next) => next,
    };
    let is_encoded = response.encoding_type.as_deref() == Some("url");
    let items = response
        .contents
        .into_iter()
        .map(|object| object.into_item(is_encoded))
        .collect::<Result<_, _>>()?;
    Ok(Some(Page { items, next }))
}

impl Object {
    fn into_item(self, is_encoded: bool) -> Result<Item, Error> {
        let key = if is_encoded {
            decode(&self.key)?
        } else {
            self.key
        };
        Ok(Item {
            key,
            size: self.size,
            version: Version {
                etag: self.etag.filter(|etag| !etag.is_empty()),
                version: self.generation.filter(|generation| !generation.is_empty()),
                modified_millis: self.last_modified.as_deref().and_then(date::parse_rfc3339),
            },
        })
    }
}

fn decode(key: &str) -> Result<String, Error> {
    let spaced = key.replace('+', " ");
    let bytes: Vec<u8> = percent_decode_str(&spaced).collect();
    String::from_utf8(bytes).map_err(|error| match RelPath::from_bytes(error.as_bytes()) {
        Err(flaw) => Error::Key(flaw),
        Ok(path) => Error::Reference(path.as_str().to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Reason;

    fn page(body: &str) -> Result<Option<Page>, Error> {
        parse(&format!(
            r#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{body}</ListBucketResult>"#
        ))
    }

    #[test]
    fn keys_come_out_exactly() {
        let contents = |key: &str| {
            format!(
                "<IsTruncated>false</IsTruncated><EncodingType>url</EncodingType><Contents><Key>{key}</Key><Size>1</Size></Contents>"
            )
        };
        for (written, key) in [
            ("a%2Fb%20c+d", "a/b c d"),
            ("a%2Bb%25%23%3F~", "a+b%#?~"),
            ("%E2%98%83", "\u{2603}"),
            ("a%00b", "a\0b"),
        ] {
            assert_eq!(page(&contents(written)).unwrap().unwrap().items[0].key, key);
        }
        match page(&contents("a%FF")) {
            Err(Error::Key(flaw)) => assert_eq!(flaw.reason, Reason::NotUtf8),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_fields_are_read() {
        let page = page(
            "<Name>b</Name><Prefix/><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated>\
             <NextContinuationToken>t&amp;1</NextContinuationToken>\
             <Contents><Key>a+b &amp; c</Key><LastModified>1994-11-06T08:49:37.000Z</LastModified>\
             <ETag>&quot;e&quot;</ETag><Size>9</Size><StorageClass>STANDARD</StorageClass>\
             <Generation>7</Generation></Contents>",
        )
        .unwrap()
        .unwrap();
        assert_eq!(page.next.as_deref(), Some("t&1"));
        assert_eq!(
            page.items,
            [Item {
                key: "a+b & c".to_owned(),
                size: 9,
                version: Version {
                    etag: Some("\"e\"".to_owned()),
                    version: Some("7".to_owned()),
                    modified_millis: Some(784_111_777_000),
                },
            }]
        );
    }

    #[test]
    fn a_token_means_another_page_unless_this_one_is_said_to_be_the_last() {
        let token = "<NextContinuationToken>t</NextContinuationToken>";
        for (truncated, next) in [
            ("", Some("t")),
            ("<IsTruncated>true</IsTruncated>", Some("t")),
            ("<IsTruncated>false</IsTruncated>", None),
        ] {
            let page = page(&format!("{truncated}{token}")).unwrap().unwrap();
            assert_eq!(page.next.as_deref(), next, "{truncated}");
        }
        assert_eq!(page("").unwrap().unwrap().next, None);
    }

    #[test]
    fn what_is_not_a_listing_is_nothing() {
        assert!(parse("<html/>").unwrap().is_none());
        assert!(parse("<ListBucketResult><Contents>").unwrap().is_none());
        assert!(page("<IsTruncated>true</IsTruncated>").unwrap().is_none());
        assert!(page("<IsTruncated>maybe</IsTruncated>").unwrap().is_none());
        assert!(
            page("<Contents><Key>a</Key><Size>-1</Size></Contents>")
                .unwrap()
                .is_none()
        );
        assert!(page("<Contents><Key>a</Key></Contents>").unwrap().is_none());
        assert!(
            page("<IsTruncated>false</IsTruncated>")
                .unwrap()
                .unwrap()
                .items
                .is_empty()
        );
    }
}

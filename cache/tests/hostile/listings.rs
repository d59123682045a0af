//! Listings, as a hostile store writes them: what is taken lies below the prefix, is a tree, and is what was written.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use proptest::sample::select;
use tonnage_cache::error::Kind;
use tonnage_cache::path::{RelPath, check_tree};
use tonnage_cache::source::{Limits, Listing};

use super::harm::{harmed, harms};
use super::play::Play;
use super::responder::{After, Answer};
use super::words::{hold, is_sentence, text};

const S3: &str = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>\
    <Prefix>p/</Prefix><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>\
    <Contents><Key>p/a</Key><LastModified>1994-11-06T08:49:37.000Z</LastModified><ETag>&quot;e&quot;</ETag><Size>3</Size></Contents>\
    <Contents><Key>p/b%2Fc</Key><ETag>&quot;f&quot;</ETag><Size>4</Size></Contents></ListBucketResult>";
const AZURE: &str = "<?xml version=\"1.0\"?><EnumerationResults ContainerName=\"c\"><Prefix>p/</Prefix><Blobs>\
    <Blob><Name>p/a</Name><Properties><Last-Modified>Sun, 06 Nov 1994 08:49:37 GMT</Last-Modified><Etag>0x1</Etag>\
    <Content-Length>3</Content-Length></Properties></Blob>\
    <Blob><Name Encoded=\"true\">p/b%2Fc</Name><Properties><Content-Length>4</Content-Length></Properties></Blob>\
    </Blobs><NextMarker/></EnumerationResults>";
const STORES: &[(&str, &str)] = &[("s3://b/p", S3), ("gs://b/p", S3), ("az://a/c/p", AZURE)];

#[derive(Debug, Clone)]
struct Object {
    key: String,
    size: u64,
    etag: String,
}

fn object() -> impl Strategy<Value = Object> {
    let below = prop_oneof![
        12 => "[ab]{1,2}(/[ab]{1,2}){0,2}",
        2 => "[ab](/[ab]){0,1}/",
        1 => "[a./]{1,5}",
        1 => text(),
    ];
    let key = prop_oneof![
        20 => below.prop_map(|below| format!("p/{below}")),
        1 => text(),
    ];
    let size = prop_oneof![2 => Just(0u64), 8 => 1u64..1000, 1 => any::<u64>()];
    (key, size, "[!-~]{0,10}").prop_map(|(key, size, etag)| Object { key, size, etag })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A page of S3's with these objects.
fn written(objects: &[Object]) -> String {
    let one = |object: &Object| {
        let Object { key, size, etag } = object;
        let key = utf8_percent_encode(key, NON_ALPHANUMERIC);
        let etag = escaped(etag);
        format!("<Contents><Key>{key}</Key><ETag>{etag}</ETag><Size>{size}</Size></Contents>")
    };
    let contents: String = objects.iter().map(one).collect();
    format!(
        "<ListBucketResult><IsTruncated>false</IsTruncated><EncodingType>url</EncodingType>{contents}</ListBucketResult>"
    )
}

/// The keys that are to be taken, sorted by path; nothing if the listing is to be refused.
fn expected(objects: &[Object], limits: &Limits) -> Option<Vec<String>> {
    let mut files: Vec<(RelPath, u64)> = Vec::new();
    for object in objects {
        let below = object.key.strip_prefix("p/")?;
        let is_marker = object.size == 0 && (below.is_empty() || below.ends_with('/'));
        if !is_marker {
            files.push((RelPath::parse(below).ok()?, object.size));
        }
    }
    let sum = |sum: u64, file: &(RelPath, u64)| sum.saturating_add(file.1);
    if files.iter().fold(0, sum) > limits.bytes {
        return None;
    }
    let paths: Vec<String> = files.iter().map(|(path, _)| format!("{path}/")).collect();
    let has_children = |path: &RelPath| {
        let above = format!("{path}/");
        paths
            .iter()
            .any(|other| *other != above && other.starts_with(&above))
    };
    // A file of no bytes above others is their directory's marker.
    files.retain(|(path, size)| *size > 0 || !has_children(path));
    files.sort();
    let sorted: Vec<RelPath> = files.into_iter().map(|(path, _)| path).collect();
    let is_tree = check_tree(sorted.iter()).is_ok() && !sorted.is_empty();
    is_tree.then(|| sorted.iter().map(|path| format!("p/{path}")).collect())
}

/// What holds for every listing that is taken.
fn check(listing: &Listing) -> Result<(), TestCaseError> {
    let paths: Vec<RelPath> = listing.entries.iter().map(|it| it.path.clone()).collect();
    prop_assert!(!paths.is_empty() && paths.is_sorted());
    prop_assert!(check_tree(paths.iter()).is_ok());
    for entry in &listing.entries {
        let key = entry.key.as_str();
        prop_assert!(key == format!("p/{}", entry.path) || key == "p", "{}", key);
    }
    Ok(())
}

#[test]
fn what_is_listed_is_taken_exactly_or_refused_in_a_sentence() {
    let play = Play::new();
    let source = play.source("s3://b/p");
    let limits = Limits::default();
    hold(256, &proptest::collection::vec(object(), 0..6), |objects| {
        play.say_body("200 OK", written(&objects).as_bytes());
        let listing = match play.run(source.list("", &limits)) {
            Ok(listing) => listing,
            Err(error) => {
                prop_assert!(is_sentence(&error.to_string()), "{}", error);
                prop_assert_eq!(expected(&objects, &limits), None);
                return Ok(());
            }
        };
        check(&listing)?;
        let keys: Vec<String> = listing.entries.iter().map(|it| it.key.clone()).collect();
        prop_assert_eq!(expected(&objects, &limits), Some(keys));
        let taken = listing.markers + listing.entries.len() as u64;
        prop_assert_eq!(taken, objects.len() as u64);
        for entry in &listing.entries {
            let etag = entry.version.etag.clone().unwrap_or_default();
            let is_it =
                |it: &Object| it.key == entry.key && it.size == entry.size && it.etag == etag;
            prop_assert!(objects.iter().any(is_it), "{:?}", entry);
        }
        Ok(())
    });
}

#[test]
fn a_broken_listing_is_refused_in_a_sentence_or_is_another_whole_one() {
    let play = Play::new();
    let sources: Vec<_> = STORES.iter().map(|(url, _)| play.source(url)).collect();
    let limits = Limits::default();
    let store = select((0..STORES.len()).collect::<Vec<usize>>());
    hold(384, &(store, harms()), |(store, harms)| {
        let body = harmed(STORES[store].1.as_bytes(), &harms);
        play.say_body("200 OK", &body);
        match play.run(sources[store].list("", &limits)) {
            Ok(listing) => check(&listing),
            Err(error) => {
                prop_assert!(is_sentence(&error.to_string()), "{}", error);
                let kinds = [
                    Kind::Invalid,
                    Kind::NotFound,
                    Kind::Transient,
                    Kind::Exhausted,
                ];
                prop_assert!(kinds.contains(&error.kind()), "{:?}", error);
                Ok(())
            }
        }
    });
}

#[test]
fn whatever_a_server_says_in_place_of_a_listing_ends_in_a_sentence() {
    let play = Play::new();
    let limits = Limits::default();
    let good = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{S3}",
        S3.len()
    );
    let bytes = prop_oneof![
        2 => harms().prop_map(move |harms| harmed(good.as_bytes(), &harms)),
        1 => proptest::collection::vec(any::<u8>(), 0..200),
        1 => "HTTP/1.[019] [0-9]{3} [ -~]{0,10}\r\n([A-Za-z-]{1,12}: ?[ -~]{0,20}\r\n){0,4}\r\n[ -~]{0,40}"
            .prop_map(String::into_bytes),
    ];
    hold(256, &bytes, |bytes| {
        let after = After::Close;
        play.say(Answer { bytes, after });
        let source = play.source("s3://b/p");
        match play.run(source.list("", &limits)) {
            Ok(listing) => check(&listing),
            Err(error) => {
                prop_assert!(is_sentence(&error.to_string()), "{}", error);
                Ok(())
            }
        }
    });
}

#[test]
fn deep_and_large_answers_are_refused_within_bounds() {
    let play = Play::new();
    let source = play.source("s3://b/p");
    let deep = 100_000;
    let nested = format!("{}{}", "<x>".repeat(deep), "</x>".repeat(deep));
    let within = |inner: &str| {
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{inner}</ListBucketResult>")
    };
    for body in [
        within(&nested),
        within(&format!("<Contents><Key>{nested}</Key></Contents>")),
        within(&"<x>".repeat(deep)),
        within(&" ".repeat(9 << 20)),
        within(
            "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><Contents><Key>&b;</Key></Contents>",
        ),
    ] {
        play.say_body("200 OK", body.as_bytes());
        let error = play.run(source.list("", &Limits::default())).unwrap_err();
        assert!(is_sentence(&error.to_string()), "{error}");
    }
}

#[test]
fn a_listing_that_goes_on_is_not_taken_for_a_whole_one() {
    let play = Play::new();
    let source = play.source("s3://b/p");
    let body = "<ListBucketResult><NextContinuationToken>t</NextContinuationToken>\
        <Contents><Key>p/a</Key><Size>1</Size></Contents></ListBucketResult>";
    play.say_body("200 OK", body.as_bytes());
    let listed = play.run(source.list("", &Limits::default()));
    assert!(listed.is_err(), "{listed:?}");
}

#[test]
fn a_version_is_no_longer_than_a_response_can_say_it() {
    let play = Play::new();
    let page = |inner: &str| {
        let file = "<Contents><Key>p/a</Key><Size>1</Size>";
        format!("<ListBucketResult>{file}{inner}</ListBucketResult>")
    };
    let blob = |inner: &str| {
        let file = "<Blob><Name>p/a</Name><Properties><Content-Length>1</Content-Length>";
        format!("<EnumerationResults><Blobs>{file}{inner}</EnumerationResults>")
    };
    let of = |bytes: usize| "e".repeat(bytes);
    let etag = |bytes| page(&format!("<ETag>{}</ETag></Contents>", of(bytes)));
    let generation = |bytes| {
        page(&format!(
            "<Generation>{}</Generation></Contents>",
            of(bytes)
        ))
    };
    let token = |bytes| {
        let token = of(bytes);
        page(&format!(
            "</Contents><NextContinuationToken>{token}</NextContinuationToken>"
        ))
    };
    let tag = |bytes| {
        blob(&format!(
            "<Etag>{}</Etag></Properties></Blob></Blobs>",
            of(bytes)
        ))
    };
    let marker = |bytes| {
        let marker = of(bytes);
        blob(&format!(
            "</Properties></Blob></Blobs><NextMarker>{marker}</NextMarker>"
        ))
    };
    for (url, body, what) in [
        ("s3://b/p", etag(1025), "an ETag of more than 1 KiB"),
        ("s3://b/p", etag(7 << 20), "an ETag of more than 1 KiB"),
        (
            "gs://b/p",
            generation(1025),
            "a generation of more than 1 KiB",
        ),
        (
            "s3://b/p",
            token(8193),
            "a continuation token of more than 8 KiB",
        ),
        ("az://a/c/p", tag(1025), "an ETag of more than 1 KiB"),
        (
            "az://a/c/p",
            marker(8193),
            "a continuation token of more than 8 KiB",
        ),
    ] {
        play.say_body("200 OK", body.as_bytes());
        let error = play.run(play.source(url).list("", &Limits::default()));
        let sentence = error.unwrap_err().to_string();
        assert!(
            is_sentence(&sentence) && sentence.contains(what),
            "{sentence}"
        );
    }
    for (url, body) in [("s3://b/p", etag(1024)), ("az://a/c/p", tag(1024))] {
        play.say_body("200 OK", body.as_bytes());
        let listed = play.run(play.source(url).list("", &Limits::default()));
        assert_eq!(listed.unwrap().entries.len(), 1, "{url}");
    }
}

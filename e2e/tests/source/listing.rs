//! Listings: pages, markers, and those that lie.

use std::time::Duration;

use tonnage_cache::error::Kind;
use tonnage_cache::path::Reason;
use tonnage_cache::source::{Error, Limits, Listing};
use tonnage_e2e::s3::{Effect, Fault, ListLie, Op, S3Server};

use super::{BUCKET, built, config};

async fn lied(lie: ListLie, limits: Limits) -> Result<Listing, Error> {
    let server = S3Server::builder().start().await.unwrap();
    server.put(BUCKET, "dir/a", "1");
    server.fault(Fault::new(Effect::List(lie)).on(Op::List));
    built(&config(&server)).list("dir", &limits).await
}

#[tokio::test]
async fn pages_are_followed_to_the_end() {
    let server = S3Server::builder().start().await.unwrap();
    for n in 0..2345 {
        server.put(BUCKET, format!("dir/{n:05}"), "x");
    }
    let listing = built(&config(&server))
        .list("dir", &Limits::default())
        .await
        .unwrap();
    assert_eq!(listing.entries.len(), 2345);
    assert_eq!(listing.total_bytes(), 2345);
    assert_eq!(server.wire().requests(Op::List), 3);
    assert_eq!(server.wire().accepted(), 1);
    let limits = Limits {
        pages: 2,
        ..Limits::default()
    };
    let error = built(&config(&server))
        .list("dir", &limits)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the listing has more than 2 pages");
}

#[tokio::test]
async fn folder_markers_are_skipped_and_counted() {
    let server = S3Server::builder().start().await.unwrap();
    for marker in ["dir/", "dir/sub/", "dir/sub"] {
        server.put(BUCKET, marker, "");
    }
    server.put(BUCKET, "dir/sub/a", "1");
    server.put(BUCKET, "dir", "");
    let listing = built(&config(&server))
        .list("dir", &Limits::default())
        .await
        .unwrap();
    assert_eq!(listing.markers, 3);
    assert_eq!(listing.entries.len(), 1);
    assert_eq!(listing.entries[0].path.as_str(), "sub/a");
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let server = S3Server::builder().start().await.unwrap();
    let source = built(&config(&server));
    let error = source.list("dir", &Limits::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "bucket \"models\" does not exist");
    server.create_bucket(BUCKET);
    let error = source.list("dir", &Limits::default()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"dir\" in bucket \"models\" does not exist"
    );
    let error = source.list("", &Limits::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    server.put(BUCKET, "dir/", "");
    assert_eq!(
        source
            .list("dir", &Limits::default())
            .await
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
}

#[tokio::test]
async fn listings_that_loop_lie_or_leave_the_prefix_end_in_an_error() {
    let also = |key: &[u8], size| ListLie::Also(vec![(key.to_vec(), size)]);
    let small = Limits {
        objects: 3000,
        ..Limits::default()
    };
    for (lie, words) in [
        (ListLie::SamePage, "runs in a circle"),
        (ListLie::EndlessKeys, "more than 3000 objects"),
        (ListLie::Duplicates, "is listed twice"),
        (also(b"other/x", 1), "leaves the prefix: \"other/x\""),
        (also(b"dir", 1), "leaves the prefix"),
        (
            also(b"dir/huge", 5 << 40),
            "more than 4398046511104 bytes, at \"dir/huge\"",
        ),
        (
            ListLie::Raw("<html>no</html>".into()),
            "a listing that cannot be read",
        ),
        (
            ListLie::Raw("\u{0}".repeat(9 << 20).into()),
            "an answer longer than",
        ),
        (
            ListLie::Raw(
                b"<ListBucketResult>\xff</ListBucketResult>"
                    .as_slice()
                    .into(),
            ),
            "not UTF-8",
        ),
    ] {
        let error = lied(lie, small).await.unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

#[tokio::test]
async fn hostile_keys_are_refused_by_name_and_escaped() {
    let long = [b"dir/".as_slice(), &[b'x'; 256]].concat();
    let deep = [b"dir".as_slice(), &b"/d".repeat(512)].concat();
    for (key, reason, shown) in [
        (
            b"dir/../../etc/passwd".as_slice(),
            Reason::Dots,
            "\"dir/../../etc/passwd\"",
        ),
        (b"dir//a", Reason::Absolute, "\"dir//a\""),
        (b"dir/a//b", Reason::EmptyComponent, "\"dir/a//b\""),
        (b"dir/./a", Reason::Dots, "\"dir/./a\""),
        (b"dir/a\0b", Reason::Control, r#""dir/a\u{0}b""#),
        (b"dir/a\nb", Reason::Control, r#""dir/a\nb""#),
        (b"dir/\x1b[2J", Reason::Control, r#""dir/\u{1b}[2J""#),
        (b"dir/a\xffb", Reason::NotUtf8, "dir/a"),
        (b"dir/a/b", Reason::FileAndDirectory, "\"a\""),
        (&long, Reason::LongComponent, "xxx"),
        (&deep, Reason::Deep, "d/d/d"),
    ] {
        let error = lied(ListLie::Also(vec![(key.to_vec(), 1)]), Limits::default())
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains(shown) && !text.contains('\x1b'), "{text}");
        let Error::Key(flaw) = error else {
            panic!("{text}");
        };
        assert_eq!(flaw.reason, reason, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_takes_no_longer_than_it_may() {
    let server = S3Server::builder().start().await.unwrap();
    server.put(BUCKET, "a", "1");
    server.fault(Fault::new(Effect::NoHead).on(Op::List));
    let limits = Limits {
        listing_time: Duration::from_secs(5),
        ..Limits::default()
    };
    let error = built(&config(&server)).list("", &limits).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "listing bucket \"models\" takes longer than 5s"
    );
}

#[tokio::test]
async fn refusals_of_the_store_are_one_sentence_each() {
    let server = S3Server::builder().start().await.unwrap();
    server.put(BUCKET, "a", "1");
    let source = built(&config(&server));
    for (status, code, kind, words) in [
        (
            403,
            "AccessDenied",
            Kind::Denied,
            "bucket \"models\": the store refuses access (AccessDenied)",
        ),
        (
            403,
            "InvalidAccessKeyId",
            Kind::Unauthenticated,
            "does not accept the credentials (InvalidAccessKeyId)",
        ),
        (
            503,
            "SlowDown",
            Kind::Transient,
            "asks to slow down (SlowDown)",
        ),
        (
            500,
            "InternalError",
            Kind::Transient,
            "the store fails (InternalError)",
        ),
        (
            501,
            "NotImplemented",
            Kind::Transient,
            "the store fails (NotImplemented)",
        ),
    ] {
        server.clear_faults();
        server.fault(Fault::status(status, code));
        let error = source.list("", &Limits::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    server.clear_faults();
    server.fault(Fault::new(Effect::HugeError(10 << 20)));
    let error = source.list("", &Limits::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    server.clear_faults();
    server.fault(Fault::new(Effect::Redirect(
        307,
        "http://169.254.169.254/x?canary".to_owned(),
    )));
    let error = source.list("", &Limits::default()).await.unwrap_err();
    assert!(
        error.to_string().contains("signed requests never follow"),
        "{error}"
    );
    assert!(!error.to_string().contains("canary"));
}

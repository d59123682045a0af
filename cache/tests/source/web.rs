//! Files on a web server.

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use tonnage_cache::error::Kind;
use tonnage_cache::gate::{Connection, Demand, Gate, OpenGate, Permit, Redirection, Refusal};
use tonnage_cache::source::config::{SourceConfig, build, parse_url};
use tonnage_cache::source::{Error, Limits, Source};

use super::conformance::{NAMES, check, content};
use super::responder::{Answer, Head, Responder, file, raw};

fn key(head: &Head) -> String {
    percent_encoding::percent_decode_str(head.target.trim_start_matches('/'))
        .decode_utf8()
        .unwrap()
        .into_owned()
}

fn tree(head: &Head) -> Answer {
    match key(head).strip_prefix("base/tree/") {
        Some(name) if NAMES.contains(&name) => {
            file(head, &content(name), &format!("\"{}\"", name.len()))
        }
        _ => raw("404 Not Found", &[("Content-Length", "0")], b""),
    }
}

fn config(server: &Responder, path: &str) -> SourceConfig {
    SourceConfig {
        name: "web".to_owned(),
        url: format!("http://{}{path}", server.address),
        allow_http: true,
        allow_loopback: true,
        ..SourceConfig::default()
    }
}

async fn one(
    config: &SourceConfig,
    path: &str,
) -> Result<(Arc<dyn Source>, tonnage_cache::source::Entry), Error> {
    let source = super::built(config)?;
    let mut listing = source.list(path, &Limits::default()).await?;
    Ok((source, listing.entries.remove(0)))
}

#[tokio::test]
async fn a_list_of_files_conforms() {
    let server = Responder::start(tree).await;
    let mut config = config(&server, "/base");
    config.files = NAMES.iter().map(|name| format!("tree/{name}")).collect();
    check(super::built(&config).unwrap()).await;
}

#[tokio::test]
async fn a_url_names_one_file() {
    let server = Responder::start(tree).await;
    let (config, path) = parse_url(&format!("http://{}/base/tree/a.bin", server.address)).unwrap();
    assert_eq!(path, "base/tree/a.bin");
    let (_, entry) = one(&config, &path).await.unwrap();
    assert_eq!(
        (entry.path.as_str(), entry.size),
        ("a.bin", content("a.bin").len() as u64)
    );
}

#[tokio::test]
async fn where_head_is_not_answered_one_byte_tells_the_size() {
    let server = Responder::start(|head| match head.method.as_str() {
        "HEAD" => raw("405 Method Not Allowed", &[("Content-Length", "0")], b""),
        _ => file(head, b"0123456789", "\"e\""),
    })
    .await;
    let (_, entry) = one(&config(&server, ""), "a").await.unwrap();
    assert_eq!(entry.size, 10);
    assert_eq!(entry.version.etag.as_deref(), Some("\"e\""));
}

#[tokio::test]
async fn a_redirect_stays_within_the_host_or_goes_where_it_may() {
    let other = Responder::start(|head| file(head, b"0123456789", "\"e\"")).await;
    let at = other.address;
    let server = Responder::start(move |head| {
        let to = match head.target.as_str() {
            "/here" => "/there".to_owned(),
            "/away" => format!("http://localhost:{}/x?sig=canary", at.port()),
            "/loop" => "/loop".to_owned(),
            "/meta" => "http://169.254.169.254/latest".to_owned(),
            "/file" => "file:///etc/passwd".to_owned(),
            _ => return file(head, b"here", "\"h\""),
        };
        raw(
            "302 Found",
            &[("Location", &to), ("Content-Length", "0")],
            b"",
        )
    })
    .await;
    let mut config = config(&server, "");
    assert_eq!(one(&config, "here").await.unwrap().1.size, 4);
    let error = one(&config, "away").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(
        error.to_string().contains("not in redirect_hosts"),
        "{error}"
    );
    assert!(!error.to_string().contains("canary"), "{error}");
    assert!(
        other.heads().is_empty(),
        "nothing may reach a host that is not listed"
    );
    assert!(
        one(&config, "loop")
            .await
            .unwrap_err()
            .to_string()
            .contains("more than 3 redirects")
    );
    assert_eq!(one(&config, "file").await.unwrap_err().kind(), Kind::Denied);
    config.redirect_hosts = vec!["LOCALHOST".to_owned(), "169.254.169.254".to_owned()];
    config
        .hosts
        .insert("localhost".to_owned(), "127.0.0.1".parse().unwrap());
    assert_eq!(one(&config, "away").await.unwrap().1.size, 10);
    let error = one(&config, "meta").await.unwrap_err();
    assert!(error.to_string().contains("link-local"), "{error}");
}

#[tokio::test]
async fn a_server_without_ranges_is_told_from_one_with() {
    let server = Responder::start(|head| {
        let body: &[u8] = if head.method == "HEAD" {
            b""
        } else {
            b"0123456789"
        };
        raw(
            "200 OK",
            &[("Content-Length", "10"), ("ETag", "\"e\"")],
            body,
        )
    })
    .await;
    let (source, entry) = one(&config(&server, ""), "a").await.unwrap();
    assert!(source.open(&entry, 0..10).await.is_ok());
    let error = source.open(&entry, 2..4).await.map(drop).unwrap_err();
    assert!(
        error.to_string().contains("does not serve ranges"),
        "{error}"
    );
}

#[tokio::test]
async fn without_an_etag_the_date_pins() {
    let date = |day: u8| format!("Sun, 0{day} Nov 1994 08:49:37 GMT");
    let server = Responder::start(move |head| {
        let day = if head.method == "HEAD" || head.fields["range"] == "bytes=0-4" {
            6
        } else {
            7
        };
        let modified = date(day);
        let fields = [("Last-Modified", modified.as_str())];
        if head.method == "HEAD" {
            return raw("200 OK", &[("Content-Length", "10"), fields[0]], b"");
        }
        let sent = head.fields["range"].replace('=', " ") + "/10";
        raw(
            "206 Partial Content",
            &[("Content-Length", "5"), ("Content-Range", &sent), fields[0]],
            b"01234",
        )
    })
    .await;
    let (source, entry) = one(&config(&server, ""), "a").await.unwrap();
    assert!(source.open(&entry, 0..5).await.is_ok());
    assert_eq!(
        server.heads()[1].fields["if-unmodified-since"],
        "Sun, 06 Nov 1994 08:49:37 GMT"
    );
    let error = source.open(&entry, 5..10).await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

/// Notes on whose behalf redirects are followed.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<(String, String)>>);

impl Gate for Asked {
    fn connect(&self, _: &Connection) -> Result<(), Refusal> {
        Ok(())
    }

    fn redirect(&self, redirection: &Redirection<'_>) -> Result<(), Refusal> {
        let Redirection { source, host, load } = *redirection;
        assert_eq!(source, "web");
        let asked = (load.to_owned(), host.to_owned());
        self.0.lock().unwrap().push(asked);
        if load == "closed" {
            return Err(Refusal::Denied("not for this load".to_owned()));
        }
        Ok(())
    }

    fn admit<'a>(&'a self, demand: &'a Demand) -> BoxFuture<'a, Result<Box<dyn Permit>, Refusal>> {
        OpenGate.admit(demand)
    }
}

#[tokio::test]
async fn a_redirect_is_asked_for_on_behalf_of_the_load_that_meets_it() {
    let server = Responder::start(|head| match head.target.as_str() {
        "/here" => raw(
            "302 Found",
            &[("Location", "/there"), ("Content-Length", "0")],
            b"",
        ),
        _ => file(head, b"there", "\"t\""),
    })
    .await;
    let gate = Arc::new(Asked::default());
    let source = build(&config(&server, ""), Arc::<Asked>::clone(&gate)).unwrap();
    let limits = Limits::default();
    for (load, is_open) in [("open", true), ("closed", false)] {
        let own = source.on_behalf_of(load).unwrap();
        assert_eq!((own.uid(), own.name()), (source.uid(), source.name()));
        let listing = own.list("here", &limits).await;
        assert_eq!(listing.is_ok(), is_open, "{load}");
        let error = listing.err().map(|error| error.to_string());
        let expected = (!is_open).then(|| "not for this load".to_owned());
        assert_eq!(error, expected);
    }
    let asked: Vec<(String, String)> = gate.0.lock().unwrap().clone();
    let at = |load: &str| (load.to_owned(), "127.0.0.1".to_owned());
    assert_eq!(asked, [at("open"), at("closed")]);
}

//! The URLs that name sources: taken apart, checked, and shown without what may be secret in them.

use url::Url;

use super::Error;
use super::config::SourceConfig;
use crate::path::{Escaped, RelPath};

/// The kind of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    S3,
    Gcs,
    Azure,
    Http,
    File,
}

/// The kind of source that a URL names.
pub(super) fn scheme(url: &str) -> Result<Scheme, Error> {
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("s3") => Ok(Scheme::S3),
        Some("gs") => Ok(Scheme::Gcs),
        Some("az") => Ok(Scheme::Azure),
        Some("http" | "https") => Ok(Scheme::Http),
        Some("file") => Ok(Scheme::File),
        _ => Err(bad_url(
            url,
            "is not the URL of a source: use s3://bucket/path, gs://bucket/path, az://account/container/path, \
             https://host/file or file:///directory",
        )),
    }
}

/// Takes a URL of the command line apart: the source (without name and credentials) and the path below it.
/// An absolute path of the file system is taken as `file://`. Hosts of `http(s)` URLs are given explicitly, so
/// their scheme and loopback addresses are allowed.
pub fn parse_url(text: &str) -> Result<(SourceConfig, String), Error> {
    let mut config = SourceConfig::default();
    if text.starts_with('/') {
        config.url = format!("file://{text}");
        return Ok((config, String::new()));
    }
    let kind = scheme(text)?;
    if kind == Scheme::File {
        text.clone_into(&mut config.url);
        return Ok((config, String::new()));
    }
    refuse_extras(text)?;
    let keep = match kind {
        Scheme::S3 | Scheme::Gcs | Scheme::Http => 3,
        Scheme::Azure => 4,
        Scheme::File => 0,
    };
    let pieces: Vec<&str> = text.splitn(keep + 1, '/').collect();
    let (head, path) = match pieces.split_at_checked(keep) {
        Some((head, rest)) => (head, rest.first().copied().unwrap_or_default()),
        None => (&*pieces, ""),
    };
    let complete = head.len() == keep
        && head
            .get(2..)
            .is_some_and(|named| named.iter().all(|part| !part.is_empty()));
    if !complete {
        return Err(bad_url(text, "names no bucket, container or host"));
    }
    config.url = head.join("/");
    let path = if kind == Scheme::Http {
        config.allow_http = true;
        config.allow_loopback = true;
        decoded(text, path)?
    } else {
        path.trim_end_matches('/').to_owned()
    };
    if !path.is_empty() {
        RelPath::parse(&path)?;
    }
    Ok((config, path))
}

fn decoded(text: &str, path: &str) -> Result<String, Error> {
    percent_encoding::percent_decode_str(path)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| bad_url(text, "is not UTF-8"))
}

/// A URL with a host and without credentials, query and fragment.
pub(super) fn checked_url(text: &str) -> Result<Url, Error> {
    refuse_extras(text)?;
    let url = Url::parse(text).map_err(|_| bad_url(text, "is not a URL"))?;
    // What will be used decides, in whatever words it is written.
    let has_user = !url.username().is_empty() || url.password().is_some();
    refuse(
        text,
        has_user,
        url.query().is_some(),
        url.fragment().is_some(),
    )?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad_url(text, "names no host"));
    }
    Ok(url)
}

/// The URL of a proxy: plain `http`, a host and a port, and nothing else.
pub(super) fn proxy_url(text: &str) -> Result<Url, Error> {
    let bad = || {
        bad_url(
            text,
            "is not the URL of a proxy: write http://host:port, without credentials, path, query or fragment",
        )
    };
    let url = checked_url(text).map_err(|_| bad())?;
    if url.scheme() == "http" && url.path() == "/" && names_port(text) {
        Ok(url)
    } else {
        Err(bad())
    }
}

/// Whether a URL says its port, even if it is the scheme's own.
fn names_port(url: &str) -> bool {
    let (_, port) = pieces(url).authority.rsplit_once(':').unwrap_or_default();
    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// Refuses what can be seen before a URL is understood. The keys of a bucket may have `?` and `#`.
fn refuse_extras(text: &str) -> Result<(), Error> {
    let Pieces {
        scheme, authority, ..
    } = pieces(text);
    let is_web = ["http", "https"]
        .iter()
        .any(|web| scheme.eq_ignore_ascii_case(web));
    refuse(
        text,
        authority.contains('@'),
        is_web && text.contains('?'),
        is_web && text.contains('#'),
    )?;
    if text.chars().any(char::is_control) {
        return Err(bad_url(text, "has a control character"));
    }
    Ok(())
}

fn refuse(text: &str, has_user: bool, has_query: bool, has_fragment: bool) -> Result<(), Error> {
    let why = if has_user {
        "carries credentials, which belong into files"
    } else if has_query {
        "has a query, which may carry a signature: use a plain URL"
    } else if has_fragment {
        "has a fragment"
    } else {
        return Ok(());
    };
    Err(bad_url(text, why))
}

/// A URL by its words.
struct Pieces<'a> {
    scheme: &'a str,
    slashes: &'a str,
    authority: &'a str,
    rest: &'a str,
}

/// Takes a URL apart as clients do: however many slashes there are in front of the authority, whichever way they lean and
/// whatever invisible is between them (WHATWG URL, "special authority ignore slashes state").
fn pieces(text: &str) -> Pieces<'_> {
    let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
    let is_slash = |it: char| matches!(it, '/' | '\\');
    let authority = rest.trim_start_matches(|it: char| is_slash(it) || it.is_control());
    let (slashes, _) = rest.split_at(rest.len().saturating_sub(authority.len()));
    let end = authority.find(|it: char| is_slash(it) || matches!(it, '?' | '#'));
    let (authority, rest) = authority.split_at(end.unwrap_or(authority.len()));
    Pieces {
        scheme,
        slashes,
        authority,
        rest,
    }
}

/// The part of a URL that may be shown: no user information, query or fragment.
fn without_secrets(text: &str) -> String {
    let Pieces {
        scheme,
        slashes,
        authority,
        rest,
    } = pieces(text);
    let colon = if text.contains(':') { ":" } else { "" };
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}{colon}{slashes}{host}{path}")
}

/// A sentence about a text that was given.
pub(super) fn bad(text: &str, why: &str) -> Error {
    Error::Reference(format!("{} {why}", Escaped(text)))
}

/// A sentence about a URL, without what may be secret in it.
pub(super) fn bad_url(text: &str, why: &str) -> Error {
    bad(&without_secrets(text), why)
}

/// Bucket and base prefix of `s3://bucket/base` and its like, checked; the base has no slash at its end.
pub(super) fn bucket_and_base(url: &str) -> Result<(String, String), Error> {
    refuse_extras(url)?;
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let (bucket, base) = rest.split_once('/').unwrap_or((rest, ""));
    check_name(url, bucket)?;
    let base = base.trim_end_matches('/');
    if !base.is_empty() {
        RelPath::parse(base)?;
    }
    Ok((bucket.to_owned(), base.to_owned()))
}

/// Names of buckets, containers and accounts go into hosts and paths as they are.
pub(super) fn check_name(url: &str, name: &str) -> Result<(), Error> {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'$');
    let sound = !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(plain)
        && name.bytes().any(|byte| byte != b'.');
    if sound {
        Ok(())
    } else {
        Err(bad_url(
            url,
            "does not name a valid bucket, container or account",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, url, path) in [
            ("s3://b", "s3://b", ""),
            ("s3://b/", "s3://b", ""),
            ("s3://b/models/llama 3/", "s3://b", "models/llama 3"),
            ("s3://b/a?b#c%41", "s3://b", "a?b#c%41"),
            ("gs://b/x", "gs://b", "x"),
            ("az://acc/cont/x/y", "az://acc/cont", "x/y"),
            ("https://h:8443/a%20b/c", "https://h:8443", "a b/c"),
            ("file:///srv/models", "file:///srv/models", ""),
            ("/srv/models", "file:///srv/models", ""),
        ] {
            let (config, below) = parse_url(text).unwrap();
            assert_eq!((config.url.as_str(), below.as_str()), (url, path), "{text}");
        }
    }

    #[test]
    fn bad_urls_are_refused_with_a_sentence() {
        for (text, words) in [
            ("models", "is not the URL of a source"),
            ("ftp://host/x", "is not the URL of a source"),
            ("s3://", "names no bucket"),
            ("s3:///key", "names no bucket"),
            ("az://account", "names no bucket, container or host"),
            ("s3://b/../x", "has a component"),
            ("s3://b//x", "is absolute"),
            ("https://user:canary@host/x", "carries credentials"),
            ("https://host/x?sig=canary", "has a query"),
            ("ftp://user:canary@host/x?sig=canary", "is not the URL"),
            ("https:/user:canary@host/x", "is not the URL"),
            ("user:canary@host/x", "is not the URL"),
            ("https:///user:canary@host/x", "carries credentials"),
            ("https://\\user:canary@host/x", "carries credentials"),
            ("https:///\t/user:canary@host/x", "carries credentials"),
            ("s3:///user:canary@bucket/x", "carries credentials"),
        ] {
            let error = parse_url(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }
    #[test]
    fn a_url_of_other_words_is_refused_for_what_it_means() {
        for (text, words) in [
            ("HTTPS:user:canary@host", "carries credentials"),
            (" https:\\\\user:canary@host", "carries credentials"),
            ("https:///@host", "carries credentials"),
            ("Https://host/?sig=canary", "has a query"),
            (" https://host/?sig=canary", "has a query"),
            ("HTTPS://host/#canary", "has a fragment"),
            ("https:///user:canary@ho st/", "carries credentials"),
            ("gopher:///x", "names no host"),
            ("https://ho st/", "is not a URL"),
        ] {
            let error = checked_url(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
        let url = checked_url("HTTPS:///host:8443/base").unwrap();
        assert_eq!(url.as_str(), "https://host:8443/base");
    }

    #[test]
    fn a_proxy_is_a_host_and_a_port_and_nothing_else() {
        for (text, host, port) in [
            ("http://proxy.example:3128", "proxy.example", 3128),
            ("http://proxy.example:3128/", "proxy.example", 3128),
            ("http://proxy.example:80", "proxy.example", 80),
            ("http://10.0.0.1:8080", "10.0.0.1", 8080),
            ("http://[fd00::1]:3128", "[fd00::1]", 3128),
        ] {
            let url = proxy_url(text).unwrap();
            let found = (url.host_str(), url.port_or_known_default());
            assert_eq!(found, (Some(host), Some(port)), "{text}");
        }
        for text in [
            "",
            "proxy.example:3128",
            "https://proxy.example:3128",
            "socks5://proxy.example:3128",
            "http://proxy.example",
            "http://proxy.example:",
            "http://[fd00::1]",
            "http://:3128",
            "http://user:canary@proxy.example:3128",
            "http://@proxy.example:3128",
            "http://proxy.example:3128/canary-path",
            "http://proxy.example:3128?x=canary",
            "http://proxy.example:3128/#canary",
            "http://proxy.example:312800",
        ] {
            let error = proxy_url(text).unwrap_err().to_string();
            assert!(error.contains("write http://host:port"), "{text}: {error}");
            assert!(
                !error.contains("canary") || text.contains("canary-path"),
                "{error}"
            );
        }
    }
}

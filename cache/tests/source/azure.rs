//! Azure Blob Storage, played by the responder: what requests look like and what answers mean.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use tonnage_cache::source::config::{Auth, SourceConfig};
use tonnage_cache::source::credentials::Keys;
use tonnage_cache::source::{Limits, Source};

use super::conformance::{NAMES, check, content};
use super::responder::{Answer, Head, Responder, file, raw};

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8().unwrap().into_owned()
}

fn parameter(query: &str, name: &str) -> String {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| decoded(value))
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn blob(key: &str) -> String {
    let name = key.strip_prefix("tree/").unwrap();
    format!(
        "<Blob><Name>{}</Name><Properties><Last-Modified>Sun, 06 Nov 1994 08:49:37 GMT</Last-Modified>\
         <Etag>0x{}</Etag><Content-Length>{}</Content-Length></Properties></Blob>",
        escaped(key),
        name.len(),
        content(name).len()
    )
}

/// Two blobs per page; the marker is the number of blobs that have been.
fn page(query: &str) -> Answer {
    let prefix = parameter(query, "prefix");
    let from: usize = parameter(query, "marker").parse().unwrap_or(0);
    let mut keys: Vec<String> = NAMES.iter().map(|name| format!("tree/{name}")).collect();
    keys.sort_unstable();
    keys.retain(|key| key.starts_with(&prefix));
    let blobs: Vec<String> = (keys.iter().skip(from).take(2))
        .map(|key| blob(key))
        .collect();
    let blobs = blobs.concat();
    let next = if from + 2 < keys.len() {
        (from + 2).to_string()
    } else {
        String::new()
    };
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>{blobs}</Blobs>\
         <NextMarker>{next}</NextMarker></EnumerationResults>"
    );
    let length = body.len().to_string();
    raw("200 OK", &[("Content-Length", &length)], body.as_bytes())
}

fn blobs(head: &Head) -> Answer {
    let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
    let refused = |status, code| {
        raw(
            status,
            &[("Content-Length", "0"), ("x-ms-error-code", code)],
            b"",
        )
    };
    match decoded(path).strip_prefix("/acc/cont") {
        Some("") if query.contains("comp=list") => page(query),
        Some(key) => match key
            .strip_prefix("/tree/")
            .filter(|name| NAMES.contains(name))
        {
            Some(name) => file(head, &content(name), &format!("\"0x{}\"", name.len())),
            None => refused("404 The specified blob does not exist.", "BlobNotFound"),
        },
        None => refused("404 Not Found", "ContainerNotFound"),
    }
}

fn source(server: &Responder, keys: Option<Keys>) -> Arc<dyn Source> {
    let config = SourceConfig {
        name: "az".to_owned(),
        url: "az://acc/cont".to_owned(),
        auth: if keys.is_some() {
            Auth::Env
        } else {
            Auth::Anonymous
        },
        inline: keys,
        ..SourceConfig::default()
    };
    super::built(&config.with_endpoint(&format!("http://{}", server.address))).unwrap()
}

#[tokio::test]
async fn azure_conforms_and_signs_by_key_token_or_not_at_all() {
    let server = Responder::start(blobs).await;
    check(source(&server, None)).await;
    assert!(
        server
            .heads()
            .iter()
            .all(|head| !head.fields.contains_key("authorization"))
    );
    assert!(
        server
            .heads()
            .iter()
            .all(|head| head.fields["x-ms-version"] == "2023-11-03")
    );

    let key = Keys {
        secret: "c2VjcmV0".to_owned(),
        ..Keys::default()
    };
    source(&server, Some(key))
        .list("tree", &Limits::default())
        .await
        .unwrap();
    let signed = server.heads().pop().unwrap();
    assert!(signed.fields["authorization"].starts_with("SharedKey acc:"));

    let sas = Keys::bearer("sv=2023&sig=canary%3D".to_owned());
    let by_sas = source(&server, Some(sas));
    by_sas.list("tree", &Limits::default()).await.unwrap();
    assert!(
        server
            .heads()
            .pop()
            .unwrap()
            .target
            .ends_with("&sv=2023&sig=canary%3D")
    );
    let error = by_sas.list("none", &Limits::default()).await.unwrap_err();
    assert!(!format!("{error} {error:?} {by_sas:?}").contains("canary"));
}

//! The sources against the S3 test server: the conformance suite of `cache`, hostile listings, lying and
//! failing reads, credentials that end, TLS that cannot be trusted. Every test checks what the server saw.

#![expect(clippy::unwrap_used, reason = "a set-up that fails must stop the test")]

#[path = "../../../cache/tests/source/conformance.rs"]
mod conformance;
mod credentials;
mod listing;
mod reading;
mod tls;

use std::sync::Arc;

use tonnage_cache::gate::OpenGate;
use tonnage_cache::source::config::{Auth, SourceConfig, build};
use tonnage_cache::source::credentials::Keys;
use tonnage_cache::source::{Entry, Error, Limits, Source, read_to_end};
use tonnage_e2e::s3::S3Server;

const BUCKET: &str = "models";

fn config(server: &S3Server) -> SourceConfig {
    SourceConfig {
        name: "m".to_owned(),
        url: format!("s3://{BUCKET}"),
        ..SourceConfig::default()
    }
    .with_endpoint(&server.endpoint())
}

fn signed(server: &S3Server, id: &str, secret: &str, token: Option<&str>) -> SourceConfig {
    SourceConfig {
        auth: Auth::Env,
        inline: Some(Keys {
            id: id.to_owned(),
            secret: secret.to_owned(),
            token: token.map(str::to_owned),
        }),
        ..config(server)
    }
}

fn built(config: &SourceConfig) -> Arc<dyn Source> {
    build(config, OpenGate::shared()).unwrap()
}

async fn first(source: &dyn Source, prefix: &str) -> Result<Entry, Error> {
    let mut listing = source.list(prefix, &Limits::default()).await?;
    Ok(listing.entries.remove(0))
}

async fn read(
    source: &dyn Source,
    entry: &Entry,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, Error> {
    read_to_end(source.open(entry, range).await?).await
}

async fn holding_the_tree(builder: tonnage_e2e::s3::Builder) -> S3Server {
    let server = builder.start().await.unwrap();
    for name in conformance::NAMES {
        server.put(BUCKET, format!("tree/{name}"), conformance::content(name));
    }
    server
}

#[tokio::test]
async fn s3_anonymous_in_path_style_conforms() {
    let server = holding_the_tree(S3Server::builder()).await;
    conformance::check(built(&config(&server))).await;
}

#[tokio::test]
async fn s3_signed_with_a_session_token_conforms() {
    let key = tonnage_e2e::s3::Credentials::new("AKID", "secret").with_token("token/+=");
    let server = holding_the_tree(S3Server::builder().credentials(key)).await;
    conformance::check(built(&signed(&server, "AKID", "secret", Some("token/+=")))).await;
}

#[tokio::test]
async fn s3_in_virtual_host_style_conforms() {
    let key = tonnage_e2e::s3::Credentials::new("AKID", "secret");
    let server = holding_the_tree(S3Server::builder().credentials(key).domain("s3.test")).await;
    let mut config = signed(&server, "AKID", "secret", None)
        .with_endpoint(&format!("http://s3.test:{}", server.address().port()));
    config.addressing = Some(tonnage_cache::source::config::Addressing::Virtual);
    let host = format!("{BUCKET}.s3.test");
    config.hosts.insert(host, server.address().ip());
    conformance::check(built(&config)).await;
}

#[tokio::test]
async fn gcs_anonymous_conforms_since_its_xml_is_that_of_s3() {
    let server = holding_the_tree(S3Server::builder()).await;
    let mut config = config(&server);
    config.url = format!("gs://{BUCKET}");
    conformance::check(built(&config)).await;
}

#[tokio::test]
async fn gcs_signed_by_an_hmac_key_conforms() {
    let key = tonnage_e2e::s3::Credentials::new("GOOG1", "secret");
    let server = holding_the_tree(S3Server::builder().credentials(key)).await;
    let mut config = signed(&server, "GOOG1", "secret", None);
    config.url = format!("gs://{BUCKET}");
    conformance::check(built(&config)).await;
}

#[tokio::test]
async fn a_plain_web_server_conforms() {
    let server = holding_the_tree(S3Server::builder().plain_http()).await;
    let config = SourceConfig {
        name: "web".to_owned(),
        url: format!("{}/{BUCKET}", server.endpoint()),
        files: conformance::NAMES
            .iter()
            .map(|name| format!("tree/{name}"))
            .collect(),
        allow_http: true,
        allow_loopback: true,
        ..SourceConfig::default()
    };
    conformance::check(built(&config)).await;
}

#[tokio::test]
async fn a_base_prefix_is_part_of_the_keys_and_not_of_the_paths() {
    let server = holding_the_tree(S3Server::builder()).await;
    let mut config = config(&server);
    config.url = format!("s3://{BUCKET}/tree/dir/");
    let source = built(&config);
    let entry = first(&*source, "deep").await.unwrap();
    assert_eq!(entry.path.as_str(), "er/%41%2F.bin");
    assert_eq!(entry.key, "tree/dir/deep/er/%41%2F.bin");
    assert_eq!(
        source
            .list("", &Limits::default())
            .await
            .unwrap()
            .entries
            .len(),
        4
    );
}

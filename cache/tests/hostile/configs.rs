//! Sources as they are configured: URLs of the command line, and configurations as files hold them.

use proptest::prelude::*;
use tonnage_cache::gate::OpenGate;
use tonnage_cache::path::RelPath;
use tonnage_cache::source::config::{Addressing, SourceConfig, build, parse_url};
use tonnage_cache::source::location::Location;

use super::harm::{harmed, harms};
use super::words::{is_sentence, settings, text};

const WRITTEN: &str = r#"{"name":"m","url":"s3://b/x","endpoint":"https://h:9000","proxy":"http://p:3128","region":"eu","auth":"static","files":["a"],"allowed_cidrs":["127.0.0.0/8"],"hosts":{"h":"10.0.0.1"},"limits":{"objects":5}}"#;

fn url() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "(s3|gs|az)://[a-z0-9._$-]{0,12}(/[a-zA-Z0-9 ._%?#~-]{0,8}){0,3}",
        4 => "https?://[a-zA-Z0-9._:@%\\[\\]-]{0,16}(/[a-zA-Z0-9 ._%?#~-]{0,8}){0,3}",
        1 => "(file|ftp|S3|HTTPS)(://|:)[a-z./]{0,12}",
        1 => text(),
    ]
}

fn config() -> impl Strategy<Value = SourceConfig> {
    let endpoint = prop_oneof![
        "https?://[a-zA-Z0-9._:@%\\[\\]-]{0,16}(/[a-z./%?#]{0,6})?",
        text(),
    ];
    let endpoint = proptest::option::weighted(0.4, endpoint);
    let proxy = prop_oneof!["https?://[a-z0-9.:@\\[\\]-]{0,12}:[0-9]{0,5}/?", text()];
    let proxy = proptest::option::weighted(0.2, proxy);
    let region = proptest::option::weighted(0.3, prop_oneof!["[a-z0-9-]{1,8}", text()]);
    let addressing = prop_oneof![
        Just(None),
        Just(Some(Addressing::Path)),
        Just(Some(Addressing::Virtual)),
    ];
    let files = proptest::collection::vec(text(), 0..2);
    let places = (url(), endpoint, proxy);
    (places, region, addressing, files, any::<bool>()).prop_map(
        |((url, endpoint, proxy), region, addressing, files, allow_http)| SourceConfig {
            url,
            endpoint,
            proxy,
            region,
            addressing,
            files,
            allow_http,
            ..SourceConfig::default()
        },
    )
}

proptest! {
    #![proptest_config(settings(512))]

    #[test]
    fn what_can_be_built_has_a_location_by_which_it_is_governed(config in config()) {
        let source = match build(&config, OpenGate::shared()) {
            Ok(source) => source,
            Err(error) => {
                prop_assert!(is_sentence(&error.to_string()), "{}", error);
                return Ok(());
            }
        };
        let location = Location::of(&config);
        prop_assert!(location.is_ok(), "{:?}", location);
        let location = location.unwrap();
        if config.url.starts_with("file:") {
            prop_assert_eq!(location, Location::default());
            return Ok(());
        }
        prop_assert!(!location.host.is_empty());
        prop_assert_eq!(location.host.to_ascii_lowercase(), location.host.clone());
        let is_dots = location.host.bytes().all(|byte| byte == b'.');
        prop_assert!(is_dots || location.has_host(&location.host));
        prop_assert_eq!(source.base(), location.base.as_str());
        prop_assert!(location.base.is_empty() || RelPath::parse(&location.base).is_ok());
        prop_assert!(is_sentence(source.uid()), "{}", source.uid());
    }

    #[test]
    fn a_url_of_the_command_line_is_taken_apart_or_refused_in_a_sentence(url in url()) {
        match parse_url(&url) {
            Ok((config, below)) => {
                prop_assert!(below.is_empty() || RelPath::parse(&below).is_ok());
                let is_store = ["s3://", "gs://", "az://"].iter().any(|it| config.url.starts_with(it));
                if is_store {
                    // Put together again, it is taken apart in the same way.
                    let (again, same) = parse_url(&format!("{}/{below}", config.url)).unwrap();
                    prop_assert_eq!((again.url, same), (config.url, below));
                }
            }
            Err(error) => prop_assert!(is_sentence(&error.to_string()), "{}", error),
        }
    }

    #[test]
    fn a_url_with_credentials_is_refused_and_they_are_not_shown(
        scheme in "s3|gs|az|http|https|ftp|file2",
        host in "[a-z.]{0,8}",
        rest in "(/[a-z]{0,5}){0,2}(\\?x=[a-z]{0,3})?(#[a-z]{0,2})?",
    ) {
        let url = format!("{scheme}://user:canary@{host}{rest}");
        let sentence = parse_url(&url).unwrap_err().to_string();
        prop_assert!(is_sentence(&sentence) && !sentence.contains("canary"), "{}", sentence);
        let config = SourceConfig { url, allow_http: true, ..SourceConfig::default() };
        let sentence = build(&config, OpenGate::shared()).unwrap_err().to_string();
        prop_assert!(is_sentence(&sentence) && !sentence.contains("canary"), "{}", sentence);
    }

    #[test]
    fn a_signed_url_is_refused_and_its_signature_is_not_shown(
        host in "[a-z]{1,8}",
        path in "(/[a-z]{0,5}){1,2}",
        mark in "[?#]",
    ) {
        let url = format!("https://{host}{path}{mark}sig=canary");
        for sentence in [
            parse_url(&url).unwrap_err().to_string(),
            build(&SourceConfig { url, ..SourceConfig::default() }, OpenGate::shared())
                .unwrap_err()
                .to_string(),
        ] {
            prop_assert!(is_sentence(&sentence) && !sentence.contains("canary"), "{}", sentence);
        }
    }

    #[test]
    fn a_broken_file_of_sources_is_refused_or_is_another_one(harms in harms()) {
        let bytes = harmed(WRITTEN.as_bytes(), &harms);
        if let Ok(config) = serde_json::from_slice::<SourceConfig>(&bytes) {
            let again = serde_json::to_string(&config).unwrap();
            prop_assert_eq!(serde_json::from_str::<SourceConfig>(&again).unwrap(), config);
        }
    }
}

#[test]
fn credentials_behind_a_third_slash_are_credentials() {
    for url in [
        "https:///user:canary@host.example/x",
        "https:////user:canary@host.example/x",
    ] {
        let sentence = parse_url(url).unwrap_err().to_string();
        assert!(!sentence.contains("canary"), "{sentence}");
        let config = SourceConfig {
            url: url.to_owned(),
            ..SourceConfig::default()
        };
        let built = build(&config, OpenGate::shared());
        let shown = built.map_or_else(|error| error.to_string(), |it| it.uid().to_owned());
        assert!(!shown.contains("canary"), "{shown}");
        let config = SourceConfig {
            url: "s3://bucket".to_owned(),
            endpoint: Some(url.to_owned()),
            ..SourceConfig::default()
        };
        assert!(build(&config, OpenGate::shared()).is_err(), "{url}");
    }
}

#[test]
fn an_endpoint_has_no_query_in_whatever_case_its_scheme_is() {
    for endpoint in [
        "HTTPS://minio.example/?sig=canary",
        "Https://minio.example/#x",
    ] {
        let config = SourceConfig {
            url: "s3://bucket".to_owned(),
            endpoint: Some(endpoint.to_owned()),
            ..SourceConfig::default()
        };
        let error = build(&config, OpenGate::shared()).unwrap_err().to_string();
        assert!(!error.contains("canary"), "{error}");
    }
}

//! Redirects of a web server: no way of writing a URL leads to a host that is not allowed.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use tonnage_cache::gate::OpenGate;
use tonnage_cache::source::config::{SourceConfig, build};
use tonnage_cache::source::{Limits, Source};

use super::play::Play;
use super::responder::{Responder, raw};
use super::words::{hold, is_sentence, text};

const LEADS: &[&str] = &[
    "http://",
    "http://",
    "HTTP://",
    "//",
    "/\\",
    "\\\\",
    "http:\\\\",
    "http:",
    "http:/",
    "http:///",
    "\thttp://",
    "ftp://",
    "file://",
    "data:",
    "javascript:",
    "/",
    "?",
    "",
];
const HOSTS: &[&str] = &[
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "0x7f.1",
    "2130706433",
    "0177.0.0.1",
    "localhost",
    "LocalHost.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "user:canary@127.0.0.1",
    "mirror.example@127.0.0.1",
    "mirror.example.",
    "mirror.example..",
    "mirror.example.evil",
    "evil.mirror.example",
    "mirror.example%00.evil",
    "mirror.example%2e",
    "mirror.example\\@127.0.0.1",
    "mirror.example#@127.0.0.1",
    "mirror_example",
    "xn--mirror-example",
    "169.254.169.254",
];

/// A web server that redirects, and may redirect to `mirror.example`, which is at the bait's address.
fn source(play: &Play) -> Arc<dyn Source> {
    let mut config = SourceConfig {
        name: "web".to_owned(),
        url: format!("http://{}", play.server.address),
        allow_http: true,
        allow_loopback: true,
        redirect_hosts: vec!["mirror.example".to_owned()],
        ..SourceConfig::default()
    };
    let here = play.server.address.ip();
    config.hosts.insert("mirror.example".to_owned(), here);
    build(&config, OpenGate::shared()).unwrap()
}

#[test]
fn no_location_leads_to_a_host_that_is_not_listed() {
    let play = Play::new();
    let bait = play.run(Responder::start(|_| {
        raw("200 OK", &[("Content-Length", "1")], b"x")
    }));
    let source = source(&play);
    let ports = [play.server.address.port(), bait.address.port(), 80];
    let tail = prop_oneof![
        "/[a-z]{0,4}\\?sig=canary",
        "[/?#][!-~]{0,10}",
        Just(String::new())
    ];
    let port = select(vec![0usize, 1, 1, 2]);
    let location = prop_oneof![
        6 => (select(LEADS), select(HOSTS), port, tail)
            .prop_map(move |(lead, host, port, tail)| format!("{lead}{host}:{}{tail}", ports[port])),
        1 => text(),
    ];
    hold(384, &location, |location| {
        // What cannot be a field is no location.
        prop_assume!(!location.contains(['\r', '\n', '\0']));
        play.say(raw(
            "302 Found",
            &[("Location", &location), ("Content-Length", "0")],
            b"",
        ));
        let sentence = play.run(source.list("a", &Limits::default())).unwrap_err();
        let sentence = sentence.to_string();
        prop_assert!(
            is_sentence(&sentence) && !sentence.contains("canary"),
            "{}",
            sentence
        );
        prop_assert_eq!(bait.accepted(), 0);
        Ok(())
    });
    // The bait bites where it may.
    play.say(raw(
        "302 Found",
        &[
            (
                "Location",
                &format!("http://Mirror.Example:{}/x", bait.address.port()),
            ),
            ("Content-Length", "0"),
        ],
        b"",
    ));
    play.run(source.list("a", &Limits::default())).unwrap();
    assert_eq!(bait.accepted(), 1);
}

//! Hosts that rules name, against the host that a connection leads to: what is allowed under one name is never another place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::select;
use tonnage_cache::source::config::SourceConfig;
use tonnage_cache::source::location::Location;
use tonnage_csi::egress::select::{HostPattern, covers, is_plain};

use super::words::{is_sentence, settings, text};

const NAMES: &[&str] = &[
    "a.example",
    "A.Example.",
    "b.a.example",
    "xn--mnchen-3ya.example",
    "münchen.example",
    "ａ.example",
    "a。example",
    "a%2eexample",
    "a.example%00",
    "a.example:80",
    "a.example..",
    ".a.example",
    "a_b.example",
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "0x7f.1",
    "0177.0.0.1",
    "2130706433",
    "a.0x7f",
    "1.2.3.a",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[fe80::1%eth0]",
    "[fe80::1%25eth0]",
    "[0:0::7F00:1]",
    "::1",
    "localhost",
    "user@a.example",
    "a.example@evil.example",
    "a.example#evil.example",
    "evil.example\\a.example",
];

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => select(NAMES).prop_map(str::to_owned),
        2 => "[aA0-9x_-]{1,4}(\\.[aA0-9x_-]{1,4}){0,3}\\.?",
        1 => "\\[?[0-9a-fA-F:.]{1,16}\\]?",
        1 => text(),
    ]
}

fn pattern() -> impl Strategy<Value = String> {
    ("(\\*\\.)?", name()).prop_map(|(star, name)| format!("{star}{name}"))
}

/// The host that a connection leads to if a URL names this one.
fn led(written: &str) -> Option<String> {
    let config = SourceConfig {
        url: format!("https://{written}/x"),
        ..SourceConfig::default()
    };
    Location::of(&config).ok().map(|location| location.host)
}

fn address(host: &str) -> Option<IpAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse().ok()
}

proptest! {
    #![proptest_config(settings(1024))]

    #[test]
    fn what_a_rule_allows_as_it_is_written_is_where_the_connection_leads(
        pattern in pattern(),
        written in name(),
    ) {
        match HostPattern::parse(&pattern) {
            Ok(pattern) => {
                if pattern.fits(&written) && let Some(led) = led(&written) {
                    prop_assert!(pattern.fits(&led), "{:?} {:?}", written, led);
                }
            }
            Err(sentence) => prop_assert!(is_sentence(&sentence), "{}", sentence),
        }
    }

    #[test]
    fn a_name_in_a_rule_is_that_name_to_whoever_connects(pattern in name()) {
        let Some(led) = led(&pattern) else {
            return Ok(());
        };
        match HostPattern::parse(&pattern) {
            Ok(HostPattern::Name(name)) => {
                prop_assert_eq!(address(&led), None);
                prop_assert_eq!(led.trim_end_matches('.'), name);
            }
            Ok(HostPattern::Address(allowed)) => prop_assert_eq!(address(&led), Some(allowed)),
            Ok(HostPattern::Suffix(_)) | Err(_) => {}
        }
    }

    #[test]
    fn no_name_allows_an_address(pattern in pattern(), bits: u128, narrow: u32) {
        let addresses = [
            IpAddr::V4(Ipv4Addr::from_bits(narrow)),
            IpAddr::V6(Ipv6Addr::from_bits(bits)),
            IpAddr::V6(Ipv4Addr::from_bits(narrow).to_ipv6_mapped()),
        ];
        if let Ok(pattern @ (HostPattern::Name(_) | HostPattern::Suffix(_))) = HostPattern::parse(&pattern) {
            for address in addresses {
                let led = led(&match address {
                    IpAddr::V4(_) => address.to_string(),
                    IpAddr::V6(_) => format!("[{address}]"),
                });
                prop_assert!(!pattern.fits(&address.to_string()));
                prop_assert!(!pattern.fits(&led.unwrap()));
            }
        }
    }

    #[test]
    fn an_address_in_a_rule_is_found_in_whatever_notation_a_url_has_it(narrow: u32, bits: u128) {
        let wide = Ipv6Addr::from_bits(bits);
        let [a, b, c, d] = Ipv4Addr::from_bits(narrow).octets();
        let rule = HostPattern::parse(&Ipv4Addr::from_bits(narrow).to_string()).unwrap();
        for written in [
            format!("{a}.{b}.{c}.{d}."),
            format!("{narrow}"),
            format!("0x{narrow:x}"),
            format!("0{a:o}.0x{b:X}.{}", narrow & 0xffff),
        ] {
            prop_assert!(rule.fits(&led(&written).unwrap()), "{}", written);
        }
        let rule = HostPattern::parse(&wide.to_string()).unwrap();
        let segments = wide.segments().map(|segment| format!("{segment:04X}"));
        let written = format!("[{}]", segments.join(":"));
        prop_assert!(rule.fits(&led(&written).unwrap()), "{}", written);
    }

    #[test]
    fn a_prefix_covers_what_is_below_it_and_nothing_beside_it(
        upper in "[ab]{1,2}(/[ab]{1,2}){0,2}",
        path in prop_oneof!["[ab]{1,2}(/[ab]{1,2}){0,3}", "[ab./]{0,8}", text()],
    ) {
        let parts = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let is_below = parts(&path).starts_with(&parts(&upper));
        prop_assert_eq!(covers(&upper, &path), is_below);
        prop_assert_eq!(covers(&format!("{upper}/"), &path), is_below);
        prop_assert!(covers("", &path));
        // What a server might rewrite is not plain, so that it is below nothing.
        let rewritten = parts(&path).iter().any(|part| matches!(part.as_str(), "" | "." | ".."));
        prop_assert_eq!(is_plain(&path), path.is_empty() || !rewritten);
    }
}

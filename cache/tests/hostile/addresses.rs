//! Addresses that may be connected to, and hosts as URLs write them: no notation gets around a rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::select;
use tonnage_cache::gate::address::{AddressRules, Cidr, check, decide};
use tonnage_cache::source::config::SourceConfig;
use tonnage_cache::source::location::Location;

use super::words::{is_sentence, settings, text};

const RANGES: &[&str] = &[
    "127.0.0.0/8",
    "10.0.0.0/8",
    "10.96.0.0/12",
    "::1/128",
    "fd00::/8",
    "0.0.0.0/0",
    "::/0",
];
const PLACES: &[&str] = &[
    "127.0.0.1",
    "10.96.0.10",
    "52.218.0.1",
    "169.254.169.254",
    "100.100.100.200",
    "::1",
    "fd00:ec2::254",
    "fd12::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
];

fn ranges() -> impl Strategy<Value = Vec<Cidr>> {
    let one = select(RANGES).prop_map(|text| text.parse::<Cidr>().unwrap());
    proptest::collection::vec(one, 0..3)
}

fn rules() -> impl Strategy<Value = AddressRules> {
    (any::<bool>(), ranges(), ranges()).prop_map(|(allow_loopback, allowed, cluster)| {
        AddressRules {
            allow_loopback,
            allowed,
            cluster,
        }
    })
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        2 => select(PLACES).prop_map(|text| text.parse::<IpAddr>().unwrap()),
        1 => narrow().prop_map(IpAddr::V4),
        1 => any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    ]
}

fn narrow() -> impl Strategy<Value = Ipv4Addr> {
    let special = [
        "127.0.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "10.96.0.1",
    ];
    prop_oneof![
        any::<u32>().prop_map(Ipv4Addr::from_bits),
        select(special.to_vec()).prop_map(|text| text.parse::<Ipv4Addr>().unwrap()),
    ]
}

/// The forms of IPv6 that lead to an IPv4 address, by the documents that define them.
fn carriers(address: Ipv4Addr, tail: u64) -> Vec<Ipv6Addr> {
    let low = u128::from(address.to_bits());
    let at = |high: u128| Ipv6Addr::from_bits(high | low);
    let mut all = vec![
        // RFC 4291, IPv4-mapped; RFC 2765, IPv4-translated; RFC 6052, well-known prefix.
        at(0xffff << 32),
        at(0xffff << 48),
        at(0x64_ff9b << 96),
        // RFC 3056, 6to4: anything may follow.
        Ipv6Addr::from_bits((0x2002 << 112) | (low << 80) | u128::from(tail)),
    ];
    // RFC 4291, IPv4-compatible; `::` and `::1` are not among them.
    if low > 1 {
        all.push(at(0));
    }
    all
}

/// An address as resolvers of old read it.
fn notations(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let bits = address.to_bits();
    vec![
        format!("{address}"),
        format!("{address}."),
        format!("{bits}"),
        format!("0x{bits:x}"),
        format!("0X{bits:X}"),
        format!("0{bits:o}"),
        format!("0x{a:x}.{b}.0{c:o}.{d}"),
        format!("{a}.{b}.{}", bits & 0xffff),
        format!("{a}.{}", bits & 0x00ff_ffff),
    ]
}

fn host(written: &str) -> Option<String> {
    let config = SourceConfig {
        url: format!("https://{written}/x"),
        ..SourceConfig::default()
    };
    Location::of(&config).ok().map(|location| location.host)
}

proptest! {
    #![proptest_config(settings(512))]

    #[test]
    fn an_address_inside_another_is_decided_as_it_is(
        address in narrow(),
        tail: u64,
        rules in rules(),
    ) {
        let expected = decide(address.into(), &rules);
        for carrier in carriers(address, tail) {
            prop_assert_eq!(decide(carrier.into(), &rules), expected, "{}", carrier);
        }
    }

    #[test]
    fn a_range_more_never_takes_leave_away_and_a_cluster_range_more_never_gives_any(
        address in address(),
        rules in rules(),
        more in ranges(),
    ) {
        let may = |rules: &AddressRules| decide(address, rules).is_ok();
        let mut wider = rules.clone();
        wider.allowed.extend(more.clone());
        wider.allow_loopback = true;
        let mut stricter = rules.clone();
        stricter.cluster.extend(more);
        stricter.allow_loopback = false;
        prop_assert!(!may(&rules) || may(&wider));
        prop_assert!(may(&rules) || !may(&stricter));
    }

    #[test]
    fn what_nobody_may_use_is_refused_under_every_rule(
        rules in rules(),
        low: u16,
        tail: u128,
        site in 0xfe80u128..=0xfebf,
        many in 0xff00u128..=0xffff,
    ) {
        let wide = |head: u128| Ipv6Addr::from_bits((head << 112) | (tail >> 16));
        let local = Ipv4Addr::from_bits(0xa9fe_0000 | u32::from(low));
        prop_assert!(decide(local.into(), &rules).is_err());
        prop_assert!(decide(wide(site).into(), &rules).is_err());
        prop_assert!(decide(wide(many).into(), &rules).is_err());
        prop_assert!(decide(Ipv4Addr::from_bits(u32::from(low)).into(), &rules).is_err());
    }

    #[test]
    fn a_refusal_of_any_host_is_a_sentence(host in text(), address in address(), rules in rules()) {
        if let Err(refusal) = check(&host, address, &rules) {
            prop_assert!(is_sentence(&refusal.to_string()), "{}", refusal);
        }
    }

    #[test]
    fn every_notation_of_an_address_is_that_address(address in narrow()) {
        for written in notations(address) {
            prop_assert_eq!(host(&written), Some(address.to_string()), "{}", written);
        }
    }

    #[test]
    fn a_host_of_the_source_is_the_one_that_its_url_leads_to(
        own in "[a-z]{1,4}(\\.[a-z]{1,3}){0,2}\\.?",
        asked in prop_oneof![text(), "[a-zA-Z]{1,4}(\\.[a-zA-Z]{1,3}){0,2}\\.{0,2}"],
    ) {
        let config = SourceConfig { url: format!("https://{own}/x"), ..SourceConfig::default() };
        let location = Location::of(&config).unwrap();
        prop_assert!(location.has_host(&own));
        prop_assert!(location.has_host(&own.to_ascii_uppercase()));
        let root = |host: &str| host.strip_suffix('.').unwrap_or(host).to_owned();
        if location.has_host(&asked) && let Some(led) = host(&asked) {
            prop_assert_eq!(root(&led), root(&location.host));
        }
    }
}

#[test]
fn what_is_no_address_of_this_internet_has_no_location() {
    for written in [
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[::1",
        "256.1.1.1",
        "0x1.0x2.0x3.0x4.0x5",
    ] {
        assert_eq!(host(written), None, "{written}");
    }
    assert_eq!(host("[0:0::7F00:1]").as_deref(), Some("[::7f00:1]"));
}

//! Paths, digests, ranges of addresses and manifests, as texts and bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use tonnage_cache::digest::Digest;
use tonnage_cache::gate::address::Cidr;
use tonnage_cache::manifest::{File, Manifest};
use tonnage_cache::path::{self, RelPath, check_tree};

use super::harm::{harmed, harms};
use super::words::{is_sentence, settings, text};

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..60),
        "[ab./]{0,20}".prop_map(String::into_bytes),
        "([a-z]{1,4}/){60,70}[a-z]{0,2}".prop_map(String::into_bytes),
        "([a-z]{250,260}/){0,9}[a-z]{1,4}".prop_map(String::into_bytes),
        text().prop_map(String::into_bytes),
    ]
}

fn paths() -> impl Strategy<Value = Vec<RelPath>> {
    let path = "[ab-]{1,2}(/[ab-]{1,2}){0,2}".prop_map(|text| RelPath::parse(&text).unwrap());
    proptest::collection::vec(path, 0..7)
}

/// Whether no path is there twice or above another, looked at pair by pair.
fn is_tree(paths: &[RelPath]) -> bool {
    let clash = |one: &RelPath, other: &RelPath| {
        one == other || other.as_str().starts_with(&format!("{one}/"))
    };
    let pairs = |index: usize, one: &RelPath| {
        let others = paths.iter().enumerate();
        others
            .filter(|(other, _)| *other != index)
            .all(|(_, other)| !clash(one, other))
    };
    paths
        .iter()
        .enumerate()
        .all(|(index, one)| pairs(index, one))
}

fn files() -> impl Strategy<Value = Vec<File>> {
    let file = ("[a-c ]{1,3}(/[a-c]{1,2}){0,2}", any::<u64>());
    proptest::collection::vec(file, 0..6).prop_map(|files| {
        let file = |(path, size): (String, u64)| File {
            digest: Digest::of(path.as_bytes()),
            path: RelPath::parse(&path).unwrap(),
            size,
        };
        files.into_iter().map(file).collect()
    })
}

proptest! {
    #![proptest_config(settings(512))]

    #[test]
    fn bytes_become_a_path_as_they_are_or_are_refused_in_a_sentence(bytes in bytes()) {
        match RelPath::from_bytes(&bytes) {
            Ok(path) => {
                prop_assert_eq!(path.as_str().as_bytes(), bytes.as_slice());
                prop_assert!(bytes.len() <= path::LENGTH_MAX);
                prop_assert!(path.components().count() <= path::DEPTH_MAX);
                let is_plain = |part: &str| !matches!(part, "" | "." | "..");
                prop_assert!(path.components().all(is_plain));
                prop_assert!(path.components().all(|part| part.len() <= path::COMPONENT_MAX));
                prop_assert!(!path.as_str().chars().any(char::is_control));
                let json = serde_json::to_string(&path).unwrap();
                prop_assert_eq!(serde_json::from_str::<RelPath>(&json).unwrap(), path);
            }
            Err(error) => prop_assert!(is_sentence(&error.to_string()), "{}", error),
        }
    }

    #[test]
    fn a_set_of_paths_is_a_tree_if_no_pair_clashes(mut paths in paths()) {
        let expected = is_tree(&paths);
        paths.sort();
        prop_assert_eq!(check_tree(paths.iter()).is_ok(), expected);
    }

    #[test]
    fn a_digest_is_64_digits_and_shows_as_the_same(
        text in prop_oneof![
            "(blake3:)?[0-9a-fA-F]{64}",
            "(blake3:){0,2}[0-9a-gA-G]{62,66}",
            text(),
        ],
    ) {
        if let Ok(digest) = text.parse::<Digest>() {
            let digits = text.strip_prefix("blake3:").unwrap_or(&text);
            prop_assert_eq!(digits.to_ascii_lowercase(), digest.to_hex());
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        }
    }

    #[test]
    fn a_range_contains_what_differs_only_behind_its_bits(
        base: u32,
        bits in 0u8..=32,
        wide: u128,
        wide_bits in 0u8..=128,
        flip in 0u32..32,
        wide_flip in 0u32..128,
    ) {
        let narrow = |bits: u32| IpAddr::V4(Ipv4Addr::from_bits(bits));
        let broad = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(bits));
        let shown = format!("{}/{bits}", narrow(base));
        let range: Cidr = shown.parse().unwrap();
        prop_assert_eq!(range.to_string(), shown);
        prop_assert!(range.contains(narrow(base)));
        let is_behind = u32::from(bits) + flip < 32;
        prop_assert_eq!(range.contains(narrow(base ^ (1 << flip))), is_behind);
        prop_assert!(!range.contains(broad(wide)));

        let shown = format!("{}/{wide_bits}", broad(wide));
        let range: Cidr = shown.parse().unwrap();
        prop_assert_eq!(range.to_string(), shown);
        prop_assert!(range.contains(broad(wide)));
        let is_behind = u32::from(wide_bits) + wide_flip < 128;
        prop_assert_eq!(range.contains(broad(wide ^ (1 << wide_flip))), is_behind);
    }

    #[test]
    fn what_is_no_range_is_refused_in_a_sentence(
        text in prop_oneof![text(), "[0-9a-fx.:]{0,18}(/[0-9]{0,4})?"],
    ) {
        match text.parse::<Cidr>() {
            Ok(range) => prop_assert_eq!(range.to_string().parse::<Cidr>(), Ok(range)),
            Err(error) => prop_assert!(is_sentence(&error.to_string()), "{}", error),
        }
    }

    #[test]
    fn a_broken_manifest_is_refused_or_is_another_whole_one(files in files(), harms in harms()) {
        let Ok(manifest) = Manifest::new(files) else {
            return Ok(());
        };
        let bytes = harmed(&manifest.encode(), &harms);
        match Manifest::decode(&bytes) {
            Ok(read) => {
                prop_assert_eq!(read.encode(), bytes.clone());
                prop_assert_eq!(read.digest(), Digest::of(&bytes));
                let paths: Vec<RelPath> = read.files().iter().map(|it| it.path.clone()).collect();
                prop_assert!(is_tree(&paths));
            }
            Err(error) => prop_assert!(is_sentence(&error.to_string()), "{}", error),
        }
    }
}

#[test]
fn a_range_has_no_signs() {
    for text in ["10.0.0.0/+8", "::/+0"] {
        assert!(text.parse::<Cidr>().is_err(), "{text}");
    }
}

//! What tenants write on volumes: attributes, mount flags and ids.

use std::collections::HashMap;

use proptest::prelude::*;
use tonnage_cache::path::RelPath;
use tonnage_csi::volume::{Attributes, MountFlags, VOLUME_ID_MAX, VolumeContext, VolumeId};

use super::words::{is_sentence, settings, text};

fn pair() -> impl Strategy<Value = (String, String)> {
    let known = prop_oneof![
        4 => Just("source".to_owned()),
        4 => "path|include|exclude|revision|digest|pageCache|retain|limitBytes",
        1 => "csi\\.storage\\.k8s\\.io/(pod\\.name|pod\\.namespace|ephemeral|x)",
        1 => "storage\\.kubernetes\\.io/[a-z]{0,3}",
    ];
    let key = prop_oneof![12 => known, 1 => text()];
    let value = prop_oneof![
        4 => "[a-z]{0,6}(/[a-z]{1,3}){0,2}/?",
        1 => "(blake3:)?[0-9a-f]{64}",
        1 => "direct|warm|auto|true|false|[0-9]{1,22}",
        1 => "[a-z*?.]{1,4}([, \n]{1,2}[a-z*?./]{1,4}){0,3}",
        1 => "[a{}\\[\\]\\\\, ]{1,9}",
        1 => text(),
    ];
    (key, value)
}

fn map() -> impl Strategy<Value = HashMap<String, String>> {
    proptest::collection::hash_map(
        prop_oneof![3 => pair().prop_map(|pair| pair.0), 1 => Just("source".to_owned())],
        pair().prop_map(|pair| pair.1),
        0..5,
    )
}

fn is_reserved(key: &str) -> bool {
    key.starts_with("csi.storage.k8s.io/") || key.starts_with("storage.kubernetes.io/")
}

proptest! {
    #![proptest_config(settings(384))]

    #[test]
    fn attributes_are_what_was_written_or_are_refused_in_a_sentence(map in map()) {
        match VolumeContext::parse(&map) {
            Ok(context) => {
                let Attributes { source, path, .. } = &context.attributes;
                prop_assert_eq!(Some(source), map.get("source"));
                prop_assert!(path.is_empty() || RelPath::parse(path).is_ok());
                let written = map.get("path").map_or("", String::as_str);
                prop_assert_eq!(path.as_str(), written.strip_suffix('/').unwrap_or(written));
                prop_assert_eq!(context.pod.is_some(), map.contains_key("csi.storage.k8s.io/pod.name"));
            }
            Err(error) => prop_assert!(is_sentence(&error.to_string()), "{}", error),
        }
    }

    #[test]
    fn a_key_of_nobody_is_refused_and_a_key_of_kubernetes_changes_nothing(
        map in map(),
        key in prop_oneof![text(), "[a-zA-Z]{1,10}"],
        value in text(),
    ) {
        let Ok(attributes) = Attributes::parse(&map) else {
            return Ok(());
        };
        let with = |key: &str| {
            let mut map = map.clone();
            map.insert(key.to_owned(), value.clone());
            Attributes::parse(&map)
        };
        let reserved = with(&format!("csi.storage.k8s.io/{key}"));
        prop_assert_eq!(reserved, Ok(attributes.clone()));
        if !attributes.to_map().contains_key(&key) && !is_reserved(&key) {
            let known = ["path", "include", "exclude", "revision", "digest", "pageCache", "retain", "limitBytes"];
            prop_assert!(known.contains(&key.as_str()) || with(&key).is_err());
        }
    }

    #[test]
    fn what_is_understood_is_understood_again_when_it_is_written(map in map()) {
        if let Ok(attributes) = Attributes::parse(&map) {
            prop_assert_eq!(Attributes::parse(&attributes.to_map()), Ok(attributes));
        }
    }

    #[test]
    fn flags_that_change_a_volume_are_refused_in_a_sentence(
        flags in proptest::collection::vec(
            prop_oneof![8 => "ro|nosuid|nodev|noexec|noatime", 1 => "rw|suid|dev|exec|bind|RO| ro", 1 => text()],
            0..4,
        ),
    ) {
        let allowed = ["ro", "nosuid", "nodev", "noexec", "noatime"];
        let is_allowed = flags.iter().all(|flag| allowed.contains(&flag.as_str()));
        match MountFlags::parse(&flags) {
            Ok(found) => {
                prop_assert!(is_allowed, "{:?}", flags);
                let has = |flag: &str| flags.iter().any(|it| it == flag);
                let expected = MountFlags {
                    noexec: has("noexec"),
                    noatime: has("noatime"),
                    guarded: false,
                };
                prop_assert_eq!(found, expected);
            }
            Err(error) => prop_assert!(!is_allowed && is_sentence(&error.to_string()), "{}", error),
        }
    }

    #[test]
    fn an_id_of_any_characters_names_one_file_and_shows_on_one_line(
        one in prop_oneof![text(), "[a/.]{120,140}"],
        other in text(),
    ) {
        match VolumeId::parse(&one) {
            Ok(id) => {
                prop_assert!((1..=VOLUME_ID_MAX).contains(&one.len()));
                prop_assert!(is_sentence(&id.to_string()), "{}", id);
                let name = id.file_name();
                prop_assert!(name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
                let is_same = VolumeId::parse(&other).is_ok_and(|it| it.file_name() == name);
                prop_assert_eq!(is_same, one == other);
            }
            Err(error) => {
                prop_assert!(!(1..=VOLUME_ID_MAX).contains(&one.len()));
                prop_assert!(is_sentence(&error.to_string()), "{}", error);
            }
        }
    }
}

#[test]
fn globs_with_braces_and_classes_survive_the_map() {
    for include in ["a\\{ b", "[{] b", "a{ b"] {
        let map = HashMap::from([
            ("source".to_owned(), "m".to_owned()),
            ("include".to_owned(), include.to_owned()),
        ]);
        let attributes = Attributes::parse(&map).unwrap();
        let again = Attributes::parse(&attributes.to_map()).unwrap();
        assert_eq!(again.include, attributes.include);
    }
}

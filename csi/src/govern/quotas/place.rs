//! What content is to its namespace: source, path, which files of it. What is the same in all of that takes the place of what was
//! there before, whatever revision or digest it names: an upgrade leaves nothing behind. What differs in any of it stands beside.
//!
//! ```text
//! <source>/<path>@<namespace>.<16 hexadecimal digits: BLAKE3 of all of it>
//! ```
//!
//! A place names a pin (`publish/retain.rs`), which has at most 255 bytes: a path that is too long is cut, and the digits tell it
//! from others. No namespace can write the place of another: names of namespaces have neither `@` nor a dot. Versions before had
//! `<source>/<path>` alone, for all namespaces together ([`place`]).

use tonnage_cache::digest::Digest;

use crate::volume::PublishIdentity;

/// Most bytes of source and path: with the longest name of a namespace, the digits and the pin's prefix it is below 255.
const SHOWN: usize = 160;
/// How many digits of the hash are written.
const DIGITS: usize = 16;

/// Source and path.
pub fn place(source: &str, path: &str) -> String {
    format!("{source}/{path}")
}

/// The place of what a volume of a namespace shows.
pub fn place_of(namespace: &str, identity: &PublishIdentity) -> String {
    let PublishIdentity {
        source,
        path,
        include,
        exclude,
        revision: _,
        digest: _,
        volume_id: _,
        access: _,
        readonly: _,
    } = identity;
    let mut hasher = blake3::Hasher::new();
    let one = [namespace, source.as_str(), path.as_str()];
    let fields = one.into_iter().chain(include.iter().map(String::as_str));
    hasher.update(&(include.len() as u64).to_le_bytes());
    for field in fields.chain(exclude.iter().map(String::as_str)) {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field.as_bytes());
    }
    let digits = Digest::from_bytes(*hasher.finalize().as_bytes()).to_hex();
    let digits = digits.get(..DIGITS).unwrap_or(&digits);
    let mut shown = place(source, path);
    shown.truncate(shown.floor_char_boundary(SHOWN));
    format!("{shown}@{namespace}.{digits}")
}

/// Whether a place is one of a namespace's own.
pub fn is_of(place: &str, namespace: &str) -> bool {
    let Some((_, rest)) = place.rsplit_once('@') else {
        return false;
    };
    let digits = rest
        .strip_prefix(namespace)
        .and_then(|rest| rest.strip_prefix('.'));
    digits.is_some_and(|digits| digits.len() == DIGITS && !digits.contains('.'))
}

/// Whether retained content of a place, which may be one of a version before, is what a namespace's volume shows.
pub(super) fn is_at(retained: &str, namespace: &str, place: &str) -> bool {
    let rest = place.strip_prefix(retained);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(&format!("@{namespace}.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{Access, Attributes, VolumeId};

    fn attributes(path: &str) -> Attributes {
        Attributes {
            source: "models".to_owned(),
            path: path.to_owned(),
            ..Attributes::default()
        }
    }

    fn of(namespace: &str, volume: &str, attributes: &Attributes) -> String {
        let volume = VolumeId::parse(volume).unwrap();
        let identity = PublishIdentity::new(volume, attributes, Access::Shared, true);
        place_of(namespace, &identity)
    }

    #[test]
    fn volumes_of_the_same_content_of_a_namespace_have_one_place_and_all_others_their_own() {
        let plain = attributes("llama");
        let own = of("team-a", "v1", &plain);
        assert!(own.starts_with("models/llama@team-a."), "{own}");
        assert_eq!(own.len(), "models/llama@team-a.".len() + 16);
        assert_eq!(of("team-a", "v2", &plain), own);
        let retained = Attributes {
            retain: true,
            limit_bytes: Some(7),
            ..plain.clone()
        };
        assert_eq!(of("team-a", "v1", &retained), own);
        let globs = || vec!["*.json".to_owned()];
        let included = Attributes {
            include: globs(),
            ..plain.clone()
        };
        let excluded = Attributes {
            exclude: globs(),
            ..plain.clone()
        };
        let others = [
            of("team-b", "v1", &plain),
            of("team-a", "v1", &attributes("llama/8b")),
            of("team-a", "v1", &included),
            of("team-a", "v1", &excluded),
        ];
        let mut all: Vec<&String> = others.iter().chain([&own]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn another_revision_or_digest_takes_the_same_place() {
        let plain = attributes("llama");
        let own = of("team-a", "v1", &plain);
        for named in [b"old", b"new"] {
            let digest = Some(Digest::of(named));
            let pinned = Attributes {
                revision: digest,
                ..plain.clone()
            };
            let known = Attributes {
                digest,
                ..plain.clone()
            };
            assert_eq!(of("team-a", "v1", &pinned), own);
            assert_eq!(of("team-a", "v1", &known), own);
        }
    }

    #[test]
    fn a_place_is_that_of_its_namespace_alone() {
        let own = of("team-a", "v1", &attributes("x@team-b.0123456789abcdef"));
        assert!(is_of(&own, "team-a"), "{own}");
        for other in ["team-b", "team", "eam-a", ""] {
            assert!(!is_of(&own, other), "{own} {other}");
        }
        assert!(!is_of("models/llama", "team-a"));
    }

    #[test]
    fn a_place_fits_into_a_pin_however_long_the_path_is() {
        let namespace = "n".repeat(63);
        let long = |end: &str| {
            of(
                &namespace,
                "v",
                &attributes(&format!("{}{end}", "ü".repeat(400))),
            )
        };
        assert!("retain:".len() + long("a").len() <= 255);
        assert_ne!(long("a"), long("b"));
    }
}

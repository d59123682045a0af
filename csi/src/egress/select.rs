//! What a rule is about: namespaces by name and label, hosts by name or suffix, paths by whole components. The same words
//! mean the same in an `EgressPolicy` as in a Source's `consumers`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tonnage_cache::path::Escaped;

use crate::crd::NamespaceSelector;

/// Longest name of a host (RFC 1035).
const HOST_MAX: usize = 253;

/// Whether a selector has a namespace with these labels: `names` is empty or has it, and it has all the labels.
pub fn selects(
    selector: &NamespaceSelector,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    let NamespaceSelector {
        names,
        match_labels,
    } = selector;
    let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    (names.is_empty() || names.iter().any(|name| name == namespace)) && match_labels.iter().all(has)
}

/// Whether a path is another one, or below it: `llama` covers `llama/8b` and not `llama-2`. The empty path covers all.
pub fn covers(upper: &str, path: &str) -> bool {
    let upper = upper.trim_end_matches('/');
    let is_end = |rest: &str| upper.is_empty() || rest.is_empty() || rest.starts_with('/');
    path.strip_prefix(upper).is_some_and(is_end)
}

/// Whether a server could take a path for another one: it has a component that is empty, `.` or `..`. Such a path is below
/// no prefix.
pub fn is_plain(path: &str) -> bool {
    let is_plain = |component: &str| !matches!(component, "" | "." | "..");
    path.is_empty() || path.split('/').all(is_plain)
}

/// Hosts that an allow-list names. Names are compared without regard to case, and to a dot at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// This name.
    Name(String),
    /// This address.
    Address(IpAddr),
    /// Names that end in this, which begins with a dot.
    Suffix(String),
}

impl HostPattern {
    /// Reads `s3.example.com`, `*.example.com`, `192.0.2.1` or `2001:db8::1`, or says in a sentence what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{} is not a host: write a name such as s3.example.com, *.example.com or an address, without scheme and port",
                Escaped(text)
            )
        };
        let (suffix, name) = match text.strip_prefix("*.") {
            Some(rest) => (true, canonical(rest)),
            None => (false, canonical(text)),
        };
        match name.parse::<IpAddr>() {
            Ok(_) if suffix => Err(bad()),
            Ok(address) => Ok(Self::Address(address)),
            Err(_) if !is_name(&name) => Err(bad()),
            Err(_) if suffix => Ok(Self::Suffix(format!(".{name}"))),
            Err(_) => Ok(Self::Name(name)),
        }
    }

    /// Whether it names a host as a URL writes it.
    pub fn fits(&self, host: &str) -> bool {
        let host = canonical(host);
        match (self, host.parse::<IpAddr>()) {
            (Self::Address(address), Ok(host)) => *address == host,
            // An address has no suffix: 10.1.2.3 is not below 2.3.
            (Self::Address(_), Err(_)) | (Self::Name(_) | Self::Suffix(_), Ok(_)) => false,
            (Self::Name(name), Err(_)) => *name == host,
            (Self::Suffix(suffix), Err(_)) => {
                is_name(&host) && host.len() > suffix.len() && host.ends_with(suffix.as_str())
            }
        }
    }
}

/// A host in small letters, without the dot at its end and the brackets of an IPv6 address.
fn canonical(host: &str) -> String {
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Whether it is labels of letters, digits, hyphens and underscores, joined by dots, and not all of it a number: resolvers
/// take `0x7f.1` and `2130706433` for addresses.
fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    host.len() <= HOST_MAX && host.split('.').all(is_label) && !is_number
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, host: &str) -> bool {
        HostPattern::parse(pattern).unwrap().fits(host)
    }

    #[test]
    fn a_host_fits_its_name_or_a_suffix_of_whole_labels() {
        for (pattern, host, is) in [
            ("s3.example.com", "s3.example.com", true),
            ("s3.example.com", "S3.Example.COM.", true),
            ("S3.example.com.", "s3.example.com", true),
            ("s3.example.com", "s3.example.com.evil.org", false),
            ("s3.example.com", "xs3.example.com", false),
            ("*.example.com", "s3.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "..example.com", false),
            ("*.example.com", "evilexample.com", false),
            ("*.example.com", "a/b.example.com", false),
            ("*.example.com", "a\n.example.com", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.10", false),
            ("2001:db8::1", "[2001:DB8:0::1]", true),
            ("2001:db8::1", "2001:db8::2", false),
            ("*.example", "192.0.2.1", false),
            ("localhost", "127.0.0.1", false),
        ] {
            assert_eq!(fits(pattern, host), is, "{pattern} {host:?}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_in_a_sentence() {
        for text in [
            "",
            "*",
            "*.",
            "**.example.com",
            "s3.*.com",
            "https://s3.example.com",
            "s3.example.com:443",
            "s3.example.com/x",
            "*.2.3",
            "*.192.0.2.1",
            "0x7f.1",
            "2130706433",
            "127.1",
            "münchen.example",
            "a..b",
            ".a",
            "a\0",
        ] {
            let sentence = HostPattern::parse(text).unwrap_err();
            assert!(
                sentence.contains("is not a host: write a name"),
                "{text:?} {sentence}"
            );
        }
    }

    #[test]
    fn paths_that_a_server_could_rewrite_are_not_plain() {
        for path in ["", "a", "a/b", "a.b/...", "a b"] {
            assert!(is_plain(path), "{path:?}");
        }
        for path in ["/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/."] {
            assert!(!is_plain(path), "{path:?}");
        }
    }

    #[test]
    fn a_path_covers_whole_components() {
        for (upper, path, is) in [
            ("llama", "llama", true),
            ("llama", "llama/8b", true),
            ("llama/", "llama/8b", true),
            ("llama", "llama-2", false),
            ("llama/8b", "llama", false),
            ("llama", "", false),
            ("", "llama", true),
            ("/", "", true),
            ("/llama", "llama", false),
        ] {
            assert_eq!(covers(upper, path), is, "{upper:?} {path:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_a_name_fits_itself(text in "\\PC{0,40}|[*.a-zA-Z0-9:\\[\\]-]{0,20}", host in "\\PC{0,40}") {
            if let Ok(pattern) = HostPattern::parse(&text) {
                let fits = pattern.fits(&text);
                prop_assert_eq!(fits, !matches!(pattern, HostPattern::Suffix(_)));
                pattern.fits(&host);
            }
        }

        #[test]
        fn a_suffix_fits_exactly_the_names_below_it(
            labels in proptest::collection::vec("[a-z][a-z0-9]{0,3}", 1..5),
            above in 1usize..4,
        ) {
            let host = labels.join(".");
            let suffix = labels.iter().skip(above).cloned().collect::<Vec<_>>().join(".");
            if !suffix.is_empty() {
                let pattern = HostPattern::parse(&format!("*.{suffix}")).unwrap();
                prop_assert!(pattern.fits(&host));
                prop_assert!(!pattern.fits(&suffix));
                let joined = format!("x{suffix}");
                prop_assert!(!pattern.fits(&joined));
            }
        }
    }
}

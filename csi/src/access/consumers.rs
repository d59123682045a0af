//! Whether a source's `consumers` let someone read a path of it. Pure: specification and names in, a sentence out.
//!
//! An entry is one rule: namespaces, service accounts of those, and paths. One that fits in all three suffices; what one
//! entry gives no other takes away, and without entries nobody may. Labels can only add rights: whoever may without may
//! also with them.

use std::collections::BTreeMap;
use std::fmt;

use tonnage_cache::path::Escaped;

use crate::crd::{Consumer, Source, SourceSpec};
use crate::egress::select::{covers, selects};

/// Most paths that are named to a reader.
const NAMED: usize = 8;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Namespace of the service account.
    pub namespace: &'a str,
    /// Labels of that namespace.
    pub labels: &'a BTreeMap<String, String>,
    /// Name of the service account.
    pub service_account: &'a str,
}

/// Whether `who` may read `path` of the source, which is below it and has no slash at either end; or in a sentence what
/// is missing.
pub fn decide(source: &Source, who: &Who<'_>, path: &str) -> Result<(), String> {
    let consumers = &source.spec.consumers;
    let here = |consumer: &&Consumer| selects(&consumer.namespaces, who.namespace, who.labels);
    let named = |consumer: &&Consumer| has_account(consumer, who.service_account);
    let mine: Vec<&Consumer> = consumers.iter().filter(here).filter(named).collect();
    if mine.iter().any(|consumer| may_read(consumer, path)) {
        return Ok(());
    }
    let name = source.metadata.name.as_deref().unwrap_or_default();
    let account = format!("service account {}/{}", who.namespace, who.service_account);
    if !mine.is_empty() {
        return Err(format!(
            "{account} may read source {name} only below {}, and not {}; ask an administrator to add the path to spec.consumers",
            Paths(&mine),
            Wanted(path)
        ));
    }
    let why = if consumers.is_empty() {
        "its spec.consumers is empty"
    } else if consumers.iter().any(|consumer| here(&consumer)) {
        "the entries of its spec.consumers for that namespace name only other service accounts"
    } else {
        "no entry of its spec.consumers names it"
    };
    Err(format!(
        "{account} may not read source {name}: {why}; ask an administrator for an entry"
    ))
}

/// Whether some service account of a namespace with these labels may read some path.
pub fn may_namespace(
    spec: &SourceSpec,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    let selects = |consumer: &Consumer| selects(&consumer.namespaces, namespace, labels);
    spec.consumers.iter().any(selects)
}

/// Whether labels of a namespace can change an answer.
pub fn needs_labels(spec: &SourceSpec) -> bool {
    let asks = |consumer: &Consumer| !consumer.namespaces.match_labels.is_empty();
    spec.consumers.iter().any(asks)
}

fn has_account(consumer: &Consumer, account: &str) -> bool {
    let accounts = &consumer.service_accounts;
    accounts.is_empty() || accounts.iter().any(|name| name == account)
}

fn may_read(consumer: &Consumer, path: &str) -> bool {
    let paths = &consumer.paths;
    paths.is_empty() || paths.iter().any(|upper| covers(upper, path))
}

/// The paths of entries, each once.
struct Paths<'a>(&'a [&'a Consumer]);

impl fmt::Display for Paths<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut paths: Vec<&String> = self.0.iter().flat_map(|one| &one.paths).collect();
        paths.sort();
        paths.dedup();
        for (index, path) in paths.iter().take(NAMED).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", Escaped(path))?;
        }
        match paths.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} others"),
        }
    }
}

/// A path as somebody wants it.
struct Wanted<'a>(&'a str);

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("all of it")
        } else {
            Escaped(self.0).fmt(f)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::{Value, json};

    use super::*;
    use crate::crd::NamespaceSelector;

    fn source(consumers: &Value) -> Source {
        serde_json::from_value(json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "Source",
            "metadata": {"name": "models"},
            "spec": {"url": "s3://bucket", "consumers": consumers},
        }))
        .unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    /// What is said to team-a/default, whose namespace has the label tier=gold.
    fn asked(consumers: &Value, path: &str) -> Result<(), String> {
        let who = Who {
            namespace: "team-a",
            labels: &labels(&[("tier", "gold")]),
            service_account: "default",
        };
        decide(&source(consumers), &who, path)
    }

    #[test]
    fn one_entry_that_fits_suffices() {
        for consumers in [
            json!([{"namespaces": {}}]),
            json!([{"namespaces": {"names": ["team-b", "team-a"]}}]),
            json!([{"namespaces": {"matchLabels": {"tier": "gold"}}}]),
            json!([{"namespaces": {"names": ["team-a"], "matchLabels": {"tier": "gold"}}, "serviceAccounts": ["default"], "paths": ["llama"]}]),
            json!([{"namespaces": {"names": ["team-b"]}}, {"namespaces": {}, "paths": ["qwen", "llama/8b/"]}]),
        ] {
            assert_eq!(asked(&consumers, "llama/8b"), Ok(()), "{consumers}");
        }
    }

    #[test]
    fn parts_of_several_entries_do_not_make_one() {
        let consumers = json!([
            {"namespaces": {"names": ["team-a"]}, "serviceAccounts": ["trainer"]},
            {"namespaces": {"names": ["team-b"]}, "serviceAccounts": ["default"]},
            {"namespaces": {"names": ["team-a"]}, "serviceAccounts": ["default"], "paths": ["qwen"]},
        ]);
        assert!(asked(&consumers, "llama").is_err());
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        for (consumers, path, sentence) in [
            (
                json!([]),
                "llama",
                "service account team-a/default may not read source models: its spec.consumers is empty; ask an administrator for an entry",
            ),
            (
                json!([{"namespaces": {"names": ["team-b"]}}, {"namespaces": {"matchLabels": {"tier": "silver"}}}]),
                "llama",
                "service account team-a/default may not read source models: no entry of its spec.consumers names it; ask an administrator for an entry",
            ),
            (
                json!([{"namespaces": {"names": ["team-a"]}, "serviceAccounts": ["trainer"]}]),
                "llama",
                "service account team-a/default may not read source models: the entries of its spec.consumers for that namespace name only other service accounts; ask an administrator for an entry",
            ),
            (
                json!([{"namespaces": {}, "paths": ["qwen", "llama"]}, {"namespaces": {}, "paths": ["qwen"]}]),
                "llama-2",
                r#"service account team-a/default may read source models only below "llama", "qwen", and not "llama-2"; ask an administrator to add the path to spec.consumers"#,
            ),
            (
                json!([{"namespaces": {}, "paths": ["1", "2", "3", "4", "5", "6", "7", "8", "9\n", "x"]}]),
                "",
                r#"service account team-a/default may read source models only below "1", "2", "3", "4", "5", "6", "7", "8" and 2 others, and not all of it; ask an administrator to add the path to spec.consumers"#,
            ),
        ] {
            assert_eq!(asked(&consumers, path).unwrap_err(), sentence);
        }
    }

    #[test]
    fn labels_are_needed_only_where_an_entry_asks_for_some() {
        let needs = |consumers: Value| needs_labels(&source(&consumers).spec);
        assert!(!needs(json!([])));
        assert!(!needs(json!([{"namespaces": {"names": ["team-a"]}}])));
        assert!(needs(
            json!([{"namespaces": {}}, {"namespaces": {"matchLabels": {"tier": "gold"}}}])
        ));
    }

    const NAMES: &[&str] = &["a", "b", "c"];

    fn some(most: usize) -> impl Strategy<Value = Vec<String>> {
        let name = select(NAMES).prop_map(str::to_owned);
        proptest::collection::vec(name, 0..=most)
    }

    fn some_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
        let name = || select(&NAMES[..2]).prop_map(str::to_owned);
        proptest::collection::btree_map(name(), name(), 0..3)
    }

    fn consumer() -> impl Strategy<Value = Consumer> {
        let paths = proptest::collection::vec("[ab]{1,2}(/[ab]{1,2}){0,2}", 0..3);
        (some(2), some_labels(), some(2), paths).prop_map(
            |(names, match_labels, service_accounts, paths)| Consumer {
                namespaces: NamespaceSelector {
                    names,
                    match_labels,
                },
                service_accounts,
                paths,
            },
        )
    }

    /// The rules in other words: components one by one, and an empty list is one that holds everything.
    fn expected(consumers: &[Consumer], who: &Who<'_>, path: &str) -> bool {
        let holds =
            |list: &Vec<String>, name: &str| list.is_empty() || list.contains(&name.to_owned());
        let components = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let mut may = false;
        for consumer in consumers {
            let mut fits = holds(&consumer.namespaces.names, who.namespace)
                && holds(&consumer.service_accounts, who.service_account);
            for (key, value) in &consumer.namespaces.match_labels {
                fits = fits && who.labels.get(key).is_some_and(|found| found == value);
            }
            let below = |upper: &String| components(path).starts_with(&components(upper));
            fits = fits && (consumer.paths.is_empty() || consumer.paths.iter().any(below));
            may = may || fits;
        }
        may
    }

    proptest! {
        #[test]
        fn decisions_are_those_of_the_rules_in_other_words(
            consumers in proptest::collection::vec(consumer(), 0..4),
            namespace in select(NAMES),
            service_account in select(NAMES),
            labels in some_labels(),
            path in "([ab]{1,2}(/[ab]{1,2}){0,3})?",
        ) {
            let mut source = source(&json!([]));
            source.spec.consumers = consumers;
            let who = Who { namespace, labels: &labels, service_account };
            let may = decide(&source, &who, &path).is_ok();
            prop_assert_eq!(may, expected(&source.spec.consumers, &who, &path));
            let somebody = NAMES.iter().chain(&["d"]).any(|&service_account| {
                let who = Who { service_account, ..who };
                source.spec.consumers.iter().any(|consumer| {
                    let path = consumer.paths.first().map_or("", String::as_str);
                    expected(std::slice::from_ref(consumer), &who, path)
                })
            });
            prop_assert_eq!(may_namespace(&source.spec, namespace, &labels), somebody);
        }

        #[test]
        fn labels_only_add_rights(
            consumers in proptest::collection::vec(consumer(), 0..4),
            namespace in select(NAMES),
            service_account in select(NAMES),
            labels in some_labels(),
            path in "[ab]{1,2}(/[ab]{1,2}){0,2}",
        ) {
            let mut source = source(&json!([]));
            source.spec.consumers = consumers;
            let none = BTreeMap::new();
            let without = decide(&source, &Who { namespace, labels: &none, service_account }, &path);
            let with = decide(&source, &Who { namespace, labels: &labels, service_account }, &path);
            prop_assert!(with.is_ok() || without.is_err());
            if !needs_labels(&source.spec) {
                prop_assert_eq!(without, with);
            }
        }
    }
}
